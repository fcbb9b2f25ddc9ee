"""Weak forms rewritten so that they are assembled faster, to the same numbers.

The part of a residual that depends on neither parameter nor, in its derivative, state is split off, to be
assembled once; and integer powers are written out as products.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

import dolfin as dl

try:  # the name under which newer distributions ship dolfin's UFL
    import ufl_legacy as ufl  # one of the two is there
    from ufl_legacy.algorithms.map_integrands import map_integrand_dags
    from ufl_legacy.corealg.multifunction import MultiFunction
    from ufl_legacy.corealg.traversal import unique_pre_traversal
except ImportError:
    import ufl
    from ufl.algorithms.map_integrands import map_integrand_dags
    from ufl.corealg.multifunction import MultiFunction
    from ufl.corealg.traversal import unique_pre_traversal

LARGEST_POWER = 8


def split(residual, u: dl.Function, m: dl.Function) -> tuple[Any, Any] | None:
    """Split r(u, m) = (K u + f) + n(u, m) into terms whose matrix never changes and the others.

    Parameters
    ----------
    residual : ufl.Form
        Linear in a test function, with derivatives taken and a quadrature degree in each integral
        (`quadrature.with_fixed_degrees`): terms keep it, so that the parts add up to the residual to rounding.
    u, m : dolfin.Function

    Returns
    -------
    (constant, varying) : pair of ufl.Form, or None
        None where nothing can be gained.
    """
    constant: list[Any] = []
    varying = [i for i in residual.integrals() if i.integral_type() != "cell"]
    for integral in residual.integrals_by_type("cell"):
        for term in _terms(integral.integrand()):
            part = integral.reconstruct(integrand=term)
            (constant if _is_constant(part, u, m) else varying).append(part)
    gain = any(u in ufl.Form([i]).coefficients() for i in constant)
    if not gain or not any(i.integral_type() == "cell" for i in varying):
        return None
    return ufl.Form(constant), ufl.Form(varying)


def _terms(integrand) -> list:
    """Operands of nested sums."""
    if isinstance(integrand, ufl.classes.Sum):
        return [term for operand in integrand.ufl_operands for term in _terms(operand)]
    return [integrand]


def _is_constant(integral, u: dl.Function, m: dl.Function) -> bool:
    form = ufl.Form([integral])
    if m in form.coefficients() or switches_on(integral.integrand(), u):
        return False
    derivative = ufl.algorithms.expand_derivatives(dl.derivative(form, u))
    return u not in derivative.coefficients()


def switches_on(integrand, u: dl.Function) -> bool:
    """Whether there are conditions on u in it (signs are), whose derivative vanishes though they are not constant."""
    return any(
        isinstance(node, ufl.classes.Condition) and u in ufl.algorithms.extract_coefficients(node)
        for node in unique_pre_traversal(integrand)
    )


def expanded(form: Any, variable: Any, direction: Any) -> Any:
    """The derivative of `form` in a variable with all derivatives taken, empty where it vanishes."""
    return ufl.algorithms.expand_derivatives(dl.derivative(form, variable, direction))


class _PowersAsProducts(MultiFunction):
    expr = MultiFunction.reuse_if_untouched

    def power(self, o, base, exponent):
        if isinstance(exponent, ufl.classes.IntValue) and 2 <= int(exponent) <= LARGEST_POWER:
            return functools.reduce(operator.mul, [base] * int(exponent))
        return self.reuse_if_untouched(o, base, exponent)


def without_powers(form: Any) -> Any:
    """The form with u**3 as u u u, derivatives taken: compiled code would call `pow`, which costs more than the rest.

    Parameters
    ----------
    form : ufl.Form

    Returns
    -------
    ufl.Form
        Of the same quadrature degree, and equal to rounding.
    """
    expanded = ufl.algorithms.expand_derivatives(form)
    # a derivative that vanishes has lost its arguments, which the form compiler asks for
    return form if expanded.empty() else map_integrand_dags(_PowersAsProducts(), expanded)
