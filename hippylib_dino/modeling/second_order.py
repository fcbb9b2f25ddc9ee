"""Second derivatives of the residual of a time-dependent problem, for full Newton."""

from __future__ import annotations

import dolfin as dl
import hippylib as hp
import numpy as np

from hippylib_dino.modeling.form_splitting import expanded, ufl
from hippylib_dino.modeling.quadrature import linear_with_fixed_degrees, with_fixed_degrees
from hippylib_dino.modeling.spaces import owned_values, set_owned_values


class SecondDerivatives:
    """W of the Lagrangian Σ_n r_n(u_n, u_{n-1}, m; p_n), applied to directions of states and parameter.

    Each step is asked with its own time, where hIPPYlib's `apply_ij` asks one step with the time of another; terms that
    couple u_{n-1} go to step n - 1.

    Parameters
    ----------
    problem : hp.TimeDependentPDEVariationalProblem
    """

    def __init__(self, problem: hp.TimeDependentPDEVariationalProblem):
        self.problem = problem
        states, parameters, adjoints = (problem.Vh[i] for i in (hp.STATE, hp.PARAMETER, hp.ADJOINT))
        self._point = dl.Function(states), dl.Function(states), dl.Function(parameters)
        self._directions = dl.Function(states), dl.Function(states), dl.Function(parameters)
        self._adjoint, self._test = dl.Function(adjoints), dl.TestFunction(adjoints)
        self._tests = dl.TestFunction(states), dl.TestFunction(states), dl.TestFunction(parameters)
        self._residual = None
        self._forms: list[dl.Form | None] = []

    def state_part(self, x: list, du=None, dm=None) -> hp.TimeDependentVector:
        """W_uu δu + W_um δm, dual, for a trajectory δu and a parameter δm; None is zero."""
        out = self.problem.generate_state()
        for n in self._steps(x, du, dm):
            for at, which in ((n, 0), (n - 1, 1)):
                if self._forms[which] is not None:
                    out.data[at].axpy(1.0, dl.assemble(self._forms[which]))
        return out

    def parameter_part(self, x: list, du=None, dm=None) -> dl.GenericVector:
        """W_mu δu + W_mm δm, dual."""
        out = self.problem.generate_parameter()
        for _ in self._steps(x, du, dm):
            if self._forms[2] is not None:
                out.axpy(1.0, dl.assemble(self._forms[2]))
        return out

    def _steps(self, x: list, du, dm):
        """The steps n = 1 .. N, with forms and values of each."""
        u, m, p = x
        for n in range(1, len(self.problem.times)):
            _load(self._point, (u.data[n], u.data[n - 1], m))
            _load(self._directions, (*((None, None) if du is None else (du.data[n], du.data[n - 1])), dm))
            _load((self._adjoint,), (p.data[n],))
            residual = self.problem.varf(*self._point, self._test, self.problem.times[n])
            if self._residual is None or not residual.equals(self._residual):
                self._compile(residual)
            yield n

    def _compile(self, residual) -> None:
        self._residual = residual
        linear = self.problem.is_fwd_linear
        solved = linear_with_fixed_degrees(residual, self._point[0]) if linear else with_fixed_degrees(residual)
        tested = ufl.replace(solved, {self._test: self._adjoint})
        along = sum(dl.derivative(tested, f, d) for f, d in zip(self._point, self._directions, strict=True))
        forms = (expanded(along, f, t) for f, t in zip(self._point, self._tests, strict=True))
        self._forms = [None if form.empty() else dl.Form(form) for form in forms]


def _load(functions: tuple, vectors: tuple) -> None:
    for function, vector in zip(functions, vectors, strict=True):
        here = function.vector()
        set_owned_values(here, np.zeros(here.local_size()) if vector is None else owned_values(vector))
        here.apply("insert")
