"""The forms of a control problem r(u, m, z; p), compiled once; derivatives in the control beside the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dolfin as dl
import numpy as np
from hippylib import PARAMETER, STATE
from mpi4py import MPI
from petsc4py import PETSc

from hippylib_dino.errors import InputError
from hippylib_dino.modeling.compiled_forms import CachedTensor, CompiledForms
from hippylib_dino.modeling.form_splitting import expanded, switches_on, ufl, without_powers
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


class ControlVariable:
    """The control in a form: a `dl.Function`, or a `dl.Constant` of coefficients.

    Parameters
    ----------
    space : dolfin.FunctionSpace or CoefficientSpace

    Attributes
    ----------
    is_field : bool
        Whether it is a function.
    symbol : dolfin.Function or dolfin.Constant
    test : test function, or a constant that `by_component` makes each unit vector in turn
    """

    def __init__(self, space):
        self.is_field = not isinstance(space, CoefficientSpace)
        self._space = space
        self.symbol = self.direction()
        self.test = dl.TestFunction(space) if self.is_field else self.direction()

    def direction(self) -> dl.Function | dl.Constant:
        """Another symbol of the same kind, zero."""
        return dl.Function(self._space) if self.is_field else dl.Constant(np.zeros(self._space.dim()))

    def load(self, z: dl.GenericVector, symbol: dl.Function | dl.Constant | None = None) -> None:
        """Give the symbol, or another one, the values of a control vector."""
        symbol = self.symbol if symbol is None else symbol
        if self.is_field:
            vector = symbol.vector()
            vector.zero()
            vector.axpy(1.0, z)
            vector.apply("insert")
        else:
            _assign(symbol, gather(owned_values(z), z.mpi_comm()))

    def columns(self, assemble: Callable[[], np.ndarray | float]) -> np.ndarray:
        """What `assemble` gives for each unit vector of coefficients in place of `test`, side by side."""
        columns = []
        for unit in np.eye(self._space.dim()):
            _assign(self.test, unit)
            columns.append(assemble())
        return np.array(columns).T

    def by_component(self, assemble: Callable[[], float], like: dl.GenericVector) -> np.ndarray:
        """The entries that this rank owns of the vector of all that `assemble` gives for unit vectors."""
        return self.columns(assemble)[slice(*like.local_range())]


class CachedColumns(CachedTensor):
    """A dense matrix with a column for each coefficient of a control.

    Parameters
    ----------
    comm : MPI.Comm
    ufl_form : ufl.Form
        Linear, of rows; linear in the control's `test`.
    control : ControlVariable
        Of coefficients.
    like : dolfin vector
        Of the layout of a column.
    left : dolfin vector, optional
        See `CachedTensor`.
    """

    def __init__(self, comm: MPI.Comm, ufl_form, control: ControlVariable, like: dl.GenericVector, *, left=None):
        super().__init__(comm, ufl_form, left=left)
        self._control, self._column = control, like.copy()

    def _coefficients(self) -> list:
        return [c for c in super()._coefficients() if c != self._control.test]

    def _new_tensor(self) -> dl.PETScMatrix:
        n = len(self._control.test.values())
        size = ((self._column.local_size(), self._column.size()), (PETSc.DECIDE, n))
        matrix = PETSc.Mat().createDense(size, comm=self._comm)
        matrix.setUp()
        matrix.assemble()
        return dl.PETScMatrix(matrix)

    def _fill(self) -> None:
        assembler, matrix = dl.cpp.fem.Assembler(), self.tensor.mat()

        def assemble() -> np.ndarray:
            assembler.assemble(self._column, self._form)
            return owned_values(self._column)

        matrix.getDenseArray()[:] = self._control.columns(assemble)
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
    linear : bool
        See `CompiledForms`.

    Raises
    ------
    InputError
        If the form does not depend on the control, or is not affine in u where it should be.

    Attributes
    ----------
    Cz : CachedTensor
        d residual/dz, (dU, dZ); rows of fixed degrees of freedom are zero.
    Wuz, Wmz : CachedTensor or None
        Second derivatives of r, (dU, dZ), (dM, dZ); None where they vanish.
    """

    def __init__(self, Vh, varf_handler: Callable, bc: list, bc0: list, *, linear: bool = False):
        control = self._control = ControlVariable(Vh[CONTROL])
        self._loaded_control = control_vector(Vh[CONTROL])
        z = control.symbol
        along = self._along = dl.TrialFunction(Vh[CONTROL]) if control.is_field else control.test
        super().__init__(Vh[:CONTROL], varf_handler, bc, bc0, linear=linear, symbols=(z,))
        u, m, p = self._functions
        self._work = u.vector().copy()
        residual, lagrangian = self._whole, ufl.replace(self._whole, {self._test: p})

        def second(first, like: dl.GenericVector, left: dl.GenericVector | None = None) -> CachedTensor | None:
            form = expanded(first, z, along)
            return None if form.empty() else matrix(form, like, left)

        def matrix(form, like: dl.GenericVector, left: dl.GenericVector | None) -> CachedTensor:
            if control.is_field:
                return CachedTensor(like.mpi_comm(), without_powers(form), left=left)
            return CachedColumns(like.mpi_comm(), form, control, like, left=left)

        self.Cz = matrix(expanded(residual, z, along), u.vector(), self.free)
        self.Wuz = second(dl.derivative(lagrangian, u, dl.TestFunction(Vh[STATE])), u.vector(), self.free)
        self.Wmz = second(dl.derivative(lagrangian, m, dl.TestFunction(Vh[PARAMETER])), m.vector())
        self._direction = control.direction()
        curvature = expanded(dl.derivative(lagrangian, z, control.test), z, self._direction)
        self._curvature = None if curvature.empty() else dl.Form(without_powers(curvature))

    def _solved_part(self, residual: Any) -> Any:
        z = self._control.symbol
        slope = expanded(residual, z, self._along)
        if slope.empty():
            raise InputError(
                "varf_handler: the form does not depend on the control z; use it, or hd.AcceleratedVariationalProblem "
                "for a problem without a control."
            )
        switched = any(switches_on(integral.integrand(), z) for integral in residual.integrals())
        self.additive = not (switched or {*self._functions[:2], z} & set(slope.coefficients()))
        return ufl.replace(residual, {z: ufl.classes.Zero(z.ufl_shape)}) if self.additive else residual

    def controlled_lagrangian(self, u: dl.Function, m: dl.Function, p: dl.Function, z: Any) -> Any:
        """r(u, m, z; p) with other functions and another control, a functional with the rules of the residual."""
        return ufl.replace(self.lagrangian(u, m, p), {self._control.symbol: z})

    def load(self, i: int, x: dl.GenericVector) -> None:
        if i != CONTROL:
            super().load(i, x)
            return
        self._loaded_control.zero()
        self._loaded_control.axpy(1.0, x)
        self._control.load(x)
        self._loads += 1

    def residual(self, out: dl.GenericVector) -> None:
        super().residual(out)
        if self.additive:
            self.update(self.Cz).tensor.mult(self._loaded_control, self._work)
            out.axpy(1.0, self._work)

    def apply_Wzz(self, direction: dl.GenericVector, out: dl.GenericVector) -> None:
        """Second derivative of r in z, z at the loaded point, (dZ,) primal to (dZ,) dual."""
        out.zero()
        if self._curvature is None:
            return
        self._control.load(direction, self._direction)
        if self._control.is_field:
            self._assembler.assemble(out, self._curvature)
        else:
            set_owned_values(out, self._control.by_component(lambda: scalar(self._curvature, out.mpi_comm()), out))


def control_vector(space) -> dl.GenericVector:
    """A zero control of a dolfin space or a `CoefficientSpace`."""
    if isinstance(space, CoefficientSpace):
        vector = dl.Vector(space.mesh().mpi_comm(), space.dim())
        vector.zero()
        return vector
    return dl.Function(space).vector()


def scalar(form: dl.Form, comm: MPI.Comm) -> float:
    """The value of a functional."""
    out = dl.cpp.la.Scalar(comm)
    dl.cpp.fem.Assembler().assemble(out, form)
    return out.get_scalar_value()


def _assign(constant: dl.Constant, values: np.ndarray) -> None:
    constant.assign(dl.Constant(values))
