import dolfin as dl
import hippylib as hp
import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import MisfitError, SolveError
from hippylib_dino.modeling import time_dependent
from hippylib_dino.modeling.linear_solver import LinearSolver
from hippylib_dino.modeling.observation import noise_covariance
from hippylib_dino.modeling.spaces import owned_values, set_owned_values
from hippylib_dino.modeling.time_dependent import TimeDependentJacobian
from hippylib_dino.modeling.time_observation import TimeObservation, stacked
from tests import time_dependent_problems as problems

NAMES = ("heat", "reaction")
WINDS = (
    problems.ExpressionHeat,
    problems.AssignedConstantHeat,
    problems.NewConstantHeat,
    problems.LiteralHeat,
)


class TimeModel(hd.JacobianModel):
    """A time-dependent model, with a point and a direction."""

    @property
    def scheme(self):
        return self._scheme

    def draw(self, index):
        return hd.data.draw_parameter(self.prior, 1, index)

    def direction(self):
        v = self.draw(2)
        v.axpy(-1.0, self.prior.mean)
        return v


@pytest.fixture(scope="module")
def models():
    comm = hd.sample_communicator()
    return {name: TimeModel(*getattr(problems, name)(comm)) for name in NAMES}


def heat(**settings):
    return TimeModel(*problems.heat(hd.sample_communicator(), **settings))


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def central_differences(model, m, v, h=1e-4):
    ahead, behind = m.copy(), m.copy()
    ahead.axpy(h, v)
    behind.axpy(-h, v)
    return (model.evalObservable(ahead) - model.evalObservable(behind)) / (2 * h)


@pytest.fixture
def counts(monkeypatch):
    """How often a matrix was assembled, and A factored."""
    counts = {"assembled": 0, "factored": 0}

    def counted(owner, method, key):
        original = getattr(owner, method)

        def wrapper(*args):
            counts[key] += 1
            return original(*args)

        monkeypatch.setattr(owner, method, wrapper)

    counted(time_dependent._Derivative, "_assemble", "assembled")
    counted(LinearSolver, "_set_up", "factored")
    return counts


@pytest.mark.parametrize("name", NAMES)
def test_adjoint_identity(models, name, rng):
    model = models[name]
    J = model.jacobian(model.draw(1))
    V, W = rng.standard_normal((J.shape[1], 3)), rng.standard_normal((J.shape[0], 4))
    forward, backward = W.T @ J.mult_block(V), J.transpmult_block(W).T @ V
    np.testing.assert_allclose(forward, backward, rtol=0, atol=1e-10 * np.abs(forward).max())


@pytest.mark.parametrize("name", NAMES)
def test_central_differences(models, name):
    model = models[name]
    m, v = model.draw(1), model.direction()
    assert relative(model.jvp(m, v), central_differences(model, m, v)) < 1e-7


@pytest.mark.parametrize("name", NAMES)
def test_taylor_rates_with_a_negative_control(models, name):
    model = models[name]
    m, v = model.draw(1), model.direction()
    zeroth, first = hd.modeling.observable_rates(model, m, v)
    assert zeroth == pytest.approx(1.0, abs=0.1)
    assert first == pytest.approx(2.0, abs=0.1)
    _, wrong = hd.modeling.observable_rates(model, m, v, steps=2.0 ** -np.arange(8, 14), scale=1.01)
    assert wrong == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_rows_equal_hippylibs_one_march_each(models, name):
    model = models[name]
    m, u = model.draw(1), model.solveState(model.draw(1))
    J = TimeDependentJacobian(model.scheme, model.observation, u, m)
    model.problem.setLinearizationPoint([u, m, model.problem.generate_adjoint()], gauss_newton_approx=True)
    rhs, p, row = (model.generate_vector(i) for i in (hp.STATE, hp.ADJOINT, hp.PARAMETER))
    for k, i in ((0, 0), (0, 4), (1, 7)):
        rhs.zero()
        member = model.misfit.misfits[k]
        e = member.d.copy()
        values = np.zeros(e.size())
        values[i] = 1.0
        set_owned_values(e, values)
        member.B.transpmult(e, rhs.view(model.misfit.sim_times[k]))
        model.problem.solveIncremental(p, rhs, True)
        model.problem.applyCt(p, row)
        ours = J.owned_rows()[:, model.observation.rows[k].start + i]
        np.testing.assert_allclose(-owned_values(row), ours, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_directions_equal_hippylibs_one_march_each(models, name):
    model = models[name]
    m, v, u = model.draw(1), model.direction(), model.solveState(model.draw(1))
    model.problem.setLinearizationPoint([u, m, model.problem.generate_adjoint()], gauss_newton_approx=True)
    rhs, du = model.generate_vector(hp.ADJOINT), model.generate_vector(hp.STATE)
    model.problem.applyC(v, rhs)
    model.problem.solveIncremental(du, rhs, False)
    ours = TimeDependentJacobian(model.scheme, model.observation, u, m).mult_block(owned_values(v)[:, None])[:, 0]
    np.testing.assert_allclose(ours, -model.observation.observe(du), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_of_the_misfit(models, name):
    """hIPPYlib's adjoint gradient is the Jacobian applied to the weighted residual."""
    model = models[name]
    m = model.draw(1)
    x = [model.solveState(m), m, model.generate_vector(hp.ADJOINT)]
    model.solveAdj(x[hp.ADJOINT], x)
    gradient = model.generate_vector(hp.PARAMETER)
    model.evalGradientParameter(x, gradient, misfit_only=True)
    ours = owned_values(model.vjp(m, model.noise_covariance.solve(model.evalObservable(m))))
    np.testing.assert_allclose(ours, owned_values(gradient), rtol=0, atol=1e-8 * np.abs(ours).max())


def test_observation_at_the_initial_time_has_no_sensitivity(models):
    model = models["reaction"]
    J = model.jacobian(model.draw(1)).to_dense()
    initial = model.observation.steps.index(0)
    rows = model.observation.rows[initial]
    assert not J[rows].any()
    assert np.linalg.norm(J, axis=1)[: rows.start].min() > 0
    nothing_else = heat(observed=(0,))
    assert not nothing_else.jacobian(nothing_else.draw(1)).to_dense().any()


def test_sensors_beside_the_dirichlet_boundary(models):
    """What the right-hand side has on the boundary must reach nothing."""
    model = models["heat"]
    space = model.prior.Vh
    B = hp.assemblePointwiseObservation(space, np.array([(0.05, 0.5), (0.1, 0.3)]))
    misfit = hp.MisfitTD([hp.DiscreteStateObservation(B, noise_variance=1.0)], [model.problem.times[2]])
    beside = TimeModel(model.problem, model.prior, misfit)
    m, v = model.draw(1), model.direction()
    rows = beside.jacobian(m).to_dense()
    assert relative(rows @ owned_values(v), central_differences(beside, m, v)) < 1e-7


def test_fewer_parameters_than_observables_takes_columns(monkeypatch):
    model = heat(mesh_size=3, observed=(1, 2, 3), n_sensors=3)
    J = model.jacobian(model.draw(1))
    assert J.shape[1] < J.shape[0]
    by_rows = J.transpmult_block(np.eye(J.shape[0])).T
    monkeypatch.setattr(J, "transpmult_block", None)  # an adjoint march would fail
    np.testing.assert_allclose(J.to_dense(), by_rows, rtol=0, atol=1e-12 * np.abs(by_rows).max())


def test_jacobian_outlives_others(models):
    """Two Jacobians of one scheme, used in turn; the parameter of one changed in place."""
    model = models["heat"]
    m = model.draw(1)
    first, second = model.jacobian(m), model.jacobian(model.draw(2))
    v = owned_values(model.direction())[:, None]
    expected = first.mult_block(v)
    m.zero()
    assert relative(second.mult_block(v), expected) > 0.1
    np.testing.assert_allclose(first.mult_block(v), expected, rtol=1e-12)


def test_steady_matrices_are_made_once(counts):
    """Heat: A once a parameter and D once in all, C at each of the three steps up to the last observation."""
    model = heat()
    J = model.jacobian(model.draw(1))
    J.transpmult_block(np.eye(J.shape[0]))
    assert counts == {"assembled": 1 + 1 + 3, "factored": 1}
    J.mult_block(np.eye(J.shape[1]))
    assert counts == {"assembled": 1 + 1 + 3 + 3, "factored": 1}
    model.jacobian(model.draw(2)).to_dense()
    assert counts == {"assembled": 1 + 1 + 6 + 1 + 3, "factored": 2}


def test_one_assembly_and_one_factorization_a_step(models, counts):
    """Reaction: A and C at each of four steps, D at the last three."""
    J = models["reaction"].jacobian(models["reaction"].draw(3))
    J.transpmult_block(np.eye(J.shape[0]))
    assert counts == {"assembled": 4 + 4 + 3, "factored": 4}


@pytest.mark.parametrize("handler", WINDS)
def test_time_in_the_matrix(handler, counts):
    """However the form gets the time, A_n is that of its own step."""
    model = heat(handler=handler)
    m, v = model.draw(1), model.direction()
    J = model.jacobian(m)
    by_rows = J.transpmult_block(np.eye(J.shape[0])).T
    assert counts["factored"] == 3
    slope = by_rows @ owned_values(v)
    np.testing.assert_allclose(J.mult_block(owned_values(v)[:, None])[:, 0], slope, rtol=0, atol=1e-12)
    assert relative(slope, central_differences(model, m, v)) < 1e-7


def test_forms_are_compiled_once(monkeypatch):
    """A second Jacobian compiles nothing, also where each step has a form of its own."""
    for handler in (problems.ImplicitEulerHeat, problems.LiteralHeat):
        model = heat(handler=handler)
        model.jacobian(model.draw(1)).to_dense()
        with monkeypatch.context() as patch:
            patch.setattr(time_dependent, "_Derivative", None)
            model.jacobian(model.draw(2)).to_dense()


def test_vector_state_with_summation_indices():
    """Burgers' (grad u) u makes new indices at each call: unequal forms, compiled once all the same."""
    mesh = dl.UnitSquareMesh(hd.sample_communicator(), 4, 4)
    states, parameters = dl.VectorFunctionSpace(mesh, "Lagrange", 1), dl.FunctionSpace(mesh, "Lagrange", 1)

    class Burgers:
        dt = 0.1

        def __call__(self, u, u_old, m, p, t):
            convected = dl.inner(u - u_old, p) / self.dt + dl.inner(dl.grad(u) * u_old, p)
            return (convected + 0.1 * dl.exp(m) * dl.inner(dl.grad(u), dl.grad(p))) * dl.dx(degree=4)

    bc = dl.DirichletBC(states, dl.Constant((0.0, 0.0)), "on_boundary && x[0] < DOLFIN_EPS")
    start = dl.interpolate(dl.Expression(("x[0]", "x[0]*x[1]"), degree=1), states)
    problem = hp.TimeDependentPDEVariationalProblem([states, parameters, states], Burgers(), bc, bc, start, 0.0, 0.3)
    prior = hp.BiLaplacianPrior(parameters, 0.2, 1.0, robin_bc=True, solver_type="lu")
    B = hp.assemblePointwiseObservation(states, problems.sensors(2))
    misfit = hp.MisfitTD([hp.DiscreteStateObservation(B, noise_variance=1.0)], [problem.times[3]])
    model = TimeModel(problem, prior, misfit)
    m, v = model.draw(1), model.direction()
    J = model.jacobian(m)
    slope = J.mult_block(owned_values(v)[:, None])[:, 0]
    assert len(model.scheme._compiled) == 1
    np.testing.assert_allclose(J.owned_rows().T @ owned_values(v), slope, rtol=0, atol=1e-12)
    assert relative(slope, central_differences(model, m, v)) < 1e-6


RANKS = """
import dolfin as dl
import hippylib_dino as hd
import numpy as np
from tests import time_dependent_problems as problems
from tests.modeling.test_time_dependent import TimeModel

for name in ("heat", "reaction"):
    model = TimeModel(*getattr(problems, name)(dl.MPI.comm_world))
    m = dl.interpolate(dl.Expression("sin(5*x[0])*cos(3*x[1])", degree=2), model.prior.Vh).vector()
    J = model.jacobian(m)
    order = hd.modeling.DofOrder(model.prior.Vh)
    w = np.cos(np.arange(J.shape[0]))[:, None]
    before = [J.mult_block(hd.modeling.owned_values(m)[:, None])[:, 0], order.to_array(J.transpmult_block(w))[:, 0]]
    dense = order.to_array(J.owned_rows())
    numbers = np.concatenate([model.value(m), *before, dense.ravel()])
    if dl.MPI.comm_world.rank == 0:
        print("numbers", *(f"{x:.12e}" for x in numbers))
"""


def test_two_ranks_equal_one(run_python):
    def numbers(ranks):
        lines = [line.split()[1:] for line in run_python(RANKS, ranks=ranks).stdout.splitlines() if "numbers" in line]
        return [np.array(line, dtype=float) for line in lines]

    for one, two in zip(numbers(1), numbers(2), strict=True):
        np.testing.assert_allclose(two, one, rtol=0, atol=1e-10)


def test_noise_is_block_diagonal(models):
    """Scalar where all are equal, variances where they are not, a matrix where one is."""
    model = models["heat"]
    B = model.misfit.misfits[0].B
    d = B.size(0)
    times = list(model.problem.times[1:3])

    def noise(*members):
        return stacked(noise_covariance, hp.MisfitTD(list(members), times)).value

    scalar = [hp.DiscreteStateObservation(B, noise_variance=v) for v in (2.0, 2.0, 3.0)]
    assert noise(*scalar[:2]) == 2.0
    np.testing.assert_array_equal(noise(*scalar[1:]), np.repeat([2.0, 3.0], d))
    variances = hd.CovarianceStateObservation(B, noise_covariance=np.arange(1.0, d + 1))
    np.testing.assert_array_equal(noise(variances, scalar[2]), [*range(1, d + 1), *[3.0] * d])
    full = hd.CovarianceStateObservation(B, noise_covariance=np.eye(d) + 0.5)
    expected = np.zeros((2 * d, 2 * d))
    expected[:d, :d], expected[d:, d:] = np.eye(d) + 0.5, 2.0 * np.eye(d)
    np.testing.assert_array_equal(noise(full, scalar[0]), expected)


def test_data_vector(models):
    observation = models["heat"].observation
    x = dl.Vector(observation.mpi_comm())
    observation.init_vector(x, 0)
    assert x.size() == observation.size(0) == 17


def test_misfits_that_cannot_be_observed_are_named(models):
    model = models["heat"]
    problem, B = model.problem, model.misfit.misfits[0].B
    good, bare = hp.DiscreteStateObservation(B), hp.Misfit()
    for misfit, message in (
        (good, r"misfit: expected an hp\.MisfitTD for a time-dependent problem, got DiscreteStateObservation"),
        (hp.MisfitTD([good], [0.05, 0.1]), "got 1 misfits and 2 sim_times"),
        (hp.MisfitTD([good, bare], [0.05, 0.1]), r"misfits\[1\]: misfit: expected one with a linear observation op"),
        (hp.MisfitTD([good, good], [0.05, 0.07]), r"sim_times\[1\]: .* got 0\.07; the nearest is problem\.times\[1\]"),
        (hp.MisfitTD([good, good], [0.05, 0.05]), "sim_times: expected distinct times"),
    ):
        with pytest.raises(MisfitError, match=message):
            TimeObservation(misfit, problem)
    with pytest.raises(MisfitError, match=r"misfits\[0\]: noise variance: not set"):
        stacked(noise_covariance, hp.MisfitTD([good], [0.05]))


def test_failed_solves_are_errors(models):
    m = models["heat"].prior.mean.copy()
    m[0] = np.nan
    with pytest.raises(SolveError, match=r"not finite .* at t = 0\.05"):
        models["heat"].evalObservable(m)
    m = models["reaction"].prior.mean.copy()
    set_owned_values(m, np.full(m.local_size(), 1e3))
    with pytest.raises(SolveError, match="the forward solve"):
        models["reaction"].evalObservable(m)


def test_snes_subclass(models):
    """The problem's own forward solve is the one that runs, and its failure is named."""
    plain = models["reaction"]
    own = plain.problem
    settings = {"snes_rtol": 1e-12, "snes_atol": 1e-12, "ksp_type": "preonly", "pc_type": "lu"}
    problem = hp.SNES_TimeDependentPDEVariationalProblem(
        own.Vh, own.varf, own.fwd_bc, own.adj_bc, own.init_cond, 0.0, 0.5, solver_params=settings
    )
    model = TimeModel(problem, plain.prior, plain.misfit)
    m = plain.draw(1)
    np.testing.assert_allclose(model.jacobian(m).to_dense(), plain.jacobian(m).to_dense(), rtol=0, atol=1e-10)
    set_owned_values(m, np.full(m.local_size(), 1e3))
    with pytest.raises(SolveError, match="the forward solve failed"):
        model.evalObservable(m)


def test_step_that_cannot_be_solved_is_an_error(models):
    """And the next Jacobian of the same scheme is right."""
    model = models["heat"]
    m, v = model.draw(1), owned_values(model.direction())[:, None]
    expected, u = model.jacobian(m).mult_block(v), model.solveState(m)
    bad = m.copy()
    set_owned_values(bad, np.full(m.size(), np.inf))
    with pytest.raises(SolveError):
        TimeDependentJacobian(model.scheme, model.observation, u, bad).mult_block(v)
    np.testing.assert_allclose(model.jacobian(m).mult_block(v), expected, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_single_observables(models, name):
    """Also of an early time alone, and of nothing at all."""
    model = models[name]
    m = model.draw(1)
    dense = model.jacobian(m).to_dense()
    for i in (0, len(dense) - 1):
        weights = np.zeros(len(dense))
        weights[i] = 1.0
        np.testing.assert_allclose(owned_values(model.vjp(m, weights)), dense[i], atol=1e-10 * np.abs(dense).max())
    assert model.vjp(m, np.zeros(len(dense))).norm("linf") == 0.0


class UnlikeDegrees(problems.ImplicitEulerHeat):
    """UFL gives both sides, their derivatives and the whole other degrees of quadrature."""

    def __call__(self, u, u_old, m, p, t):
        rate = (u - u_old) * p * self.inverse
        return (rate + dl.exp(m) * dl.inner(dl.grad(u), dl.grad(p))) * dl.dx - dl.exp(m) * u_old**3 * p * dl.dx


@pytest.mark.parametrize("linear", [True, False])
def test_jacobian_has_the_rules_of_the_march_where_the_parameter_is_rough(linear):
    """hIPPYlib integrates both sides of a linear step by themselves, and a nonlinear one as a whole."""
    problem, prior, misfit = problems.heat(hd.sample_communicator(), handler=UnlikeDegrees)
    problem.is_fwd_linear = linear
    for solver in ("relative_tolerance", "absolute_tolerance"):
        problem.parameters["newton_solver"][solver] = 1e-12
    model = hd.JacobianModel(problem, prior, misfit)
    m, v = model.generate_vector(hp.PARAMETER), model.generate_vector(hp.PARAMETER)
    rng = np.random.default_rng(0)
    for vector, scale in ((m, 1.5), (v, 1.0)):
        set_owned_values(vector, scale * rng.standard_normal(vector.local_size()))
    found = hd.modeling.derivative_errors(model, m, v)["parameter"]
    assert found.error < 1e-5
