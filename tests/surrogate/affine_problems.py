"""Tiny problems whose map is affine in the parameter, in each flavour, and DINOs that are their map to rounding."""

import dolfin as dl
import hippylib as hp
import numpy as np

import hippylib_dino as hd
from hippylib_dino.modeling import DofOrder
from hippylib_dino.modeling.spaces import map_block, owned_values
from hippylib_dino.reduction.basis import Basis
from tests.problems import sensors

FLAVOURS = ("observable", "state", "time")
PRIORS = ("BiLaplacianPrior", "LaplacianPrior", "GaussianRealPrior")
MISFITS = (
    "DiscreteStateObservation",
    "MultDiscreteStateObservation",
    "CovarianceStateObservation",
    "ContinuousStateObservation",
)
CLAMPED = "on_boundary && x[0] < DOLFIN_EPS"


class Force:
    """What the parameter adds to a right-hand side: a field, or three numbers times 1, x and y."""

    def __init__(self, mesh):
        self.x = dl.SpatialCoordinate(mesh)

    def __call__(self, m):
        return dl.dot(m, dl.as_vector((1.0, self.x[0], self.x[1]))) if m.ufl_shape else m


class Steady:
    """-div grad u + u = 5 + m, or its nonlinear relative with eᵐ in front of the gradient."""

    def __init__(self, mesh, nonlinear):
        self.force, self.nonlinear = Force(mesh), nonlinear

    def __call__(self, u, m, p):
        k = dl.exp(m) if self.nonlinear else dl.Constant(1.0)
        load = dl.Constant(5.0) if self.nonlinear else dl.Constant(5.0) + self.force(m)
        return (k * dl.inner(dl.grad(u), dl.grad(p)) + u * p - load * p) * dl.dx(degree=4)


class OneStep(Steady):
    """The same with u', by implicit Euler."""

    dt = 0.1

    def __call__(self, u, u_old, m, p, t):
        return dl.Constant(1.0 / self.dt) * (u - u_old) * p * dl.dx(degree=4) + super().__call__(u, m, p)


def prior_named(name, mesh):
    field = dl.FunctionSpace(mesh, "Lagrange", 1)
    if name == "GaussianRealPrior":
        space = dl.VectorFunctionSpace(mesh, "R", 0, dim=3)
        return hp.GaussianRealPrior(space, np.array([[1.0, 0.3, 0.0], [0.3, 0.8, 0.1], [0.0, 0.1, 0.5]]))
    if name == "LaplacianPrior":
        return hp.LaplacianPrior(field, 0.3, 1.5)
    return hp.BiLaplacianPrior(field, 0.2, 1.0, robin_bc=True, solver_type="lu")


def misfit_named(name, space, bc):
    """A misfit on the state space; the whole state, or 9 sensors."""
    if name == "ContinuousStateObservation":
        return hp.ContinuousStateObservation(space, dl.dx, bc, noise_variance=1e-2)
    B = hp.assemblePointwiseObservation(space, sensors(3))
    if name == "MultDiscreteStateObservation":
        return hp.MultDiscreteStateObservation(B, Mpar=500.0)
    if name == "CovarianceStateObservation":
        distance = np.abs(np.subtract.outer(np.arange(9), np.arange(9)))
        return hd.CovarianceStateObservation(B, noise_covariance=1e-2 * 0.5**distance)
    return hp.DiscreteStateObservation(B, noise_variance=1e-2)


def build(comm, flavour, prior="BiLaplacianPrior", misfit=None, nonlinear=False):
    """The problem of a flavour, with data of its own; `hp.Model` where the misfit is none that a DINO is trained on.

    By default the misfit is the one that the DINO of the flavour is trained on.
    """
    mesh = dl.UnitSquareMesh(comm, 4, 4)
    space = dl.FunctionSpace(mesh, "Lagrange", 1)
    prior = prior_named(prior, mesh)
    spaces = [space, prior.Vh, space]
    if flavour == "time":
        start = dl.interpolate(dl.Expression("4 + x[0] + cos(3*x[1])", degree=1), space)
        problem = hp.TimeDependentPDEVariationalProblem(
            spaces, OneStep(mesh, nonlinear), [], [], start, 0.0, 0.4, is_fwd_linear=True
        )
        members = [misfit_named(misfit or "DiscreteStateObservation", space, None) for _ in range(2)]
        model = hd.JacobianModel(problem, prior, hp.MisfitTD(members, [problem.times[n] for n in (1, 4)]))
        data = members
    else:
        bc = dl.DirichletBC(space, dl.Constant(0.0), CLAMPED)
        problem = hd.AcceleratedVariationalProblem(spaces, Steady(mesh, nonlinear), bc, bc, is_fwd_linear=True)
        trained_on = "ContinuousStateObservation" if flavour == "state" else "DiscreteStateObservation"
        member = misfit_named(misfit or trained_on, space, bc)
        model = hd.JacobianModel(problem, prior, member)
        data = [member]
    _observe_truth(model, data)
    return model


def _observe_truth(model, members):
    """Data of a prior sample, off by a few percent, in each member."""
    u = model.generate_vector(hp.STATE)
    model.solveFwd(u, [u, hd.data.draw_parameter(model.prior, 11, 0), None])
    for k, member in enumerate(members):
        state = u.view(model.misfit.sim_times[k]) if model.time_dependent else u
        if isinstance(member, hp.ContinuousStateObservation):
            member.d.axpy(1.02, state)
        else:
            member.B.mult(state, member.d)
            member.d *= 1.02


def full_bases(model):
    """Bases that leave nothing out: whitening by a Cholesky factor of R, and the identity."""
    prior, order = model.prior, DofOrder(model.prior.Vh)
    identity = order.from_array(np.eye(order.dim))
    R = order.to_array(map_block(lambda out, x: prior.R.mult(x, out), prior.mean, prior.mean, identity))
    root = np.linalg.cholesky(0.5 * (R + R.T))
    mean = order.to_array(owned_values(prior.mean))
    inputs = Basis(np.linalg.inv(root).T, root, mean, np.ones(order.dim), "kle", "prior precision")
    n = model.data_space.dim
    shift = model.evalObservable(prior.mean)
    return inputs, Basis(np.eye(n), np.eye(n), shift, np.ones(n), "identity", "noise precision")


def exact_dino(model):
    """The affine map itself."""
    return hd.taylor_expansion(model, full_bases(model), order=1, progress=False)


def surrogate_of(model, dino):
    """The surrogate with the misfit of `model`, whatever that is."""
    space = model.problem.Vh[hp.STATE]
    return hd.SurrogateModel(dino, model.prior, model.misfit, state_space=space)
