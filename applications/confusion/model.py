"""Convection-reaction-diffusion ("confusion"), the main test problem of the DINO paper.

State u, log-coefficient m of the cubic reaction, on the unit square:

    -div(k grad u) + v . grad u + c exp(m) u^3 = f,   u = 0 on the boundary,

with the streamline term (h/|v|)(v . grad u)(v . grad p).  The velocity v solves the steady
Navier-Stokes equations at Re = 100 with walls at x = 0 and x = 1 that move up and down.
Setting: O'Leary-Roseberry, Chen, Villa, Ghattas, J. Comput. Phys. 496 (2024), arXiv 2206.10745.
"""

from __future__ import annotations

import math

import dolfin as dl
import hippylib as hp
import numpy as np
from mpi4py import MPI

import hippylib_dino as hd

DIFFUSION, REACTION, REYNOLDS = 0.01, 1.0, 100.0
RELATIVE_NOISE = 0.01  # of the largest observable at the prior mean


def velocity_field(mesh: dl.Mesh) -> dl.Function:
    """Steady Navier-Stokes velocity on `mesh` (Taylor-Hood), driven by the two vertical walls."""
    cell = mesh.ufl_cell()
    taylor_hood = dl.MixedElement([dl.VectorElement("Lagrange", cell, 2), dl.FiniteElement("Lagrange", cell, 1)])
    space = dl.FunctionSpace(mesh, taylor_hood)
    wall = dl.Expression(("0.0", "(x[0] < 1e-14) - (x[0] > 1 - 1e-14)"), degree=1)
    bcs = [
        dl.DirichletBC(space.sub(0), wall, "on_boundary"),
        dl.DirichletBC(space.sub(1), dl.Constant(0.0), "x[0] < DOLFIN_EPS && x[1] < DOLFIN_EPS", "pointwise"),
    ]
    solution = dl.Function(space)
    v, q = dl.split(solution)
    w, r = dl.TestFunctions(space)
    strain = dl.sym(dl.grad(v))
    residual = (
        dl.Constant(2.0 / REYNOLDS) * dl.inner(strain, dl.sym(dl.grad(w)))
        + dl.inner(dl.nabla_grad(v) * v, w)
        - q * dl.div(w)
        + dl.div(v) * r
    ) * dl.dx
    dl.solve(residual == 0, solution, bcs, solver_parameters={"newton_solver": {"relative_tolerance": 1e-9}})
    return solution.split(deepcopy=True)[0]


class ConfusionForm:
    """The weak residual `(u, m, p) -> form` that `hp.PDEVariationalProblem` differentiates."""

    def __init__(self, mesh: dl.Mesh, state_space: dl.FunctionSpace):
        bump = dl.Expression("max(0.5, exp(-25*(pow(x[0]-0.7,2) + pow(x[1]-0.7,2))))", degree=5)
        self.source = dl.interpolate(bump, state_space)
        self.velocity = velocity_field(mesh)
        self.cell_size = dl.CellDiameter(mesh)

    def __call__(self, u, m, p):
        v = self.velocity
        speed = dl.sqrt(dl.dot(v, v) + 1e-6)
        streamline = (self.cell_size / speed) * dl.dot(v, dl.grad(u)) * dl.dot(v, dl.grad(p))
        diffusion = dl.Constant(DIFFUSION) * dl.inner(dl.grad(u), dl.grad(p))
        reaction = dl.Constant(REACTION) * dl.exp(m) * u**3 * p
        return (streamline + diffusion + dl.dot(v, dl.grad(u)) * p + reaction - self.source * p) * dl.dx


def observation_points() -> np.ndarray:
    """The paper's 50 sensors, (50, 2), in the lower half of the square."""
    return np.array([(x, y) for x in np.linspace(0.1, 0.9, 10) for y in np.linspace(0.1, 0.5, 5)])


def build(comm: MPI.Comm, mesh_size: int = 64) -> hd.JacobianModel:
    """The inverse problem on a `mesh_size` x `mesh_size` grid distributed over `comm`."""
    mesh = dl.UnitSquareMesh(comm, mesh_size, mesh_size)
    space = dl.FunctionSpace(mesh, "Lagrange", 1)
    bc = dl.DirichletBC(space, dl.Constant(0.0), "on_boundary")
    pde = hd.AcceleratedVariationalProblem([space] * 3, ConfusionForm(mesh, space), bc, bc, is_fwd_linear=False)

    # prior covariance (delta - gamma div Theta grad)^-2, anisotropic along the diagonal, Robin boundary
    anisotropy = dl.CompiledExpression(hp.ExpressionModule.AnisTensor2D(), degree=1)
    anisotropy.set(2.0, 0.5, math.pi / 4)
    prior = hp.BiLaplacianPrior(space, 0.1, 1.0, anisotropy, robin_bc=True, solver_type="lu")

    misfit = hp.DiscreteStateObservation(hp.assemblePointwiseObservation(space, observation_points()))
    model = hd.JacobianModel(pde, prior, misfit)
    misfit.noise_variance = (RELATIVE_NOISE * np.abs(model.evalObservable(prior.mean)).max()) ** 2
    return model
