"""The forms of a variational problem, compiled once, and their matrices, assembled when something changed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import dolfin as dl
import numpy as np
from hippylib import ADJOINT, PARAMETER, STATE
from mpi4py import MPI
from petsc4py import PETSc

from hippylib_dino.modeling.changes import Source, coefficient_values, same_values
from hippylib_dino.modeling.form_splitting import split, ufl, without_powers
from hippylib_dino.modeling.linearity import check_linear
from hippylib_dino.modeling.quadrature import linear_with_fixed_degrees, with_fixed_degrees
from hippylib_dino.modeling.spaces import destroy_with, on_all, owned_values, set_owned_values


class CompiledForms:
    """Residual, first and second derivatives of r(u, m; p) at a point that is loaded into fixed functions.

    All are integrated by the rules of the residual (`quadrature.with_fixed_degrees`), so that the derivatives are those
    of what is computed.

    Parameters
    ----------
    Vh : list of three dolfin.FunctionSpace
    varf_handler : callable ``(u, m, p, *symbols) -> form``
    bc, bc0 : lists of dolfin.DirichletBC
    linear : bool
        Whether r is affine in u; then its two parts have rules of their own, as hIPPYlib's have.
    symbols : sequence
        Further arguments of the handler.

    Raises
    ------
    InputError
        If r is not affine in u where it should be.

    Attributes
    ----------
    A : CachedTensor
        d residual/du, (dU, dU); rows and columns of fixed degrees of freedom are zero but for the diagonal.
    C : CachedTensor
        d residual/dm, (dU, dM); rows of fixed degrees of freedom are zero.
    Wuu, Wmu, Wmm : CachedTensor
        Second derivatives of r, (dU, dU), (dM, dU), (dM, dM); zero where a state degree of freedom is fixed.
    free : dolfin vector
        1 for degrees of freedom of the state that no condition fixes, else 0.
    source : Source
        The handler's form, and whether it would give another one now.
    bcs_agree : bool
        Whether `bc` and `bc0` fix the same degrees of freedom.
    n_residuals : int
        Assemblies of the residual so far.
    """

    def __init__(
        self, Vh, varf_handler: Callable, bc: list, bc0: list, *, linear: bool = False, symbols: Sequence[Any] = ()
    ):
        self._functions = [dl.Function(V) for V in Vh]
        u, m, p = self._functions
        test = self._test = dl.TestFunction(Vh[ADJOINT])
        comm = u.vector().mpi_comm()
        own = [u, m, *symbols]
        self.source = Source(lambda: varf_handler(u, m, test, *symbols), lambda: (bc, bc0), own, comm)
        if linear:
            check_linear(self.source.form, u)
            self._whole = linear_with_fixed_degrees(self.source.form, u)
        else:
            self._whole = with_fixed_degrees(self.source.form)
        residual = self._solved_part(self._whole)
        lagrangian = ufl.replace(residual, {test: p})
        by_u = dl.derivative(lagrangian, u, dl.TestFunction(Vh[STATE]))
        by_m = dl.derivative(lagrangian, m, dl.TestFunction(Vh[PARAMETER]))
        du, dm = dl.TrialFunction(Vh[STATE]), dl.TrialFunction(Vh[PARAMETER])

        free = self.free = _free(u.vector(), bc0)
        self.bcs_agree = on_all(comm, np.array_equal(owned_values(free), owned_values(_free(u.vector(), bc))))
        jacobian = without_powers(dl.derivative(residual, u, du))
        A, F = dl.Form(jacobian), dl.Form(without_powers(residual))
        self._bc = bc
        self._residual = dl.cpp.fem.SystemAssembler(A, F, bc)
        self._gradient_form = by_m
        self._gradient: dl.Form | None = None
        self._assembler = dl.cpp.fem.Assembler()
        self._loads = 0
        self.n_residuals = 0
        # hIPPYlib applies bc0 to A on both sides while it assembles, to the others afterwards
        assemble = dl.cpp.fem.SystemAssembler(A, F, bc0).assemble
        self._parts: SplitResidual | None = None
        forms = split(residual, u, m)
        if forms is not None:
            parts = SplitResidual(forms[0], forms[1], u, du, free, bc0)
            if self._agrees(parts):
                self._parts = parts
                me = weakref.proxy(self)  # or the forms would wait for a garbage collection, which sees no PETSc memory
                assemble = lambda tensor: parts.assemble_matrix(tensor, me._loads)  # noqa: E731
        self.A = CachedTensor(comm, jacobian, A, assemble=assemble)
        self.C = CachedTensor(comm, without_powers(dl.derivative(residual, m, dm)), left=free)
        self.Wuu = CachedTensor(comm, dl.derivative(by_u, u, du), left=free, right=free)
        self.Wmu = CachedTensor(comm, dl.derivative(by_m, u, du), right=free)
        self.Wmm = CachedTensor(comm, dl.derivative(by_m, m, dm))

    def _solved_part(self, residual: Any) -> Any:
        """What of the residual is assembled whenever the point changes."""
        return residual

    def lagrangian(self, u: dl.Function, m: dl.Function, p: dl.Function) -> Any:
        """r(u, m; p) with other functions, a functional with the rules of the residual."""
        return ufl.replace(self._whole, {self._functions[STATE]: u, self._functions[PARAMETER]: m, self._test: p})

    def load(self, i: int, x: dl.GenericVector) -> None:
        """Make `x` the state, parameter or adjoint (``i``) at which everything is assembled from now on."""
        vector = self._functions[i].vector()
        vector.zero()
        vector.axpy(1.0, x)
        vector.apply("insert")
        self._loads += 1

    def residual(self, out: dl.GenericVector) -> None:
        """Residual at the loaded point, (dU,), dual; u minus its boundary value (scaled) where u is fixed."""
        self.n_residuals += 1
        u = self._functions[STATE].vector()
        if self._parts is not None:
            self._parts.assemble(out, self._loads)
            for bc in self._bc:
                bc.apply(out, u)
            if self._parts.norm_of_fixed(out) == 0.0:
                return
        # u is not yet at its boundary values: their gap acts on the free degrees of freedom through A
        self._residual.assemble(out, u)

    def _agrees(self, parts: SplitResidual) -> bool:
        """Whether `parts` add up to the residual at some point; a form compiler may choose other rules for them."""
        for function in self._functions[:2]:
            vector = function.vector()
            set_owned_values(vector, 0.5 + 0.5 * np.cos(np.arange(vector.local_size())))
        u = self._functions[STATE].vector()
        for bc in self._bc:
            bc.apply(u)
        whole, sum_of_parts = u.copy(), u.copy()
        self._residual.assemble(whole, u)
        parts.assemble(sum_of_parts, self._loads)
        self._loads += 1
        for bc in self._bc:
            bc.apply(sum_of_parts, u)
        sum_of_parts.axpy(-1.0, whole)
        return sum_of_parts.norm("l2") <= 1e-10 * whole.norm("l2")

    def gradient(self, out: dl.GenericVector) -> None:
        """dr/dm at the loaded point, (dM,), dual."""
        if self._gradient is None:
            self._gradient = dl.Form(self._gradient_form)
        out.zero()
        self._assembler.assemble(out, self._gradient)

    def update(self, matrix: CachedTensor) -> CachedTensor:
        """`matrix` at the loaded point, assembled if what it depends on changed."""
        matrix.update(self._loads)
        return matrix


class SplitResidual:
    """r = K u + f + n(u, m) and its derivative, with K and f assembled when one of their coefficients changed.

    Parameters
    ----------
    constant, varying : ufl.Form
        The two parts of the residual, see `split`.
    u : dolfin.Function
    du : trial function of the state
    free : dolfin vector
        1 for degrees of freedom that no condition fixes, else 0.
    bc0 : list of dolfin.DirichletBC
    """

    def __init__(self, constant, varying, u: dl.Function, du, free: dl.GenericVector, bc0: list):
        comm = self._comm = u.vector().mpi_comm()
        self._same_pattern: bool | None = None
        self._u = u
        self._assembler = dl.cpp.fem.Assembler()
        jacobian, at_zero = dl.derivative(constant, u, du), ufl.replace(constant, {u: dl.Function(u.function_space())})
        K, f = dl.Form(jacobian), dl.Form(at_zero)
        self._varying = dl.Form(without_powers(varying))
        self._derivative = dl.Form(without_powers(dl.derivative(varying, u, du)))
        self._K = CachedTensor(comm, jacobian, K)
        self._K_fixed = CachedTensor(comm, jacobian, K, assemble=dl.cpp.fem.SystemAssembler(K, f, bc0).assemble)
        self._f = CachedTensor(comm, at_zero, f)
        self._free, self._fixed = free, free.copy()
        self._fixed[:] = 1.0
        self._fixed.axpy(-1.0, free)
        self._Ku = u.vector().copy()

    def assemble(self, out: dl.GenericVector, loads: int) -> None:
        """The residual, without boundary conditions."""
        self._K.update(loads)
        self._f.update(loads)
        self._assembler.assemble(out, self._varying)
        self._K.tensor.mult(self._u.vector(), self._Ku)
        out.axpy(1.0, self._Ku)
        out.axpy(1.0, self._f.tensor)

    def _pattern(self, mat: PETSc.Mat) -> PETSc.Mat.Structure:
        """Whether K has the entries of dn/du, as it does but for terms on facets; K has no others."""
        if self._same_pattern is None:
            mine, other = mat.getValuesCSR(), self._K_fixed.mat.getValuesCSR()
            same = all(np.array_equal(a, b) for a, b in zip(mine[:2], other[:2], strict=True))
            self._same_pattern = on_all(self._comm, same)
        structure = PETSc.Mat.Structure
        return structure.SAME_NONZERO_PATTERN if self._same_pattern else structure.UNKNOWN_NONZERO_PATTERN

    def norm_of_fixed(self, residual: dl.GenericVector) -> float:
        """Euclidean norm of the entries of fixed degrees of freedom."""
        entries = residual.copy()
        entries *= self._fixed
        return entries.norm("l2")

    def assemble_matrix(self, tensor: dl.PETScMatrix, loads: int) -> None:
        """A = K + dn/du with zero rows and columns of fixed degrees of freedom, but for the diagonal."""
        self._K_fixed.update(loads)
        self._assembler.assemble(tensor, self._derivative)
        mat, free = tensor.mat(), dl.as_backend_type(self._free).vec()
        mat.diagonalScale(free, free)
        mat.axpy(1.0, self._K_fixed.mat, structure=self._pattern(mat))
        mat.destroy()  # references, which petsc4py would keep
        free.destroy()


class CachedTensor:
    """A matrix or vector, reassembled into the same tensor when a coefficient of its form changed.

    Parameters
    ----------
    comm : MPI.Comm
    ufl_form : ufl.Form
        Bilinear or linear.
    form : dolfin.Form, optional
        The same, compiled; compiled at the first assembly if absent.
    assemble : callable ``assemble(tensor)``, optional
    left, right : dolfin vectors, optional
        Diagonal scalings, 0 for rows and columns to be zeroed and 1 for the others.

    Attributes
    ----------
    tensor : dolfin.PETScMatrix, dolfin.PETScVector or None
        None before the first assembly.
    mat : PETSc.Mat or None
        The same, for PETSc, if it is a matrix.
    n_assemblies : int
    """

    def __init__(self, comm: MPI.Comm, ufl_form, form: dl.Form = None, *, assemble=None, left=None, right=None):
        self._comm, self._ufl_form, self._form = comm, ufl_form, form
        self._assemble, self._left, self._right = assemble, left, right
        self._checked = -1
        self._seen: list[np.ndarray | None] = []
        self.tensor: dl.PETScMatrix | dl.PETScVector = None
        self.mat: PETSc.Mat = None
        self.n_assemblies = 0

    def update(self, loads: int) -> None:
        """Assemble if a coefficient changed; nothing was loaded since the last time if `loads` is as then."""
        if loads == self._checked:
            return
        if self._form is None:
            self._form = dl.Form(self._ufl_form)
        values = [coefficient_values(c) for c in self._coefficients()]
        if self.tensor is not None and on_all(self._comm, same_values(values, self._seen, unknown=False)):
            self._checked = loads
            return
        self._checked, self._seen = -1, []  # until it is whole: an exception must not leave half a matrix
        if self.tensor is None:
            self.tensor = self._new_tensor()
        self._fill()
        if self.mat is None and isinstance(self.tensor, dl.PETScMatrix):
            self.mat = self.tensor.mat()
            self._scalings = [s if s is None else dl.as_backend_type(s).vec() for s in (self._left, self._right)]
            destroy_with(self, self._comm, self.mat, *(s for s in self._scalings if s is not None))
        if self.mat is not None and any(s is not None for s in self._scalings):
            self.mat.diagonalScale(*self._scalings)
        self._checked, self._seen = loads, values
        self.n_assemblies += 1

    def _new_tensor(self) -> dl.PETScMatrix | dl.PETScVector:
        return (dl.PETScMatrix if self._form.rank() == 2 else dl.PETScVector)(self._comm)

    def _fill(self) -> None:
        """Assemble into the tensor."""
        if self._assemble is None:
            dl.cpp.fem.Assembler().assemble(self.tensor, self._form)
        else:
            self._assemble(self.tensor)

    def _coefficients(self) -> list:
        """Those that the compiled form reads: derivatives drop some."""
        everything = self._ufl_form.coefficients()
        return [everything[self._form.original_coefficient_position(i)] for i in range(self._form.num_coefficients())]


def _free(like: dl.GenericVector, bcs: list) -> dl.GenericVector:
    """1 for the degrees of freedom that no condition fixes, else 0."""
    out = like.copy()
    out[:] = 1.0
    for bc in bcs:
        homogeneous = dl.DirichletBC(bc)
        homogeneous.homogenize()
        homogeneous.apply(out)
    return out
