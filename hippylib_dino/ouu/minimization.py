"""The optimal control, by SciPy."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, linprog
from scipy.optimize import minimize as scipy_minimize
from scipy.sparse.linalg import LinearOperator
from tqdm import tqdm

from hippylib_dino.errors import InputError
from hippylib_dino.ouu.ensembles import checked_control
from hippylib_dino.ouu.journal import Journal
from hippylib_dino.ouu.objective import Objective
from hippylib_dino.ouu.risk import SmoothedRisk
from hippylib_dino.ouu.smoothing import SmoothingWarning

METHODS = ("L-BFGS-B", "trust-constr")
DECREASE = 1e-13  # relative decrease of the objective that L-BFGS-B takes for none
FEASIBLE = 1e-8  # violation of a constraint that is none
BARRIER = 1e-3  # of trust-constr at the end, relative to the gradient that is tolerated
MEMORY = 20  # pairs that L-BFGS-B remembers


class ExtrapolationWarning(UserWarning):
    """A control is outside of what the surrogate was trained on."""


@dataclass(frozen=True)
class Iterate:
    """One iterate.

    Attributes
    ----------
    z : (dZ,)
    value : float
        The objective.
    gradient_norm : float
        Largest entry of the projected gradient.
    n_evaluations : int
        Evaluations of the objective and its gradient so far.
    seconds : float
        Since the start.
    """

    z: np.ndarray
    value: float
    gradient_norm: float
    n_evaluations: int
    seconds: float


@dataclass(frozen=True)
class OptimalControl:
    """What `minimize` found.

    Attributes
    ----------
    z : (dZ,)
        Control.
    auxiliary : (k,)
        t of a joint objective; empty of others.
    value, risk : float
        Objective; the risk measure in it.
    gradient_norm : float
        Largest entry of the projected gradient: what the bounds leave of the objective's gradient.
    converged : bool
        Whether SciPy says so; `message` why.
    message : str
    n_iterations, n_evaluations, n_hessian_actions : int
        Iterations; evaluations of the objective with its gradient, each one of every sample; Hessian actions.
    seconds : float
    history : list of Iterate
        The start first.
    outside : str, optional
        Why the surrogate is not to be relied on at z, where it was trained on other controls.
    smoothing : float, optional
        Width ε of the risk's smoothing at z, in units of Q; None of a measure that does not smooth.
    """

    z: np.ndarray
    auxiliary: np.ndarray
    value: float
    risk: float
    gradient_norm: float
    converged: bool
    message: str
    n_iterations: int
    n_evaluations: int
    n_hessian_actions: int
    seconds: float
    history: list[Iterate]
    outside: str | None
    smoothing: float | None = None


def minimize(
    objective: Objective,
    start: np.ndarray,
    *,
    bounds: tuple[float | np.ndarray, float | np.ndarray] | None = None,
    constraints: Sequence[LinearConstraint] = (),
    method: str = "L-BFGS-B",
    tolerance: float = 1e-5,
    max_iterations: int = 500,
    path: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> OptimalControl:
    """Minimise an objective over the control, and over the auxiliary variables of a joint one.

    With an ensemble of the PDE the same call gives the PDE's own optimum; `polish` gets there from the surrogate's with
    few solves.

    Parameters
    ----------
    objective : Objective
    start : (dZ,)
        Within the bounds.
    bounds : pair of float or (dZ,), optional
        Lower and upper; infinite ones are none.
    constraints : sequence of scipy.optimize.LinearConstraint
        On z, such as a budget; by "trust-constr" only.
    method : "L-BFGS-B" or "trust-constr"
        Gradients alone; or gradients and Hessian actions, for constraints, and for an exact end of smooth problems.
    tolerance : float
        On the largest entry of the projected gradient, relative to that at the start.
    max_iterations : int
    path : str or Path, optional
        File that each evaluation is appended to.
    resume : bool
        Go on with a file that is there: the result is that of a run which was never interrupted.
    progress : bool

    Returns
    -------
    OptimalControl

    Warns
    -----
    ExtrapolationWarning
        If the control is outside of what the surrogate was trained on.
    SmoothingWarning
        If the risk's smoothing was given, and dominates the spread of the quantity at the control.

    Raises
    ------
    InputError
        For bounds or constraints that no control meets, a start outside of them or of another size, or a file of
        another problem.
    SolveError
        If the quantity of interest is not finite, or a PDE solve failed.  The file keeps what was evaluated.

    References
    ----------
    Byrd, Lu, Nocedal, Zhu, SIAM J. Sci. Comput. 16 (1995), for L-BFGS-B; Byrd, Hribar, Nocedal, SIAM J. Optim. 9
    (1999), for trust-constr.
    """
    n = objective.ensemble.n_control
    z = checked_control(start, n, "start")
    low, high = checked_bounds(bounds, n)
    _check_options(method, tolerance, max_iterations, constraints)
    check_within(z, low, high)
    _check_feasible(z, low, high, constraints)
    settings = {
        "method": method, "risk": repr(objective.risk), "penalties": [type(p).__name__ for p in objective.penalties],
        "n": objective.ensemble.n, "n_variables": objective.n_variables, "tolerance": tolerance,
    }  # fmt: skip
    is_first = objective.ensemble.is_first
    journal = Journal(path, resume=resume, settings=settings, writes=is_first)
    with tqdm(desc="optimisation", unit="iteration", disable=not (progress and is_first), mininterval=0.5) as bar:
        run = _Run(objective, low, high, journal, bar)
        found = run.solve(z, constraints, method=method, tolerance=tolerance, max_iterations=max_iterations)
    result = run.result(found)
    if result.outside is not None:
        warnings.warn(
            f"z: the optimal control is outside of what the surrogate was trained on: {result.outside} Ask the PDE "
            "(hd.ouu.assess), or train on controls from a wider range.",
            ExtrapolationWarning,
            stacklevel=2,
        )
    return result


class _Run:
    """Objective and Hessian as SciPy calls them, with what is counted and kept."""

    def __init__(self, objective: Objective, low: np.ndarray, high: np.ndarray, journal: Journal, bar: tqdm):
        self.objective, self.journal, self.bar = objective, journal, bar
        open_ended = np.full(objective.n_auxiliary, np.inf)
        self.low, self.high = np.concatenate([low, -open_ended]), np.concatenate([high, open_ended])
        self.history: list[Iterate] = []
        self.n_evaluations = self.n_hessian_actions = 0
        self.stationary = False
        self.begun = time.perf_counter()
        self.last: tuple[np.ndarray, float, np.ndarray] = (np.empty(0), np.nan, np.empty(0))

    def evaluate(self, variables: np.ndarray) -> tuple[float, np.ndarray]:
        if not np.array_equal(variables, self.last[0]):

            def compute() -> np.ndarray:
                value, gradient = self.objective.value_and_gradient(variables)
                return np.concatenate([[value], gradient])

            answer = self.journal.ask(variables, compute)
            self.n_evaluations += 1
            self.last = (variables.copy(), float(answer[0]), answer[1:])
        return self.last[1], self.last[2].copy()

    def hessian(self, variables: np.ndarray) -> LinearOperator:
        variables = variables.copy()

        def product(direction: np.ndarray) -> np.ndarray:
            v = direction.ravel()
            self.n_hessian_actions += 1
            return self.journal.ask(np.concatenate([variables, v]), lambda: self.objective.hessian_action(variables, v))

        return LinearOperator((len(variables),) * 2, matvec=product, rmatvec=product, dtype=float)

    def note(self, variables: np.ndarray, value: float, gradient: np.ndarray) -> None:
        """A new iterate."""
        norm = projected_norm(variables, gradient, self.low, self.high)
        z = variables[: self.objective.ensemble.n_control].copy()
        seconds = time.perf_counter() - self.begun
        self.history.append(Iterate(z, value, norm, self.n_evaluations, seconds))
        if len(self.history) > 1:
            self.bar.update()
        show(self.bar, self.history[-1])

    def solve(
        self,
        z: np.ndarray,
        constraints: Sequence[LinearConstraint],
        *,
        method: str,
        tolerance: float,
        max_iterations: int,
    ) -> OptimizeResult:
        variables = z
        if self.objective.n_auxiliary:
            variables = self.journal.ask(z, lambda: self.objective.start(z))
        value, gradient = self.evaluate(variables)
        self.note(variables, value, gradient)
        goal = tolerance * self.history[0].gradient_norm
        bounds = Bounds(self.low, self.high, keep_feasible=True)
        if method == "L-BFGS-B":

            def follow(x: np.ndarray) -> None:
                self.note(x, *self.evaluate(x))

            return scipy_minimize(
                self.evaluate, variables, jac=True, method=method, bounds=bounds, callback=follow,
                options={"maxiter": max_iterations, "maxfun": 20 * max_iterations, "maxcor": MEMORY, "gtol": goal,
                         "ftol": DECREASE},
            )  # fmt: skip

        def follow_interior(_: np.ndarray, state: OptimizeResult) -> bool:
            if state.nit > 1:  # the first is the start
                self.note(state.x, float(state.fun), state.grad)
            # SciPy's own test would end with a barrier that still holds the control off its bounds
            barrier = getattr(state, "barrier_parameter", 0.0)
            self.stationary = state.optimality <= goal and state.constr_violation <= FEASIBLE and barrier <= least
            return self.stationary

        least = BARRIER * goal
        return scipy_minimize(
            self.evaluate, variables, jac=True, hess=self.hessian, method=method, callback=follow_interior,
            bounds=bounds if np.isfinite([self.low, self.high]).any() else None,
            constraints=[_extended(c, len(variables) - len(z)) for c in constraints],
            options={"maxiter": max_iterations, "gtol": 0.0, "xtol": 1e-12, "barrier_tol": least},
        )  # fmt: skip

    def result(self, found: OptimizeResult) -> OptimalControl:
        value, gradient = self.evaluate(found.x)
        smoothing = reported_smoothing(self.objective, found.x, stacklevel=4)
        z, t = self.objective.split(found.x)
        return OptimalControl(
            z=z.copy(),
            auxiliary=t.copy(),
            value=value,
            risk=value - self.objective.penalty(z),
            gradient_norm=projected_norm(found.x, gradient, self.low, self.high),
            converged=self.stationary or (bool(found.success) and getattr(found, "constr_violation", 0.0) <= FEASIBLE),
            message="The gradient of the Lagrangian is at most the tolerance."
            if self.stationary
            else str(found.message),
            n_iterations=len(self.history) - 1,
            n_evaluations=self.n_evaluations,
            n_hessian_actions=self.n_hessian_actions,
            seconds=time.perf_counter() - self.begun,
            history=self.history,
            outside=self.objective.ensemble.outside(z),
            smoothing=smoothing,
        )


def reported_smoothing(objective: Objective, variables: np.ndarray, *, stacklevel: int) -> float | None:
    """Width of the risk's smoothing at the variables, with a warning where it dominates."""
    if not isinstance(objective.risk, SmoothedRisk):
        return None
    width, complaint = objective.smoothing(variables)
    if complaint:
        warnings.warn(complaint, SmoothingWarning, stacklevel=stacklevel)
    return width


def show(bar: tqdm, at: Iterate) -> None:
    """Value and gradient of an iterate beside a bar, which refreshes by time."""
    bar.set_postfix(objective=f"{at.value:.6g}", gradient=f"{at.gradient_norm:.2g}", refresh=False)


def projected_gradient(x: np.ndarray, gradient: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """x - P(x - g) (n,), which is zero where bounds hold what the gradient asks for."""
    return x - np.clip(x - gradient, low, high)


def projected_norm(x: np.ndarray, gradient: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """Largest entry of the projected gradient."""
    return float(np.abs(projected_gradient(x, gradient, low, high)).max())


def checked_bounds(bounds: Sequence | None, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds (n,) of controls; `InputError` unless some control is between them."""
    if bounds is None:
        return np.full(n, -np.inf), np.full(n, np.inf)
    try:
        low, high = (np.broadcast_to(np.asarray(b, dtype=float), (n,)).copy() for b in bounds)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"bounds: expected a pair (lower, upper) of numbers or of arrays ({n},), got {bounds!r}."
        ) from error
    if np.isnan([low, high]).any() or (low == np.inf).any() or (high == -np.inf).any():
        raise InputError("bounds: leave no control: a lower one is nan or inf, or an upper one nan or -inf.")
    inverted = np.flatnonzero(low > high)
    if len(inverted):
        i = inverted[0]
        raise InputError(
            f"bounds: inverted at {len(inverted)} of {n} controls, first at {i}: lower {low[i]:g} > upper {high[i]:g}. "
            "Pass (lower, upper)."
        )
    return low, high


def _check_options(method: str, tolerance: float, max_iterations: int, constraints: Sequence) -> None:
    if method not in METHODS:
        raise InputError(f"method: expected one of {METHODS}, got {method!r}.")
    check_tolerance(tolerance)
    if max_iterations < 1:
        raise InputError(f"max_iterations: expected at least 1, got {max_iterations}.")
    if constraints and method != "trust-constr":
        raise InputError(f'constraints: expected method="trust-constr" with them, got {method!r}.')


def check_tolerance(tolerance: float) -> None:
    """`InputError` unless it is positive."""
    if not tolerance > 0:
        raise InputError(f"tolerance: expected a number > 0, got {tolerance}.")


def check_within(z: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """`InputError` unless the start is within the bounds."""
    outside = np.flatnonzero((z < low) | (z > high))
    if len(outside):
        raise InputError(
            f"start: outside of the bounds at {len(outside)} of {len(z)} controls, first at {outside[0]}: "
            f"{z[outside[0]]:g} is not in [{low[outside[0]]:g}, {high[outside[0]]:g}]. Pass np.clip(start, *bounds)."
        )


def _check_feasible(z: np.ndarray, low: np.ndarray, high: np.ndarray, constraints: Sequence[LinearConstraint]) -> None:
    """`InputError` unless bounds and constraints leave a control."""
    if not constraints:
        return
    rows = []
    for constraint in constraints:
        if np.shape(constraint.A)[-1] != len(z):
            raise InputError(
                f"constraints: expected matrices of {len(z)} columns, one a control, got {np.shape(constraint.A)}."
            )
        matrix = sparse.csr_matrix(np.atleast_2d(constraint.A) if not sparse.issparse(constraint.A) else constraint.A)
        lower, upper = (np.broadcast_to(b, matrix.shape[:1]) for b in (constraint.lb, constraint.ub))
        rows += [(matrix, upper), (-matrix, -lower)]
    limits = np.concatenate([limit for _, limit in rows])
    kept = np.isfinite(limits)
    feasible = linprog(
        np.zeros(len(z)), A_ub=sparse.vstack([matrix for matrix, _ in rows]).tocsr()[kept], b_ub=limits[kept],
        bounds=np.column_stack([low, high]),
    )  # fmt: skip
    if feasible.status == 2:
        raise InputError("constraints: infeasible: no control within the bounds meets all of them.")


def _extended(constraint: LinearConstraint, n_auxiliary: int) -> LinearConstraint:
    """The constraint on (z, t)."""
    matrix = constraint.A if sparse.issparse(constraint.A) else np.atleast_2d(constraint.A)
    more = sparse.csr_matrix((matrix.shape[0], n_auxiliary))
    return LinearConstraint(sparse.hstack([sparse.csr_matrix(matrix), more]).tocsr(), constraint.lb, constraint.ub)
