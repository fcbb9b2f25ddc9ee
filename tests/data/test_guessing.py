"""Where forward solves start changes what they cost, not what they give."""

import numpy as np
import pytest
import zarr

import hippylib_dino as hd
from hippylib_dino.data.guessing import GUESSES, Guesses
from hippylib_dino.data.solving import SampleSolver

SIZE = {"n_samples": 24, "n_validation": 2, "n_test": 2, "n_basis_samples": 20, "input_rank": 8, "output_rank": 8}


@pytest.fixture(scope="module")
def chosen(models, tmp_path_factory):
    """The dataset of a run that chooses by itself."""
    return hd.generate(models["confusion"], tmp_path_factory.mktemp("guess") / "auto", **SIZE, progress=False)


def test_choice_is_stored_with_the_counted_work(chosen):
    stored = chosen.attributes["initial_guess"]
    work = stored["work"]
    assert set(work) == set(GUESSES)
    assert stored["chosen"] == min(work, key=lambda name: (work[name]["failures"], work[name]["work"]))
    assert work["linearized"]["residual_assemblies"] < work["mean"]["residual_assemblies"]
    assert stored["chosen"] in hd.data.report(chosen)["initial guess"]


@pytest.mark.parametrize("guess", [*GUESSES, "callable"])
def test_every_guess_gives_the_same_samples(models, chosen, tmp_path, guess):
    model = models["confusion"]
    start = model.solveState(model.prior.mean)
    given = (lambda m: start.copy()) if guess == "callable" else guess
    d = hd.generate(model, tmp_path / "d", **SIZE, initial_guess=given, progress=False)
    for name in ("y", "reduced_jacobian"):
        truth = getattr(chosen, name)
        np.testing.assert_allclose(getattr(d, name), truth, rtol=0, atol=1e-7 * np.abs(truth).max())
    assert "initial_guess" not in d.attributes


def test_resumed_run_starts_where_the_first_one_did(models, chosen, tmp_path, monkeypatch):
    """Stopped in the second pass: the choice stands, and the samples are the same to the last bit."""
    model, solve, calls = models["confusion"], SampleSolver.solve, []

    def interrupted(self, index):
        calls.append(index)
        if len(calls) > 22:
            raise KeyboardInterrupt
        return solve(self, index)

    monkeypatch.setattr(SampleSolver, "solve", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hd.generate(model, tmp_path / "d", **SIZE, progress=False)
    monkeypatch.setattr(SampleSolver, "solve", solve)
    stored = hd.Dataset.open(tmp_path / "d").attributes["initial_guess"]
    monkeypatch.setattr(Guesses, "choose", None)  # choosing again would fail
    d = hd.generate(model, tmp_path / "d", **SIZE, resume=True, progress=False)
    assert d.attributes["initial_guess"] == stored
    np.testing.assert_array_equal(d.reduced_jacobian, chosen.reduced_jacobian)


def test_guess_of_the_model_is_honoured(models, tmp_path, monkeypatch):
    model = models["confusion"]
    used = []
    start = model.solveState(model.prior.mean)
    own = hd.JacobianModel(
        model.problem, model.prior, model.misfit, initial_guess=lambda m: used.append(1) or start.copy()
    )
    d = hd.generate(own, tmp_path / "d", **SIZE, progress=False)
    assert len(used) >= d.plan.n_total
    assert "initial_guess" not in d.attributes


def test_two_ranks_choose_the_same(run_python, chosen, tmp_path):
    code = f"""
import hippylib_dino as hd
from tests import problems
model = problems.confusion(hd.sample_communicator())
hd.generate(model, {str(tmp_path / "d")!r}, **{SIZE!r}, progress=False)
"""
    run_python(code, ranks=2)
    d = hd.Dataset.open(tmp_path / "d")
    assert d.attributes["initial_guess"] == chosen.attributes["initial_guess"]
    for ours, alone in ((d.x, chosen.x), (d.reduced_jacobian, chosen.reduced_jacobian)):
        np.testing.assert_allclose(ours, alone, atol=1e-8 * np.abs(alone).max())


def test_samples_that_were_not_solved_here_do_not_serve_as_starts(models, tmp_path):
    model = models["confusion"]
    full = hd.generate(model, tmp_path / "full", **SIZE, store_full=True, progress=False)
    d = hd.generate(model, tmp_path / "d", **{**SIZE, "n_samples": 26}, reuse=full, progress=False)
    assert "initial_guess" not in d.attributes
    assert zarr.open_group(d.path, mode="r")["x"].shape == (30, 8)
    assert d.verify() == 30
