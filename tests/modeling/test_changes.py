"""Whatever a user changes between solves is seen, as plain hIPPYlib sees it, which builds its forms anew each time."""

import dolfin as dl
import hippylib as hp
import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import InputError, SolveError
from hippylib_dino.modeling.initial_guess import LinearizedPrediction, MeanState
from hippylib_dino.modeling.spaces import owned_values, set_owned_values
from tests import time_dependent_problems
from tests.problems import sensors


class Handler:
    """A form that reads something of every kind that may change."""

    scale = 3.0  # a number of the class

    def __init__(self, mesh, space):
        self.rate = 1.0  # a number in the form
        self.factor = 1.0  # a number in a constant that each call makes anew
        self.constant = dl.Constant(1.0)
        self.field = dl.interpolate(dl.Constant(1.0), space)
        self.expression = dl.Expression("1.0 + t * x[0]", t=0.0, degree=1)
        self.inner = dl.Expression("f", f=self.field, degree=1)
        self.marks = dl.MeshFunction("size_t", mesh, 2, 1)

    def __call__(self, u, m, p):
        dx = dl.dx(degree=5, subdomain_data=self.marks)
        reaction = self.rate * dl.exp(m) * u**3 + dl.Constant(self.factor) * self.inner * u
        source = Handler.scale * self.expression * self.constant + self.field
        return (dl.inner(dl.grad(u), dl.grad(p)) + (reaction - source) * p) * dx((1, 2)) + 5.0 * u * p * dx(2)


@pytest.fixture(scope="module")
def pair():
    """Handler, plain model, accelerated model; conditions on one side, their values by an expression."""
    mesh = dl.UnitSquareMesh(dl.MPI.comm_self, 5, 5)
    space = dl.FunctionSpace(mesh, "Lagrange", 1)
    prior = hp.BiLaplacianPrior(space, 0.2, 1.0, robin_bc=True, solver_type="lu")
    misfit = hp.DiscreteStateObservation(hp.assemblePointwiseObservation(space, sensors(2)), noise_variance=1e-4)
    handler, side = Handler(mesh, space), "on_boundary && x[0] < DOLFIN_EPS"
    handler.boundary_value = dl.Expression("g", g=0.5, degree=0)
    bc = [dl.DirichletBC(space, handler.boundary_value, side)]
    bc0 = [dl.DirichletBC(space, dl.Constant(0.0), side)]
    models = [
        hd.JacobianModel(kind([space] * 3, handler, bc, bc0, is_fwd_linear=False), prior, misfit)
        for kind in (hp.PDEVariationalProblem, hd.AcceleratedVariationalProblem)
    ]
    handler.bc, handler.bc0, handler.space, handler.mesh = bc, bc0, space, mesh
    return handler, *models


def add_condition(h):
    side = "on_boundary && x[1] < DOLFIN_EPS"
    h.bc.append(dl.DirichletBC(h.space, dl.Constant(0.9), side))
    h.bc0.append(dl.DirichletBC(h.space, dl.Constant(0.0), side))


def replace_condition(h):
    side = "on_boundary && x[1] > 1 - DOLFIN_EPS"
    h.bc[-1] = dl.DirichletBC(h.space, dl.Constant(0.2), side)
    h.bc0[-1] = dl.DirichletBC(h.space, dl.Constant(0.0), side)


def move(h):
    h.mesh.coordinates()[:] *= 1.3
    h.mesh.bounding_box_tree().build(h.mesh, 2)  # or dolfin finds no cell for the points of `inner`


CHANGES = {  # in this order, one upon the other
    "constant": lambda h: h.constant.assign(2.0),
    "function": lambda h: h.field.assign(dl.interpolate(dl.Constant(1.5), h.space)),
    "parameter of an expression": lambda h: setattr(h.expression, "t", 2.0),
    "constant made anew": lambda h: setattr(h, "factor", 3.0),
    "class attribute": lambda h: setattr(Handler, "scale", 5.0),
    "number in the form": lambda h: setattr(h, "rate", 2.0),
    "another constant": lambda h: setattr(h, "constant", dl.Constant(0.7)),
    "marks of the mesh": lambda h: h.marks.array().__setitem__(slice(0, 25), 2),
    "boundary value": lambda h: setattr(h.boundary_value, "g", 1.0),
    "condition added": add_condition,
    "condition replaced": replace_condition,
    "mesh moved": move,
}


def test_changes_between_solves_are_seen_as_hippylib_sees_them(pair):
    handler, plain, fast = pair
    m, before = hd.data.draw_parameter(plain.prior, 1, 1), None
    scale = Handler.scale
    try:
        for name, change in {"nothing": lambda h: None, **CHANGES}.items():
            change(handler)
            q, J = (x if isinstance(x, np.ndarray) else x.to_dense() for x in plain.linearize(m))
            fast_q, fast_J = fast.linearize(m)
            np.testing.assert_allclose(fast_q, q, rtol=1e-7, err_msg=name)
            np.testing.assert_allclose(fast_J.to_dense(), J, rtol=0, atol=1e-7 * np.abs(J).max(), err_msg=name)
            if before is not None:
                assert np.abs(q - before).max() > 1e-3, name
            before = q
    finally:
        Handler.scale = scale


def test_gradient_and_adjoint_see_changes_without_a_forward_solve(pair):
    handler, plain, fast = pair
    m = hd.data.draw_parameter(plain.prior, 1, 2)
    u = plain.solveState(m)
    rate = handler.rate
    try:
        handler.rate = 3.0
        found = []
        for model in (plain, fast):
            x = [u, m, model.generate_vector(hp.ADJOINT)]
            rhs, gradient = u.copy(), model.generate_vector(hp.PARAMETER)
            for bc in model.problem.bc0:
                bc.apply(rhs)
            model.problem.solveAdj(x[hp.ADJOINT], x, rhs)
            model.problem.evalGradientParameter(x, gradient)
            found.append((owned_values(x[hp.ADJOINT]), owned_values(gradient)))
    finally:
        handler.rate = rate
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-9 * np.abs(a).max())


def test_unchanged_forms_are_kept_though_the_handler_makes_new_constants(pair):
    _, _, fast = pair
    fast.evalObservable(fast.prior.mean)
    source = fast.problem.source
    fast.jacobian(fast.prior.mean).to_dense()
    assert fast.problem.source is source


def test_jacobian_of_a_problem_that_changed_is_refused(pair):
    """Its matrices would be assembled with the new values at the old state."""
    handler, _, fast = pair
    J = fast.jacobian(fast.prior.mean)
    handler.constant.assign(float(handler.constant) + 0.5)
    with pytest.raises(InputError, match="a coefficient of the form has changed since"):
        J.to_dense()
    fast.jacobian(fast.prior.mean).to_dense()


@pytest.mark.parametrize("kind", [MeanState, LinearizedPrediction])
@pytest.mark.parametrize("which", [1, 2], ids=["plain", "accelerated"])
def test_guesses_follow_the_problem(pair, kind, which):
    handler, model = pair[0], pair[which]
    guess, m = kind(model), model.prior.mean
    for change in (
        lambda: handler.constant.assign(float(handler.constant) + 1.0),
        lambda: setattr(handler, "factor", handler.factor + 1.0),
        lambda: setattr(handler.boundary_value, "g", handler.boundary_value.g + 0.5),
        lambda: set_owned_values(handler.field.vector(), 1.1 * owned_values(handler.field.vector())),
    ):
        before = owned_values(guess(m))
        change()
        state = owned_values(model.solveState(m, guess(m)))
        assert np.abs(before - state).max() > 1e-3
        np.testing.assert_allclose(owned_values(guess(m)), state, rtol=0, atol=1e-7 * np.abs(state).max())


@pytest.mark.parametrize("kind", [MeanState, LinearizedPrediction])
def test_guess_that_could_not_be_made_is_made_later(pair, kind, monkeypatch):
    """The solve after a change fails: the state of the old problem must not serve as that of the new one."""
    handler, _, model = pair
    guess, m = kind(model), model.prior.mean
    handler.constant.assign(float(handler.constant) + 1.0)

    def fail(*_):
        raise SolveError("no")

    monkeypatch.setattr(model.problem, "solveFwd", fail)
    with pytest.raises(SolveError):
        guess(m)
    monkeypatch.undo()
    state = owned_values(model.solveState(m))
    np.testing.assert_allclose(owned_values(guess(m)), state, rtol=0, atol=1e-7 * np.abs(state).max())


def test_time_dependent_jacobian_of_a_problem_that_changed_is_refused():
    problem, prior, misfit = time_dependent_problems.heat(hd.sample_communicator())
    model = hd.JacobianModel(problem, prior, misfit)
    before = model.jacobian(prior.mean)
    problem.varf.inverse.assign(40.0)
    with pytest.raises(InputError, match="has changed since"):
        before.to_dense()
    changed = model.jacobian(prior.mean).to_dense()
    fresh = hd.JacobianModel(problem, prior, misfit).jacobian(prior.mean).to_dense()
    np.testing.assert_allclose(changed, fresh, rtol=0, atol=1e-12 * np.abs(fresh).max())


def test_time_dependent_problem_sees_conditions_and_mesh():
    problem, prior, misfit = time_dependent_problems.heat(hd.sample_communicator())
    space = problem.Vh[hp.STATE]
    model = hd.JacobianModel(problem, prior, misfit)
    before = model.jacobian(prior.mean).to_dense()
    bc = dl.DirichletBC(space, dl.Constant(0.0), "on_boundary && x[1] < DOLFIN_EPS")

    def add():
        problem.fwd_bc.append(bc)
        problem.adj_bc.append(bc)

    for change in (add, lambda: space.mesh().coordinates().__imul__(1.2)):
        change()
        changed = model.jacobian(prior.mean).to_dense()
        fresh = hd.JacobianModel(problem, prior, misfit).jacobian(prior.mean).to_dense()
        np.testing.assert_allclose(changed, fresh, rtol=0, atol=1e-12 * np.abs(fresh).max())
        assert np.abs(changed - before).max() > 1e-3 * np.abs(before).max()
        before = changed


class Bump(dl.UserExpression):
    """What Python computes point by point; nothing tells its parameters."""

    def __init__(self, height, **options):
        super().__init__(**options)
        self.height = height

    def eval(self, values, x):
        values[0] = self.height * (1.0 + x[0])

    def value_shape(self):
        return ()


def test_expressions_that_tell_no_parameters_are_compared_by_their_values(models):
    """Whether the user's own object changes, or the handler makes another in each call."""
    space, heights = models["linear"].prior.Vh, {"kept": 1.0, "anew": 1.0}
    kept = Bump(1.0, degree=1)

    def residual(u, m, p):
        return (dl.inner(dl.grad(u), dl.grad(p)) + u * p - m * kept * Bump(heights["anew"], degree=1) * p) * dl.dx

    problems = (
        kind([space] * 3, residual, [], [], is_fwd_linear=True)
        for kind in (hp.PDEVariationalProblem, hd.AcceleratedVariationalProblem)
    )
    plain, fast = (hd.JacobianModel(each, models["linear"].prior, models["linear"].misfit) for each in problems)
    m = plain.prior.mean
    fast.evalObservable(m)
    source, before = fast.problem.source, None
    assert fast.problem.source is source
    for kept.height, heights["anew"] in ((1.0, 1.0), (2.0, 1.0), (2.0, 3.0)):
        q = plain.evalObservable(m)
        np.testing.assert_allclose(fast.evalObservable(m), q, rtol=1e-9)
        assert before is None or np.abs(q / before - 1.0).min() > 0.5
        before = q
