"""Datasets that grow, are looked at in fewer coordinates, or are projected on other bases, without solving again."""

import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.data.solving import SampleSolver
from hippylib_dino.errors import DatasetError, FingerprintError, InputError, RankError, SolveError
from hippylib_dino.modeling import JacobianModel

SIZE = {"n_samples": 8, "n_validation": 2, "n_test": 2, "n_basis_samples": 6, "input_rank": 6, "output_rank": 5}
QUIET = {"progress": False}


@pytest.fixture
def solves(monkeypatch):
    """Numbers of the samples that are solved."""
    numbers, solve = [], SampleSolver.solve_state
    monkeypatch.setattr(SampleSolver, "solve_state", lambda self, i: numbers.append(i) or solve(self, i))
    return numbers


def test_appended_samples_are_the_only_ones_solved(models, tmp_path, solves):
    model = models["vector"]
    small = hd.generate(model, tmp_path / "d", **SIZE, **QUIET)
    before, parts = small.reduced_jacobian, {part: small.split(part).index.tolist() for part in ("train", "test")}
    solves.clear()
    more = hd.generate(model, tmp_path / "d", **{**SIZE, "n_samples": 11, "n_test": 4}, resume=True, **QUIET)
    assert solves == [12, 13, 14, 15, 16]
    assert more.verify() == 17
    np.testing.assert_array_equal(more.reduced_jacobian[:12], before)
    assert more.split("train").index.tolist() == [*parts["train"], 12, 13, 14]
    assert more.split("test").index.tolist() == [*parts["test"], 15, 16]
    assert more.split("validation").index.tolist() == small.split("validation").index.tolist()
    solves.clear()
    hd.generate(model, tmp_path / "d", **{**SIZE, "n_samples": 11, "n_test": 4}, resume=True, **QUIET)
    assert solves == []


def test_append_that_is_interrupted_resumes(models, tmp_path, monkeypatch):
    model, solve = models["vector"], SampleSolver.solve
    hd.generate(model, tmp_path / "d", **SIZE, **QUIET)

    def interrupted(self, index):
        if index == 14:
            raise KeyboardInterrupt
        return solve(self, index)

    monkeypatch.setattr(SampleSolver, "solve", interrupted)
    more = {**SIZE, "n_samples": 12}
    with pytest.raises(KeyboardInterrupt):
        hd.generate(model, tmp_path / "d", **more, resume=True, **QUIET)
    monkeypatch.setattr(SampleSolver, "solve", solve)
    assert len(hd.Dataset.open(tmp_path / "d").split("train")) == 10
    assert hd.Dataset.open(tmp_path / "d").verify() == 14  # what is pending is not damaged
    assert hd.generate(model, tmp_path / "d", **more, resume=True, **QUIET).verify() == 16


def test_fewer_samples_than_planned_are_refused(models, tmp_path):
    hd.generate(models["vector"], tmp_path / "d", **SIZE, **QUIET)
    with pytest.raises(DatasetError, match="planned otherwise: n_samples was 8, is 7"):
        hd.generate(models["vector"], tmp_path / "d", **{**SIZE, "n_samples": 7}, resume=True, **QUIET)


def test_n_basis_samples_of_a_resumed_dataset_is_kept(models, tmp_path):
    size = {**SIZE}
    del size["n_basis_samples"]
    hd.generate(models["vector"], tmp_path / "d", **size, **QUIET)
    more = hd.generate(models["vector"], tmp_path / "d", **{**size, "n_samples": 10}, resume=True, **QUIET)
    assert more.plan.n_basis_samples == 8


@pytest.mark.parametrize(
    "other",
    [
        {"input_rank": 12, "output_rank": 8},
        {"input_basis": "kle", "output_basis": "pod"},
        {"n_samples": 10, "n_basis_samples": 9, "input_rank": 9},
    ],
)
def test_other_bases_without_a_solve(models, tmp_path, solves, other):
    model = models["vector"]
    source = hd.generate(model, tmp_path / "full", **SIZE, store_full=True, **QUIET)
    direct = hd.generate(model, tmp_path / "direct", **{**SIZE, **other}, **QUIET)
    solves.clear()
    reused = hd.generate(model, tmp_path / "reused", **{**SIZE, **other}, reuse=source, **QUIET)
    known = set(range(12))
    assert set(solves) == set(range(reused.plan.n_total)) - known
    for name in ("x", "y", "reduced_jacobian"):
        truth = getattr(direct, name)
        np.testing.assert_allclose(getattr(reused, name), truth, rtol=0, atol=1e-8 * np.abs(truth).max())


def test_reuse_of_what_cannot_be_reused_is_named(models, tmp_path):
    reduced = hd.generate(models["vector"], tmp_path / "reduced", **SIZE, **QUIET)
    with pytest.raises(DatasetError, match="reuse: expected a dataset of seed 0 with full Jacobians"):
        hd.generate(models["vector"], tmp_path / "d", **SIZE, reuse=reduced, **QUIET)
    full = hd.generate(models["linear"], tmp_path / "full", **SIZE, store_full=True, **QUIET)
    with pytest.raises(DatasetError, match="of seed 1"):
        hd.generate(models["linear"], tmp_path / "d", **SIZE, seed=1, reuse=full, **QUIET)
    with pytest.raises(FingerprintError, match=r"reuse: .* was made for another"):
        hd.generate(models["vector"], tmp_path / "d", **SIZE, reuse=full, **QUIET)


def test_truncated_view_is_a_dataset_of_smaller_ranks(models, confusion_dataset):
    wide, d = confusion_dataset, confusion_dataset.truncate(10, 7)
    assert (d.x.shape, d.y.shape, d.reduced_jacobian.shape) == ((64, 10), (64, 7), (64, 7, 10))
    assert (d.input_basis.rank, d.output_basis.rank) == (10, 7)
    np.testing.assert_array_equal(d.reduced_jacobian, wide.reduced_jacobian[:, :7, :10])
    m = d.full("m", [3])
    np.testing.assert_allclose(d.input_basis.encode(m)[0], d.x[3], atol=1e-9)
    dino = hd.train(d, epochs=2, hidden=(8,), progress=False)
    errors = dino.evaluate(d)
    assert errors["jacobian_truncation"] > 0.01
    assert d.verify() == 64
    assert wide.x.shape == (64, 24)
    with pytest.raises(RankError, match=r"input_rank: expected 1 \.\. 24, which .* holds, got 25"):
        wide.truncate(25, 7)


# ---- failed solves --------------------------------------------------------------------------


def _hard(monkeypatch, bad, radius):
    """Forward solves of the samples `bad` fail unless they start within `radius` of the solution, relative."""
    solve = JacobianModel.solveState

    def sometimes(self, m, guess=None):
        for index in bad:
            draw = hd.data.draw_parameter(self.prior, 0, index)
            if (m - draw).norm("l2") < 1e-12 * draw.norm("l2"):
                u = solve(self, m)
                if guess is None or (u - guess).norm("l2") > radius * u.norm("l2"):
                    raise SolveError("Newton gave up")
                return u
        return solve(self, m, guess)

    monkeypatch.setattr(JacobianModel, "solveState", sometimes)


def test_failed_samples_are_kept_for_a_replay(models, tmp_path, monkeypatch):
    model = models["vector"]
    _hard(monkeypatch, {2, 9}, radius=0.0)
    d = hd.generate(model, tmp_path / "d", **SIZE, **QUIET)
    order = hd.modeling.DofOrder(model.prior.Vh)
    for record in d.failures:
        m = hd.modeling.owned_values(hd.data.draw_parameter(model.prior, record["seed"], record["index"]))
        np.testing.assert_array_equal(d.failed_parameter(record["index"]), order.to_array(m))
    assert [record["index"] for record in d.failures] == [2, 9]
    with pytest.raises(InputError, match=r"sample 3 of .* has not failed; failed are \[2, 9\]"):
        d.failed_parameter(3)
    text = hd.data.report(d)["failures"]
    assert "2 of 12 (16.67%) failed and are left out, never replaced" in text
    assert "given that its PDE is solved" in text
    assert "sample 9: Newton gave up" in text


def test_continuation_rescues_what_a_closer_start_can(models, tmp_path, monkeypatch):
    whole = hd.generate(models["vector"], tmp_path / "whole", **SIZE, **QUIET)
    _hard(monkeypatch, {2, 9}, radius=0.5)
    d = hd.generate(models["vector"], tmp_path / "d", **SIZE, retry="continuation", **QUIET)
    assert d.failures == []
    assert [(r["index"], r["reason"], r["solved by"]) for r in d.rescued] == [
        (2, "Newton gave up", "continuation"),
        (9, "Newton gave up", "continuation"),
    ]
    np.testing.assert_allclose(d.reduced_jacobian, whole.reduced_jacobian, atol=1e-7)


def test_continuation_that_fails_says_where(models, tmp_path, monkeypatch):
    _hard(monkeypatch, {9}, radius=0.0)
    d = hd.generate(models["vector"], tmp_path / "d", **SIZE, retry="continuation", **QUIET)
    assert d.failures[0]["retried"] == "continuation"
    assert d.failures[0]["reason"].startswith("Newton gave up Continuation from the prior mean stopped at 9")


def test_retry_on_resume_solves_the_failed_samples_alone(models, tmp_path, monkeypatch, solves):
    whole = hd.generate(models["vector"], tmp_path / "whole", **SIZE, **QUIET)
    _hard(monkeypatch, {2, 9}, radius=0.5)
    d = hd.generate(models["vector"], tmp_path / "d", **SIZE, **QUIET)
    assert len(d.failures) == 2
    assert d.verify() == 10
    solves.clear()
    d = hd.generate(models["vector"], tmp_path / "d", **SIZE, resume=True, retry="continuation", **QUIET)
    assert solves == [2, 9]
    assert d.verify() == 12
    assert d.failures == []
    # the bases were built without sample 2, but the observable is that of the undisturbed run
    np.testing.assert_allclose(d.split("test").observable, whole.split("test").observable, rtol=1e-6)


def test_another_solver_as_second_way(models, tmp_path, monkeypatch):
    """A model of the same problem whose solver is more robust; one of another problem is refused."""
    from tests import problems

    robust = problems.vector(hd.sample_communicator())
    whole = hd.generate(robust, tmp_path / "whole", **SIZE, **QUIET)
    solve = JacobianModel.solveState

    def weak(self, m, guess=None):
        if self is not robust and not np.array_equal(m.get_local(), self.prior.mean.get_local()):
            raise SolveError("Newton gave up")
        return solve(self, m, guess)

    monkeypatch.setattr(JacobianModel, "solveState", weak)
    d = hd.generate(models["vector"], tmp_path / "d", **SIZE, retry=robust, **QUIET)
    assert len(d.rescued) == 12
    np.testing.assert_allclose(d.reduced_jacobian, whole.reduced_jacobian, atol=1e-8)
    with pytest.raises(FingerprintError, match="retry: this model was made for another"):
        hd.generate(models["vector"], tmp_path / "e", **SIZE, retry=models["linear"], **QUIET)
    with pytest.raises(InputError, match='retry: expected "continuation", a JacobianModel'):
        hd.generate(models["vector"], tmp_path / "e", **SIZE, retry="harder", **QUIET)


def test_repair_needs_resume_and_guesses_have_names(models, tmp_path):
    with pytest.raises(InputError, match="repair: repairs a dataset that is there"):
        hd.generate(models["vector"], tmp_path / "d", **SIZE, repair=True, **QUIET)
    with pytest.raises(InputError, match='initial_guess: expected "auto", one of'):
        hd.generate(models["vector"], tmp_path / "d", **SIZE, initial_guess="best", **QUIET)
