"""`hp.Model` that also exports the observable and its Jacobian."""

from __future__ import annotations

from collections.abc import Callable

import dolfin as dl
import hippylib as hp
import numpy as np
from hippylib.utils.warnings import ModelConvergenceError
from petsc4py import PETSc

from hippylib_dino.control import ControlDistribution
from hippylib_dino.errors import InputError, MisfitError, SolveError
from hippylib_dino.modeling.adjoint import AdjointModel
from hippylib_dino.modeling.control_problem import CONTROL, ControlProblem
from hippylib_dino.modeling.data_space import DataSpace, PointwiseData, StateData
from hippylib_dino.modeling.initial_guess import LinearizedPrediction, MeanState
from hippylib_dino.modeling.jacobian import Jacobian, PDEJacobian, StateJacobian, reason
from hippylib_dino.modeling.linearity import check_linear
from hippylib_dino.modeling.observable_map import ParameterToObservable
from hippylib_dino.modeling.observation import noise_covariance, observation_operator, weight_covariance
from hippylib_dino.modeling.spaces import DofOrder, check_vector, gather, owned_values
from hippylib_dino.modeling.time_dependent import TimeDependentJacobian, solve_trajectory
from hippylib_dino.modeling.time_observation import TimeObservation, stacked
from hippylib_dino.modeling.variational_problem import AcceleratedVariationalProblem
from hippylib_dino.noise import NoiseCovariance


class JacobianModel(ParameterToObservable, AdjointModel):
    """A hIPPYlib model with q = F(m) = B u(m) and J = dF/dm through hIPPYlib's own adjoints.

    It works in every hIPPYlib loop as `hp.Model` does, with a gradient that is also right where a sensor's cell touches
    a Dirichlet boundary, and over time where the form handler sets a coefficient (`AdjointModel`).

    Parameters
    ----------
    problem : hp.PDEVariationalProblem or hp.TimeDependentPDEVariationalProblem
        Linear or not, any state and parameter spaces.  Of the steady ones `hd.AcceleratedVariationalProblem` is fast.
    prior : hIPPYlib prior
    misfit : hp.Misfit
        With a linear observation operator ``B``; an `hp.MisfitTD` of such where the problem depends on time; or an
        `hp.ContinuousStateObservation`, with which the observable is the whole state.
    initial_guess : callable ``guess(m) -> u``, optional
        Where nonlinear solves start, a state vector that depends on m alone (`modeling.initial_guess`).  By default the
        linearised prediction from the prior mean; for a problem that is not accelerated, the state at the mean.
    control : ControlDistribution, optional
        Of an `hd.ControlProblem`: how `hd.generate` draws controls, as it draws parameters from the prior.  Everything
        else is at the control that `problem.control` says.

    Raises
    ------
    InputError
        If `problem` is not a variational problem or is said to be linear and is not, or `control` is not of its control
        space.
    MisfitError
        If `misfit` does not tell what is observed.

    Examples
    --------
    Change ``hp.Model(pde, prior, misfit)`` into::

        model = hd.JacobianModel(pde, prior, misfit)
        q = model.evalObservable(prior.mean)        # numpy (dQ,)
        J = model.jacobian(prior.mean).to_dense()   # numpy (dQ, dM)
    """

    def __init__(
        self,
        problem: hp.PDEVariationalProblem,
        prior,
        misfit: hp.Misfit,
        *,
        initial_guess: Callable[[dl.GenericVector], dl.GenericVector] | None = None,
        control: ControlDistribution | None = None,
    ):
        self.whole_state = isinstance(misfit, hp.ContinuousStateObservation)
        if not isinstance(problem, (hp.PDEVariationalProblem, hp.TimeDependentPDEVariationalProblem)):
            raise InputError(
                "problem: expected an hp.PDEVariationalProblem or hp.TimeDependentPDEVariationalProblem, got "
                f"{type(problem).__name__}. Derive your problem from one of these."
            )
        super().__init__(problem, prior, misfit)
        if self.time_dependent:
            self.observation = TimeObservation(misfit, problem)
            if problem.is_fwd_linear:
                check_linear(*self._scheme.linear_in_state())
        elif self.whole_state:
            self._observable, self._state_order = misfit.d, DofOrder(problem.Vh[hp.STATE])
        else:
            self.B = observation_operator(misfit)
            self._observable = dl.Vector(self.B.mpi_comm())
            self.B.init_vector(self._observable, 0)
        plain = isinstance(problem, hp.PDEVariationalProblem) and not isinstance(problem, AcceleratedVariationalProblem)
        if plain and problem.is_fwd_linear:  # an accelerated one was checked when it was made
            state, parameter = dl.Function(problem.Vh[hp.STATE]), dl.Function(problem.Vh[hp.PARAMETER])
            check_linear(problem.varf_handler(state, parameter, dl.TestFunction(problem.Vh[hp.ADJOINT])), state)
        self._state = problem.generate_state()
        self._parameter = problem.generate_parameter()
        self.initial_guess = initial_guess
        self.control_distribution = control
        if control is not None:
            _check_control(control, problem)
            problem.reference = problem.control_from_array(control.mean)
        self._default_guess: Callable[[dl.GenericVector], dl.GenericVector] | None = None

    @classmethod
    def from_model(cls, model: hp.Model) -> JacobianModel:
        """The same problem, prior and misfit as an existing `hp.Model`."""
        return cls(model.problem, model.prior, model.misfit)

    @property
    def noise_covariance(self) -> NoiseCovariance:
        """Γ of the Gaussian noise as the misfit states it now, for inference.

        Raises
        ------
        MisfitError
            If the noise is not Gaussian on observables B u with a covariance that the misfit states; see
            `modeling.observation.has_gaussian_noise`.
        """
        return stacked(noise_covariance, self.misfit) if self.time_dependent else noise_covariance(self.misfit)

    @property
    def weight_covariance(self) -> NoiseCovariance:
        """In whose standard deviations observables B u are counted in bases and training, whatever their noise."""
        return stacked(weight_covariance, self.misfit) if self.time_dependent else weight_covariance(self.misfit)

    @property
    def weights_are_noise(self) -> bool:
        """Whether observables are counted in standard deviations of their noise, as the misfit states it now."""
        if self.whole_state:
            return True
        try:
            return np.array_equal(self.noise_covariance.value, self.weight_covariance.value)
        except MisfitError:
            return False

    @property
    def data_space(self) -> DataSpace:
        """Space of the observable, with the weights that the misfit states now."""
        if self.whole_state:
            return StateData(self.misfit, self.problem.Vh[hp.STATE])
        return PointwiseData(self.weight_covariance)

    def solveState(self, m: dl.GenericVector, guess: dl.GenericVector | None = None) -> dl.GenericVector:
        """The state u(m), a function of m and the guess alone, whatever was solved before.

        Parameters
        ----------
        m : dolfin vector, (dM,)
        guess : dolfin vector, (dU,), optional
            Initial guess of a nonlinear solve; that of ``initial_guess`` by default.

        Raises
        ------
        VectorError
            If `m` is not a vector of the parameter space, or `guess` not one of the state space.
        SolveError
            If the solver does not converge or gives values that are not finite.
        """
        check_vector(m, self._parameter, "m")
        if self.time_dependent:
            return solve_trajectory(self, m)
        if guess is not None:
            check_vector(guess, self._state, "guess")
        elif self.problem.is_fwd_linear:
            guess = self._state
        else:
            guess = self._guess(m)
        return self._solve(m, guess)

    def _guess(self, m: dl.GenericVector) -> dl.GenericVector:
        try:
            if self.initial_guess is not None:
                return self.initial_guess(m)
            if self._default_guess is None:
                accelerated = isinstance(self.problem, AcceleratedVariationalProblem)
                self._default_guess = (LinearizedPrediction if accelerated else MeanState)(self)
            return self._default_guess(m)
        except (RuntimeError, ModelConvergenceError) as error:  # dolfin raises a bare RuntimeError
            raise SolveError(f"the initial guess failed: {reason(error)}") from error

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
        """B u, shape (dQ,), the same on every rank; of a whole state its coefficients in canonical order."""
        local = self.observe_local(u)
        return self._state_order.to_array(local) if self.whole_state else local

    def observe_local(self, u: dl.GenericVector) -> np.ndarray:
        """This rank's piece of the observable; see `DataSpace`."""
        if self.time_dependent:
            return self.observation.observe(u)
        if self.whole_state:
            return owned_values(u)
        self.B.mult(u, self._observable)
        return gather(owned_values(self._observable), self._observable.mpi_comm())

    def evalObservable(self, m: dl.GenericVector) -> np.ndarray:
        return self.observe(self.solveState(m))

    def jacobian(self, m: dl.GenericVector) -> Jacobian:
        return self.linearize(m)[1]

    def linearize(self, m: dl.GenericVector, guess: dl.GenericVector | None = None) -> tuple[np.ndarray, Jacobian]:
        """q (dQ,) and J at `m` from one forward solve, from `guess` as in `solveState`.

        The Jacobian of a steady problem lives until the problem is linearised elsewhere.
        """
        u = self.solveState(m, guess)
        return self.observe(u), self.linearize_at(u, m)

    def linearize_at(self, u: dl.GenericVector, m: dl.GenericVector) -> Jacobian:
        """J at `m`, where the state u(m) is known.

        Raises
        ------
        SolveError
            If the linearised problem cannot be assembled or factored.
        """
        # petsc4py hands matrices that went out of scope, hIPPYlib's and ours, to a list that only
        # this call empties; without it every sample would keep its matrices and factors in memory
        PETSc.garbage_cleanup(self._parameter.mpi_comm())
        if self.time_dependent:
            return TimeDependentJacobian(self._scheme, self.observation, u, m)
        try:
            self.problem.setLinearizationPoint([u, m, self.problem.generate_state()], gauss_newton_approx=True)
        except RuntimeError as error:  # dolfin's own, and PETSc's
            raise SolveError(f"the linearisation failed: {reason(error)}") from error
        return self._jacobian(hp.PARAMETER)

    def control_jacobian(self) -> Jacobian:
        """J_z = dq/dz, (dQ x dZ), at the point where the problem was linearised last, by the same factorization.

        Raises
        ------
        InputError
            If the problem has no control.
        """
        if not isinstance(self.problem, ControlProblem):
            raise InputError(f"problem: expected an hd.ControlProblem, got {type(self.problem).__name__}.")
        return self._jacobian(CONTROL)

    def _jacobian(self, variable: int) -> Jacobian:
        if self.whole_state:
            return StateJacobian(self.problem, self._observable, self._state_order, variable)
        return PDEJacobian(self.problem, self.B, self._observable, variable)


def _check_control(control: ControlDistribution, problem: hp.PDEVariationalProblem) -> None:
    if not isinstance(problem, ControlProblem):
        raise InputError(
            f"control: the problem is an {type(problem).__name__}, which has no control; expected an hd.ControlProblem."
        )
    if control.dim != problem.control_order.dim:
        raise InputError(
            f"control: expected a distribution of {problem.control_order.dim} controls, as the problem's control space "
            f"Vh[CONTROL] has, got one of {control.dim}."
        )
