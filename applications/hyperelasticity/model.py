"""Hyperelasticity: a clamped neo-Hookean square whose stiffness is unknown, a test problem of the DINO paper.

Displacement u, log-stiffness m, on the unit square in plane strain: u minimises

    int psi(F, m) dx - int_right t . u ds,   F = I + grad u,   u = 0 on the left edge,
    psi = mu/2 (tr(F^T F) - 2) - mu ln J + lambda/2 (ln J)^2,   J = det F,

with the Lame parameters of Young's modulus E = exp(m) + 1 and Poisson's ratio 0.4.  The deformation is
plane, so the three-dimensional I_c is tr(F^T F) + 1 and I_c - 3 is the trace of the plane tensor less 2:
energy and stress P = mu (F - F^-T) + lambda ln J F^-T vanish at u = 0.
Setting: O'Leary-Roseberry, Chen, Villa, Ghattas, J. Comput. Phys. 496 (2024), arXiv 2206.10745.
"""

from __future__ import annotations

import dolfin as dl
import hippylib as hp
import numpy as np
from mpi4py import MPI

import hippylib_dino as hd

POISSON_RATIO = 0.4
CORRELATION_LENGTH = 0.3
VARIANCE = CORRELATION_LENGTH / 0.16  # pointwise, far from the boundary
PRIOR_MEAN = 0.37
RELATIVE_NOISE = 0.01  # of the largest observable at the prior mean
# grad u is constant in a cell, only exp(m) and the traction vary; one degree for the residual and all
# its derivatives keeps gradient and Hessian consistent with the discrete residual
QUADRATURE_DEGREE = 4


class HyperelasticForm:
    """The weak residual `(u, m, p) -> form`, the derivative of the energy at the function u in direction p."""

    def __init__(self, mesh: dl.Mesh):
        facets = dl.MeshFunction("size_t", mesh, mesh.topology().dim() - 1, 0)
        dl.CompiledSubDomain("on_boundary && x[0] > 1.0 - DOLFIN_EPS").mark(facets, 1)
        self.right = dl.Measure("ds", mesh, subdomain_data=facets)(1, degree=QUADRATURE_DEGREE)
        y = dl.SpatialCoordinate(mesh)[1]
        self.traction = dl.as_vector((0.06 * dl.exp(-((y - 0.5) ** 2) / 4), 0.03 * (1 + y / 10)))

    def __call__(self, u, m, p):
        stiffness = dl.exp(m) + 1
        mu = stiffness / (2 * (1 + POISSON_RATIO))
        lame = stiffness * POISSON_RATIO / ((1 + POISSON_RATIO) * (1 - 2 * POISSON_RATIO))
        F = dl.Identity(2) + dl.grad(u)
        log_volume = dl.ln(dl.det(F))
        density = mu / 2 * (dl.inner(F, F) - 2) - mu * log_volume + lame / 2 * log_volume**2
        return dl.derivative(density * dl.dx(degree=QUADRATURE_DEGREE), u, p) - dl.dot(self.traction, p) * self.right


def observation_points() -> np.ndarray:
    """The paper's 50 sensors, (50, 2); each gives both components of the displacement."""
    return np.array([(x, y) for x in np.linspace(0.1, 0.9, 10) for y in np.linspace(0.1, 0.9, 5)])


def build(comm: MPI.Comm, mesh_size: int = 64) -> hd.JacobianModel:
    """The inverse problem on a `mesh_size` x `mesh_size` grid distributed over `comm`."""
    mesh = dl.UnitSquareMesh(comm, mesh_size, mesh_size)
    states = dl.VectorFunctionSpace(mesh, "Lagrange", 1)
    parameters = dl.FunctionSpace(mesh, "Lagrange", 1)
    bc = dl.DirichletBC(states, dl.Constant((0.0, 0.0)), "on_boundary && x[0] < DOLFIN_EPS")
    form = HyperelasticForm(mesh)
    pde = hd.AcceleratedVariationalProblem([states, parameters, states], form, bc, bc, is_fwd_linear=False)

    gamma, delta = hp.BiLaplacianComputeCoefficients(VARIANCE, CORRELATION_LENGTH, 2)
    mean = dl.interpolate(dl.Constant(PRIOR_MEAN), parameters).vector()
    prior = hp.BiLaplacianPrior(parameters, gamma, delta, mean=mean, robin_bc=True, solver_type="lu")

    misfit = hp.DiscreteStateObservation(hp.assemblePointwiseObservation(states, observation_points()))
    model = hd.JacobianModel(pde, prior, misfit)
    misfit.noise_variance = (RELATIVE_NOISE * np.abs(model.evalObservable(prior.mean)).max()) ** 2
    return model
