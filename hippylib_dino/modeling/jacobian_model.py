"""`hp.Model` that also exports the observable and its Jacobian."""

from __future__ import annotations

import dolfin as dl
import hippylib as hp
import numpy as np
from hippylib.utils.warnings import ModelConvergenceError
from petsc4py import PETSc

from hippylib_dino.errors import InputError, SolveError
from hippylib_dino.modeling.jacobian import Jacobian, PDEJacobian, reason
from hippylib_dino.modeling.observable_map import ParameterToObservable
from hippylib_dino.modeling.observation import NoiseCovariance, noise_covariance, observation_operator
from hippylib_dino.modeling.spaces import check_vector, gather, owned_values


class JacobianModel(ParameterToObservable, hp.Model):
    """A hIPPYlib model with q = F(m) = B u(m) and J = dF/dm through hIPPYlib's own adjoints.

    It works in every hIPPYlib loop as `hp.Model` does.

    Parameters
    ----------
    problem : hp.PDEVariationalProblem
        Steady; linear or not, any state and parameter spaces.
    prior : hIPPYlib prior
    misfit : hp.Misfit
        With a linear observation operator ``B``.

    Raises
    ------
    InputError
        If `problem` is not a steady variational problem.
    MisfitError
        If `misfit` has no observation operator.

    Examples
    --------
    Change ``hp.Model(pde, prior, misfit)`` into::

        model = hd.JacobianModel(pde, prior, misfit)
        q = model.evalObservable(prior.mean)        # numpy (dQ,)
        J = model.jacobian(prior.mean).to_dense()   # numpy (dQ, dM)
    """

    def __init__(self, problem: hp.PDEVariationalProblem, prior, misfit: hp.Misfit):
        if not isinstance(problem, hp.PDEVariationalProblem):
            raise InputError(
                f"problem: expected a steady hp.PDEVariationalProblem, got {type(problem).__name__}. "
                "Derive your problem from hp.PDEVariationalProblem."
            )
        self.B = observation_operator(misfit)
        super().__init__(problem, prior, misfit)
        self._observable = dl.Vector(self.B.mpi_comm())
        self.B.init_vector(self._observable, 0)
        self._state = problem.generate_state()
        self._parameter = problem.generate_parameter()
        self._mean_state = None

    @classmethod
    def from_model(cls, model: hp.Model) -> JacobianModel:
        """The same problem, prior and misfit as an existing `hp.Model`."""
        return cls(model.problem, model.prior, model.misfit)

    @property
    def noise_covariance(self) -> NoiseCovariance:
        """Γ as the misfit states it now."""
        return noise_covariance(self.misfit)

    def solveState(self, m: dl.GenericVector) -> dl.GenericVector:
        """The state u(m), from the state at the prior mean as initial guess.

        A fixed guess makes the state a function of m alone, whatever was solved before.

        Raises
        ------
        VectorError
            If `m` is not a vector of the parameter space.
        SolveError
            If the solver does not converge or gives values that are not finite.
        """
        check_vector(m, self._parameter, "m")
        if self.problem.is_fwd_linear:
            return self._solve(m, self._state)
        if self._mean_state is None:
            self._mean_state = self._solve(self.prior.mean, self._state)
        return self._solve(m, self._mean_state)

    def _solve(self, m: dl.GenericVector, guess: dl.GenericVector) -> dl.GenericVector:
        u = self.problem.generate_state()
        try:
            self.solveFwd(u, [guess.copy(), m, None])
        except (RuntimeError, ModelConvergenceError) as error:  # dolfin raises a bare RuntimeError
            raise SolveError(f"the forward solve failed: {reason(error)}") from error
        if not np.isfinite(u.norm("l2")):  # over all ranks: they must agree on whether to raise
            raise SolveError("the forward solve gave values that are not finite (NaN or infinity).")
        return u

    def observe(self, u: dl.GenericVector) -> np.ndarray:
        """B u, shape (dQ,), the same on every rank."""
        self.B.mult(u, self._observable)
        return gather(owned_values(self._observable), self._observable.mpi_comm())

    def evalObservable(self, m: dl.GenericVector) -> np.ndarray:
        return self.observe(self.solveState(m))

    def jacobian(self, m: dl.GenericVector) -> Jacobian:
        return self.linearize(m)[1]

    def linearize(self, m: dl.GenericVector) -> tuple[np.ndarray, Jacobian]:
        """q (dQ,) and J at `m` from one forward solve.

        The Jacobian lives until the problem is linearised elsewhere.
        """
        # petsc4py hands matrices that went out of scope, hIPPYlib's and ours, to a list that only
        # this call empties; without it every sample would keep its matrices and factors in memory
        PETSc.garbage_cleanup(self._parameter.mpi_comm())
        u = self.solveState(m)
        adjoint = self.problem.generate_state()
        self.problem.setLinearizationPoint([u, m, adjoint], gauss_newton_approx=True)
        return self.observe(u), PDEJacobian(self.problem, self.B, self._observable)
