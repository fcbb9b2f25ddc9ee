import dolfin as dl
import hippylib as hp
import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import InputError, SolveError
from hippylib_dino.modeling.spaces import owned_values
from hippylib_dino.modeling.verify import STEPS, rate
from hippylib_dino.random_streams import Purpose, seed_of
from tests import control_problems
from tests.control_problems import CONTROL, ControlModel, vector

Z = np.array([0.7, -0.4, 0.9])


@pytest.fixture
def ensemble(control_model):
    quantity = control_problems.soupy_quantity(control_model.problem)
    return hd.ouu.PDEEnsemble.draw(control_model, quantity, 3, seed=5)


def test_taylor_rates_of_each_sample(ensemble):
    direction = np.array([0.5, -0.3, 0.4])
    q, J = ensemble.quantity_and_jacobian(Z)
    H = ensemble.hessian_actions(Z, direction)
    change = np.array([ensemble.quantity(Z + h * direction) - q for h in STEPS])
    for i in range(3):
        slope, curvature = J[i] @ direction, H[i] @ direction
        first, second = (np.abs(change[:, i] - STEPS * s * slope) for s in (1.0, 1.05))
        assert rate(first) == pytest.approx(2, abs=0.25)
        assert rate(second) < 1.8
        third = np.abs(change[:, i] - STEPS * slope - STEPS**2 / 2 * curvature)
        assert rate(third) == pytest.approx(3, abs=0.25)


def test_it_is_what_a_control_model_says_of_each_sample(ensemble, control_model):
    pde, direction = control_model.problem, np.array([0.5, -0.3, 0.4])
    caller, z = ControlModel(pde, ensemble.form), pde.control_from_array(Z)
    q, J = ensemble.quantity_and_jacobian(Z)
    H = ensemble.hessian_actions(Z, direction)
    for i in range(3):
        x = caller.point(hd.data.draw_parameter(control_model.prior, seed_of(Purpose.PDE_ENSEMBLE, 5), i), z)
        caller.adjoint(x)
        assert caller.quantity.cost(x) == pytest.approx(q[i], rel=1e-8)
        np.testing.assert_allclose(owned_values(caller.gradient(x)), J[i], rtol=1e-6)
        action = caller.hessian_action(x, pde.control_from_array(direction))
        np.testing.assert_allclose(owned_values(action), H[i], rtol=1e-6)


def test_states_are_kept_and_solves_counted(ensemble):
    ensemble.quantity(Z)
    assert ensemble.n_solves["forward"] == 3
    ensemble.quantity_and_jacobian(Z)
    ensemble.hessian_actions(Z, Z)
    assert ensemble.n_solves == {"forward": 3, "adjoint": 6, "incremental_forward": 3, "incremental_adjoint": 3}
    ensemble.quantity(2 * Z)
    assert ensemble.n_solves["forward"] == 6


def test_a_control_that_is_changed_in_place_is_another(ensemble):
    z = Z.copy()
    first = ensemble.quantity(z)
    z *= 2
    again = ensemble.quantity(z)
    assert ensemble.n_solves["forward"] == 6
    assert not np.allclose(first, again)


def test_samples_are_given_or_drawn(ensemble, control_model):
    order = hd.modeling.DofOrder(control_model.prior.Vh)
    samples = [
        order.to_array(owned_values(hd.data.draw_parameter(control_model.prior, seed_of(Purpose.PDE_ENSEMBLE, 5), i)))
        for i in range(3)
    ]
    given = hd.ouu.PDEEnsemble(control_model, ensemble.form, samples)
    np.testing.assert_allclose(given.quantity(Z), ensemble.quantity(Z), rtol=1e-9)


def test_latent_samples_are_those_of_the_basis(ensemble, control_model, control_dino):
    order = hd.modeling.DofOrder(control_model.prior.Vh)
    m = np.array(
        [
            order.to_array(
                owned_values(hd.data.draw_parameter(control_model.prior, seed_of(Purpose.PDE_ENSEMBLE, 5), i))
            )
            for i in range(3)
        ]
    )
    x = ensemble.latent(control_dino.input_basis)
    np.testing.assert_allclose(x, control_dino.latent(m, Z)[:, : x.shape[1]], atol=1e-9)


TWO_RANKS = """
import dolfin as dl, numpy as np, hippylib_dino as hd
from tests import control_problems
dl.set_log_level(dl.LogLevel.ERROR)
for ranks in (1, None):
    model = control_problems.build("bent", hd.sample_communicator(ranks))
    ensemble = hd.ouu.PDEEnsemble.draw(model, control_problems.soupy_quantity(model.problem), 3, seed=5)
    z, v = np.array([0.7, -0.4, 0.9]), np.array([0.5, -0.3, 0.4])
    q, J = ensemble.quantity_and_jacobian(z)
    numbers = np.concatenate([q, J.ravel(), ensemble.hessian_actions(z, v).ravel()])
    everyone = dl.MPI.comm_world.allgather(numbers)
    assert all(np.array_equal(a, everyone[0]) for a in everyone)
    assert ensemble.n_solves["adjoint"] == 6  # of all ranks
    if dl.MPI.rank(dl.MPI.comm_world) == 0:
        assert ensemble.is_first
        print("RESULT", numbers.tolist())
"""


def test_two_ranks_share_the_samples(run_python, ensemble):
    q, J = ensemble.quantity_and_jacobian(Z)
    here = np.concatenate([q, J.ravel(), ensemble.hessian_actions(Z, np.array([0.5, -0.3, 0.4])).ravel()])
    printed = run_python(TWO_RANKS, ranks=2).stdout
    found = [eval(line.removeprefix("RESULT ")) for line in printed.splitlines() if line.startswith("RESULT")]
    assert len(found) == 2
    for numbers in found:
        np.testing.assert_allclose(numbers, here, rtol=1e-6)


def test_a_sample_that_fails_is_named(control_model, ensemble, monkeypatch):
    def fail(*_):
        raise hd.modeling.ForwardSolveError("no")

    ensemble.quantity(2 * Z)  # the model's own guess is made by a forward solve as well
    monkeypatch.setattr(control_model.problem, "solveFwd", fail)
    with pytest.raises(SolveError, match="sample 0 of the ensemble: the forward solve failed"):
        ensemble.quantity(Z)


def test_risk_is_minimised_by_the_pde(control_model):
    quantity = hd.ouu.tracking(control_model.problem.Vh, control_problems.target())
    ensemble = hd.ouu.PDEEnsemble.draw(control_model, quantity, 2, seed=5)
    objective = hd.ouu.Objective(ensemble, hd.ouu.Expectation(), [hd.ouu.L2Penalty(1e-2)])
    found = hd.ouu.minimize(objective, np.zeros(3), bounds=(np.full(3, -2.0), np.full(3, 2.0)), progress=False)
    assert found.converged
    assert ensemble.quantity(found.z).mean() < ensemble.quantity(np.zeros(3)).mean()


def test_states_are_solved_again_once_the_problem_has_changed():
    model = control_problems.build("bent", hd.sample_communicator())
    quantity, z = hd.ouu.tracking(model.problem.Vh, control_problems.target()), np.array([0.7, -0.4, 0.9])
    ensemble = hd.ouu.PDEEnsemble.draw(model, quantity, 2, seed=5)
    before = ensemble.quantity(z)
    model.problem.bc[0].set_value(dl.Constant(0.3))
    after = ensemble.quantity(z)
    np.testing.assert_allclose(after, hd.ouu.PDEEnsemble.draw(model, quantity, 2, seed=5).quantity(z), rtol=1e-8)
    assert np.abs(after / before - 1.0).min() > 1e-2


def test_quantities_have_their_closed_forms(control_model):
    """A linear state in a unit square: distance, flux and dissipation by hand."""
    Vh = control_model.problem.Vh
    u = dl.interpolate(dl.Expression("2*x[0]", degree=1), Vh[hp.STATE]).vector()
    m = control_model.problem.generate_parameter()
    m[:] = np.log(3.0)
    x = [u, m, None, None]
    assert hd.ouu.tracking(Vh, dl.Constant(0.0)).cost(x) == pytest.approx(0.5 * 4 / 3)
    right = dl.CompiledSubDomain("near(x[0], 1.0)")
    marks = dl.MeshFunction("size_t", Vh[0].mesh(), 1, 0)
    right.mark(marks, 1)
    assert hd.ouu.flux(Vh, dl.ds(1, domain=Vh[0].mesh(), subdomain_data=marks)).cost(x) == pytest.approx(6.0)
    shear = dl.as_vector
    twisted = hd.ouu.dissipation(Vh, 0.5, lambda u: shear((0 * u, u)))
    assert twisted.cost(x) == pytest.approx(0.5 * 2 * 1.0**2)


def test_bad_input_is_named(control_model, models):
    Vh = control_model.problem.Vh
    quantity = hd.ouu.tracking(Vh, control_problems.target())
    with pytest.raises(InputError, match=r"parameters: expected samples of shape \(49,\)"):
        hd.ouu.PDEEnsemble(control_model, quantity, [np.zeros(5)])
    with pytest.raises(InputError, match="n: expected at least one sample"):
        hd.ouu.PDEEnsemble.draw(control_model, quantity, 0, seed=1)
    with pytest.raises(InputError, match=r"model: expected one of an hd\.ControlProblem"):
        hd.ouu.PDEEnsemble.draw(models["poisson"], quantity, 2, seed=1)
    with pytest.raises(InputError, match=r"z: expected shape \(3,\)"):
        hd.ouu.PDEEnsemble.draw(control_model, quantity, 1, seed=1).quantity(np.zeros(4))
    with pytest.raises(InputError, match="form: expected a callable"):
        hd.ouu.FormQuantity(Vh, lambda u, m, z: u)
    with pytest.raises(InputError, match="quantity of the state alone, got one that depends on the parameter"):
        control_problems.soupy_quantity(control_model.problem).of_state()
    with pytest.raises(InputError, match="expected four spaces"):
        hd.ouu.FormQuantity(Vh[:3], lambda u, m, z: u)


def test_derivatives_of_a_quantity_in_every_pair(control_model):
    """Gradients against differences of values, second derivatives against differences of gradients."""
    pde = control_model.problem
    quantity, caller = control_problems.soupy_quantity(pde), ControlModel(pde, None)
    x = [vector(pde.generate_state(), 1), vector(pde.generate_parameter(), 2), None, vector(pde.generate_control(), 3)]
    variables, h = (hp.STATE, hp.PARAMETER, CONTROL), 1e-5

    def at(j, step, direction):
        out = [None if v is None else v.copy() for v in x]
        out[j].axpy(step, direction)
        return out

    for j in variables:
        along, gradient = vector(caller.new(j), 4), caller.new(j)
        quantity.grad(j, x, gradient)
        difference = (quantity.cost(at(j, h, along)) - quantity.cost(at(j, -h, along))) / (2 * h)
        assert gradient.inner(along) == pytest.approx(difference, rel=1e-6)
        for i in variables:
            ends = []
            for step in (-h, h):
                out = caller.new(i)
                quantity.grad(i, at(j, step, along), out)
                ends.append(owned_values(out))
            exact = caller.new(i)
            quantity.setLinearizationPoint(x)
            quantity.apply_ij(i, j, along, exact)
            difference = (ends[1] - ends[0]) / (2 * h)
            np.testing.assert_allclose(owned_values(exact), difference, atol=1e-7 * max(1.0, np.abs(difference).max()))
