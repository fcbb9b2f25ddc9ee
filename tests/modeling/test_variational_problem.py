import dolfin as dl
import hippylib as hp
import numpy as np
import pytest
from hippylib.utils.warnings import ModelConvergenceError

import hippylib_dino as hd
from hippylib_dino.errors import InputError, SolveError
from hippylib_dino.modeling import ForwardSolveError, NewtonOptions
from hippylib_dino.modeling.compiled_forms import CompiledForms
from hippylib_dino.modeling.spaces import owned_values, set_owned_values
from tests import problems

PROBLEMS = ("confusion", "hyperelasticity", "poisson", "vector", "mixed", "linear")
BLOCKS = ((0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (0, 2), (2, 1), (1, 2))


@pytest.fixture(scope="module")
def pairs(models):
    """Plain and accelerated problem, by name."""
    return {name: (problems.plain(models[name]), problems.accelerated(models[name])) for name in PROBLEMS}


def relative(a, b):
    """‖a - b‖ / ‖b‖."""
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def everything(model, m, guess=None):
    """State, adjoint, gradient, cost, Hessian actions and all blocks as hIPPYlib's loops see them."""
    x = [model.generate_vector(hp.STATE) if guess is None else guess, m, model.generate_vector(hp.ADJOINT)]
    out = {}
    model.solveFwd(x[hp.STATE], x)
    out["state"], out["cost"] = owned_values(x[hp.STATE]), np.array(model.cost(x))
    model.solveAdj(x[hp.ADJOINT], x)
    for bc in model.problem.bc0:  # where hIPPYlib's adjoint keeps what belongs to the boundary
        bc.apply(x[hp.ADJOINT])
    out["adjoint"] = owned_values(x[hp.ADJOINT])
    gradient, action = model.generate_vector(hp.PARAMETER), model.generate_vector(hp.PARAMETER)
    model.evalGradientParameter(x, gradient)
    out["gradient"] = owned_values(gradient)
    for gauss_newton in (True, False):
        model.setPointForHessianEvaluations(x, gauss_newton)
        hp.ReducedHessian(model).mult(m, action)
        out[f"Hessian, Gauss-Newton {gauss_newton}"] = owned_values(action)
        for i, j in BLOCKS:
            direction, block = model.generate_vector(j), model.generate_vector(i)
            set_owned_values(direction, np.cos(np.arange(direction.local_size())))
            model.problem.apply_ij(i, j, direction, block)
            out[f"block {i}{j}, Gauss-Newton {gauss_newton}"] = owned_values(block)
    return out


@pytest.mark.parametrize("name", PROBLEMS)
def test_everything_agrees_with_hippylib(pairs, name):
    plain, fast = pairs[name]
    problems.observe_truth(fast)
    m = hd.data.draw_parameter(plain.prior, 3, 0)
    expected, got = everything(plain, m), everything(fast, m)
    for key, value in expected.items():
        np.testing.assert_allclose(got[key], value, rtol=0, atol=1e-8 * np.abs(value).max(), err_msg=key)


@pytest.mark.parametrize("name", PROBLEMS)
def test_jacobian_agrees_with_hippylib(pairs, name):
    plain, fast = pairs[name]
    m = hd.data.draw_parameter(plain.prior, 3, 1)
    (q, J), (fast_q, fast_J) = plain.linearize(m), fast.linearize(m)
    assert relative(fast_q, q) < 1e-9
    assert relative(fast_J.to_dense(), J.to_dense()) < 1e-8


@pytest.mark.parametrize(("i", "j", "k"), [(1, 1, 0), (2, 0, 1)])
def test_third_variations_agree_with_hippylib(pairs, i, j, k):
    plain, fast = pairs["vector"]
    m = hd.data.draw_parameter(plain.prior, 3, 0)
    point = [plain.solveState(m), m, plain.generate_vector(hp.ADJOINT)]
    set_owned_values(point[hp.ADJOINT], np.sin(np.arange(point[hp.ADJOINT].local_size())))
    found = []
    for model in (plain, fast):
        directions = [model.generate_vector(n) for n in (j, k)]
        for direction in directions:
            set_owned_values(direction, np.cos(np.arange(direction.local_size())))
        out = model.generate_vector(i)
        model.problem.apply_ijk(i, j, k, point, *directions, out)
        found.append(owned_values(out))
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-10 * np.abs(found[0]).max())
    assert np.abs(found[0]).max() > 0


@pytest.mark.parametrize("name", ["confusion", "vector"])
def test_state_does_not_depend_on_the_guess(pairs, name):
    _, fast = pairs[name]
    m = hd.data.draw_parameter(fast.prior, 3, 2)
    reference = owned_values(fast.solveState(m))
    far = fast.generate_vector(hp.STATE)
    for guess in (far, fast.solveState(m), fast.solveState(fast.prior.mean)):
        assert relative(owned_values(fast.solveState(m, guess)), reference) < 1e-9


def test_state_is_a_function_of_parameter_and_guess_alone(pairs):
    _, fast = pairs["confusion"]
    a, b = (hd.data.draw_parameter(fast.prior, 4, i) for i in (0, 1))
    first = owned_values(fast.solveState(a)), fast.jacobian(a).to_dense()
    fast.jacobian(b).to_dense()
    np.testing.assert_array_equal(owned_values(fast.solveState(a)), first[0])
    np.testing.assert_array_equal(fast.jacobian(a).to_dense(), first[1])


def test_one_assembly_and_one_factorization_at_a_point(pairs):
    _, fast = pairs["confusion"]
    pde, m = fast.problem, hd.data.draw_parameter(fast.prior, 5, 0)
    x = [fast.solveState(m), m, fast.generate_vector(hp.ADJOINT)]
    before = pde.n_assemblies
    fast.solveAdj(x[hp.ADJOINT], x)
    fast.setPointForHessianEvaluations(x, gauss_newton_approx=True)
    hp.ReducedHessian(fast).mult(m, fast.generate_vector(hp.PARAMETER))
    J = hd.modeling.PDEJacobian(pde, fast.B, fast.misfit.d)
    J.to_dense()
    J.mult_block(owned_values(m)[:, None])
    after = pde.n_assemblies
    assert {key: after[key] - before[key] for key in after} == {"residual": 0, "A": 1, "C": 1, "factorization": 1}


def test_linear_problem_shares_the_matrix_of_its_forward_solve(models):
    fast = problems.accelerated(models["poisson"])
    fast.linearize(hd.data.draw_parameter(fast.prior, 5, 0))[1].to_dense()
    assert fast.problem.n_assemblies == {"residual": 1, "A": 1, "C": 1, "factorization": 1}


def test_matrices_wait_until_asked_for(pairs):
    _, fast = pairs["vector"]
    m = hd.data.draw_parameter(fast.prior, 5, 1)
    x = [fast.solveState(m), m, fast.generate_vector(hp.ADJOINT)]
    before = fast.problem.n_assemblies
    fast.setPointForHessianEvaluations(x, gauss_newton_approx=True)
    assert fast.problem.n_assemblies == before
    assert fast.problem.Wuu is None
    np.testing.assert_allclose(fast.problem.At.array(), fast.problem.A.array().T)
    assert fast.problem.n_assemblies["A"] == before["A"] + 1


def test_forward_solves_leave_the_linearisation_point(pairs):
    """hIPPYlib's line searches solve at trial points and go on with the Hessian of the old one."""
    _, fast = pairs["confusion"]
    m, other = (hd.data.draw_parameter(fast.prior, 5, i) for i in (2, 3))
    _, J = fast.linearize(m)
    dense = J.transpmult_block(np.eye(J.shape[0]))
    fast.solveState(other)
    np.testing.assert_array_equal(J.transpmult_block(np.eye(J.shape[0])), dense)


def test_changed_coefficients_are_seen(models):
    """A Constant that the form refers to changes both state and matrix at the same (u, m)."""
    model = models["linear"]
    space = model.prior.Vh
    factor, field = dl.Constant(1.0), dl.interpolate(dl.Constant(1.0), space)

    def residual(u, m, p):
        return (factor * dl.inner(dl.grad(u), dl.grad(p)) + field * u * p - m * p) * dl.dx

    pde = hd.AcceleratedVariationalProblem([space] * 3, residual, [], [], is_fwd_linear=True)
    stock = hp.PDEVariationalProblem([space] * 3, residual, [], [], is_fwd_linear=True)
    fast, plain = (hd.JacobianModel(p, model.prior, model.misfit) for p in (pde, stock))
    m = model.prior.mean
    first = fast.jacobian(m).to_dense()
    for change in (lambda: factor.assign(2.0), lambda: field.assign(dl.Constant(3.0))):
        change()
        changed = fast.jacobian(m).to_dense()
        assert relative(changed, first) > 0.05
        assert relative(changed, plain.jacobian(m).to_dense()) < 1e-10
        first = changed


def test_same_map_point_as_hippylib(pairs):
    problems.observe_truth(pairs["confusion"][1])
    results = []
    for model in pairs["confusion"]:
        stock = hp.Model(model.problem, model.prior, model.misfit)
        results.append(problems.solve_map(stock, rel_tolerance=1e-6))
    (x, solver), (y, fast_solver) = results
    assert solver.converged
    assert fast_solver.converged
    assert fast_solver.it == solver.it
    assert relative(owned_values(y[hp.PARAMETER]), owned_values(x[hp.PARAMETER])) < 1e-6


# ---- forward solvers --------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"forward_solver": "snes"}, {"linear_solver": "krylov"}, {"lu_method": "mumps"}])
@pytest.mark.parametrize("name", ["confusion", "vector"])
def test_other_solvers_give_the_same_state_and_jacobian(models, pairs, name, options):
    other, (_, fast) = problems.accelerated(models[name], **options), pairs[name]
    m = hd.data.draw_parameter(fast.prior, 6, 0)
    q, J = other.linearize(m)
    assert other.problem.report.iterations > 0
    columns = J.mult_block(owned_values(m)[:, None])  # forward solves, before J is kept
    expected_q, expected_J = fast.linearize(m)
    assert relative(q, expected_q) < 1e-9
    assert relative(J.to_dense(), expected_J.to_dense()) < 1e-8
    assert relative(columns[:, 0], expected_J.to_dense() @ owned_values(m)) < 1e-8


def test_own_forward_solver_is_called(models):
    model, calls = models["vector"], []
    stock = problems.plain(model).problem

    def solve(problem, state, x):
        calls.append(problem)
        stock.solveFwd(state, x)

    fast = problems.accelerated(model, forward_solver=solve)
    m = hd.data.draw_parameter(model.prior, 6, 1)
    assert relative(fast.value(m), model.value(m)) < 1e-9
    assert calls[-1] is fast.problem
    assert fast.problem.report is None


class OwnSolve(hp.PDEVariationalProblem):
    """A user's class whose forward solve is its own."""

    def solveFwd(self, state, x):
        self.seen = True
        super().solveFwd(state, x)


def test_from_problem_honours_an_own_solve(models):
    pde = models["vector"].problem
    own = OwnSolve(pde.Vh, pde.varf_handler, pde.bc, pde.bc0)
    fast = hd.AcceleratedVariationalProblem.from_problem(own)
    model = hd.JacobianModel(fast, models["vector"].prior, models["vector"].misfit)
    m = hd.data.draw_parameter(model.prior, 6, 2)
    assert relative(model.jacobian(m).to_dense(), models["vector"].jacobian(m).to_dense()) < 1e-8
    assert own.seen


def test_from_problem_refuses_an_own_linearisation(models):
    class Own(hp.PDEVariationalProblem):
        def solveAdj(self, adj, x, adj_rhs):
            adj.zero()

    pde = models["vector"].problem
    with pytest.raises(InputError, match="problem: Own has its own solveAdj"):
        hd.AcceleratedVariationalProblem.from_problem(Own(pde.Vh, pde.varf_handler, pde.bc, pde.bc0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"forward_solver": "picard"}, r"forward_solver: expected one of \('newton', 'snes'\) or a callable"),
        ({"linear_solver": "qr"}, r"linear_solver: expected one of \('lu', 'krylov'\), got 'qr'"),
        ({"linear_tolerance": 2.0}, "linear_tolerance: expected a number between 0 and 1"),
    ],
)
def test_wrong_options_are_named(models, options, message):
    with pytest.raises(InputError, match=message):
        problems.accelerated(models["vector"], **options)


def test_conditions_on_different_dofs_are_refused(models):
    pde = models["vector"].problem
    fast = hd.AcceleratedVariationalProblem(pde.Vh, pde.varf_handler, pde.bc, [])
    with pytest.raises(InputError, match="bc, bc0: expected conditions on the same degrees of freedom"):
        fast.solveFwd(fast.generate_state(), [fast.generate_state(), fast.generate_parameter(), None])


def test_solver_attributes_are_refused(models):
    fast = problems.accelerated(models["vector"]).problem
    with pytest.raises(InputError, match="one solver for all directions"):
        fast.solver = hp.PETScLUSolver(models["vector"].prior.Vh.mesh().mpi_comm())


# ---- Newton -----------------------------------------------------------------------------


def far_guess(model, size):
    guess = model.generate_vector(hp.STATE)
    rng = np.random.default_rng(0)
    set_owned_values(guess, size * rng.standard_normal(guess.local_size()))
    return guess


def test_far_guess_converges_thanks_to_damping(models):
    model, m = models["confusion"], models["confusion"].prior.mean
    guess = far_guess(model, 30.0)
    reference = owned_values(model.solveState(m))
    damped = problems.accelerated(model)
    assert relative(owned_values(damped.solveState(m, guess)), reference) < 1e-9
    undamped = problems.accelerated(model, newton=NewtonOptions(min_damping=1.0))
    with pytest.raises(SolveError, match="no step along the Newton direction"):
        undamped.solveState(m, guess)


def test_failed_solve_tells_why_and_leaves_no_trace(models):
    model = problems.accelerated(models["confusion"])
    good, bad = hd.data.draw_parameter(model.prior, 7, 0), model.prior.mean.copy()
    before = owned_values(model.solveState(good)), model.jacobian(good).to_dense()
    for value, message in ((1e3, "residual at the initial guess is not finite"), (np.nan, "not finite")):
        set_owned_values(bad, np.full(bad.local_size(), value))
        with pytest.raises(ForwardSolveError, match=r"Newton's method stopped after \d+ iterations"):
            model.problem.solveFwd(model.generate_vector(hp.STATE), [model.solveState(good), bad, None])
        assert message in model.problem.report.reason
    np.testing.assert_array_equal(owned_values(model.solveState(good)), before[0])
    np.testing.assert_array_equal(model.jacobian(good).to_dense(), before[1])


def test_failures_are_what_hippylibs_line_searches_catch():
    assert issubclass(ForwardSolveError, ModelConvergenceError)
    assert issubclass(ForwardSolveError, SolveError)


def test_too_few_iterations_is_an_error(models):
    model = problems.accelerated(models["confusion"], newton=NewtonOptions(max_iterations=2))
    with pytest.raises(SolveError, match="more than 2 iterations"):
        model.solveState(model.prior.mean, model.generate_vector(hp.STATE))


def test_report_counts(pairs):
    _, fast = pairs["confusion"]
    before = fast.problem.n_assemblies
    fast.problem.solveFwd(fast.generate_vector(hp.STATE), [fast.generate_vector(hp.STATE), fast.prior.mean, None])
    after, report = fast.problem.n_assemblies, fast.problem.report
    assert after["residual"] - before["residual"] == report.residual_assemblies
    assert after["factorization"] - before["factorization"] == report.factorizations
    assert 0 < report.factorizations < report.iterations
    assert report.increment < 1e-5


def test_two_mesh_ranks_agree_with_one(run_python):
    code = """
import hippylib as hp, numpy as np
import hippylib_dino as hd
from mpi4py import MPI
from tests import problems
for name in ("confusion", "mixed"):
    model = problems.accelerated(getattr(problems, name)(MPI.COMM_WORLD))
    order = hd.modeling.DofOrder(model.prior.Vh)
    m = model.prior.mean.copy()
    x = order.coordinates[order.owned]
    hd.modeling.set_owned_values(m, np.sin(3 * x[:, 1]) * x[:, 2])
    q, J = model.linearize(m)
    rows = order.to_array(J.transpmult_block(np.eye(J.shape[0])))
    columns = J.mult_block(np.cos(x[:, 1:2] + 2 * x[:, 2:3]))
    gradient, p = model.generate_vector(hp.PARAMETER), model.generate_vector(hp.ADJOINT)
    point = [model.solveState(m), m, p]
    model.solveAdj(p, point)
    model.evalGradientParameter(point, gradient)
    action = model.generate_vector(hp.PARAMETER)
    model.setPointForHessianEvaluations(point, False)
    hp.ReducedHessian(model).mult(gradient, action)
    action = order.to_array(hd.modeling.owned_values(action))
    if MPI.COMM_WORLD.rank == 0:
        numbers = q @ q, (rows**2).sum(), np.cos(rows).sum(), columns.sum(), np.abs(action).sum()
        print(*(repr(float(v)) for v in numbers))
"""
    one, two = (np.array(run_python(code, ranks=n).stdout.split(), dtype=float) for n in (1, 2))
    assert len(one) == 10
    np.testing.assert_allclose(two, one, rtol=1e-7)


def _two_ways(residual, *, sensors_at=4, cells=6):
    """A nonlinear problem on P1 without boundary conditions, plain and accelerated, with the same parts."""
    mesh = dl.UnitSquareMesh(dl.MPI.comm_self, cells, cells)
    space = dl.FunctionSpace(mesh, "Lagrange", 1)
    prior = hp.BiLaplacianPrior(space, 0.2, 1.0, robin_bc=True, solver_type="lu")
    B = hp.assemblePointwiseObservation(space, problems.sensors(sensors_at))
    misfit = hp.DiscreteStateObservation(B, noise_variance=1e-4)
    pdes = (
        kind([space] * 3, residual, [], [], is_fwd_linear=False)
        for kind in (hp.PDEVariationalProblem, hd.AcceleratedVariationalProblem)
    )
    return [hd.JacobianModel(pde, prior, misfit) for pde in pdes]


def test_expressions_that_change_are_seen_in_every_term():
    """Parameters of an Expression: a number in the term that is assembled once, a function in the other."""
    rate = dl.Expression("1.0 + t * x[0]", t=0.0, degree=1)

    def residual(u, m, p):
        return (dl.inner(dl.grad(u), dl.grad(p)) + rate * u * p + dl.exp(m) * u**3 * p - 3.0 * rate * p) * dl.dx(
            degree=5
        )

    plain, fast = _two_ways(residual)
    m = hd.data.draw_parameter(plain.prior, 1, 1)
    seen = []
    for t in (0.0, 2.0, 0.0):
        rate.t = t
        truth = plain.evalObservable(m)
        np.testing.assert_allclose(fast.evalObservable(m), truth, rtol=1e-8)
        np.testing.assert_allclose(fast.jacobian(m).to_dense(), plain.jacobian(m).to_dense(), atol=1e-8)
        seen.append(truth)
    assert np.abs(seen[1] - seen[0]).max() > 0.05
    np.testing.assert_allclose(seen[2], seen[0], rtol=1e-9)


def test_switches_are_not_taken_for_constants():
    """A term that jumps in u has no derivative in UFL, and yet it is not constant."""

    def residual(u, m, p):
        jump = dl.conditional(dl.gt(u, 2.0), 20.0, 0.0)
        return (dl.inner(dl.grad(u), dl.grad(p)) + dl.exp(m) * u * p - jump * p) * dl.dx(degree=4)

    _, fast = _two_ways(residual)
    forms = CompiledForms(fast.problem.Vh, residual, [], [])
    assert forms._parts is not None
    space = fast.problem.Vh[hp.STATE]
    u, m, p = dl.Function(space), dl.Function(space), dl.TestFunction(space)
    out = u.vector().copy()
    for height in (0.5, 3.0):
        set_owned_values(u.vector(), height * (1.0 + 0.1 * np.sin(np.arange(space.dim()))))
        forms.load(hp.STATE, u.vector())
        forms.load(hp.PARAMETER, m.vector())
        forms.residual(out)
        np.testing.assert_allclose(owned_values(out), owned_values(dl.assemble(residual(u, m, p))), atol=1e-12)


def test_gradient_is_right_where_a_sensor_touches_the_boundary():
    """hIPPYlib's adjoint keeps there what belongs to the boundary, and its gradient is off."""
    from applications.hyperelasticity import build

    fast = build(hd.sample_communicator(), mesh_size=5)
    plain = problems.plain(fast)
    stock = hp.Model(plain.problem, plain.prior, plain.misfit)
    problems.observe_truth(fast)
    m, direction = (hd.data.draw_parameter(fast.prior, 3, i) for i in (0, 1))
    direction.axpy(-1.0, fast.prior.mean)
    residual = fast.evalObservable(m) - owned_values(fast.misfit.d)
    exact = fast.vjp(m, fast.noise_covariance.solve(residual)).inner(direction)
    slopes = []
    for model in (fast, plain, stock):
        x = [plain.solveState(m), m, model.generate_vector(hp.ADJOINT)]
        model.solveAdj(x[hp.ADJOINT], x)
        gradient = model.generate_vector(hp.PARAMETER)
        model.evalGradientParameter(x, gradient, misfit_only=True)
        slopes.append(gradient.inner(direction))
    assert slopes[:2] == pytest.approx([exact, exact], rel=1e-6)
    assert abs(slopes[2] / exact - 1) > 1e-5


def test_failed_linearisation_spoils_no_later_one():
    """MUMPS refuses every matrix after one that it could not factor, unless it is told to start anew."""
    model = problems.accelerated_vector(hd.sample_communicator())
    m = hd.data.draw_parameter(model.prior, 1, 1)
    u, expected = model.solveState(m), model.jacobian(m).to_dense()
    bad = u.copy()
    set_owned_values(bad, np.full(bad.local_size(), np.nan))
    for _ in range(2):
        with pytest.raises(SolveError):
            model.linearize_at(bad, m).to_dense()
    np.testing.assert_allclose(model.linearize_at(u, m).to_dense(), expected, atol=1e-12 * np.abs(expected).max())


def test_options_out_of_range_are_named():
    with pytest.raises(InputError, match=r"tolerance, max_iterations: expected 0 < tolerance < 0\.1"):
        hd.modeling.NewtonOptions(tolerance=0.5)
    with pytest.raises(InputError, match="chord_threshold, min_damping: expected 0 <= chord_threshold < 1"):
        hd.modeling.NewtonOptions(chord_threshold=1.0)


def test_state_that_is_zero_is_found_from_another_guess():
    def residual(u, m, p):
        return (dl.inner(dl.grad(u), dl.grad(p)) + dl.exp(m) * u * p + u**3 * p) * dl.dx(degree=5)

    _, fast = _two_ways(residual)
    m = hd.data.draw_parameter(fast.prior, 1, 1)
    guess = fast.generate_vector(hp.STATE)
    set_owned_values(guess, np.ones(guess.local_size()))
    assert fast.solveState(m, guess).norm("linf") < 1e-10


def test_krylov_problem_predicts_with_its_own_solver():
    model = problems.accelerated(problems.vector(hd.sample_communicator()), linear_solver="krylov")
    model.evalObservable(hd.data.draw_parameter(model.prior, 1, 1))
    assert model._default_guess._solver.method == "krylov"
