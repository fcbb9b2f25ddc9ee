"""Adjoints, gradients and Hessians of the PDE that are right where hIPPYlib's own are not.

hIPPYlib solves Aᵀp = -∂misfit/∂u with rows of the identity on the Dirichlet boundary.  What a sensor in a cell there
puts on fixed degrees of freedom stays in p, though a test function vanishes on them, and the gradient Cᵀp takes it for
part of the adjoint.  Over time it also asks the form handler for two steps before it assembles the first of them, so
that a coefficient that the handler sets has the time of the wrong one.
"""

from __future__ import annotations

import math

import dolfin as dl
import hippylib as hp
import numpy as np
from petsc4py import PETSc

from hippylib_dino.modeling.second_order import SecondDerivatives
from hippylib_dino.modeling.spaces import dense_matrix, owned_values, set_owned_values
from hippylib_dino.modeling.time_dependent import LinearizedStep, OneStepScheme
from hippylib_dino.modeling.variational_problem import AcceleratedVariationalProblem


class AdjointModel(hp.Model):
    """A `hp.Model` of a PDE whose gradient is the derivative of its cost, in every hIPPYlib loop.

    Parameters
    ----------
    problem : hp.PDEProblem
        Steady, or an hp.TimeDependentPDEVariationalProblem, whose marches are those of `OneStepScheme`.
    prior : hIPPYlib prior
    misfit : hp.Misfit

    Attributes
    ----------
    time_dependent : bool
    """

    def __init__(self, problem: hp.PDEProblem, prior, misfit: hp.Misfit):
        super().__init__(problem, prior, misfit)
        self.time_dependent = isinstance(problem, hp.TimeDependentPDEVariationalProblem)
        if self.time_dependent:
            self._marches = Marches(OneStepScheme(problem))
            self._second = SecondDerivatives(problem)

    @property
    def _scheme(self) -> OneStepScheme:
        return self._marches.scheme

    def with_misfit(self, misfit: hp.Misfit) -> AdjointModel:
        """The same problem and prior with another misfit, which need not tell what the observable is."""
        other = AdjointModel(self.problem, self.prior, misfit)
        if self.time_dependent:
            other._marches, other._second = Marches(self._scheme), self._second  # whose forms are compiled
        return other

    def solveAdj(self, out, x: list) -> None:
        self.n_adj_solve += 1
        rhs = self.problem.generate_state()
        self.misfit.grad(hp.STATE, x, rhs)
        if self.time_dependent:
            self._marches.set_point(x[hp.STATE], x[hp.PARAMETER])
            self._marches.backward(out, rhs, sign=-1.0)
            return
        rhs *= -1.0
        if not isinstance(self.problem, AcceleratedVariationalProblem):  # which does so itself
            zero_where_fixed(rhs, getattr(self.problem, "bc0", []))
        self.problem.solveAdj(out, x, rhs)

    def evalGradientParameter(self, x: list, mg: dl.GenericVector, misfit_only: bool = False) -> float:
        if not self.time_dependent:
            return super().evalGradientParameter(x, mg, misfit_only)
        self._marches.set_point(x[hp.STATE], x[hp.PARAMETER])
        self._marches.pull(x[hp.ADJOINT], mg)
        part = self.generate_vector(hp.PARAMETER)
        self.misfit.grad(hp.PARAMETER, x, part)
        mg.axpy(1.0, part)
        if not misfit_only:
            self.prior.grad(x[hp.PARAMETER], part)
            mg.axpy(1.0, part)
        self.prior.Msolver.solve(part, mg)
        return math.sqrt(mg.inner(part))

    # ---- the Hessian's solves; of steady problems hIPPYlib's are right ----------------------

    def setPointForHessianEvaluations(self, x: list, gauss_newton_approx: bool = False) -> None:
        super().setPointForHessianEvaluations(x, gauss_newton_approx)
        if self.time_dependent:
            self._linearization = [x[hp.STATE], x[hp.PARAMETER].copy(), x[hp.ADJOINT]]

    def _at_linearization(self) -> Marches:
        self._marches.set_point(*self._linearization[:2])
        return self._marches

    def solveFwdIncremental(self, sol, rhs) -> None:
        if not self.time_dependent:
            super().solveFwdIncremental(sol, rhs)
            return
        self.n_inc_solve += 1
        self._at_linearization().forward(sol, rhs)

    def solveAdjIncremental(self, sol, rhs) -> None:
        if not self.time_dependent:
            super().solveAdjIncremental(sol, rhs)
            return
        self.n_inc_solve += 1
        self._at_linearization().backward(sol, rhs)

    def applyC(self, dm: dl.GenericVector, out) -> None:
        if self.time_dependent:
            self._at_linearization().push(dm, out)
        else:
            super().applyC(dm, out)

    def applyCt(self, dp, out: dl.GenericVector) -> None:
        if self.time_dependent:
            self._at_linearization().pull(dp, out)
        else:
            super().applyCt(dp, out)

    def applyWuu(self, du, out) -> None:
        if not self.time_dependent:
            super().applyWuu(du, out)
            return
        self.misfit.apply_ij(hp.STATE, hp.STATE, du, out)
        if not self.gauss_newton_approx:
            out.axpy(1.0, self._second.state_part(self._linearization, du=du))

    def applyWum(self, dm: dl.GenericVector, out) -> None:
        if not self.time_dependent:
            super().applyWum(dm, out)
            return
        out.zero()
        if not self.gauss_newton_approx:
            self.misfit.apply_ij(hp.STATE, hp.PARAMETER, dm, out)
            out.axpy(1.0, self._second.state_part(self._linearization, dm=dm))

    def applyWmu(self, du, out: dl.GenericVector) -> None:
        if not self.time_dependent:
            super().applyWmu(du, out)
            return
        out.zero()
        if not self.gauss_newton_approx:
            self.misfit.apply_ij(hp.PARAMETER, hp.STATE, du, out)
            out.axpy(1.0, self._second.parameter_part(self._linearization, du=du))

    def applyWmm(self, dm: dl.GenericVector, out: dl.GenericVector) -> None:
        if not self.time_dependent:
            super().applyWmm(dm, out)
            return
        out.zero()
        if not self.gauss_newton_approx:
            self.misfit.apply_ij(hp.PARAMETER, hp.PARAMETER, dm, out)
            out.axpy(1.0, self._second.parameter_part(self._linearization, dm=dm))


class Marches:
    """Linearised solves over time of one right-hand side, as hIPPYlib's `TimeDependentVector`.

    See `modeling.time_dependent` for A_n, D_n and C_n.  Values on fixed degrees of freedom are zero.

    Parameters
    ----------
    scheme : OneStepScheme
    """

    def __init__(self, scheme: OneStepScheme):
        self.scheme = scheme

    def set_point(self, u: hp.TimeDependentVector, m: dl.GenericVector) -> None:
        """Linearise at the trajectory `u` and the parameter `m`; kept, not copied."""
        self._u, self._m = u, m

    def _step(self, n: int) -> LinearizedStep:
        return self.scheme.linearize(n, self._u, self._m)

    def _steps(self) -> range:
        return range(1, len(self.scheme.problem.times))

    def forward(self, out: hp.TimeDependentVector, rhs: hp.TimeDependentVector) -> None:
        """A_n δu_n = rhs_n - D_n δu_{n-1}, δu_0 = 0."""
        out.zero()
        for n in self._steps():
            load, step = rhs.data[n].copy(), self._step(n)
            if n > 1:
                _subtract(load, _times(step.couple, out.data[n - 1]))
            self._solve(step, load, out.data[n], transposed=False)

    def backward(self, out: hp.TimeDependentVector, rhs: hp.TimeDependentVector, sign: float = 1.0) -> None:
        """A_nᵀ p_n = sign · rhs_n - D_{n+1}ᵀ p_{n+1}, from p_{N+1} = 0."""
        out.zero()
        carried = None
        for n in reversed(self._steps()):
            load, step = rhs.data[n].copy(), self._step(n)
            load *= sign
            if carried is not None:
                _subtract(load, carried)
            self._solve(step, load, out.data[n], transposed=True)
            carried = _times(step.couple, out.data[n], transposed=True)

    def _solve(self, step: LinearizedStep, load: dl.GenericVector, out: dl.GenericVector, *, transposed: bool) -> None:
        zero_where_fixed(load, self.scheme.problem.adj_bc)
        solution: PETSc.Mat = step.solve(owned_values(load)[:, None], transposed=transposed)
        set_owned_values(out, solution.getDenseArray()[:, 0])
        solution.destroy()

    def push(self, dm: dl.GenericVector, out: hp.TimeDependentVector) -> None:
        """C_n δm of every step."""
        out.zero()
        for n in self._steps():
            set_owned_values(out.data[n], _times(self._step(n).force, dm))

    def pull(self, p: hp.TimeDependentVector, out: dl.GenericVector) -> None:
        """Σ_n C_nᵀ p_n."""
        total = np.zeros(out.local_size())
        for n in self._steps():
            total += _times(self._step(n).force, p.data[n], transposed=True)
        set_owned_values(out, total)


def _times(apply, vector: dl.GenericVector, **keywords) -> np.ndarray:
    """A product of a linearised step with one vector: owned values."""
    block = dense_matrix(vector, owned_values(vector)[:, None])
    result = apply(block, **keywords)[:, 0]
    block.destroy()
    return result


def _subtract(vector: dl.GenericVector, values: np.ndarray) -> None:
    set_owned_values(vector, owned_values(vector) - values)


def zero_where_fixed(vector: dl.GenericVector, bcs: list) -> None:
    """Set the entries of `vector` to zero whose degrees of freedom a Dirichlet condition fixes."""
    for bc in bcs:
        homogeneous = dl.DirichletBC(bc)
        homogeneous.homogenize()
        homogeneous.apply(vector)
