"""Small time-dependent problems for the tests, each `build(comm) -> (problem, prior, misfit)`."""

import dolfin as dl
import hippylib as hp

import hippylib_dino as hd
from tests.problems import sensors

dl.set_log_level(dl.LogLevel.ERROR)


class ImplicitEulerHeat:
    """u' - div(eᵐ grad u) = 1; one degree of quadrature for the form and its derivatives."""

    def __init__(self, dt):
        self.dt = dt
        self.inverse = dl.Constant(1.0 / dt)

    def __call__(self, u, u_old, m, p, t):
        rate = (u - u_old) * p * self.inverse
        return (rate + dl.exp(m) * dl.inner(dl.grad(u), dl.grad(p)) - p) * dl.dx(degree=4)


class LiteralHeat(ImplicitEulerHeat):
    """Wind that grows with the time, a number in the form: other code at each step."""

    def __call__(self, u, u_old, m, p, t):
        return super().__call__(u, u_old, m, p, t) + float(3 * t) * u.dx(0) * p * dl.dx(degree=4)


class ExpressionHeat(ImplicitEulerHeat):
    """Wind that grows with the time by an attribute: one form, another matrix at each step."""

    def __init__(self, dt):
        super().__init__(dt)
        self.wind = dl.Expression("3*t", t=0.0, degree=0)

    def __call__(self, u, u_old, m, p, t):
        self.wind.t = t
        return super().__call__(u, u_old, m, p, t) + self.wind * u.dx(0) * p * dl.dx(degree=4)


class NewConstantHeat(ImplicitEulerHeat):
    """The same wind by a new constant at each call: equal code, unequal forms."""

    def __call__(self, u, u_old, m, p, t):
        return super().__call__(u, u_old, m, p, t) + dl.Constant(3 * t) * u.dx(0) * p * dl.dx(degree=4)


class AssignedConstantHeat(ImplicitEulerHeat):
    """The same wind by a constant that is assigned: one form, another matrix at each step."""

    def __init__(self, dt):
        super().__init__(dt)
        self.wind = dl.Constant(0.0)

    def __call__(self, u, u_old, m, p, t):
        self.wind.assign(3 * t)
        return super().__call__(u, u_old, m, p, t) + self.wind * u.dx(0) * p * dl.dx(degree=4)


class CrankNicolsonReaction:
    """u' - div(eᵐ grad u) + 5u³ = f(t), where both u and u_old enter nonlinearly."""

    def __init__(self, dt):
        self.dt = dt
        self.inverse = dl.Constant(1.0 / dt)
        self.source = dl.Expression("10*exp(-t)*sin(3*x[0] + t)", t=0.0, degree=2)

    def space_terms(self, u, m, p):
        return (dl.exp(m) * dl.inner(dl.grad(u), dl.grad(p)) + 5.0 * u**3 * p) * dl.dx

    def __call__(self, u, u_old, m, p, t):
        self.source.t = t - 0.5 * self.dt
        change = self.inverse * (u - u_old) * p * dl.dx
        return change + 0.5 * (self.space_terms(u, m, p) + self.space_terms(u_old, m, p)) - self.source * p * dl.dx


def heat(comm, mesh_size=6, n_steps=4, observed=(1, 3), n_sensors=3, handler=ImplicitEulerHeat):
    """Linear in the state, the same matrices at every step; observed at some of the times."""
    mesh = dl.UnitSquareMesh(comm, mesh_size, mesh_size)
    space = dl.FunctionSpace(mesh, "Lagrange", 1)
    bc = dl.DirichletBC(space, dl.Constant(0.0), "on_boundary && x[0] < DOLFIN_EPS")
    start = dl.interpolate(dl.Expression("x[0]*(2-x[0])*(1 + cos(3*x[1]))", degree=3), space)
    problem = hp.TimeDependentPDEVariationalProblem(
        [space] * 3, handler(0.05), bc, bc, start, 0.0, 0.05 * n_steps, is_fwd_linear=True
    )
    return problem, _prior(space), _misfit(problem, space, observed, n_sensors)


def reaction(comm):
    """Nonlinear, Crank-Nicolson, a source that moves with the time, an inhomogeneous condition on one side."""
    mesh = dl.UnitSquareMesh(comm, 7, 7)
    space = dl.FunctionSpace(mesh, "Lagrange", 1)
    side = "on_boundary && x[1] < DOLFIN_EPS"
    bc = dl.DirichletBC(space, dl.Expression("0.5*cos(4*t)*x[0]", t=0.0, degree=1), side)
    start = dl.interpolate(dl.Expression("1.5*x[1] + 0.5*x[0]", degree=1), space)
    problem = hp.TimeDependentPDEVariationalProblem(
        [space] * 3, CrankNicolsonReaction(0.1), bc, dl.DirichletBC(space, dl.Constant(0.0), side), start, 0.0, 0.5
    )
    problem.parameters["newton_solver"]["relative_tolerance"] = 1e-12
    problem.parameters["newton_solver"]["absolute_tolerance"] = 1e-12
    return problem, _prior(space), _misfit(problem, space, (4, 0, 2), 3)


def _prior(space):
    return hp.BiLaplacianPrior(space, 0.2, 1.0, robin_bc=True, solver_type="lu")


def _misfit(problem, space, observed, n_sensors):
    members = []
    for k in range(len(observed)):
        B = hp.assemblePointwiseObservation(space, sensors(n_sensors)[: n_sensors**2 - k])
        if k % 2:
            members.append(hd.CovarianceStateObservation(B, noise_covariance=1e-4))
        else:
            members.append(hp.DiscreteStateObservation(B, noise_variance=1e-4))
    return hp.MisfitTD(members, [problem.times[n] for n in observed])
