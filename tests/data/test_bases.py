"""All pairs of bases in datasets; ranks by a share of the energy; views of a share."""

import json

import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino import plotting
from hippylib_dino.data.solving import SampleSolver
from hippylib_dino.errors import DatasetError, InputError, RankError
from hippylib_dino.network.metrics import relative_errors
from tests import problems
from tests.data.older import without_digests

SIZE = {"n_samples": 12, "n_validation": 2, "n_test": 2}
QUIET = {"progress": False}
PAIRS = [(inputs, outputs) for inputs in ("derivative", "kle") for outputs in ("derivative", "pod", "identity")]


def _truncation(dataset):
    """What perfect predictions of the latent values lose."""
    samples = dataset.split("test")
    errors = relative_errors(samples, samples.y, samples.reduced_jacobian, dataset.input_basis, spread=1.0)
    return errors["observable_truncation"], errors["jacobian_truncation"]


@pytest.mark.parametrize(("input_basis", "output_basis"), PAIRS)
def test_every_pair_of_bases(models, tmp_path, rng, input_basis, output_basis):
    """Biorthogonal, orthonormal in the noise, projections of the full samples; what they cut off goes to zero."""
    model = models["vector"]
    outputs = {} if output_basis == "identity" else {"output_rank": 8}
    d = hd.generate(
        model, tmp_path / "d", **SIZE, input_rank=49, **outputs, input_basis=input_basis, output_basis=output_basis,
        store_full=True, **QUIET,
    )  # fmt: skip
    assert d.verify() == 16
    assert (d.input_basis.kind, d.output_basis.kind) == (input_basis, output_basis)
    assert (d.plan.input_rank, d.plan.output_rank) == (49, 8)
    for basis in (d.input_basis, d.output_basis):
        latent = rng.standard_normal((3, basis.rank))
        np.testing.assert_allclose(basis.encode(basis.decode(latent)), latent, atol=1e-7)
    phi = d.output_basis.decoder
    np.testing.assert_allclose(phi.T @ model.noise_covariance.solve(phi), np.eye(8), atol=1e-10)
    np.testing.assert_allclose(d.x, d.input_basis.encode(d.full("m", range(16))), atol=1e-9)
    reduced = np.einsum("qr,nqm,ms->nrs", d.output_basis.encoder, d.full("jacobian", range(16)), d.input_basis.decoder)
    np.testing.assert_allclose(d.reduced_jacobian, reduced, atol=1e-8 * np.abs(reduced).max())
    ranks = [(5, 8), (20, 8), (49, 8)] if output_basis == "identity" else [(5, 2), (20, 5), (49, 8)]
    q, J = np.array([_truncation(d.truncate(*rank)) for rank in ranks]).T
    assert (np.diff(J) < 0).all()
    assert J[-1] < 1e-6
    assert (q < 1e-12).all() if output_basis == "identity" else ((np.diff(q) < 0).all() and q[-1] < 1e-12)


def test_identity_trains_and_is_drawn(models, tmp_path):
    d = hd.generate(models["linear"], tmp_path / "d", **SIZE, input_rank=9, output_basis="identity", **QUIET)
    q = d.split("train").observable
    np.testing.assert_allclose(d.split("train").y, (q - q.mean(axis=0)) / 1e-2, atol=1e-8)  # sensors in σ = 0.01
    plotting.plot_dataset(d)
    assert "identity" in hd.data.report(d)["bases"]
    again = hd.generate(
        models["linear"], tmp_path / "d", **SIZE, input_rank=9, output_rank=9, output_basis="identity", resume=True,
        **QUIET,
    )  # fmt: skip
    assert again.complete
    with pytest.raises(RankError, match=r"output_rank: expected 9, since the identity keeps all outputs .*, got 5"):
        d.truncate(4, 5)
    with pytest.raises(RankError, match=r"output_rank: expected 9, since the identity keeps all outputs .*, got 0\.9"):
        d.truncate(4, 0.9)
    assert d.truncate(4, 9).x.shape == (16, 4)


@pytest.mark.parametrize("asked", [5, 50, 0.99])
def test_identity_of_another_rank_is_refused(models, tmp_path, asked):
    with pytest.raises(RankError, match=f"output_rank: expected 9, all observables, .* got {asked}"):
        hd.generate(models["linear"], tmp_path / "d", **SIZE, output_rank=asked, output_basis="identity", **QUIET)
    state = problems.state(hd.sample_communicator())
    with pytest.raises(InputError, match="a whole state is compressed by"):
        hd.generate(state, tmp_path / "d", **SIZE, input_rank=4, output_basis="identity", **QUIET)


# ---- ranks by a share of the energy ------------------------------------------------------


def _held(dataset):
    """Shares of the ranks that were taken and of one less."""
    bases = dataset.input_basis, dataset.output_basis
    return [(0.0 if b.rank == 1 else b.energy()[b.rank - 2], b.energy()[b.rank - 1]) for b in bases]


@pytest.mark.parametrize("name", ["vector", "state"])
@pytest.mark.parametrize("input_basis", ["derivative", "kle"])
def test_ranks_of_a_share(models, tmp_path, monkeypatch, name, input_basis):
    model = models[name]
    kinds = {"input_basis": input_basis, "output_basis": "pod" if name == "state" else "derivative"}
    asked = {"input_rank": 0.95, "output_rank": 0.9, **kinds}
    d = hd.generate(model, tmp_path / "d", **SIZE, **asked, **QUIET)
    assert d.verify() == 16
    for (less, share), wanted in zip(_held(d), (0.95, 0.9), strict=True):
        assert less < wanted <= share < 1
    plan = json.loads((tmp_path / "d" / "zarr.json").read_text())["attributes"]["plan"]
    assert (plan["input_rank"], plan["input_energy"]) == (d.input_basis.rank, 0.95)
    assert (plan["output_rank"], plan["output_energy"]) == (d.output_basis.rank, 0.9)
    assert d.reduced_jacobian.shape == (16, d.output_basis.rank, d.input_basis.rank)
    # by hand it is the same to rounding and the randomized method
    ranks = {"input_rank": d.input_basis.rank, "output_rank": d.output_basis.rank}
    by_hand = hd.generate(model, tmp_path / "by_hand", **SIZE, **kinds, **ranks, **QUIET)
    np.testing.assert_allclose(d.y, by_hand.y, atol=1e-9 * np.abs(d.y).max())
    assert d.input_basis.total_energy == pytest.approx(by_hand.input_basis.total_energy)
    # the same request continues, also with more samples; others do not
    solve = SampleSolver.solve_state
    solved = []
    monkeypatch.setattr(SampleSolver, "solve_state", lambda self, i: solved.append(i) or solve(self, i))
    more = hd.generate(model, tmp_path / "d", **{**SIZE, "n_samples": 13}, **asked, resume=True, **QUIET)
    assert solved == [16]
    assert more.plan.input_rank == d.plan.input_rank
    for change, message in (
        ({"input_rank": d.plan.input_rank}, r"input_rank was 0\.95, is "),
        ({"output_rank": 0.8}, r"output_rank was 0\.9, is 0\.8"),
    ):
        with pytest.raises(DatasetError, match=f"planned otherwise: {message}"):
            hd.generate(
                model, tmp_path / "d", **{**SIZE, "n_samples": 13}, **{**asked, **change}, resume=True, **QUIET
            )  # fmt: skip


@pytest.mark.parametrize("stop_after", [5, 14])
def test_interrupted_run_with_a_share_resumes(models, tmp_path, monkeypatch, stop_after):
    """In the first pass, where the ranks are not known and may change, and in the second one."""
    model, solve, calls = models["vector"], SampleSolver.solve, []
    asked = {**SIZE, "input_rank": 0.95, "output_rank": 0.9}
    whole = hd.generate(model, tmp_path / "whole", **asked, **QUIET)

    def interrupted(self, index):
        calls.append(1)
        if len(calls) > stop_after:
            raise KeyboardInterrupt
        return solve(self, index)

    monkeypatch.setattr(SampleSolver, "solve", interrupted)
    first = {**asked, "input_rank": 9} if stop_after == 5 else asked
    with pytest.raises(KeyboardInterrupt):
        hd.generate(model, tmp_path / "parts", **first, **QUIET)
    if stop_after == 5:
        with pytest.raises(DatasetError, match="basis is not computed yet"):
            hd.Dataset.open(tmp_path / "parts").truncate(2, 2)
        assert "not computed yet" in hd.data.report(hd.Dataset.open(tmp_path / "parts"))["bases"]
    monkeypatch.setattr(SampleSolver, "solve", solve)
    resumed = hd.generate(model, tmp_path / "parts", **asked, resume=True, **QUIET)
    np.testing.assert_array_equal(resumed.reduced_jacobian, whole.reduced_jacobian)


def test_unknown_ranks_have_no_arrays_yet(models, tmp_path, monkeypatch):
    def interrupted(self, index):
        raise KeyboardInterrupt

    monkeypatch.setattr(SampleSolver, "solve", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hd.generate(models["linear"], tmp_path / "d", **SIZE, input_rank=0.9, output_rank=0.9, **QUIET)
    d = hd.Dataset.open(tmp_path / "d")
    with pytest.raises(DatasetError, match="there are no bases yet, so no 'x'"):
        _ = d.x
    assert "0 of 16 samples done" in repr(d)


@pytest.mark.parametrize("argument", ["input_rank", "output_rank"])
@pytest.mark.parametrize("bad", [1.5, 0.0, True, "a", 0])
def test_ranks_that_cannot_be_are_named(models, confusion_dataset, tmp_path, argument, bad):
    message = f"{argument}: expected a rank, an int of at least 1, or a share .* got {bad!r}. Pass for instance"
    with pytest.raises(InputError, match=message):
        hd.generate(models["linear"], tmp_path / "d", **SIZE, **{argument: bad}, **QUIET)
    assert not (tmp_path / "d").exists()
    with pytest.raises(InputError, match=message):
        confusion_dataset.truncate(**{"input_rank": 4, "output_rank": 4, argument: bad})


# ---- views -------------------------------------------------------------------------------


def test_views_of_a_share(confusion_dataset, tmp_path):
    d = confusion_dataset
    view = d.truncate(0.8, 0.95)
    for (less, share), wanted in zip(_held(view), (0.8, 0.95), strict=True):
        assert less < wanted <= share
    assert view.x.shape == (64, view.input_basis.rank)
    held = d.input_basis.energy()[d.input_basis.rank - 1]
    assert d.input_basis.energy()[-1] < 1  # of the true total
    with pytest.raises(RankError, match=f"input_rank: expected a share .* of at most {held:.8g}, which the 24 vectors"):
        d.truncate(0.99999999, 3)


def test_share_of_an_older_dataset(models, tmp_path):
    """Which stored no totals: its output spectra are whole, its input spectra are not."""
    d = hd.generate(models["linear"], tmp_path / "d", **SIZE, input_rank=6, output_rank=9, **QUIET)
    view = d.truncate(4, 0.99)
    without_digests(d.path)
    for name in ("input", "output"):
        file = tmp_path / "d" / "bases" / name / "zarr.json"
        meta = json.loads(file.read_text())
        del meta["attributes"]["total_energy"]
        file.write_text(json.dumps(meta))
    file = tmp_path / "d" / "zarr.json"
    meta = json.loads(file.read_text())
    for key in ("input_energy", "output_energy"):
        del meta["attributes"]["plan"][key]
    file.write_text(json.dumps(meta))
    old = hd.Dataset.open(tmp_path / "d")
    assert old.truncate(4, 0.99).plan == view.plan
    assert old.input_basis.energy()[-1] == pytest.approx(1.0)
    with pytest.raises(InputError, match=r"input_rank: expected a rank 1 \.\. 6, got the share 0\.9, but"):
        old.truncate(0.9, 3)
    assert hd.generate(
        models["linear"], tmp_path / "d", **SIZE, input_rank=6, output_rank=9, resume=True, **QUIET
    ).complete  # fmt: skip


# ---- full parameters without Jacobians ---------------------------------------------------


def test_stored_parameters_are_the_drawn_ones(models, tmp_path, monkeypatch):
    model, solve, calls = models["linear"], SampleSolver.solve, []
    asked = {**SIZE, "input_rank": 6, "output_rank": 5, "store_parameters": True}

    def interrupted(self, index):
        calls.append(1)
        if len(calls) > 13:
            raise KeyboardInterrupt
        return solve(self, index)

    monkeypatch.setattr(SampleSolver, "solve", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hd.generate(model, tmp_path / "d", **asked, **QUIET)
    monkeypatch.setattr(SampleSolver, "solve", solve)
    d = hd.generate(model, tmp_path / "d", **asked, resume=True, **QUIET)
    more = hd.generate(model, tmp_path / "d", **{**asked, "n_samples": 13}, resume=True, **QUIET)
    order = hd.modeling.DofOrder(model.prior.Vh)
    for index in range(17):
        m = hd.modeling.owned_values(hd.data.draw_parameter(model.prior, 0, index))
        np.testing.assert_allclose(more.full("m", [index])[0], order.to_array(m), atol=1e-13)
    np.testing.assert_allclose(d.x, d.input_basis.encode(d.full("m", range(16))), atol=1e-9)
    with pytest.raises(InputError, match="has no array 'jacobian'; generate with store_full=True"):
        d.full("jacobian", [0])
    with pytest.raises(DatasetError, match="planned otherwise: store_parameters was True, is False"):
        hd.generate(model, tmp_path / "d", **{**asked, "n_samples": 13, "store_parameters": False}, resume=True)


def test_flipped_byte_of_a_stored_parameter_is_found(models, tmp_path):
    asked = {**SIZE, "input_rank": 6, "output_rank": 5, "store_parameters": True}
    d = hd.generate(models["linear"], tmp_path / "d", **asked, **QUIET)
    before = d.full("m", [7])
    chunk = tmp_path / "d" / "m" / "c" / "7" / "0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(DatasetError, match="sample 7 of array 'm' is damaged"):
        hd.Dataset.open(tmp_path / "d").verify()
    repaired = hd.generate(models["linear"], tmp_path / "d", **asked, resume=True, repair=True, **QUIET)
    assert repaired.verify() == 16
    np.testing.assert_allclose(repaired.full("m", [7]), before, atol=1e-13)


def test_parameters_that_were_not_stored_are_named(models, tmp_path):
    d = hd.generate(models["linear"], tmp_path / "d", **SIZE, input_rank=6, output_rank=5, **QUIET)
    with pytest.raises(InputError, match=r"has no array 'm'; generate with store_full=True .* store_parameters=True"):
        d.full("m", [0])


def test_default_ranks_follow_the_problem(models, tmp_path):
    """49 parameters, 9 observables or so and few samples: what they give, found again by a resumed run."""
    model = models["linear"]
    numbers = {"n_samples": 4, "n_validation": 1, "n_test": 1, "progress": False}
    dataset = hd.generate(model, tmp_path / "derivative", **numbers)
    assert dataset.output_basis.rank == model.data_space.dim
    assert 1 <= dataset.input_basis.rank <= min(model.prior.mean.size(), 4 * model.data_space.dim)
    again = hd.generate(model, tmp_path / "derivative", **{**numbers, "n_samples": 5}, resume=True)
    assert (again.input_basis.rank, len(again.members("train"))) == (dataset.input_basis.rank, 5)
    assert hd.generate(model, tmp_path / "pod", output_basis="pod", **numbers).output_basis.rank == 3
    for rank in ("input_rank", "output_rank"):
        with pytest.raises(hd.errors.RankError, match=rank):
            hd.generate(model, tmp_path / rank, **{rank: 1000}, **numbers)
