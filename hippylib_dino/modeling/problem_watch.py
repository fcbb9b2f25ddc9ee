"""Whether a problem has changed since something was computed from it."""

from __future__ import annotations

import dolfin as dl
import hippylib as hp
import numpy as np

from hippylib_dino.modeling.changes import Source, nodal_values
from hippylib_dino.modeling.spaces import on_all, owned_values
from hippylib_dino.modeling.variational_problem import AcceleratedVariationalProblem


class ProblemWatch:
    """Watches all that the state of a variational problem at a given parameter depends on.

    Parameters
    ----------
    problem : hp.PDEVariationalProblem
    """

    def __init__(self, problem: hp.PDEVariationalProblem):
        self._problem = problem
        self._state = dl.Function(problem.Vh[hp.STATE])
        self._own = None if isinstance(problem, AcceleratedVariationalProblem) else self._new_source()
        self._source = self._present_source()
        self._values = self._present_values()

    def has_changed(self) -> bool:
        """Whether anything has since the last call, or since this was made."""
        source, values = self._source, self._values
        self._source = self._present_source()
        self._values = self._present_values()
        return self._source is not source or not on_all(
            self._state.vector().mpi_comm(), all(map(np.array_equal, self._values, values))
        )

    def _new_source(self) -> Source:
        """Of a problem that keeps no compiled forms."""
        problem, u = self._problem, self._state
        m, test = dl.Function(problem.Vh[hp.PARAMETER]), dl.TestFunction(problem.Vh[hp.ADJOINT])
        return Source(lambda: problem.varf_handler(u, m, test), lambda: (problem.bc,), (u, m), u.vector().mpi_comm())

    def _present_source(self) -> Source:
        if self._own is None:
            return self._problem.source
        if not self._own.is_current():
            self._own = self._new_source()
        return self._own

    def _present_values(self) -> list[np.ndarray]:
        """Values of coefficients and of boundary conditions on this rank."""
        mesh, boundary = self._problem.Vh[hp.STATE].mesh(), self._state.vector()
        pairs = zip(self._source.others, self._source.values(), strict=True)
        values = [nodal_values(c, mesh) if v is None else v for c, v in pairs]
        boundary.zero()
        for bc in self._problem.bc:
            bc.apply(boundary)
        return [*values, owned_values(boundary)]
