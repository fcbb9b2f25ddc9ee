"""One quadrature rule for a form and all its derivatives.

UFL estimates the degree at which an integral is computed from what is in it, and finds a higher one for the derivative
of exp(m) than for exp(m).  The derivative of a form would then not be that of the number that is computed: where m
varies much within a cell, by per cents.  Here the degree that the compiler takes for each integral of a form is written
into it, and derivatives inherit it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import dolfin as dl

from hippylib_dino.modeling.form_splitting import ufl

_BY_ESTIMATE = (None, -1, "auto")


def with_fixed_degrees(form: Any) -> Any:
    """The form, derivatives taken, with the degree of each of its integrals written into it.

    Integrals over numbered parts of a mesh and over all of it are added up part by part before their degree is
    estimated, so that the same integral may have one degree here and another there; that is kept.

    Parameters
    ----------
    form : ufl.Form

    Returns
    -------
    ufl.Form
        Which assembles to the same numbers, as do derivatives of these numbers from derivatives of it.
    """
    expanded = ufl.algorithms.expand_derivatives(form)
    if expanded.empty():
        return expanded
    degrees = _degrees(expanded)
    return ufl.Form([part for integral in expanded.integrals() for part in _fixed(integral, degrees)])


def linear_with_fixed_degrees(residual: Any, u: dl.Function) -> Any:
    """The same of a residual that is affine in u, a(u; v) - l(v), of which hIPPYlib assembles a and l by themselves."""
    trial = dl.TrialFunction(u.function_space())
    left, right = ufl.system(ufl.replace(ufl.algorithms.expand_derivatives(residual), {u: trial}))
    left, right = (with_fixed_degrees(part) for part in (left, right))
    return ufl.replace(left, {trial: u}) - right


def highest_degree(form: Any) -> int:
    """The highest degree at which an integral of the form is computed."""
    expanded = ufl.algorithms.expand_derivatives(form)
    return 0 if expanded.empty() else max(d for parts in _degrees(expanded).values() for d in parts.values())


def _degrees(form: Any) -> dict[tuple, dict]:
    """For each domain, type of integral and metadata, the degree by part of the mesh, as the form compiler takes it."""
    degrees: dict[tuple, dict] = defaultdict(dict)
    for group in ufl.algorithms.compute_form_data(form).integral_data:
        for integral in group.integrals:
            metadata = dict(integral.metadata())
            estimated = metadata.pop("estimated_polynomial_degree")
            asked = metadata.get("quadrature_degree", dl.parameters["form_compiler"]["quadrature_degree"])
            degree = estimated if asked in _BY_ESTIMATE else asked
            degrees[_key(integral, metadata)][group.subdomain_id] = int(degree)
    return degrees


def _key(integral: Any, metadata: dict) -> tuple:
    described = tuple(sorted((name, repr(value)) for name, value in metadata.items()))
    return integral.ufl_domain(), integral.integral_type(), described


def _fixed(integral: Any, degrees: dict[tuple, dict]) -> Iterator[Any]:
    by_part = degrees[_key(integral, integral.metadata())]

    def at(degree: int, **changes: Any) -> Any:
        return integral.reconstruct(metadata={**integral.metadata(), "quadrature_degree": degree}, **changes)

    parts = integral.subdomain_id()
    if parts != "everywhere":
        for part in parts if isinstance(parts, tuple) else (parts,):
            yield at(by_part[part], subdomain_id=part)
        return
    elsewhere = by_part["otherwise"]
    yield at(elsewhere)
    for part, degree in by_part.items():
        if degree != elsewhere:  # what the line above adds there is taken off again
            yield at(degree, subdomain_id=part)
            yield at(elsewhere, subdomain_id=part, integrand=-integral.integrand())
