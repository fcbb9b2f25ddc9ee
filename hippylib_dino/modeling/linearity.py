"""Whether a residual is affine in the state, as ``is_fwd_linear=True`` says."""

from __future__ import annotations

from typing import Any

import dolfin as dl

from hippylib_dino.errors import InputError
from hippylib_dino.modeling.form_splitting import switches_on, ufl


def check_linear(residual: Any, u: dl.Function) -> None:
    """Raise `InputError` unless the residual is affine in u.

    Parameters
    ----------
    residual : ufl.Form
        Linear in a test function.
    u : dolfin.Function
    """
    expanded = ufl.algorithms.expand_derivatives(residual)
    slope = ufl.algorithms.expand_derivatives(dl.derivative(expanded, u, dl.TrialFunction(u.function_space())))
    # a condition on u has no derivative in UFL, and yet what it chooses is not affine
    if u in slope.coefficients() or any(switches_on(integral.integrand(), u) for integral in expanded.integrals()):
        raise InputError(
            "is_fwd_linear: expected False for this varf_handler, got True: its form is not linear in the state u, "
            "and one linear solve does not solve it. Pass is_fwd_linear=False."
        )
