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

    Both parts are integrated by the rule that the whole residual would get, so that their sum is the residual
    to rounding.

    Parameters
    ----------
    residual : ufl.Form
        Linear in a test function.
    u, m : dolfin.Function

    Returns
    -------
    (constant, varying) : pair of ufl.Form, or None
        None where nothing can be gained, or where the rule of the whole cannot be told term by term.
    """
    cells = [i for i in residual.integrals() if i.integral_type() == "cell"]
    domains = residual.ufl_domains()
    # a part of the mesh integrates its own terms and those of the whole mesh together, by a common rule
    simple = len(domains) == 1 and all(i.subdomain_id() == "everywhere" for i in cells)
    chosen_by_user = dl.parameters["form_compiler"]["quadrature_degree"] not in (None, -1)
    if not cells or not simple or chosen_by_user:
        return None
    degrees = _cell_degrees(residual)
    if degrees != _cell_degrees(dl.derivative(residual, u)) or len(degrees) != 1:
        return None
    constant: list[Any] = []
    varying = [i for i in residual.integrals() if i.integral_type() != "cell"]
    for integral in cells:
        metadata = {**integral.metadata(), "quadrature_degree": degrees[0]}
        for term in _terms(integral.integrand()):
            part = integral.reconstruct(integrand=term, metadata=metadata)
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
    if m in form.coefficients() or (u in form.coefficients() and _switches(integral.integrand())):
        return False
    derivative = ufl.algorithms.expand_derivatives(dl.derivative(form, u))
    return u not in derivative.coefficients()


def _switches(integrand) -> bool:
    """Whether there are conditions in it (signs are), whose derivative vanishes though they are not constant."""
    return any(isinstance(node, ufl.classes.Condition) for node in unique_pre_traversal(integrand))


def _cell_degrees(form) -> list[int]:
    """Quadrature degrees of the cell integrals, as the form compiler will take them."""
    data = ufl.algorithms.compute_form_data(form)
    degrees = set()
    for group in data.integral_data:
        if group.integral_type == "cell":
            for integral in group.integrals:
                metadata = integral.metadata()
                degrees.add(metadata.get("quadrature_degree", metadata["estimated_polynomial_degree"]))
    return sorted(degrees)


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
