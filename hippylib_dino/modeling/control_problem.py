"""A PDE with a control: states u(m, z), derivatives in m and z from one factorization."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import cast

import dolfin as dl
import numpy as np
from hippylib import ADJOINT, PARAMETER, STATE
from petsc4py import PETSc

from hippylib_dino.errors import InputError
from hippylib_dino.modeling.control_forms import (
    CONTROL,
    CoefficientOrder,
    CoefficientSpace,
    ControlForms,
    ControlVariable,
    control_vector,
    scalar,
)
from hippylib_dino.modeling.form_splitting import expanded
from hippylib_dino.modeling.spaces import DofOrder, check_vector, owned_values, set_owned_values
from hippylib_dino.modeling.variational_problem import AcceleratedVariationalProblem


class ControlProblem(AcceleratedVariationalProblem):
    """A steady variational problem r(u, m, z; p) = 0 with a control z.

    Everything of `AcceleratedVariationalProblem` holds, with one more variable.  Points are x = [u, m, p, z], with
    ``CONTROL = 3``; methods have the names that SOUPy (github.com/hippylib/soupy) gives them, so that its models and
    risk measures take this class.  A point [u, m, p] means the problem at the control `control`, so that hIPPYlib's own
    loops solve inverse problems at a fixed control.

    The control enters the form, not the Dirichlet conditions: one on the boundary is imposed weakly.

    Parameters
    ----------
    Vh : list of four
        Spaces of state, parameter, adjoint and control.  The control's is a dolfin space, then `z` is a
        `dl.Function`, or a `CoefficientSpace` of dZ numbers, then `z` is a `dl.Constant` with components ``z[j]``.
    varf_handler : callable ``(u, m, p, z) -> form``
    bc, bc0, is_fwd_linear, **options
        See `AcceleratedVariationalProblem`.

    Raises
    ------
    InputError
        If there are not four spaces, an option is unknown, or the form does not depend on the control.

    Attributes
    ----------
    reference : dolfin vector
        A control in whose neighbourhood others are: initial guesses of nonlinear solves start there.  Zero, until
        `hd.generate` makes it the mean of its controls.

    Examples
    --------
    ::

        Vh = [states, parameters, states, hd.ouu.CoefficientSpace(mesh, 49)]
        pde = hd.ControlProblem(Vh, lambda u, m, p, z: ..., bc, bc0)
    """

    _given = (PARAMETER, CONTROL)

    def __init__(self, Vh, varf_handler: Callable, bc, bc0, is_fwd_linear: bool = False, **options):
        if len(Vh) != CONTROL + 1:
            raise InputError(f"Vh: expected four spaces, of state, parameter, adjoint and control, got {len(Vh)}.")
        self._current = control_vector(Vh[CONTROL])
        self.reference = control_vector(Vh[CONTROL])
        super().__init__(Vh, varf_handler, bc, bc0, is_fwd_linear, **options)
        self.control_order = control_order(Vh[CONTROL])

    def _new_forms(self) -> ControlForms:
        return ControlForms(self.Vh, self.varf_handler, self.bc, self.bc0, linear=self.is_fwd_linear)

    def _symbols(self) -> list:
        return [ControlVariable(self.Vh[CONTROL]).symbol]

    @property
    def _forms(self) -> ControlForms:
        return cast(ControlForms, super()._forms)

    # ---- controls ------------------------------------------------------------------------

    @property
    def control(self) -> dl.GenericVector:
        """The control at points [u, m, p], a copy; zero at first.  Takes a vector, or an array (dZ,)."""
        return self._current.copy()

    @control.setter
    def control(self, z: dl.GenericVector | np.ndarray) -> None:
        self._current = self.control_from_array(z) if isinstance(z, np.ndarray) else self._checked(z).copy()

    @contextlib.contextmanager
    def at(self, z: dl.GenericVector) -> Iterator[None]:
        """Within the block, `z` is the control at points [u, m, p]."""
        before, self.control = self._current, z
        try:
            yield
        finally:
            self._current = before

    def control_from_array(self, z: np.ndarray) -> dl.GenericVector:
        """A control vector of an array (dZ,), coefficients or canonical dof order.

        Raises
        ------
        InputError
            If the array has another shape.
        """
        dim = self.control_order.dim
        if np.shape(z) != (dim,):
            raise InputError(f"control: expected shape ({dim},), one number for each control, got {np.shape(z)}.")
        vector = self.generate_control()
        set_owned_values(vector, self.control_order.from_array(np.asarray(z, dtype=float)))
        return vector

    def control_to_array(self, z: dl.GenericVector) -> np.ndarray:
        """The array (dZ,) of a control vector, the same on every rank."""
        return self.control_order.to_array(owned_values(z))

    def _checked(self, z: dl.GenericVector) -> dl.GenericVector:
        check_vector(z, self._current, "control")
        return z

    def generate_control(self) -> dl.GenericVector:
        """A zero control."""
        return control_vector(self.Vh[CONTROL])

    def init_control(self, z: dl.GenericVector) -> None:
        """Shape `z` as a control."""
        z.init(self._current.local_range())

    def _variable(self, x: list, i: int) -> dl.GenericVector:
        if i == CONTROL:
            return self._current if len(x) <= CONTROL or x[CONTROL] is None else self._checked(x[CONTROL])
        return x[i]

    # ---- derivatives in the control ------------------------------------------------------

    Cz = property(lambda self: self._matrix("Cz"), doc="d residual/dz at the linearisation point.")

    def evalGradientControl(self, x: list, out: dl.GenericVector) -> None:
        """out = C_zᵀ p at ``x = [u, m, p, z]``, (dZ,), dual; what p has on the Dirichlet boundary does not count."""
        self._refresh()
        self._load({i: self._variable(x, i) for i in (STATE, PARAMETER, CONTROL)})
        self._forms.update(self._forms.Cz).tensor.transpmult(x[ADJOINT], out)

    def control_derivative(self) -> PETSc.Mat:
        """C_z (dU, dZ) at the linearisation point, dense for coefficients; valid until something else is assembled."""
        return self._linearized("Cz").mat

    def solveIncremental(self, out: dl.GenericVector, rhs: dl.GenericVector, is_adj: bool) -> None:
        free = rhs.copy()
        free *= self._forms.free
        super().solveIncremental(out, free, is_adj)

    def apply_ij(self, i: int, j: int, dir: dl.GenericVector, out: dl.GenericVector) -> None:
        """Second variation of r at the linearisation point, tested in variable `i`, in direction `dir` of `j`."""
        if CONTROL not in (i, j):
            super().apply_ij(i, j, dir, out)
            return
        if (i, j) == (CONTROL, CONTROL):
            out.zero()
            if not self._gauss_newton:
                self._load(self._linearization_point())
                self._forms.apply_Wzz(dir, out)
            return
        other = min(i, j)
        name = {ADJOINT: "Cz", STATE: "Wuz", PARAMETER: "Wmz"}[other]
        if getattr(self._forms, name) is None or (self._gauss_newton and other != ADJOINT):
            out.zero()
            return
        matrix = self._linearized(name).tensor
        (matrix.transpmult if i == CONTROL else matrix.mult)(dir, out)

    def apply_ijk(
        self, i: int, j: int, k: int, x: list, jdir: dl.GenericVector, kdir: dl.GenericVector, out: dl.GenericVector
    ) -> None:
        """Third variation of r at `x`, tested in variable `i`, in directions `jdir` of `j` and `kdir` of `k`."""
        self._refresh()
        control = ControlVariable(self.Vh[CONTROL])

        def symbol(n: int, vector: dl.GenericVector) -> dl.Function | dl.Constant:
            if n == CONTROL:
                made = control.direction()
                control.load(vector, made)
                return made
            made = dl.Function(self.Vh[n])
            made.vector().axpy(1.0, vector)
            return made

        variables = [symbol(n, self._variable(x, n)) for n in range(CONTROL + 1)]
        form = self._forms.controlled_lagrangian(*variables)
        for n, direction in ((j, jdir), (k, kdir)):
            form = dl.derivative(form, variables[n], symbol(n, direction))
        out.zero()
        test = control.test if i == CONTROL else dl.TestFunction(self.Vh[i])
        form = expanded(form, variables[i], test)
        if form.empty():
            return
        if i == CONTROL and not control.is_field:
            compiled = dl.Form(form)
            set_owned_values(out, control.by_component(lambda: scalar(compiled, out.mpi_comm()), out))
            return
        dl.assemble(form, tensor=out)
        if i in (STATE, ADJOINT):
            out *= self._forms.free


def control_order(space) -> DofOrder | CoefficientOrder:
    """Canonical order of the entries of a control."""
    return CoefficientOrder(space) if isinstance(space, CoefficientSpace) else DofOrder(space)
