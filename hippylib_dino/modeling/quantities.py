"""Quantities of interest of a control problem, given as forms, with their derivatives."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import dolfin as dl
import numpy as np
from hippylib import ADJOINT, PARAMETER, STATE

from hippylib_dino.errors import InputError
from hippylib_dino.modeling.changes import Source
from hippylib_dino.modeling.compiled_forms import CachedTensor
from hippylib_dino.modeling.control_forms import CONTROL, ControlVariable, scalar
from hippylib_dino.modeling.form_splitting import expanded, ufl, without_powers
from hippylib_dino.modeling.quadrature import with_fixed_degrees
from hippylib_dino.modeling.spaces import DofOrder, owned_values, set_owned_values

VARIABLES = (STATE, PARAMETER, CONTROL)


class FormQuantity:
    """Q(u, m, z), a functional that is given as a form; compiled once, by variable and when first asked for.

    Its derivatives are integrated by its own quadrature rules, so that they are those of the number that is computed.
    What the form refers to may change between evaluations, as for `hd.AcceleratedVariationalProblem`.

    The methods have the names of SOUPy's quantities of interest, and of hIPPYlib's misfits.

    Parameters
    ----------
    Vh : list of four
        The spaces of the `hd.ControlProblem`.
    form : callable ``(u, m, z) -> form``
        Of rank 0.

    Raises
    ------
    InputError
        If there are not four spaces, or the form is no functional of them.

    Examples
    --------
    ::

        quantity = hd.ouu.FormQuantity(pde.Vh, lambda u, m, z: 0.5 * (u - target) ** 2 * dl.dx)
        quantity.cost([u, m, None, z])
    """

    def __init__(self, Vh, form: Callable):
        if len(Vh) != CONTROL + 1:
            raise InputError(f"Vh: expected four spaces, of state, parameter, adjoint and control, got {len(Vh)}.")
        self._spaces = Vh
        self._control = ControlVariable(Vh[CONTROL])
        self._functions = {i: dl.Function(Vh[i]) for i in (STATE, PARAMETER)}
        self._symbols: dict[int, Any] = {**self._functions, CONTROL: self._control.symbol}
        self._given = form
        self._comm = Vh[STATE].mesh().mpi_comm()
        self._assembler = dl.cpp.fem.Assembler()
        self._loads = 0
        self._make()

    def _make(self) -> None:
        """Take the form as it is now."""
        symbols = [self._symbols[i] for i in VARIABLES]
        form = self._given(*symbols)
        if not isinstance(form, ufl.Form) or form.arguments():
            raise InputError(
                "form: expected a callable (u, m, z) that gives a functional, a UFL form without test functions, for "
                f"instance 0.5*u**2*dl.dx, got {type(form).__name__}."
            )
        self._source = Source(functools.partial(self._given, *symbols), tuple, symbols, self._comm)
        self._form = with_fixed_degrees(self._source.form)
        self._value = dl.Form(without_powers(self._form))
        self._gradients: dict[int, dl.Form | None] = {}
        self._hessians: dict[tuple[int, int], Any] = {}

    def depends_on(self, i: int) -> bool:
        """Whether the form has variable `i` in it."""
        return self._symbols[i] in self._form.coefficients()

    def _load(self, x: list) -> None:
        if not self._source.is_current():
            self._make()
        for i in (STATE, PARAMETER):
            if x[i] is not None:
                vector = self._functions[i].vector()
                vector.zero()
                vector.axpy(1.0, x[i])
                vector.apply("insert")
        if len(x) > CONTROL and x[CONTROL] is not None:
            self._control.load(x[CONTROL])
        self._loads += 1

    def cost(self, x: list) -> float:
        """Q at ``x = [u, m, p, z]``; what the form does not depend on may be None."""
        self._load(x)
        return scalar(self._value, self._comm)

    def grad(self, i: int, x: list, out: dl.GenericVector) -> None:
        """out = ∂Q/∂(variable i) at `x`, dual."""
        out.zero()
        if i not in VARIABLES or not self.depends_on(i):
            return
        self._load(x)
        if i not in self._gradients:
            form = expanded(self._form, self._symbols[i], self._test(i))
            self._gradients[i] = None if form.empty() else dl.Form(without_powers(form))
        self._assemble_vector(self._gradients[i], i, out)

    def _assemble_vector(self, form: dl.Form | None, i: int, out: dl.GenericVector) -> None:
        """A form that is linear in the test function of variable `i`, or in the constant that stands for it."""
        if form is None:
            return
        if i != CONTROL or self._control.is_field:
            self._assembler.assemble(out, form)
        else:
            set_owned_values(out, self._control.by_component(lambda: scalar(form, self._comm), out))

    def _test(self, i: int):
        return self._control.test if i == CONTROL else dl.TestFunction(self._spaces[i])

    def setLinearizationPoint(self, x: list, gauss_newton_approx: bool = False) -> None:
        """The point of `apply_ij`; second derivatives of Q stay in Gauss-Newton's approximation too."""
        self._point = [None if v is None else v.copy() for v in x]

    def apply_ij(self, i: int, j: int, dir: dl.GenericVector, out: dl.GenericVector) -> None:
        """out = ∂²Q/∂(i)∂(j) dir at the linearisation point, dual."""
        out.zero()
        if ADJOINT in (i, j) or not (self.depends_on(i) and self.depends_on(j)):
            return
        self._load(self._point)
        if (i, j) == (STATE, STATE):  # applied often, and for quadratic quantities always the same
            if (i, j) not in self._hessians:
                first = dl.derivative(self._form, self._symbols[STATE], dl.TestFunction(self._spaces[STATE]))
                form = expanded(first, self._symbols[STATE], dl.TrialFunction(self._spaces[STATE]))
                self._hessians[i, j] = None if form.empty() else CachedTensor(self._comm, without_powers(form))
            matrix = self._hessians[i, j]
            if matrix is not None:
                matrix.update(self._loads)
                matrix.tensor.mult(dir, out)
            return
        if (i, j) not in self._hessians:
            along = self._control.direction() if j == CONTROL else dl.Function(self._spaces[j])
            first = dl.derivative(self._form, self._symbols[i], self._test(i))
            form = expanded(first, self._symbols[j], along)
            self._hessians[i, j] = along, None if form.empty() else dl.Form(without_powers(form))
        along, form = self._hessians[i, j]
        if j == CONTROL:
            self._control.load(dir, along)
        else:
            set_owned_values(along.vector(), owned_values(dir))
        self._assemble_vector(form, i, out)

    def of_state(self) -> tuple[Callable[[np.ndarray], float], Callable[[np.ndarray], np.ndarray]]:
        """Q and its gradient as functions of the whole state alone, (dU,) in canonical order, to (dU,), dual.

        For `LatentQuadratic.reduce`.

        Raises
        ------
        InputError
            If Q depends on parameter or control.
        """
        for i, name in ((PARAMETER, "parameter"), (CONTROL, "control")):
            if self.depends_on(i):
                raise InputError(
                    f"form: expected a quantity of the state alone, got one that depends on the {name}; a surrogate of "
                    "the state cannot reduce it. Learn it as the observable."
                )
        order, u = DofOrder(self._spaces[STATE]), dl.Function(self._spaces[STATE]).vector()
        out = u.copy()

        def value(state: np.ndarray) -> float:
            set_owned_values(u, order.from_array(state))
            return self.cost([u, None])

        def gradient(state: np.ndarray) -> np.ndarray:
            set_owned_values(u, order.from_array(state))
            self.grad(STATE, [u, None], out)
            return order.to_array(owned_values(out))

        return value, gradient


def tracking(Vh, target, weight=1.0) -> FormQuantity:
    """½ ∫ w |u - u_d|² dx, the distance to a target state.

    Parameters
    ----------
    Vh : list of four
        See `FormQuantity`.
    target : dolfin.Function, dolfin.Expression or UFL expression
        u_d, of the shape of u.
    weight : UFL expression
        w; an indicator leaves a part of the domain out.
    """
    return FormQuantity(Vh, lambda u, m, z: 0.5 * weight * dl.inner(u - target, u - target) * dl.dx)


def flux(Vh, measure, conductivity: Callable = dl.exp) -> FormQuantity:
    """∫ κ(m) ∇u·n ds, what a scalar state loses through a part of the boundary, against the gradient.

    Parameters
    ----------
    Vh : list of four
        See `FormQuantity`.
    measure : UFL measure
        Of the part of the boundary, for instance ``ds(1)``.
    conductivity : callable ``m -> κ``
    """
    normal = dl.FacetNormal(Vh[STATE].mesh())
    return FormQuantity(Vh, lambda u, m, z: conductivity(m) * dl.inner(dl.grad(u), normal) * measure)


def dissipation(Vh, viscosity, velocity: Callable = lambda u: u) -> FormQuantity:
    """½ ∫ 2ν ε(v):ε(v) dx, half the power that a viscous flow loses, ε(v) the symmetric gradient.

    Parameters
    ----------
    Vh : list of four
        See `FormQuantity`.
    viscosity : float or UFL expression
        ν.
    velocity : callable ``u -> v``
        The velocity of a mixed state, for instance ``lambda u: dl.split(u)[0]``.
    """

    def form(u, m, z):
        strain = dl.sym(dl.grad(velocity(u)))
        return viscosity * dl.inner(strain, strain) * dl.dx

    return FormQuantity(Vh, form)
