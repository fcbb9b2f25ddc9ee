"""Gradients and Hessians of the model in hIPPYlib's loops, where hIPPYlib's own are wrong."""

import dolfin as dl
import hippylib as hp
import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.modeling.spaces import owned_values
from tests import problems
from tests import time_dependent_problems as over_time

AT_THE_BOUNDARY = np.array([(0.03, 0.5), (0.05, 0.3), (0.6, 0.5)])  # two in cells of the clamped edge x = 0


def steady(accelerated):
    """The `vector` problem with sensors in cells along its Dirichlet boundary."""
    model = problems.vector(hd.sample_communicator())
    B = hp.assemblePointwiseObservation(model.problem.Vh[hp.STATE], AT_THE_BOUNDARY)
    distance = np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
    misfit = hd.CovarianceStateObservation(B, noise_covariance=1e-4 * 0.5**distance)
    at_the_boundary = hd.JacobianModel(model.problem, model.prior, misfit)
    return problems.accelerated(at_the_boundary) if accelerated else at_the_boundary


def heat(handler, points):
    """Observed at the second and the fourth of four steps."""
    problem, prior, misfit = over_time.heat(hd.sample_communicator(), handler=handler)
    if points is not None:
        B = hp.assemblePointwiseObservation(problem.Vh[hp.STATE], points)
        members = [hp.DiscreteStateObservation(B, noise_variance=1e-4) for _ in range(2)]
        misfit = hp.MisfitTD(members, [problem.times[n] for n in (2, 4)])
    return hd.JacobianModel(problem, prior, misfit)


class GrowingCrankNicolson(over_time.CrankNicolsonReaction):
    """A conductivity that grows with the time, by a constant that is assigned: all second derivatives follow it."""

    def __init__(self, dt):
        super().__init__(dt)
        self.growth = dl.Constant(0.0)

    def __call__(self, u, u_old, m, p, t):
        self.growth.assign(1.0 + 20.0 * t)
        return super().__call__(u, u_old, m, p, t)

    def space_terms(self, u, m, p):
        return (self.growth * dl.exp(m) * dl.inner(dl.grad(u), dl.grad(p)) + 5.0 * u**3 * p) * dl.dx


def growing():
    problem, prior, misfit = over_time.reaction(hd.sample_communicator())
    problem.varf = GrowingCrankNicolson(0.1)
    return hd.JacobianModel(problem, prior, misfit)


BUILD = {
    "plain": lambda: steady(accelerated=False),
    "accelerated": lambda: steady(accelerated=True),
    "heat, sensors at the boundary": lambda: heat(over_time.ImplicitEulerHeat, AT_THE_BOUNDARY),
    "heat, a coefficient that follows the time": lambda: heat(over_time.AssignedConstantHeat, None),
    "heat, both": lambda: heat(over_time.ExpressionHeat, AT_THE_BOUNDARY),
    "reaction, a conductivity that follows the time": growing,
    "reaction": lambda: hd.JacobianModel(*over_time.reaction(hd.sample_communicator())),
}
RIGHT_IN_HIPPYLIB = ("accelerated", "reaction")


@pytest.fixture(scope="module")
def models():
    return {name: build() for name, build in BUILD.items()}


def point_and_direction(model):
    m, direction = (hd.data.draw_parameter(model.prior, 1, i) for i in (1, 2))
    direction.axpy(-1.0, model.prior.mean)
    return m, direction


def linearized(model, m):
    x = [model.generate_vector(hp.STATE), m, model.generate_vector(hp.ADJOINT)]
    model.solveFwd(x[hp.STATE], x)
    model.solveAdj(x[hp.ADJOINT], x)
    return x


def gradient(model, x, misfit_only=True):
    g = model.generate_vector(hp.PARAMETER)
    model.evalGradientParameter(x, g, misfit_only=misfit_only)
    return g


def along(model, m, direction, function, h=1e-4):
    """Central difference of a function of the point."""
    values = []
    for step in (h, -h):
        there = m.copy()
        there.axpy(step, direction)
        x = [model.generate_vector(hp.STATE), there, model.generate_vector(hp.ADJOINT)]
        model.solveFwd(x[hp.STATE], x)
        values.append(function(x))
    return (values[0] - values[1]) / (2 * h)


@pytest.mark.parametrize("name", BUILD)
def test_gradient_is_the_derivative_of_the_cost(models, name):
    """By differences of the cost, and by the Jacobian; hIPPYlib's own fails where it is expected to."""
    model = models[name]
    m, direction = point_and_direction(model)
    slope = along(model, m, direction, lambda x: model.cost(x)[2])
    assert gradient(model, linearized(model, m)).inner(direction) == pytest.approx(slope, rel=1e-5)
    data = model.data_space
    by_jacobian = model.vjp(m, data.precision(model.evalObservable(m))).inner(direction)
    assert by_jacobian == pytest.approx(slope, rel=1e-5)  # the data are zero
    stock = hp.Model(model.problem, model.prior, model.misfit)
    wrong = abs(gradient(stock, linearized(stock, m)).inner(direction) / slope - 1)
    assert (wrong < 1e-5) == (name in RIGHT_IN_HIPPYLIB)


@pytest.mark.parametrize("name", BUILD)
def test_gauss_newton_hessian_is_that_of_the_jacobian(models, name):
    model = models[name]
    m, direction = point_and_direction(model)
    model.setPointForHessianEvaluations(linearized(model, m), gauss_newton_approx=True)
    image = model.generate_vector(hp.PARAMETER)
    hp.ReducedHessian(model, misfit_only=True).mult(direction, image)
    expected = owned_values(model.vjp(m, model.data_space.precision(model.jvp(m, direction))))
    np.testing.assert_allclose(owned_values(image), expected, rtol=0, atol=1e-7 * np.abs(expected).max())


@pytest.mark.parametrize("name", BUILD)
def test_hessian_is_the_derivative_of_the_gradient(models, name):
    model = models[name]
    m, direction = point_and_direction(model)

    def slope(x):
        model.solveAdj(x[hp.ADJOINT], x)
        return owned_values(gradient(model, x, misfit_only=False))

    expected = along(model, m, direction, slope)
    model.setPointForHessianEvaluations(linearized(model, m))
    image = model.generate_vector(hp.PARAMETER)
    hp.ReducedHessian(model).mult(direction, image)
    np.testing.assert_allclose(owned_values(image), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_another_misfit_shares_what_is_compiled(models):
    """Of one sensor alone, over time: the gradient is that of its row."""
    model = models["heat, both"]
    m, direction = point_and_direction(model)
    B = hp.assemblePointwiseObservation(model.problem.Vh[hp.STATE], AT_THE_BOUNDARY[:1])
    misfit = hp.MisfitTD([hp.DiscreteStateObservation(B, noise_variance=1e-4)], [model.problem.times[2]])
    other = model.with_misfit(misfit)
    assert other.prior is model.prior
    slope = along(other, m, direction, lambda x: other.cost(x)[2])
    assert gradient(other, linearized(other, m)).inner(direction) == pytest.approx(slope, rel=1e-5)


ON_RANKS = """
import dolfin as dl
import hippylib_dino as hd
from tests.modeling import test_adjoint
hd.sample_communicator = lambda: dl.MPI.comm_world
for name in ("plain", "heat, both"):
    model = test_adjoint.BUILD[name]()
    m = dl.interpolate(dl.Expression("0.3*sin(5*x[0])*cos(3*x[1])", degree=2), model.prior.Vh).vector()
    slope = test_adjoint.gradient(model, test_adjoint.linearized(model, m)).inner(m)
    if dl.MPI.comm_world.rank == 0:
        print("slope", repr(slope))
"""


def test_gradient_does_not_depend_on_the_partition(run_python):
    one, two = (
        [float(line.split()[1]) for line in run_python(ON_RANKS, ranks=n).stdout.splitlines() if "slope" in line]
        for n in (1, 2)
    )
    assert len(one) == 2
    np.testing.assert_allclose(two, one, rtol=1e-8)
