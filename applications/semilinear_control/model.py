"""Control of a semilinear elliptic equation by 49 wells, under an uncertain diffusivity.

State u, log-diffusivity m, control z in [-4, 4]^49, on the unit square with u = 0 on its boundary:

    -div(exp(m) grad u) + u^3 = sum_j z_j f_j,   f_j = exp(-|x - x_j|^2 / b^2) / (2 pi b^2),

with wells x_j on a 7 x 7 grid in [0.1, 0.9]^2.  The whole state is the observable, in its mass norm.
Setting: Luo, O'Leary-Roseberry, Chen, Ghattas, "Efficient PDE-constrained optimization under high-dimensional
uncertainty using derivative-informed neural operators", arXiv 2305.20053, and the authors' code
(github.com/dc-luo/mr_dino, github.com/hippylib/soupy).
"""

from __future__ import annotations

import math

import dolfin as dl
import hippylib as hp
import numpy as np
from mpi4py import MPI

import hippylib_dino as hd

WELLS_A_SIDE, WELL_WIDTH, LARGEST = 7, 0.08, 4.0
PRIOR_MEAN = -1.0
DX = dl.dx(degree=4)  # for all derivatives too, so that they are derivatives of what is solved


def wells(space: dl.FunctionSpace) -> list[dl.Function]:
    """The 49 sources f_j."""
    grid = np.linspace(0.1, 0.9, WELLS_A_SIDE)
    well = dl.Expression(
        "exp(-(pow(x[0]-cx, 2) + pow(x[1]-cy, 2))/(b*b)) / (2*pi*b*b)", cx=0.0, cy=0.0, b=WELL_WIDTH, degree=2
    )
    functions = []
    for cx in grid:
        for cy in grid:
            well.cx, well.cy = cx, cy
            functions.append(dl.interpolate(well, space))
    return functions


class SemilinearForm:
    """The weak residual `(u, m, p, z) -> form`."""

    def __init__(self, space: dl.FunctionSpace):
        self.wells = wells(space)

    def __call__(self, u, m, p, z):
        source = sum(z[j] * well for j, well in enumerate(self.wells))
        return (dl.exp(m) * dl.inner(dl.grad(u), dl.grad(p)) + u**3 * p - source * p) * DX


def build(comm: MPI.Comm, mesh_size: int = 64) -> hd.JacobianModel:
    """State and control problem on a `mesh_size` x `mesh_size` grid distributed over `comm`."""
    mesh = dl.UnitSquareMesh(comm, mesh_size, mesh_size)
    space = dl.FunctionSpace(mesh, "Lagrange", 1)
    controls = hd.ouu.CoefficientSpace(mesh, WELLS_A_SIDE**2)
    bc = dl.DirichletBC(space, dl.Constant(0.0), "on_boundary")
    pde = hd.ControlProblem([space, space, space, controls], SemilinearForm(space), bc, bc)

    # prior covariance (delta - gamma div Theta grad)^-2, anisotropic along the diagonal, Robin boundary
    anisotropy = dl.CompiledExpression(hp.ExpressionModule.AnisTensor2D(), degree=1)
    anisotropy.set(2.0, 0.5, math.pi / 4)
    mean = dl.interpolate(dl.Constant(PRIOR_MEAN), space).vector()
    prior = hp.BiLaplacianPrior(space, 0.1, 5.0, anisotropy, mean=mean, robin_bc=True, solver_type="lu")

    misfit = hp.ContinuousStateObservation(space, dl.dx, bc, noise_variance=1.0)
    box = hd.ouu.UniformControl(np.full(controls.dim(), -LARGEST), np.full(controls.dim(), LARGEST))
    return hd.JacobianModel(pde, prior, misfit, control=box)


def quantity(model: hd.JacobianModel) -> hd.ouu.FormQuantity:
    """Half the square distance of the state to sin(2 pi x) sin(2 pi y)."""
    target = dl.Expression("sin(2*pi*x[0])*sin(2*pi*x[1])", degree=4)
    return hd.ouu.tracking(model.problem.Vh, target)
