"""What `generate` says of a Jacobian that is not the derivative of the observable."""

import warnings

import dolfin as dl
import hippylib as hp
import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.data import derivative
from hippylib_dino.errors import DerivativeWarning, InputError, SolveError
from tests import problems

SIZE = {"n_samples": 4, "n_validation": 1, "n_test": 1, "input_rank": 3, "output_rank": 3, "progress": False}


def diffusion(kind, prior_kind, *, length=1.0, conditions=True, linear=False):
    """-div(exp(m) grad u) = 1 on a square, u = 0 around it."""
    corners = dl.Point(0.0, 0.0), dl.Point(length, length)
    mesh = dl.RectangleMesh(hd.sample_communicator(), *corners, 8, 8)
    space = dl.FunctionSpace(mesh, "Lagrange", 1)

    def residual(u, m, p):
        return dl.exp(m) * dl.inner(dl.grad(u), dl.grad(p)) * dl.dx - dl.Constant(1.0) * p * dl.dx

    bc = dl.DirichletBC(space, dl.Constant(0.0), "on_boundary")
    pde = kind([space] * 3, residual, [bc] if conditions else [], [bc] if conditions else [], is_fwd_linear=linear)
    prior = prior_kind(space)
    B = hp.assemblePointwiseObservation(space, length * problems.sensors(3))
    return hd.JacobianModel(pde, prior, hp.DiscreteStateObservation(B, noise_variance=1e-4 * length**4))


def smooth(space):
    return hp.BiLaplacianPrior(space, 0.5, 2.0, robin_bc=True, solver_type="lu")


def rough(space):
    """Standard deviation about 3, correlated over less than a cell."""
    return hp.LaplacianPrior(space, 0.05, 1.0)


def test_right_jacobian_is_recorded_and_shown(models, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", DerivativeWarning)
        dataset = hd.generate(models["linear"], tmp_path / "d", **SIZE)
    found = dataset.attributes["derivative_check"]
    assert list(found) == ["parameter"]
    assert found["parameter"]["error"] < 1e-6
    shown = hd.data.report(dataset)["derivative check"]
    assert shown == f"J in the parameter within {found['parameter']['error']:.1e} of central differences"


def test_other_degree_of_quadrature_is_warned_about(tmp_path):
    plain = diffusion(hp.PDEVariationalProblem, rough)
    with pytest.warns(DerivativeWarning, match=r"is off by .*Perhaps UFL integrates the form with degree 3 and its"):
        dataset = hd.generate(plain, tmp_path / "plain", **SIZE)
    assert dataset.attributes["derivative_check"]["parameter"]["error"] > 1e-3
    fast = hd.JacobianModel(hd.AcceleratedVariationalProblem.from_problem(plain.problem), plain.prior, plain.misfit)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DerivativeWarning)
        hd.generate(fast, tmp_path / "fast", **SIZE)


@pytest.mark.parametrize("kind", [hp.PDEVariationalProblem, hd.AcceleratedVariationalProblem])
def test_problem_without_a_unique_state_is_refused(kind, tmp_path):
    """Linear solves of a singular system give anything, or fail."""
    model = diffusion(kind, smooth, conditions=False, linear=True)
    with pytest.raises((InputError, SolveError), match=r"no unique state|failed|not finite"):
        hd.generate(model, tmp_path / "d", **SIZE)


def test_mesh_in_small_units_is_refused_where_hippylib_stops_at_once(tmp_path):
    plain = diffusion(hp.PDEVariationalProblem, smooth, length=1e-9)
    with pytest.raises(InputError, match=r"depends on the parameter.*absolute residual of 1e-10"):
        hd.generate(plain, tmp_path / "plain", **SIZE)


def doubled(model):
    """What to put in place of the model's `linearize_at`: a Jacobian twice as large."""
    linearize_at = model.linearize_at

    class Wrong:
        def __init__(self, *point):
            self._right = linearize_at(*point)

        def mult_local(self, directions):
            return 2.0 * self._right.mult_local(directions)

        def owned_rows(self):  # what the check of the sensors asks for
            return 2.0 * self._right.owned_rows()

    return Wrong


def test_wrong_derivative_ends_the_run(models, tmp_path, monkeypatch):
    model = models["linear"]
    Wrong = doubled(model)
    monkeypatch.setattr(model, "linearize_at", Wrong)
    with pytest.raises(InputError, match=r"model: its Jacobian in the parameter is off by 0\.5"):
        hd.generate(model, tmp_path / "d", **SIZE)
    monkeypatch.undo()
    hd.generate(model, tmp_path / "d", **SIZE)  # nothing was left there
    monkeypatch.setattr(model, "linearize_at", Wrong)
    with pytest.raises(InputError, match=r"model: its Jacobian in the parameter is off by 0\.5"):
        hd.generate(model, tmp_path / "d", **{**SIZE, "n_samples": 5}, resume=True)


def test_append_checks_a_model_once(models, tmp_path, monkeypatch):
    """Its observable is that of the dataset, so that no fingerprint tells."""
    known = models["linear"]
    dataset = hd.generate(known, tmp_path / "d", **SIZE)
    m = np.array([dataset.input_basis.shift])
    made, errors = [], derivative.derivative_errors
    monkeypatch.setattr(derivative, "derivative_errors", lambda *a: made.append(a[0]) or errors(*a))
    dataset = hd.data.append(known, dataset, m, ["mean"], progress=False)
    assert made == []  # it made the dataset
    other = hd.JacobianModel(known.problem, known.prior, known.misfit)
    monkeypatch.setattr(other, "linearize_at", doubled(other))
    with pytest.raises(InputError, match=r"model: its Jacobian in the parameter is off by 0\.5"):
        hd.data.append(other, dataset, m, ["mean, wrong"], progress=False)
    monkeypatch.undo()
    monkeypatch.setattr(derivative, "derivative_errors", lambda *a: made.append(a[0]) or errors(*a))
    assert list(dataset.reopened().given.values()) == ["mean"]  # nothing was planned
    made.clear()
    for origin in ("mean, right", "mean, again"):
        dataset = hd.data.append(other, dataset, m, [origin], progress=False)
    assert made == [other]
    assert dataset.attributes["derivative_check"]["parameter"]["error"] < 1e-6


def test_draws_that_cannot_be_solved_are_passed_over(models, tmp_path, monkeypatch):
    """They are counted among the samples; the check takes another draw, or says that there was none."""
    model, solve, calls = models["linear"], models["linear"].solveState, []

    def failing(m, guess=None):
        calls.append(1)
        if len(calls) in (2, 3, 4):  # the first is the observable at the prior mean
            raise SolveError("no")
        return solve(m, guess)

    monkeypatch.setattr("hippylib_dino.data.generation.check_sensors", lambda *_, **__: None)  # which solves too
    monkeypatch.setattr(model, "solveState", failing)
    dataset = hd.generate(model, tmp_path / "d", **SIZE)
    assert dataset.attributes["derivative_check"] == {}
    assert hd.data.report(dataset)["derivative check"] == "no draw could be solved"
    calls.clear()
    monkeypatch.setattr(model, "solveState", lambda m, guess=None: failing(m, guess) if len(calls) < 2 else solve(m))
    dataset = hd.generate(model, tmp_path / "e", **SIZE)
    assert dataset.attributes["derivative_check"]["parameter"]["error"] < 1e-6


def test_control_is_checked_and_put_back(control_model, control_dataset):
    found = control_dataset.attributes["derivative_check"]
    assert {name: each["error"] < 1e-5 for name, each in found.items()} == {"parameter": True, "control": True}
    assert not np.any(control_model.problem.control_to_array(control_model.problem.control))


def test_ranks_agree_on_the_verdict(run_python, tmp_path):
    code = f"""
import hippylib_dino as hd
from hippylib_dino.data import derivative
from hippylib_dino.errors import InputError
from tests import problems
model = problems.heat(hd.sample_communicator())
settings = dict(n_samples=4, n_validation=1, n_test=1, input_rank=3, output_rank=3, progress=False)
dataset = hd.generate(model, {str(tmp_path / "d")!r}, **settings)
print(dataset.attributes["derivative_check"]["parameter"]["error"] < 1e-5)
linearize_at = model.linearize_at
class Wrong:
    def __init__(self, *point):
        self._right = linearize_at(*point)
    def mult_local(self, directions):
        return 2.0 * self._right.mult_local(directions)
    def owned_rows(self):
        return 2.0 * self._right.owned_rows()
model.linearize_at = Wrong
try:
    hd.generate(model, {str(tmp_path / "e")!r}, **settings)
except InputError as error:
    print("off by 0.5" in str(error))
"""
    assert run_python(code, ranks=2).stdout.split() == ["True"] * 4
