"""Heat conduction: the log-conductivity of a plate from temperatures at a few places and times.

State u, log-conductivity m, on the unit square from a cold start:

    u' - div(exp(m) grad u) = 0,   u = 1 on the left side, no flux through the others,

by implicit Euler.  Nine sensors read the temperature at three times.
"""

from __future__ import annotations

import dolfin as dl
import hippylib as hp
import numpy as np
from mpi4py import MPI

import hippylib_dino as hd

TIME_STEP, N_STEPS = 0.075, 4
OBSERVED_STEPS = (1, 2, 4)
RELATIVE_NOISE = 0.01  # of the largest observable at the prior mean
LEFT = "on_boundary && x[0] < DOLFIN_EPS"


class ImplicitEuler:
    """The weak residual of one step, `(u, u_old, m, p, t) -> form`."""

    dt = TIME_STEP

    def __init__(self):
        self.inverse = dl.Constant(1.0 / TIME_STEP)

    def __call__(self, u, u_old, m, p, t):
        flux = dl.exp(m) * dl.inner(dl.grad(u), dl.grad(p))
        return (self.inverse * (u - u_old) * p + flux) * dl.dx(degree=4)


def observation_points() -> np.ndarray:
    """The nine sensors, (9, 2)."""
    return np.array([(x, y) for x in (0.25, 0.5, 0.75) for y in (0.2, 0.5, 0.8)])


def build(comm: MPI.Comm, mesh_size: int = 32) -> hd.JacobianModel:
    """The inverse problem on a `mesh_size` x `mesh_size` grid distributed over `comm`."""
    mesh = dl.UnitSquareMesh(comm, mesh_size, mesh_size)
    space = dl.FunctionSpace(mesh, "Lagrange", 1)
    bc, bc0 = (dl.DirichletBC(space, dl.Constant(value), LEFT) for value in (1.0, 0.0))
    cold = dl.Function(space)
    problem = hp.TimeDependentPDEVariationalProblem(
        [space] * 3, ImplicitEuler(), bc, bc0, cold, 0.0, TIME_STEP * N_STEPS, is_fwd_linear=True
    )
    prior = hp.BiLaplacianPrior(space, 0.1, 0.5, robin_bc=True, solver_type="lu")
    B = hp.assemblePointwiseObservation(space, observation_points())
    members = [hp.DiscreteStateObservation(B) for _ in OBSERVED_STEPS]
    for member in members:
        member.noise_variance = 1.0  # replaced below, when the size of the observables is known
    model = hd.JacobianModel(problem, prior, hp.MisfitTD(members, [problem.times[n] for n in OBSERVED_STEPS]))
    variance = (RELATIVE_NOISE * np.abs(model.evalObservable(prior.mean)).max()) ** 2
    for member in members:
        member.noise_variance = variance
    return model
