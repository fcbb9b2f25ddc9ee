"""Ranks by a share of the energy, and the totals that shares are of."""

import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import InputError, RankError
from hippylib_dino.modeling.spaces import map_block
from hippylib_dino.reduction import (
    derivative_input_basis,
    derivative_output_basis,
    identity_output_basis,
    kle_input_basis,
    pod_output_basis,
)
from hippylib_dino.reduction import input as input_bases
from hippylib_dino.reduction.ranks import checked_rank, pairs_of_share, parse_rank, rank_of_share

SHARES = (0.5, 0.9, 0.999)


def assert_smallest(basis, share, spectrum):
    """The rank is the smallest one whose share of the whole spectrum, from elsewhere, reaches `share`."""
    held = np.cumsum(np.sort(spectrum)[::-1]) / spectrum.sum()
    assert held[basis.rank - 1] >= share
    assert basis.rank == 1 or held[basis.rank - 2] < share
    assert basis.total_energy == pytest.approx(spectrum.sum())
    np.testing.assert_allclose(basis.energy()[: basis.rank], held[: basis.rank], rtol=1e-6)


@pytest.fixture(scope="module")
def jacobians(models):
    model = models["vector"]
    return [model.jacobian(hd.data.draw_parameter(model.prior, 3, i)).owned_rows() for i in range(6)]


@pytest.fixture(scope="module")
def dense(models):
    """R⁻¹ and M of the prior, in dolfin's order."""
    prior = models["vector"].prior
    unit = np.eye(prior.mean.size())
    covariance = map_block(prior.Rsolver.solve, prior.mean, prior.mean, unit)
    return covariance, map_block(lambda out, x: prior.M.mult(x, out), prior.mean, prior.mean, unit)


@pytest.mark.parametrize("share", SHARES)
def test_derivative_input_rank_of_a_share(models, jacobians, dense, share, monkeypatch):
    monkeypatch.setattr("hippylib_dino.reduction.ranks.FIRST_RANK", 2)  # so that it has to be doubled
    model = models["vector"]
    noise = model.noise_covariance
    H = sum(J @ noise.solve(J.T) for J in jacobians) / len(jacobians)
    spectrum = np.maximum(np.linalg.eigvals(dense[0] @ H).real, 0.0)
    total = {"total_energy": spectrum.sum()} if share == 0.9 else {}  # given or found
    basis = derivative_input_basis(model.prior, lambda: iter(jacobians), noise, rank=share, n_samples=6, **total)
    assert_smallest(basis, share, spectrum)
    by_hand = derivative_input_basis(model.prior, lambda: iter(jacobians), noise, rank=basis.rank, n_samples=6)
    np.testing.assert_allclose(basis.decoder, by_hand.decoder, atol=1e-3 * np.abs(by_hand.decoder).max())


@pytest.mark.parametrize("share", SHARES)
def test_kle_rank_of_a_share(models, dense, share, monkeypatch):
    monkeypatch.setattr("hippylib_dino.reduction.ranks.FIRST_RANK", 2)
    prior = models["vector"].prior
    basis = kle_input_basis(prior, rank=share)
    assert_smallest(basis, share, np.linalg.eigvals(dense[0] @ dense[1]).real)
    assert basis.total_energy == pytest.approx(prior.trace("Exact"))


def test_trace_of_a_large_prior_is_estimated_in_its_rest(models, monkeypatch):
    prior = models["confusion"].prior  # 289 parameters
    exact = kle_input_basis(prior, rank=20)
    monkeypatch.setattr(input_bases, "EXACT_TRACE_UP_TO", 0)
    estimated = kle_input_basis(prior, rank=20)
    rest = exact.total_energy - exact.eigenvalues.sum()
    assert exact.total_energy != estimated.total_energy
    assert abs(estimated.total_energy - exact.total_energy) < 0.1 * rest
    assert kle_input_basis(prior, rank=0.98).rank == pytest.approx(exact_rank(prior, 0.98, monkeypatch), abs=1)


def exact_rank(prior, share, monkeypatch):
    monkeypatch.setattr(input_bases, "EXACT_TRACE_UP_TO", 10_000)
    return kle_input_basis(prior, rank=share).rank


@pytest.mark.parametrize("share", SHARES)
def test_output_rank_of_a_share(models, rng, share):
    noise = models["vector"].noise_covariance
    q = rng.standard_normal((20, 8)) * 3.0 ** -np.arange(8) + 1.0
    covariance = np.cov(q.T)
    spectrum = np.linalg.eigvals(noise.solve(covariance)).real
    assert_smallest(pod_output_basis(q, noise, rank=share), share, spectrum)
    assert_smallest(derivative_output_basis(q.mean(axis=0), covariance, noise, rank=share), share, spectrum)


@pytest.mark.parametrize("name", ["vector", "linear", "mixed"])  # dense, scalar, diagonal covariance
def test_identity_whitens_and_keeps_every_sensor(models, rng, name):
    noise = models[name].noise_covariance
    q = rng.standard_normal((12, noise.dim)) + 2.0
    basis = identity_output_basis(q, noise)
    L = np.linalg.cholesky(noise.to_dense())
    np.testing.assert_allclose(basis.decoder, L, rtol=1e-12)
    np.testing.assert_allclose(basis.encoder, np.linalg.inv(L).T, atol=1e-10 * np.abs(basis.encoder).max())
    np.testing.assert_allclose(basis.decoder.T @ noise.solve(basis.decoder), np.eye(noise.dim), atol=1e-10)
    np.testing.assert_allclose(basis.decode(basis.encode(q)), q, rtol=1e-10)
    y = basis.encode(q)
    np.testing.assert_allclose(y, np.linalg.solve(L, (q - q.mean(axis=0)).T).T, atol=1e-9 * np.abs(y).max())
    np.testing.assert_allclose(basis.eigenvalues, y.var(axis=0, ddof=1))
    np.testing.assert_allclose(basis.energy(), np.cumsum(basis.eigenvalues) / basis.eigenvalues.sum())
    # one latent output a sensor
    if noise.value.ndim < 2:
        assert (np.count_nonzero(basis.encoder, axis=0) == 1).all()


def test_share_that_is_not_reached_is_named():
    values = np.array([4.0, 2.0, 1.0])
    assert rank_of_share(values, 10.0, 0.6) == 2
    assert rank_of_share(values, 10.0, 0.8) is None

    def pairs(size):
        return values[:size], np.eye(3)[:, :size], np.eye(3)[:, :size]

    with pytest.raises(RankError, match=r"energy that the 3 vectors which few samples can give reach, 0\.7, got 0\.8"):
        pairs_of_share(0.8, 3, pairs, lambda found: 10.0, name="input_rank", source="few samples")


@pytest.mark.parametrize("bad", [1.5, 0.0, 1.0, -3, 0, True, False, "a", None, np.nan, np.inf, 1 + 2j])
def test_what_is_no_rank_is_named(bad):
    with pytest.raises(InputError, match=r"input_rank: expected a rank, an int .* got .*Pass for instance 50 or 0\.9"):
        checked_rank("input_rank", bad)


def test_ranks_and_shares_from_python_numpy_and_the_command_line():
    assert [checked_rank("r", given) for given in (7, np.int64(7), 0.25, np.float32(0.25))] == [7, 7, 0.25, 0.25]
    assert isinstance(checked_rank("r", np.int64(7)), int)
    assert [parse_rank("r", text) for text in ("100", "0.9999", "5e-1")] == [100, 0.9999, 0.5]
    for bad in ("a", "1.5", "0", "1.0", ""):
        with pytest.raises(InputError, match="output_rank: expected a rank, an int of at least 1"):
            parse_rank("output_rank", bad)
