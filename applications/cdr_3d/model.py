"""Where to measure in three dimensions: convection, diffusion and reaction in the unit cube.

State u, log-coefficient m of the cubic reaction:

    -div(k grad u) + v . grad u + exp(m) u^3 = f,   u = 0 on the boundary,

with a flow v that circulates about the vertical axis, free of divergence and tangential to the walls, and a source f
near a corner.  All solves are by GMRES with algebraic multigrid, so that memory grows with the mesh as its number of
cells does.  A problem of this kind is the example of Go, Chen, "Accurate, scalable, and efficient Bayesian optimal
experimental design with derivative-informed neural operators", arXiv 2312.14810; flow, source and prior are our own.
"""

from __future__ import annotations

import dolfin as dl
import hippylib as hp
import numpy as np
from mpi4py import MPI

import hippylib_dino as hd

DIFFUSION = 0.05
VARIANCE, CORRELATION_LENGTH = 1.0, 0.4  # of the prior
RELATIVE_NOISE = 0.01  # of the largest observable at the prior mean
LINEAR_TOLERANCE = 1e-10


class ConvectionDiffusionReaction:
    """The weak residual `(u, m, p) -> form`."""

    def __init__(self, space: dl.FunctionSpace):
        flow = ("2*sin(pi*x[0])*cos(pi*x[1])", "-2*cos(pi*x[0])*sin(pi*x[1])", "0.0")
        well = "20*exp(-10*(pow(x[0]-0.3,2) + pow(x[1]-0.3,2) + pow(x[2]-0.4,2)))"
        self.velocity = dl.Expression(flow, degree=2, domain=space.mesh())
        self.source = dl.interpolate(dl.Expression(well, degree=2), space)

    def __call__(self, u, m, p):
        diffusion = dl.Constant(DIFFUSION) * dl.inner(dl.grad(u), dl.grad(p))
        transport = dl.inner(self.velocity, dl.grad(u)) * p
        return (diffusion + transport + dl.exp(m) * u**3 * p - self.source * p) * dl.dx(degree=4)


def candidate_points() -> np.ndarray:
    """Candidate sensors, (75, 3): three layers of 5 x 5."""
    grid = np.linspace(0.15, 0.85, 5)
    return np.array([(x, y, z) for z in (0.25, 0.5, 0.75) for y in grid for x in grid])


def build(comm: MPI.Comm, mesh_size: int = 24) -> hd.JacobianModel:
    """The inverse problem with all candidates observed, on `mesh_size`³ cubes of six tetrahedra over `comm`.

    24 gives 15 625 parameters, 32 gives 35 937.
    """
    space = dl.FunctionSpace(dl.UnitCubeMesh(comm, mesh_size, mesh_size, mesh_size), "Lagrange", 1)
    bc = dl.DirichletBC(space, dl.Constant(0.0), "on_boundary")
    pde = hd.AcceleratedVariationalProblem(
        [space] * 3, ConvectionDiffusionReaction(space), bc, bc, linear_solver="krylov",
        linear_tolerance=LINEAR_TOLERANCE,
    )  # fmt: skip
    gamma, delta = hp.BiLaplacianComputeCoefficients(VARIANCE, CORRELATION_LENGTH, ndim=3)
    prior = hp.BiLaplacianPrior(space, gamma, delta, robin_bc=True)
    misfit = hp.DiscreteStateObservation(hp.assemblePointwiseObservation(space, candidate_points()))
    model = hd.JacobianModel(pde, prior, misfit)
    misfit.noise_variance = (RELATIVE_NOISE * np.abs(model.evalObservable(prior.mean)).max()) ** 2
    return model
