"""Control of a steady flow past a bluff body by blowing and suction, under an uncertain inflow.

Velocity v and pressure p in the channel [0, 2] x [0, 1] around the square body [0.4, 0.6]^2; nu = 0.005, so that Re
is 40 for the mean inflow and the body's side:

    -div(2 nu eps(v)) + (v . grad) v + grad p = 0,   div v = 0,
    v = (exp(m), 0) at the inflow,   v_y = 0 at the walls, which are free of friction,   no traction at the outflow,
    v = g_z at the body: on its top g_z = (0, sum_j z_j b_j), on its bottom (0, -sum_j z_9+j b_j), else 0,

with cubic B-splines b_j, 9 an edge, so that z > 0 blows, and z < 0 sucks.  Taylor-Hood elements, stabilised by
grad-div; velocities at inflow and body are imposed by Nitsche's method, since they depend on m and z.  The whole state
is the observable, in its mass norm.
Setting: Luo, O'Leary-Roseberry, Chen, Ghattas, "Efficient PDE-constrained optimization under high-dimensional
uncertainty using derivative-informed neural operators", arXiv 2305.20053, and the authors' code
(github.com/dc-luo/mr_dino); there the body has a round nose and the mesh is made by gmsh, the stabilisation is
Galerkin least squares, and controls are Gaussian.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import dolfin as dl
import hippylib as hp
import numpy as np
from mpi4py import MPI
from scipy.interpolate import BSpline

import hippylib_dino as hd

LENGTH, HEIGHT = 2.0, 1.0
LOW, HIGH = 0.4, 0.6  # of the body, in x and y
VISCOSITY, INFLOW = 5e-3, 1.0
SPLINES_AN_EDGE, LARGEST = 9, 2.0
PENALTY, GRAD_DIV = 100.0, 1.0  # of Nitsche's method in units of nu/h; of the divergence
INFLOW_SIDE, BODY = 1, 2
DEGREE = 5  # of the quadrature, for all derivatives, so that they are derivatives of what is solved


def grid_lines(breaks: list[float], shares: list[float], n: int) -> np.ndarray:
    """Equidistant lines between `breaks`, some share of `n` cells in each interval."""
    pieces = [
        np.linspace(a, b, max(1, round(share * n)), endpoint=False)
        for a, b, share in zip(breaks[:-1], breaks[1:], shares, strict=True)
    ]
    return np.concatenate([*pieces, breaks[-1:]])


def _mesh_with_hole(n: int) -> dl.Mesh:
    """Four triangles in each rectangle between grid lines, but for the body's."""
    x = grid_lines([0.0, LOW, HIGH, 1.0, LENGTH], [0.35, 0.25, 0.4, 0.6], n)
    y = grid_lines([0.0, LOW, HIGH, HEIGHT], [0.375, 0.25, 0.375], n)
    corners = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1)
    centres = (corners[1:, 1:] + corners[:-1, :-1]) / 2
    in_flow = ~((centres > LOW) & (centres < HIGH)).all(axis=-1)
    number = np.arange(corners[..., 0].size).reshape(corners.shape[:2])
    around = [number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:], number[:-1, :-1]]
    middle = number.size + np.arange(in_flow.size).reshape(in_flow.shape)
    cells = np.concatenate(
        [np.stack([a[in_flow], b[in_flow], middle[in_flow]], axis=1) for a, b in itertools.pairwise(around)]
    )
    points = np.concatenate([corners.reshape(-1, 2), centres.reshape(-1, 2)])
    used, cells = np.unique(cells, return_inverse=True)
    mesh, editor = dl.Mesh(MPI.COMM_SELF), dl.MeshEditor()
    editor.open(mesh, "triangle", 2, 2)
    editor.init_vertices(len(used))
    for i, point in enumerate(points[used]):
        editor.add_vertex(i, point)
    cells = cells.reshape(-1, 3)
    editor.init_cells(len(cells))
    for i, cell in enumerate(cells):
        editor.add_cell(i, cell)
    editor.close()
    return mesh


def channel(comm: MPI.Comm, n: int) -> dl.Mesh:
    """The channel without its body, `n` cells high, finer near the body; distributed over `comm`."""
    if comm.size == 1:
        return _mesh_with_hole(n)
    # made by one rank, and distributed as it is read
    folder = comm.bcast(tempfile.mkdtemp() if comm.rank == 0 else None)
    path = Path(folder) / "channel.xml"
    if comm.rank == 0:
        dl.File(MPI.COMM_SELF, str(path)) << _mesh_with_hole(n)
    comm.Barrier()
    mesh = dl.Mesh(comm, str(path))
    comm.Barrier()
    if comm.rank == 0:
        path.unlink()
        path.parent.rmdir()
    return mesh


def boundary_measure(mesh: dl.Mesh) -> dl.Measure:
    """ds with the parts `INFLOW_SIDE` and `BODY`."""
    marks = dl.MeshFunction("size_t", mesh, 1, 0)
    dl.CompiledSubDomain("on_boundary && near(x[0], 0.0)").mark(marks, INFLOW_SIDE)
    inner = "on_boundary && x[0] > a && x[0] < b && x[1] > a && x[1] < b"
    dl.CompiledSubDomain(inner, a=LOW - 1e-6, b=HIGH + 1e-6).mark(marks, BODY)
    return dl.ds(domain=mesh, subdomain_data=marks, degree=DEGREE)


def splines() -> list[BSpline]:
    """Cubic B-splines on [0, 1] that vanish at its ends."""
    knots = np.concatenate([np.zeros(4), np.linspace(0.2, 0.8, 7), np.ones(4)])
    coefficients = np.eye(len(knots) - 4)[1:-1]
    return [BSpline(knots, c, 3) for c in coefficients]


def blowing(mesh: dl.Mesh) -> list[dl.Function]:
    """The vertical velocity at the body for each unit control, in P2; zero but on one of its edges."""
    space = dl.FunctionSpace(mesh, "Lagrange", 2)
    x, y = space.tabulate_dof_coordinates().T
    functions = []
    for edge, sign in ((HIGH, 1.0), (LOW, -1.0)):
        on_edge = np.isclose(y, edge) & (x > LOW - 1e-8) & (x < HIGH + 1e-8)
        for spline in splines():
            function = dl.Function(space)
            values = np.where(on_edge, spline(np.clip((x - LOW) / (HIGH - LOW), 0.0, 1.0)), 0.0)
            hd.modeling.set_owned_values(function.vector(), sign * values)
            functions.append(function)
    return functions


class FlowForm:
    """The weak residual `(u, m, p, z) -> form` of steady Navier-Stokes flow, u and p pairs of velocity and pressure."""

    def __init__(self, mesh: dl.Mesh):
        self.ds, self.blowing = boundary_measure(mesh), blowing(mesh)
        self.dx = dl.dx(domain=mesh, degree=DEGREE)
        self.normal, self.h = dl.FacetNormal(mesh), dl.CellDiameter(mesh)

    def __call__(self, u, m, p, z):
        (v, pressure), (w, q) = dl.split(u), dl.split(p)
        nu = dl.Constant(VISCOSITY)
        flow = 2 * nu * dl.inner(dl.sym(dl.grad(v)), dl.sym(dl.grad(w))) + dl.inner(dl.grad(v) * v, w)
        flow += q * dl.div(v) - pressure * dl.div(w) + GRAD_DIV * dl.div(v) * dl.div(w)
        at_body = dl.as_vector((0.0, sum(z[j] * b for j, b in enumerate(self.blowing))))
        at_inflow = dl.as_vector((dl.exp(m), 0.0))
        imposed = self._nitsche(v, pressure, w, q, at_body) * self.ds(BODY)
        imposed += self._nitsche(v, pressure, w, q, at_inflow) * self.ds(INFLOW_SIDE)
        return flow * self.dx + imposed

    def _nitsche(self, v, pressure, w, q, wanted):
        """Consistency, adjoint consistency and penalty of v = wanted."""
        n, nu = self.normal, dl.Constant(VISCOSITY)
        traction = 2 * nu * dl.dot(dl.sym(dl.grad(v)), n) - pressure * n
        adjoint = 2 * nu * dl.dot(dl.sym(dl.grad(w)), n) + q * n
        gap = v - wanted
        return PENALTY * nu / self.h * dl.inner(gap, w) - dl.inner(traction, w) - dl.inner(adjoint, gap)


def quantity(model: hd.JacobianModel) -> hd.ouu.FormQuantity:
    """Half of the power that viscosity takes, the quantity of interest."""
    return hd.ouu.dissipation(model.problem.Vh, VISCOSITY, velocity=lambda u: dl.split(u)[0])


def build(comm: MPI.Comm, mesh_size: int = 24) -> hd.JacobianModel:
    """State and control problem on a mesh that is `mesh_size` cells high, distributed over `comm`."""
    mesh = channel(comm, mesh_size)
    cell = mesh.ufl_cell()
    taylor_hood = dl.MixedElement([dl.VectorElement("Lagrange", cell, 2), dl.FiniteElement("Lagrange", cell, 1)])
    states, parameters = dl.FunctionSpace(mesh, taylor_hood), dl.FunctionSpace(mesh, "Lagrange", 1)
    controls = hd.ouu.CoefficientSpace(mesh, 2 * SPLINES_AN_EDGE)
    walls = "on_boundary && (x[1] < DOLFIN_EPS || x[1] > 1.0 - DOLFIN_EPS)"
    bc = dl.DirichletBC(states.sub(0).sub(1), dl.Constant(0.0), walls)
    pde = hd.ControlProblem([states, parameters, states, controls], FlowForm(mesh), bc, bc)

    mean = dl.interpolate(dl.Constant(np.log(INFLOW)), parameters).vector()
    prior = hp.BiLaplacianPrior(parameters, 1.0, 5.0, mean=mean, robin_bc=False, solver_type="lu")

    misfit = hp.ContinuousStateObservation(states, dl.dx, bc, noise_variance=1.0)
    box = hd.ouu.UniformControl(np.full(controls.dim(), -LARGEST), np.full(controls.dim(), LARGEST))
    return hd.JacobianModel(pde, prior, misfit, control=box)
