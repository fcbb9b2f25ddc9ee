"""Nonlinear reaction and diffusion among sources and sinks, a test problem of the DINO paper.

State u, log-diffusivity m, on the unit square:

    -div(exp(m) grad u) + u^3 = f,   u = y on top and bottom,   no flux at the sides,

where f is a sum of 25 Gaussian wells on a 5 x 5 grid, of strengths -0.25 and 0.25 in turn.
Setting: O'Leary-Roseberry, Chen, Villa, Ghattas, J. Comput. Phys. 496 (2024), arXiv 2206.10745; the prior mean
and the normalisation of the wells are those of the authors' code (github.com/tomoleary/dino, applications/rdiff).
"""

from __future__ import annotations

import math

import dolfin as dl
import hippylib as hp
import numpy as np
from mpi4py import MPI

import hippylib_dino as hd

WELLS_A_SIDE, WELL_WIDTH, WELL_STRENGTH = 5, 0.1, 0.25
PRIOR_MEAN = -1.0
RELATIVE_NOISE = 0.01  # of the largest observable at the prior mean


def source(space: dl.FunctionSpace) -> dl.Function:
    """The wells, strength exp(-|x - x_i|^2 / b^2) / (2 pi b^2) each, signs as on a chess board."""
    grid = np.linspace(0.25, 0.75, WELLS_A_SIDE)
    signs = [(-1.0) ** (i + j + 1) for i in range(WELLS_A_SIDE) for j in range(WELLS_A_SIDE)]
    centres = [(x, y) for x in grid for y in grid]
    terms = [
        f"{sign:+.0f}*exp(-(pow(x[0]-{x:.17g},2) + pow(x[1]-{y:.17g},2))/(b*b))"
        for sign, (x, y) in zip(signs, centres, strict=True)
    ]
    scale = WELL_STRENGTH / (2 * math.pi * WELL_WIDTH**2)
    return dl.interpolate(dl.Expression(f"a*({' '.join(terms)})", a=scale, b=WELL_WIDTH, degree=2), space)


class ReactionDiffusionForm:
    """The weak residual `(u, m, p) -> form`."""

    def __init__(self, state_space: dl.FunctionSpace):
        self.source = source(state_space)

    def __call__(self, u, m, p):
        return (dl.exp(m) * dl.inner(dl.grad(u), dl.grad(p)) + u**3 * p - self.source * p) * dl.dx


def observation_points() -> np.ndarray:
    """The paper's 50 sensors, (50, 2), in the lower half of the square."""
    return np.array([(x, y) for x in np.linspace(0.1, 0.9, 10) for y in np.linspace(0.1, 0.5, 5)])


def build(comm: MPI.Comm, mesh_size: int = 64) -> hd.JacobianModel:
    """The inverse problem on a `mesh_size` x `mesh_size` grid distributed over `comm`."""
    mesh = dl.UnitSquareMesh(comm, mesh_size, mesh_size)
    states, parameters = dl.FunctionSpace(mesh, "Lagrange", 2), dl.FunctionSpace(mesh, "Lagrange", 1)
    top_and_bottom = "on_boundary && (x[1] < DOLFIN_EPS || x[1] > 1.0 - DOLFIN_EPS)"
    bc = dl.DirichletBC(states, dl.Expression("x[1]", degree=1), top_and_bottom)
    bc0 = dl.DirichletBC(states, dl.Constant(0.0), top_and_bottom)
    form = ReactionDiffusionForm(states)
    pde = hd.AcceleratedVariationalProblem([states, parameters, states], form, bc, bc0, is_fwd_linear=False)

    # prior covariance (delta - gamma div Theta grad)^-2, anisotropic along the diagonal, Robin boundary
    anisotropy = dl.CompiledExpression(hp.ExpressionModule.AnisTensor2D(), degree=1)
    anisotropy.set(2.0, 0.5, math.pi / 4)
    mean = dl.interpolate(dl.Constant(PRIOR_MEAN), parameters).vector()
    prior = hp.BiLaplacianPrior(parameters, 0.1, 1.0, anisotropy, mean=mean, robin_bc=True, solver_type="lu")

    misfit = hp.DiscreteStateObservation(hp.assemblePointwiseObservation(states, observation_points()))
    model = hd.JacobianModel(pde, prior, misfit)
    misfit.noise_variance = (RELATIVE_NOISE * np.abs(model.evalObservable(prior.mean)).max()) ** 2
    return model
