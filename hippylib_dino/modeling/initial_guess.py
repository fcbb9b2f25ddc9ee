"""Initial guesses of a nonlinear forward solve, and their comparison by counted work.

A guess is a callable ``guess(m) -> u`` on dolfin vectors whose result depends on m alone, so that
a sample does not depend on what was solved before.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence

import dolfin as dl
import hippylib as hp
import numpy as np
from scipy.interpolate import RBFInterpolator

from hippylib_dino.errors import InputError, SolveError
from hippylib_dino.modeling.control_problem import ControlProblem
from hippylib_dino.modeling.linear_solver import LinearSolver
from hippylib_dino.modeling.problem_watch import ProblemWatch
from hippylib_dino.modeling.spaces import owned_values, set_owned_values, sum_over_ranks


class MeanState:
    """The state at the prior mean, for every m; solved again once the problem has changed.

    Parameters
    ----------
    model : hp.Model
    """

    def __init__(self, model: hp.Model):
        self._problem, self._prior = model.problem, model.prior  # not the model, which may keep its guess
        watched = isinstance(model.problem, hp.PDEVariationalProblem)  # of another, nothing is known but its solves
        self._watch = ProblemWatch(model.problem) if watched else None
        self._state: dl.GenericVector | None = _solve_at(self._problem, self._prior.mean)

    def __call__(self, m: dl.GenericVector) -> dl.GenericVector:
        """The state at the mean, a copy."""
        if self._watch is not None and self._watch.has_changed():
            self._state = None  # also if the next solve fails
        if self._state is None:
            self._state = _solve_at(self._problem, self._prior.mean)
        return self._state.copy()


class LinearizedPrediction:
    """u(m̄) - A⁻¹ C (m - m̄), with A and C of the prior mean, whose factorization is kept until the problem changes.

    Of an `hd.ControlProblem` at its reference control z̄, and with -A⁻¹ C_z (z - z̄) of its control z in addition.

    Parameters
    ----------
    model : hp.Model
        Of a variational problem.  It is linearised at its mean here, and again once the problem has changed.
    """

    def __init__(self, model: hp.Model):
        self._problem, self._prior = model.problem, model.prior
        self._controlled = isinstance(model.problem, ControlProblem)
        self._watch = ProblemWatch(model.problem)
        self._linearize()

    def _linearize(self) -> dl.GenericVector:
        """Solve and factor at the mean; the state there."""
        problem = self._problem
        self._state: dl.GenericVector | None = None  # until all is there
        self._mean = self._prior.mean.copy()
        state = _solve_at(problem, self._mean)
        point = [state, self._mean, problem.generate_state()]
        problem.setLinearizationPoint([*point, problem.reference] if self._controlled else point, True)
        # copies: the problem assembles into its own matrices again
        self._A, self._C = (dl.PETScMatrix(dl.as_backend_type(X).mat().copy()) for X in (problem.A, problem.C))
        if self._controlled:
            self._reference, self._Cz = problem.reference.copy(), dl.PETScMatrix(problem.control_derivative().copy())
        self._solver = problem.new_solver() if hasattr(problem, "new_solver") else LinearSolver(state.mpi_comm())
        self._solver.set_operator(self._A)
        self._state = state
        return state

    def __call__(self, m: dl.GenericVector) -> dl.GenericVector:
        """The first-order prediction of the state at `m`."""
        state = self._state
        if self._watch.has_changed() or state is None:
            state = self._linearize()
        change, rhs, out = m.copy(), state.copy(), state.copy()
        change.axpy(-1.0, self._mean)
        self._C.mult(change, rhs)
        if self._controlled:
            change = self._problem.control
            change.axpy(-1.0, self._reference)
            self._Cz.mult(change, out)
            rhs.axpy(1.0, out)
        self._solver.solve(out, rhs)
        out *= -1.0
        out.axpy(1.0, state)
        return out


class NearestSample:
    """The state of the solved sample whose latent parameter is nearest.

    Parameters
    ----------
    encode : callable ``encode(m) -> (r,)``
        Latent coordinates of a parameter, the same on every rank, scaled so that distance tells importance.
    latents : (n, r)
    states : (n, n_owned)
        Their states, this rank's entries.
    like : dolfin vector
        A state, for its layout.
    """

    def __init__(self, encode: Callable, latents: np.ndarray, states: np.ndarray, like: dl.GenericVector):
        _check_samples(latents, states, like)
        self._encode, self._latents, self._states, self._like = encode, latents, states, like.copy()

    def __call__(self, m: dl.GenericVector) -> dl.GenericVector:
        """The nearest sample's state."""
        distance = np.linalg.norm(self._latents - self._encode(m), axis=1)
        out = self._like.copy()
        set_owned_values(out, self._states[np.argmin(distance)])
        return out


class SampleRegression:
    """A first guess plus its error regressed on solved samples: a surrogate of the state.

    The errors of `baseline` on the samples are compressed by proper orthogonal decomposition and
    interpolated over the latent coordinates by radial basis functions (`scipy.interpolate.RBFInterpolator`).

    Parameters
    ----------
    baseline : callable ``baseline(m) -> u``
    encode : callable ``encode(m) -> (r,)``
        Latent coordinates of a parameter, the same on every rank, scaled so that distance tells importance:
        whitened coordinates times a power of their eigenvalues.
    parameters : sequence of n dolfin vectors
    states : (n, n_owned)
        Their states, this rank's entries.
    n_modes : int
        Modes of the compression, at most n.
    smoothing : float
        Of the interpolation, relative; 0 interpolates.

    Raises
    ------
    InputError
        If parameters and states do not match or `n_modes` is not in 1 .. n.
    """

    def __init__(
        self,
        baseline: Callable,
        encode: Callable,
        parameters: Sequence[dl.GenericVector],
        states: np.ndarray,
        *,
        n_modes: int = 50,
        smoothing: float = 0.0,
    ):
        n = len(parameters)
        if not 1 <= n_modes <= n:
            raise InputError(f"n_modes: expected 1 .. {n}, the number of samples, got {n_modes}.")
        self._baseline, self._encode = baseline, encode
        latents = np.array([encode(m) for m in parameters])
        guesses = [baseline(m) for m in parameters]
        _check_samples(latents, states, guesses[0])
        errors = states - np.array([owned_values(u) for u in guesses])
        # method of snapshots: the Gram matrix is small and the same on every rank
        values, vectors = np.linalg.eigh(sum_over_ranks(errors @ errors.T, guesses[0].mpi_comm()))
        values, vectors = values[::-1][:n_modes], vectors[:, ::-1][:, :n_modes]
        kept = values > values[0] * 1e-14
        vectors, scale = vectors[:, kept], np.sqrt(values[kept])
        self._modes = errors.T @ (vectors / scale)
        self._regression = RBFInterpolator(latents, vectors * scale, kernel="cubic", degree=1, smoothing=smoothing)

    def __call__(self, m: dl.GenericVector) -> dl.GenericVector:
        """The corrected guess."""
        out = self._baseline(m)
        set_owned_values(out, owned_values(out) + self._modes @ self._regression(self._encode(m)[None])[0])
        return out


@dataclasses.dataclass(frozen=True)
class GuessWork:
    """What forward solves from one kind of guess cost, averaged over the parameters that could be solved.

    Attributes
    ----------
    iterations, residual_assemblies, factorizations : float
    work : float
        Residual assemblies plus weighted factorizations.
    failures : int
    """

    iterations: float
    residual_assemblies: float
    factorizations: float
    work: float
    failures: int


def compare_guesses(
    model: hp.Model,
    guesses: Mapping[str, Callable],
    parameters: Sequence[dl.GenericVector],
    *,
    factorization_weight: float = 1.5,
) -> tuple[str, dict[str, GuessWork]]:
    """Count the work of forward solves from each guess; times are not looked at, so the choice is reproducible.

    Parameters
    ----------
    model : hp.Model
        Of an `AcceleratedVariationalProblem`, which reports what its solves do.
    guesses : mapping of names to callables ``guess(m) -> u``
    parameters : dolfin vectors
        Which took no part in making the guesses.
    factorization_weight : float
        Cost of assembling and factoring A, in assemblies of the residual.

    Returns
    -------
    best : str
        The name of the fewest failures, then the least work.
    table : dict of GuessWork

    Raises
    ------
    InputError
        If there is nothing to compare or the problem does not report.
    """
    if not guesses or not len(parameters):
        raise InputError(f"guesses, parameters: expected some, got {len(guesses)} and {len(parameters)}.")
    table = {name: _measure(model, guess, parameters, factorization_weight) for name, guess in guesses.items()}
    return min(table, key=lambda name: (table[name].failures, table[name].work)), table


def _measure(model: hp.Model, guess: Callable, parameters: Sequence, weight: float) -> GuessWork:
    u, reports = model.problem.generate_state(), []
    for m in parameters:
        try:
            model.solveFwd(u, [guess(m), m, None])
        except SolveError:
            continue
        reports.append(getattr(model.problem, "report", None))
    if None in reports:
        raise InputError(
            "model: expected a problem that reports its forward solves, an hd.AcceleratedVariationalProblem "
            f"with its own forward solver, got {type(model.problem).__name__}."
        )

    def mean(name: str) -> float:
        return float(np.mean([getattr(r, name) for r in reports])) if reports else np.inf

    residuals, factorizations = mean("residual_assemblies"), mean("factorizations")
    work = residuals + weight * factorizations
    return GuessWork(mean("iterations"), residuals, factorizations, work, len(parameters) - len(reports))


def _solve_at(problem: hp.PDEProblem, m: dl.GenericVector) -> dl.GenericVector:
    """The state at a parameter, from zero, and at the reference control where there is one."""
    u = problem.generate_state()
    with problem.at(problem.reference) if isinstance(problem, ControlProblem) else contextlib.nullcontext():
        problem.solveFwd(u, [u.copy(), m, None])
    return u


def _check_samples(latents: np.ndarray, states: np.ndarray, like: dl.GenericVector) -> None:
    if len(latents) == 0 or states.shape != (len(latents), like.local_size()):
        raise InputError(
            f"states: expected shape ({len(latents)}, {like.local_size()}), a state of this rank's entries for each of "
            f"the {len(latents)} samples, at least one; got {states.shape}."
        )
