"""What a weak form refers to, and whether the user has changed it since."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dolfin as dl
import numpy as np
from mpi4py import MPI

from hippylib_dino.modeling.spaces import on_all, owned_values

_RULES = ("quadrature_degree", "quadrature_rule")  # of dolfin's form compiler, for integrals that do not say


class Surroundings:
    """The mesh's coordinates and marked parts, the boundary conditions and the quadrature rules of a form.

    Parameters
    ----------
    form : ufl.Form
    conditions : sequence of lists of dolfin.DirichletBC
    """

    def __init__(self, form: Any, conditions: Sequence[Sequence]):
        self._conditions = [tuple(bcs) for bcs in conditions]
        self._meshes = [(mesh, mesh.coordinates().copy()) for mesh in _meshes(form)]
        self._marks = [(marks, marks.array().copy()) for marks in _marks(form)]
        self._rules = _rules()

    def are_as(self, form: Any, conditions: Sequence[Sequence]) -> bool:
        """Whether nothing of these has changed, on this rank, and `form` refers to the same meshes and marks."""
        meshes, marks, now = _meshes(form), _marks(form), [tuple(bcs) for bcs in conditions]
        return (
            len(now) == len(self._conditions)
            and all(map(_identical, now, self._conditions))
            and _identical(meshes, [mesh for mesh, _ in self._meshes])
            and _identical(marks, [mark for mark, _ in self._marks])
            and all(np.array_equal(mesh.coordinates(), then) for mesh, then in self._meshes)
            and all(np.array_equal(mark.array(), then) for mark, then in self._marks)
            and _rules() == self._rules
        )


class Source:
    """The form that a handler gives, and what tells whether it would give another one now.

    The handler is called again for each comparison: that costs about a millisecond, and sees what no compiled form
    can, such as a number that the handler reads from elsewhere.  Coefficients may be other objects than before where a
    handler makes them anew in each call; then their values count.

    Parameters
    ----------
    make : callable ``() -> form``
        Calls the handler with always the same functions.
    conditions : callable
        Returns the present lists of boundary conditions.
    own : sequence of functions and constants
        Those that `make` passes, whose values do not count.
    comm : MPI.Comm
        Of the mesh.

    Attributes
    ----------
    form : ufl.Form
    """

    def __init__(self, make: Callable[[], Any], conditions: Callable[[], Sequence], own: Sequence, comm: MPI.Comm):
        self._make, self._conditions, self._own, self._comm = make, conditions, own, comm
        self.form = make()
        self._surroundings = Surroundings(self.form, conditions())

    def is_current(self) -> bool:
        """Whether forms that were compiled from this one are still right, on all ranks; they read values themselves."""
        form = self._make()
        alike = self._surroundings.are_as(form, self._conditions()) and form.signature() == self.form.signature()
        if not on_all(self._comm, alike):
            return False
        mesh = _meshes(form)[0]
        pairs = zip(form.coefficients(), self.form.coefficients(), strict=True)
        same = [_same_coefficient(new, old, mesh) for new, old in pairs]  # all of them: to interpolate is collective
        return on_all(self._comm, all(same))

    def values(self) -> list[np.ndarray | None]:
        """Values of all coefficients that are not the caller's own, on this rank; None where they cannot be told."""
        return [coefficient_values(c) for c in self.others]

    @property
    def others(self) -> list:
        """Coefficients of the form that are not the caller's own."""
        return [c for c in self.form.coefficients() if not any(c is mine for mine in self._own)]

    def agrees(self, values: list[np.ndarray | None]) -> bool:
        """Whether no value, of those that can be told, differs from what `values` gave, on all ranks."""
        return on_all(self._comm, same_values(self.values(), values, unknown=True))


def coefficient_values(coefficient: Any) -> np.ndarray | None:
    """The values that a coefficient has on this rank; None if they cannot be told."""
    if isinstance(coefficient, dl.Function):
        if coefficient.function_space().component():
            return None  # a component has no vector of its own
        return owned_values(coefficient.vector())
    if isinstance(coefficient, dl.Constant):
        return np.array(coefficient.values())
    parameters = _parameters(coefficient)
    if parameters is not None and all(isinstance(v, (int, float)) for v in parameters):
        return np.array(parameters, dtype=float)
    return None


def same_values(now: Sequence, then: Sequence, *, unknown: bool) -> bool:
    """Whether values of coefficients are as many and equal; `unknown` stands for those that cannot be told."""
    return len(now) == len(then) and all(
        unknown if a is None or b is None else np.array_equal(a, b) for a, b in zip(now, then, strict=True)
    )


def nodal_values(coefficient: Any, mesh: dl.Mesh) -> np.ndarray:
    """What forms see of any coefficient: its interpolant in its own element, on this rank."""
    element = coefficient.ufl_element()
    if element.cell() is None:
        element = element.reconstruct(cell=mesh.ufl_cell())
    interpolant = dl.Function(dl.FunctionSpace(mesh, element))
    interpolant.interpolate(coefficient)
    return owned_values(interpolant.vector())


def _parameters(coefficient: Any) -> list | None:
    """Present values of the parameters of a `dl.Expression`."""
    parameters = getattr(coefficient, "user_parameters", None)
    # it offers no iteration of its own
    return None if parameters is None else [parameters[name] for name in parameters._params]


def _same_coefficient(new: Any, old: Any, mesh: dl.Mesh) -> bool:
    """Whether forms that read `old` are right for `new`, of the same kind and element."""
    if new is old:
        return True
    if type(new) is not type(old):
        return False
    if isinstance(new, dl.Expression) and new._cppcode != old._cppcode:
        return False
    if isinstance(new, dl.Function) and new.function_space().mesh().id() != old.function_space().mesh().id():
        return False
    now, then = coefficient_values(new), coefficient_values(old)
    if now is None or then is None:
        now, then = nodal_values(new, mesh), nodal_values(old, mesh)
    return np.array_equal(now, then)


def _meshes(form: Any) -> list[dl.Mesh]:
    meshes = (domain.ufl_cargo() for domain in form.ufl_domains())
    return [mesh for mesh in meshes if isinstance(mesh, dl.Mesh)]


def _marks(form: Any) -> list:
    """Mesh functions that tell the parts of the mesh apart."""
    data = (integral.subdomain_data() for integral in form.integrals())
    return [marks for marks in data if hasattr(marks, "array")]


def _rules() -> list:
    return [dl.parameters["form_compiler"][name] for name in _RULES]


def _identical(a: Sequence, b: Sequence) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))
