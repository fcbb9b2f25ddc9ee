import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import InputError, RankError
from hippylib_dino.modeling import NoiseCovariance
from hippylib_dino.modeling.spaces import map_block
from hippylib_dino.reduction import (
    Basis,
    derivative_input_basis,
    derivative_output_basis,
    kle_input_basis,
    pod_output_basis,
)

N_SAMPLES, RANK = 3, 8


@pytest.fixture(scope="module")
def jacobians(models):
    model = models["vector"]
    return [model.jacobian(hd.data.draw_parameter(model.prior, 3, i)).owned_rows() for i in range(N_SAMPLES)]


def _dense(prior, operator):
    n = prior.mean.size()
    return map_block(operator, prior.mean, prior.mean, np.eye(n))


@pytest.fixture(scope="module")
def precision(models):
    prior = models["vector"].prior
    return _dense(prior, lambda out, x: prior.R.mult(x, out))


@pytest.fixture(scope="module")
def bases(models, jacobians):
    model = models["vector"]
    noise = model.noise_covariance
    q = np.array([model.value(hd.data.draw_parameter(model.prior, 3, i)) for i in range(12)])
    prior = model.prior
    riesz = [map_block(prior.Rsolver.solve, prior.mean, prior.mean, J) for J in jacobians]
    covariances = np.array([J.T @ RJ for J, RJ in zip(jacobians, riesz, strict=True)])
    return {
        "derivative input": derivative_input_basis(
            prior, lambda: iter(jacobians), noise, rank=RANK, n_samples=N_SAMPLES
        ),
        "kle": kle_input_basis(prior, rank=RANK),
        "derivative output": derivative_output_basis(q.mean(axis=0), covariances.mean(axis=0), noise, rank=5),
        "pod": pod_output_basis(q, noise, rank=5),
    }


def _in_dolfin_order(model, basis):
    order = hd.modeling.DofOrder(model.prior.Vh)
    return order.from_array(basis.decoder), order.from_array(basis.encoder)


@pytest.mark.parametrize("name", ["derivative input", "kle"])
def test_input_basis_is_orthonormal_in_the_prior_precision(models, bases, precision, name):
    decoder, encoder = _in_dolfin_order(models["vector"], bases[name])
    np.testing.assert_allclose(decoder.T @ precision @ decoder, np.eye(RANK), atol=1e-9)
    np.testing.assert_allclose(encoder, precision @ decoder, atol=1e-8 * np.abs(encoder).max())


@pytest.mark.parametrize("name", ["derivative output", "pod"])
def test_output_basis_is_orthonormal_in_the_noise_precision(models, bases, name):
    basis, noise = bases[name], models["vector"].noise_covariance
    np.testing.assert_allclose(basis.decoder.T @ noise.solve(basis.decoder), np.eye(5), atol=1e-10)
    np.testing.assert_allclose(basis.encoder, noise.solve(basis.decoder), rtol=1e-10)


@pytest.mark.parametrize("name", ["derivative input", "kle", "derivative output", "pod"])
def test_encode_after_decode_is_the_identity_and_spectrum_descends(bases, name, rng):
    basis = bases[name]
    latent = rng.standard_normal((3, basis.rank))
    np.testing.assert_allclose(basis.encode(basis.decode(latent)), latent, atol=1e-8)
    assert (np.diff(basis.eigenvalues) <= 0).all()
    assert not np.allclose(basis.encoder, basis.decoder)
    held = basis.eigenvalues.sum() / (basis.total_energy or basis.eigenvalues.sum())
    assert basis.energy()[-1] == pytest.approx(held)
    assert held < 1 if name == "kle" else held == pytest.approx(1.0)


def test_derivative_input_basis_solves_the_dense_eigenproblem(models, bases, jacobians, precision):
    import scipy.linalg as sla

    noise = models["vector"].noise_covariance
    H = sum(J @ noise.solve(J.T) for J in jacobians) / N_SAMPLES
    values = sla.eigh(H, precision, eigvals_only=True)[::-1]
    basis = bases["derivative input"]
    np.testing.assert_allclose(basis.eigenvalues[:RANK], values[:RANK], rtol=1e-6)
    decoder, encoder = _in_dolfin_order(models["vector"], basis)
    np.testing.assert_allclose(
        H @ decoder, encoder * basis.eigenvalues[:RANK], atol=1e-5 * values[0] * np.abs(encoder).max()
    )


def test_kle_solves_the_dense_eigenproblem(models, bases, precision):
    import scipy.linalg as sla

    prior = models["vector"].prior
    mass = _dense(prior, lambda out, x: prior.M.mult(x, out))
    values, modes = sla.eigh(mass @ np.linalg.solve(precision, mass), mass)
    np.testing.assert_allclose(bases["kle"].eigenvalues[:RANK], values[::-1][:RANK], rtol=1e-4)
    decoder, _ = _in_dolfin_order(models["vector"], bases["kle"])
    first = modes[:, -1] * np.sqrt(values[-1])
    np.testing.assert_allclose(abs(decoder[:, 0] @ mass @ first), values[-1], rtol=1e-8)


def test_pod_solves_the_dense_eigenproblem_and_keeps_the_mean(rng):
    q = rng.standard_normal((40, 6)) * np.arange(1, 7) + 3.0
    basis = pod_output_basis(q, NoiseCovariance(0.25, dim=6), rank=6)
    np.testing.assert_allclose(basis.shift, q.mean(axis=0))
    np.testing.assert_allclose(basis.eigenvalues, np.linalg.eigvalsh(np.cov(q.T) / 0.25)[::-1])
    np.testing.assert_allclose(basis.decode(basis.encode(q)), q)


def test_latent_parameters_are_standard_normal_under_the_prior(models, bases):
    model = models["vector"]
    order = hd.modeling.DofOrder(model.prior.Vh)
    draws = [hd.data.draw_parameter(model.prior, 8, i).get_local() for i in range(800)]
    x = bases["kle"].encode(np.array([order.to_array(d) for d in draws]))
    # 800 draws: variances are within 0.25 of 1 with probability > 0.999 over the 8 coordinates
    np.testing.assert_allclose(np.cov(x.T), np.eye(RANK), atol=0.25)


def test_ranks_beyond_the_data_are_named(models, jacobians, rng):
    model = models["vector"]
    noise = model.noise_covariance
    with pytest.raises(RankError, match=r"input_rank: expected 1 \.\. 24, which is what 3 Jacobians of 8 observables"):
        derivative_input_basis(model.prior, lambda: iter(jacobians), noise, rank=25, n_samples=3)
    with pytest.raises(
        RankError, match=r"input_rank: expected 1 \.\. 8, which is what the mean of JᵀΓ⁻¹J over 3 samples"
    ):
        derivative_input_basis(model.prior, lambda: iter(jacobians[:1] * 3), noise, rank=12, n_samples=3)
    with pytest.raises(RankError, match=r"input_rank: expected 1 \.\. 49"):
        kle_input_basis(model.prior, rank=50)
    with pytest.raises(RankError, match=r"output_rank: expected 1 \.\. 3 for the POD of 4 samples"):
        pod_output_basis(rng.standard_normal((4, 8)), noise, rank=5)
    with pytest.raises(RankError, match=r"output_rank: expected 1 \.\. 8, the number of observables, got 9"):
        derivative_output_basis(rng.standard_normal(8), np.eye(8), noise, rank=9)


def test_inconsistent_basis_is_refused():
    with pytest.raises(InputError, match=r"expected decoder and encoder \(dim, rank\)"):
        Basis(np.zeros((4, 2)), np.zeros((4, 3)), np.zeros(4), np.ones(2), "pod", "noise precision")


# ---- nothing to make a basis of -------------------------------------------------------------


@pytest.mark.parametrize(("variance", "word"), [(1e300, "noise variance"), (1e-300, "noise variance"), (None, "zeros")])
def test_jacobians_without_information_are_a_rank_error(models, jacobians, variance, word):
    """Zero, or zero or infinite beside the noise: by name, before linear algebra fails on it."""
    prior, dim = models["vector"].prior, jacobians[0].shape[1]
    noise = NoiseCovariance(1.0 if variance is None else variance, dim)
    given = [0.0 * J for J in jacobians] if variance is None else jacobians
    for rank in (RANK, 0.9):
        with pytest.raises(RankError, match=f"input_rank: expected Jacobians of 3 samples .*{word}|parameter stands"):
            derivative_input_basis(prior, lambda: iter(given), noise, rank=rank, n_samples=N_SAMPLES, at_most=True)
    covariance = sum(J.T @ J for J in given)
    with pytest.raises(RankError, match="output_rank: expected Jacobians"):
        derivative_output_basis(np.ones(dim), covariance, noise, rank=2)


@pytest.mark.parametrize(("size", "variance"), [(0.0, 1.0), (1.0, 1e300), (1.0, 1e-300)])
def test_observables_without_spread_are_a_rank_error(rng, size, variance):
    q = 300.1 + size * rng.standard_normal((12, 5)) + 1e-13 * rng.standard_normal((12, 5))
    with pytest.raises(RankError, match="output_rank: expected deviations of observables from their mean"):
        pod_output_basis(q, NoiseCovariance(variance, 5), rank=2)
    pod_output_basis(300.1 + 1e-6 * rng.standard_normal((12, 5)), NoiseCovariance(1.0, 5), rank=2)


def test_a_control_that_nothing_depends_on_is_a_rank_error():
    from hippylib_dino.control import GaussianControl
    from hippylib_dino.reduction.control import control_basis

    with pytest.raises(RankError, match="control_rank: expected Jacobians by the control that are not all zero"):
        control_basis(GaussianControl(np.zeros(3), 1.0), np.zeros((3, 3)), 2)
