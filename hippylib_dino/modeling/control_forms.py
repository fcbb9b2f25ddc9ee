"""The forms of a control problem r(u, m, z; p), compiled once; derivatives in the control beside the others."""

from __future__ import annotations

from collections.abc import Callable

import dolfin as dl
import numpy as np
from hippylib import ADJOINT, PARAMETER, STATE
from mpi4py import MPI
from petsc4py import PETSc

from hippylib_dino.errors import InputError
from hippylib_dino.modeling.compiled_forms import CachedTensor, CompiledForms
from hippylib_dino.modeling.form_splitting import ufl, without_powers
from hippylib_dino.modeling.spaces import gather, owned_values, set_owned_values

CONTROL = 3


class CoefficientSpace:
    """The space of dZ numbers, beside a mesh: what ``Vh[CONTROL]`` is where the control is no field.

    The form gets its control as a `dl.Constant` with components ``z[j]``.  A space of Reals would do as well, but
    dolfin's numbering of these hangs on some partitions of the mesh.

    Parameters
    ----------
    mesh : dolfin.Mesh
        Of the state; its communicator is the control's.
    dim : int
        dZ.

    Raises
    ------
    InputError
        If `dim` is not at least 1.
    """

    def __init__(self, mesh: dl.Mesh, dim: int):
        if dim < 1:
            raise InputError(f"dim: expected at least 1 control, got {dim}.")
        self._mesh, self._dim = mesh, dim

    def mesh(self) -> dl.Mesh:
        """The mesh."""
        return self._mesh

    def dim(self) -> int:
        """dZ."""
        return self._dim


class CoefficientOrder:
    """`DofOrder` of a `CoefficientSpace`: coefficients are in their own order, PETSc gives each rank some."""

    def __init__(self, space: CoefficientSpace):
        self.comm, self.dim = space.mesh().mpi_comm(), space.dim()
        self.owned = np.arange(*dl.Vector(self.comm, self.dim).local_range())

    def to_array(self, owned_rows: np.ndarray) -> np.ndarray:
        """All rows, the same on every rank, from this rank's rows (n_owned, ...)."""
        return gather(owned_rows, self.comm)

    def from_array(self, array: np.ndarray) -> np.ndarray:
        """This rank's rows (n_owned, ...) of an array (dim, ...)."""
        return array[self.owned]


class CachedColumns(CachedTensor):
    """A dense matrix with a column for each coefficient of a direction.

    Parameters
    ----------
    comm : MPI.Comm
    ufl_form : ufl.Form
        Linear, of rows; depends linearly on `direction`.
    direction : dolfin.Constant
        (dZ,).
    like : dolfin vector
        Of the layout of a column.
    left : dolfin vector, optional
        See `CachedTensor`.
    """

    def __init__(self, comm: MPI.Comm, ufl_form, direction: dl.Constant, like: dl.GenericVector, *, left=None):
        super().__init__(comm, ufl_form, left=left)
        self._direction, self._column = direction, like.copy()

    def _coefficients(self) -> list:
        return [c for c in super()._coefficients() if c != self._direction]

    def _new_tensor(self) -> dl.PETScMatrix:
        size = ((self._column.local_size(), self._column.size()), (PETSc.DECIDE, _n_values(self._direction)))
        matrix = PETSc.Mat().createDense(size, comm=self._comm)
        matrix.setUp()
        matrix.assemble()
        return dl.PETScMatrix(matrix)

    def _fill(self) -> None:
        assembler, matrix, n = dl.cpp.fem.Assembler(), self.tensor.mat(), _n_values(self._direction)
        rows = np.empty((self._column.local_size(), n))
        for j, unit in enumerate(np.eye(n)):
            _assign(self._direction, unit)
            assembler.assemble(self._column, self._form)
            rows[:, j] = owned_values(self._column)
        matrix.getDenseArray()[:] = rows
        matrix.assemble()


class ControlForms(CompiledForms):
    """Residual and derivatives of r(u, m, z; p); those in u, m and p are `CompiledForms`'.

    Where r is a sum of what does not depend on z and of C_z z with a C_z that depends on nothing, C_z is assembled
    once and the other terms without z: a sum over many sources would slow all assemblies down.

    Parameters
    ----------
    Vh : list of three dolfin.FunctionSpace and the control's, which may be a `CoefficientSpace`
    varf_handler : callable ``(u, m, p, z) -> form``
    bc, bc0 : lists of dolfin.DirichletBC

    Raises
    ------
    InputError
        If the form does not depend on the control.

    Attributes
    ----------
    Cz : CachedTensor
        d residual/dz, (dU, dZ); rows of fixed degrees of freedom are zero.
    Wuz, Wmz : CachedTensor or None
        Second derivatives of r, (dU, dZ), (dM, dZ); None where they vanish.
    """

    def __init__(self, Vh, varf_handler: Callable, bc: list, bc0: list):
        space = Vh[CONTROL]
        self._coefficients = isinstance(space, CoefficientSpace)
        self._control = control_vector(space)
        if self._coefficients:
            z, self._direction = (dl.Constant(np.zeros(space.dim())) for _ in range(2))
        else:
            z, self._direction = dl.Function(space), dl.TrialFunction(space)
        self._z = z
        u, m = (dl.Function(Vh[i]) for i in (STATE, PARAMETER))
        slope = _expanded(varf_handler(u, m, dl.TestFunction(Vh[ADJOINT]), z), z, self._direction)
        if slope.empty():
            raise InputError(
                "varf_handler: the form does not depend on the control z; use it, or hd.AcceleratedVariationalProblem "
                "for a problem without a control."
            )
        self.additive = not {u, m, z} & set(slope.coefficients())

        def without_control(u, m, p):
            form = varf_handler(u, m, p, z)
            return ufl.replace(form, {z: ufl.classes.Zero(z.ufl_shape)}) if self.additive else form

        super().__init__(Vh[:CONTROL], without_control, bc, bc0)
        u, m, p = self._functions
        v, w = dl.TestFunction(Vh[STATE]), dl.TestFunction(Vh[PARAMETER])
        lagrangian = varf_handler(u, m, p, z)
        residual = varf_handler(u, m, dl.TestFunction(Vh[ADJOINT]), z)
        self.Cz = self._tensor(_expanded(residual, z, self._direction), u.vector(), self.free)
        self._work = u.vector().copy()
        by_u, by_m = dl.derivative(lagrangian, u, v), dl.derivative(lagrangian, m, w)
        self.Wuz = self._second(by_u, u.vector(), self.free)
        self.Wmz = self._second(by_m, m.vector())
        self._bend(lagrangian, Vh)

    def _tensor(self, form, like: dl.GenericVector, left: dl.GenericVector | None = None) -> CachedTensor:
        comm = like.mpi_comm()
        if self._coefficients:
            return CachedColumns(comm, form, self._direction, like, left=left)
        return CachedTensor(comm, without_powers(form), left=left)

    def _second(self, first, like: dl.GenericVector, left: dl.GenericVector | None = None) -> CachedTensor | None:
        """The derivative in z of the linear form `first`."""
        form = _expanded(first, self._z, self._direction)
        return None if form.empty() else self._tensor(form, like, left)

    def _bend(self, lagrangian, Vh) -> None:
        """Prepare the second derivative in z, z."""
        z = self._z
        if self._coefficients:
            self._other = dl.Constant(np.zeros(_n_values(z)))
            form = _expanded(dl.derivative(lagrangian, z, self._other), z, self._direction)
            self._curvature = None if form.empty() else dl.Form(form)
        else:
            form = _expanded(dl.derivative(lagrangian, z, dl.TestFunction(Vh[CONTROL])), z, self._direction)
            self._curvature = None if form.empty() else CachedTensor(self._control.mpi_comm(), form)

    def load(self, i: int, x: dl.GenericVector) -> None:
        if i != CONTROL:
            super().load(i, x)
            return
        self._control.zero()
        self._control.axpy(1.0, x)
        if self._coefficients:
            _assign(self._z, gather(owned_values(x), x.mpi_comm()))
        else:
            self._z.vector().zero()
            self._z.vector().axpy(1.0, x)
            self._z.vector().apply("insert")
        self._loads += 1

    def residual(self, out: dl.GenericVector) -> None:
        super().residual(out)
        if self.additive:
            self.update(self.Cz).tensor.mult(self._control, self._work)
            out.axpy(1.0, self._work)

    def apply_Wzz(self, direction: dl.GenericVector, out: dl.GenericVector) -> None:
        """Second derivative of r in z, z at the loaded point, (dZ,) primal to (dZ,) dual."""
        out.zero()
        if self._curvature is None:
            return
        if not self._coefficients:
            self.update(self._curvature).tensor.mult(direction, out)
            return
        _assign(self._direction, gather(owned_values(direction), direction.mpi_comm()))
        values, first = np.empty(out.local_size()), out.local_range()[0]
        for j, unit in enumerate(np.eye(out.size())):
            _assign(self._other, unit)
            scalar = dl.cpp.la.Scalar(out.mpi_comm())
            self._assembler.assemble(scalar, self._curvature)
            if first <= j < first + len(values):
                values[j - first] = scalar.get_scalar_value()
        set_owned_values(out, values)


def control_vector(space) -> dl.GenericVector:
    """A zero control of a dolfin space or a `CoefficientSpace`."""
    if isinstance(space, CoefficientSpace):
        vector = dl.Vector(space.mesh().mpi_comm(), space.dim())
        vector.zero()
        return vector
    return dl.Function(space).vector()


def _expanded(form, z, direction):
    """The derivative of `form` in z with all derivatives taken, empty where it vanishes."""
    return ufl.algorithms.expand_derivatives(dl.derivative(form, z, direction))


def _n_values(constant: dl.Constant) -> int:
    return len(constant.values())


def _assign(constant: dl.Constant, values: np.ndarray) -> None:
    constant.assign(dl.Constant(values))
