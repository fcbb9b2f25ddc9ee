"""From the surrogate's MAP point to the PDE's."""

import dataclasses

import hippylib as hp
import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import InputError, VectorError
from hippylib_dino.modeling.observation import members_of
from hippylib_dino.modeling.spaces import owned_values, set_owned_values
from hippylib_dino.surrogate.refinement import refine
from tests.modeling import test_adjoint
from tests.problems import observe_truth, solve_map
from tests.surrogate.affine_problems import full_bases


@pytest.fixture(scope="module")
def nonlinear(models, surrogates):
    """The nonlinear problem, its surrogate, the MAP points of both."""
    model, surrogate = models["confusion"], surrogates["confusion surrogate"]
    observe_truth(model)
    return model, surrogate, solve_map(model)[0], solve_map(surrogate)[0]


@pytest.fixture
def counts(nonlinear, monkeypatch):
    """Linearised solves of the PDE, counted at its own methods."""
    model, found = nonlinear[0], {"solveFwdIncremental": 0, "solveAdjIncremental": 0}

    def counting(name, original):
        def counted(*arguments):
            found[name] += 1
            original(*arguments)

        return counted

    for name in found:
        monkeypatch.setattr(model, name, counting(name, getattr(model, name)))
    return found


def assert_is_map(found, exact):
    m, expected = (owned_values(x[hp.PARAMETER]) for x in (found, exact))
    assert found.converged, found.reason
    assert found.gradient_norm <= found.tolerance
    np.testing.assert_allclose(m, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_exact_surrogate_needs_one_newton_step(models, surrogates):
    model, surrogate = models["linear"], surrogates["linear surrogate"]
    observe_truth(model)
    found = refine(surrogate, model, solve_map(surrogate, rel_tolerance=1e-2)[0])
    assert_is_map(found, solve_map(model)[0])
    assert found.newton_iterations == 1
    assert found.start == "surrogate"
    assert found.n_linearized <= 4


def test_reaches_the_pdes_map_with_less_work(nonlinear, counts):
    model, surrogate, exact, solution = nonlinear
    before = owned_values(solution[hp.PARAMETER])
    found = refine(surrogate, model, solution, rel_tolerance=1e-8)
    assert_is_map(found, exact)
    np.testing.assert_array_equal(owned_values(solution[hp.PARAMETER]), before)
    warm = sum(counts.values())
    assert found.n_linearized == warm == 2 * found.cg_iterations
    cold, solver = solve_map(model, rel_tolerance=1e-8)
    assert warm <= (sum(counts.values()) - warm) / 3
    assert found.newton_iterations <= solver.it / 2
    # [u, m, p] is a point of the PDE that hIPPYlib's functions take
    gradient = model.generate_vector(hp.PARAMETER)
    assert model.evalGradientParameter(found, gradient) == pytest.approx(found.gradient_norm)
    assert found.cost == pytest.approx(model.cost(cold)[0])
    assert hd.laplace(model, found, rank=10).d[0] > 1


def test_tolerance_is_that_of_a_cold_start(nonlinear):
    model, surrogate, _, solution = nonlinear
    x = [model.solveState(model.prior.mean), model.prior.mean, model.generate_vector(hp.ADJOINT)]
    model.solveAdj(x[hp.ADJOINT], x)
    start = model.evalGradientParameter(x, model.generate_vector(hp.PARAMETER))
    assert refine(surrogate, model, solution, rel_tolerance=1e-4).tolerance == pytest.approx(1e-4 * start)
    found = refine(surrogate, model, solution, rel_tolerance=0.0, abs_tolerance=1e-3 * start)
    assert found.tolerance == 1e-3 * start
    assert found.converged


def _scaled(weights, rng):
    return [*weights[:-2], 3.0 * weights[-2], 3.0 * weights[-1]]


def _random(weights, rng):
    return [w.std() * rng.standard_normal(w.shape) for w in weights]


def _nan(weights, rng):
    return [np.full_like(w, np.nan) for w in weights]


@pytest.mark.parametrize("wrong", [_scaled, _random, _nan])
def test_wrong_surrogate_only_makes_it_slower(nonlinear, confusion_dino, rng, wrong):
    model, _, exact, solution = nonlinear
    dino = dataclasses.replace(confusion_dino, weights=wrong(confusion_dino.weights, rng))
    surrogate = hd.SurrogateModel(dino, model.prior, model.misfit)
    x = solution if wrong is _nan else solve_map(surrogate)[0]
    found = refine(surrogate, model, x, rel_tolerance=1e-8)
    assert_is_map(found, exact)


def test_point_where_the_pde_fails_ends_as_a_cold_start(nonlinear, monkeypatch):
    from hippylib_dino.errors import SolveError

    model, surrogate, exact, solution = nonlinear
    solve = model.solveState

    def refusing(m, guess=None):
        if np.array_equal(owned_values(m), owned_values(solution[hp.PARAMETER])):
            raise SolveError("not here")
        return solve(m, guess)

    monkeypatch.setattr(model, "solveState", refusing)
    for tolerances in ({"rel_tolerance": 1e-8}, {"rel_tolerance": 0.0, "abs_tolerance": 1e-6}):
        found = refine(surrogate, model, solution, **tolerances)
        assert found.start == "prior mean"
        assert found.converged
    assert_is_map(refine(surrogate, model, solution, rel_tolerance=1e-8), exact)


def test_point_that_costs_more_than_the_prior_mean_is_left(nonlinear):
    model, surrogate, exact, _ = nonlinear
    far = model.prior.mean.copy()
    set_owned_values(far, owned_values(far) + 2.0 * np.sign(owned_values(hd.data.draw_parameter(model.prior, 1, 1))))
    found = refine(surrogate, model, far, rel_tolerance=1e-8)
    assert found.start == "prior mean"
    assert_is_map(found, exact)


def test_steps_that_do_not_suffice_are_told_by_the_flag(nonlinear):
    model, surrogate, _, solution = nonlinear
    found = refine(surrogate, model, solution, rel_tolerance=1e-9, max_iter=1)
    assert not found.converged
    assert found.reason == "1 Newton steps were taken"
    assert found.newton_iterations == 2  # one with each preconditioner


def test_a_tolerance_below_rounding_ends_at_the_floor(nonlinear):
    """No processor reaches 1e-18 of the gradient; the point is the MAP point and no failure."""
    model, surrogate, exact, solution = nonlinear
    found = refine(surrogate, model, solution, rel_tolerance=1e-18, abs_tolerance=0.0)
    assert found.converged
    m, expected = (owned_values(x[hp.PARAMETER]) for x in (found, exact))
    np.testing.assert_allclose(m, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert found.reason == "steps change the cost by less than its rounding, and the gradient no more"
    assert found.gradient_norm > found.tolerance


def test_bad_input_is_named(nonlinear, models):
    model, surrogate, _, solution = nonlinear
    with pytest.raises(InputError, match=r"rel_tolerance, abs_tolerance: expected 0 <= rel_tolerance < 1"):
        refine(surrogate, model, solution, rel_tolerance=1.0)
    with pytest.raises(InputError, match=r"not both 0"):
        refine(surrogate, model, solution, rel_tolerance=0, abs_tolerance=0)
    with pytest.raises(InputError, match=r"model: expected an hd.JacobianModel, got SurrogateModel"):
        refine(surrogate, surrogate, solution)
    with pytest.raises(VectorError, match=r"x: expected a vector of size 289"):
        refine(surrogate, model, models["linear"].prior.mean)


# ---- where hIPPYlib's own gradient is wrong ----------------------------------------------


@pytest.mark.parametrize("name", ["plain", "heat, both", "reaction, a conductivity that follows the time"])
def test_refines_and_certifies_where_hippylibs_gradient_is_wrong(name):
    """Sensors in cells of a Dirichlet boundary, coefficients that follow the time; a surrogate of first order."""
    model = test_adjoint.BUILD[name]()
    data = model.evalObservable(hd.data.draw_parameter(model.prior, 11, 0))
    data += model.noise_covariance.sample(np.random.default_rng(0))
    ends = np.cumsum([member.B.size(0) for member in members_of(model.misfit)])[:-1]
    for member, rows in zip(members_of(model.misfit), np.split(data, ends), strict=True):
        set_owned_values(member.d, rows)
    surrogate = hd.SurrogateModel(
        hd.taylor_expansion(model, full_bases(model), order=1, progress=False), model.prior, model.misfit
    )
    x = solve_map(surrogate)[0]
    before = hd.certify(surrogate, model, x)
    exact = refine(surrogate, model, x)
    assert exact.converged, exact.reason
    assert exact.newton_iterations >= 1
    assert exact.cost < before.cost.total
    m, direction = exact[hp.PARAMETER], test_adjoint.point_and_direction(model)[1]
    scale = abs(test_adjoint.along(model, model.prior.mean, direction, lambda x: model.cost(x)[0]))
    assert abs(test_adjoint.along(model, m, direction, lambda x: model.cost(x)[0])) < 1e-4 * scale
    after = hd.certify(surrogate, model, exact)
    assert after.distance < 0.1 * before.distance
    assert after.lowest_curvature > 0
