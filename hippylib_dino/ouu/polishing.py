"""From the surrogate's optimal control to the PDE's, by few evaluations of the PDE."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from hippylib_dino.errors import InputError, SolveError
from hippylib_dino.ouu.ensembles import Ensemble, checked_control
from hippylib_dino.ouu.journal import Journal
from hippylib_dino.ouu.minimization import (
    Iterate,
    OptimalControl,
    check_tolerance,
    check_within,
    checked_bounds,
    minimize,
    projected_norm,
    show,
)
from hippylib_dino.ouu.objective import Objective, finite_quantity

INNER_ITERATIONS = 200  # of the surrogate, for each evaluation of the PDE
GOOD, POOR = 0.75, 0.25  # of the decrease that was expected: the region grows, or shrinks
GROWTH, SHRINKAGE = 2.0, 0.25
AT_BORDER = 0.99  # of the region's radius: a step of this size is one that the region holds back
SMALLEST = 1e-8  # region in which a surrogate that fails is given up
SAME = 1e-3  # of a step: what rounding makes of it elsewhere


class CorrectedEnsemble(Ensemble):
    """A surrogate that at one control has the values and gradients of another ensemble, sample by sample.

    q̂_i(z) + q_i(z₀) - q̂_i(z₀) + (∇q_i(z₀) - ∇q̂_i(z₀))ᵀ(z - z₀), with the surrogate q̂ and the samples q of the PDE.

    Parameters
    ----------
    surrogate : Ensemble
        q̂.
    z : (dZ,)
        z₀.
    q : (n,)
    jacobian : (n, dZ)
        q and ∇q at z₀.
    """

    def __init__(self, surrogate: Ensemble, z: np.ndarray, q: np.ndarray, jacobian: np.ndarray):
        self._surrogate, self._z = surrogate, z
        self.n, self.n_control = surrogate.n, surrogate.n_control
        there, slope = surrogate.quantity_and_jacobian(z)
        self._shift, self._slope = q - there, jacobian - slope

    def quantity(self, z: np.ndarray) -> np.ndarray:
        return self._surrogate.quantity(z) + self._shift + self._slope @ (z - self._z)

    def quantity_and_jacobian(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        q, jacobian = self._surrogate.quantity_and_jacobian(z)
        return q + self._shift + self._slope @ (z - self._z), jacobian + self._slope

    def hessian_actions(self, z: np.ndarray, direction: np.ndarray) -> np.ndarray:
        return self._surrogate.hessian_actions(z, direction)


def polish(
    objective: Objective,
    surrogate: Ensemble,
    start: np.ndarray,
    *,
    bounds: tuple[float | np.ndarray, float | np.ndarray] | None = None,
    max_evaluations: int = 5,
    tolerance: float = 1e-4,
    path: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> OptimalControl:
    """Minimise an objective of the PDE with few of its evaluations, the surrogate doing the rest.

    Each evaluation of the PDE corrects the surrogate (`CorrectedEnsemble`), whose optimum within a trust region is the
    next control, accepted if the PDE says it is better.  The correction makes value and gradient of the objective the
    PDE's own, so that a stationary control is one of the PDE however poor the surrogate is; it is reached in few
    evaluations where the surrogate's curvature is right.  A control at which the PDE cannot be solved is one that is
    not better.

    Parameters
    ----------
    objective : Objective
        With the PDE's ensemble.
    surrogate : Ensemble
        At the same samples: ``SurrogateEnsemble.of_dino(dino, quantity, pde_ensemble.latent(dino.input_basis))``.
    start : (dZ,)
        Within the bounds; usually the surrogate's optimum.
    bounds : pair of float or (dZ,), optional
        Lower and upper.
    max_evaluations : int
        Of the PDE, each a forward and an adjoint solve a sample; the one at the start among them.
    tolerance : float
        Ends when the corrected surrogate expects less decrease than this, relative to the objective.
    path : str or Path, optional
        File that each evaluation of the PDE is appended to.
    resume : bool
        Go on with a file that is there.
    progress : bool

    Returns
    -------
    OptimalControl
        Its counts and history are those of the PDE's evaluations; `converged` where no more decrease is expected.

    Raises
    ------
    InputError
        For a surrogate of other samples or controls, a joint objective, bounds that no control meets, a start outside
        of them, or a file of another problem.
    SolveError
        If the quantity of interest is not finite, or a PDE solve failed, at the start.

    References
    ----------
    Alexandrov, Lewis, Gumbert, Green, Newman, J. Aircraft 38 (2001), for trust regions of models that are corrected
    to first order.

    Examples
    --------
    ::

        pde = hd.ouu.Objective(samples, risk, penalties)                   # samples: a PDEEnsemble
        exact = hd.ouu.polish(pde, ensemble, result.z, bounds=(-4, 4))     # ensemble: the surrogate's
    """
    pde = objective.ensemble
    if (surrogate.n, surrogate.n_control) != (pde.n, pde.n_control):
        raise InputError(
            f"surrogate: expected {pde.n} samples and {pde.n_control} controls, as the objective has, got "
            f"{surrogate.n} and {surrogate.n_control}. Build it at the same samples (PDEEnsemble.latent)."
        )
    if objective.n_auxiliary:
        raise InputError("objective: expected one of the control alone, got a joint one. Leave joint=True out.")
    if max_evaluations < 1:
        raise InputError(f"max_evaluations: expected at least 1, got {max_evaluations}.")
    check_tolerance(tolerance)
    low, high = checked_bounds(bounds, pde.n_control)
    start = checked_control(start, pde.n_control, "start")
    check_within(start, low, high)
    settings = {"method": "polish", "risk": repr(objective.risk), "n": pde.n, "n_control": pde.n_control}
    journal = Journal(path, resume=resume, settings=settings, writes=pde.is_first)
    with tqdm(desc="polish by the PDE", unit="evaluation", disable=not (progress and pde.is_first)) as bar:
        return _Run(objective, surrogate, low, high, journal, bar).solve(start, max_evaluations, tolerance)


class _Trial(NamedTuple):
    """The corrected surrogate's optimum within the region, the same on all ranks."""

    z: np.ndarray
    decrease: float  # that it expects
    converged: bool


class _Run:
    """One polish: what was evaluated, and the surrogate corrected at the best control so far."""

    def __init__(
        self, objective: Objective, surrogate: Ensemble, low: np.ndarray, high: np.ndarray, journal: Journal, bar: tqdm
    ):
        self.objective, self.pde, self.surrogate = objective, objective.ensemble, surrogate
        self.low, self.high, self.journal, self.bar = low, high, journal, bar
        self.begun, self.n_evaluations = time.perf_counter(), 0
        self.history: list[Iterate] = []

    def correct(self, z: np.ndarray) -> tuple[Objective, Iterate]:
        """Ask the PDE at z: the objective of the surrogate corrected there, with the PDE's own value and gradient."""

        def compute() -> np.ndarray:
            try:
                q, jacobian = self.pde.quantity_and_jacobian(z)
            except SolveError:
                if not self.history:
                    raise
                return np.full(self.pde.n * (1 + self.pde.n_control), np.nan)  # a failure is remembered too
            return np.concatenate([q, jacobian.ravel()])

        self.n_evaluations += 1
        self.bar.update()
        answer = self.journal.ask(z, compute)
        q, jacobian = finite_quantity(answer[: self.pde.n]), answer[self.pde.n :].reshape(self.pde.n, -1)
        ensemble = CorrectedEnsemble(self.surrogate, z, q, jacobian)
        model = Objective(ensemble, self.objective.risk, self.objective.penalties, self.objective.weights)
        value, gradient = model.value_and_gradient(z)
        value, norm = self.pde.of_first(np.array([value, projected_norm(z, gradient, self.low, self.high)]))
        return model, Iterate(z, float(value), float(norm), self.n_evaluations, time.perf_counter() - self.begun)

    def accept(self, new: Iterate) -> None:
        self.history.append(new)
        show(self.bar, new)

    def propose(self, model: Objective, radius: float) -> _Trial | None:
        """None where the corrected surrogate itself failed on the way."""
        here = self.history[-1]
        region = np.maximum(self.low, here.z - radius), np.minimum(self.high, here.z + radius)
        try:
            found = minimize(model, here.z, bounds=region, max_iterations=INNER_ITERATIONS, progress=False)
            mine = np.concatenate([[1.0, here.value - found.value, found.converged], found.z])
        except SolveError:
            mine = np.zeros(3 + self.pde.n_control)
        ok, decrease, converged, *z = self.pde.of_first(mine)
        return _Trial(np.array(z), decrease, bool(converged)) if ok else None

    def solve(self, start: np.ndarray, max_evaluations: int, tolerance: float) -> OptimalControl:
        model, first = self.correct(self.pde.of_first(start.copy()))
        self.accept(first)
        radius, converged, message = np.inf, False, "max_evaluations were used"
        while True:
            here = self.history[-1]
            trial = self.propose(model, radius)
            if trial is None:
                radius = SHRINKAGE * min(radius, max(1.0, np.abs(here.z).max()))
                if radius < SMALLEST:
                    message = "the corrected surrogate failed in any region"
                    break
                continue
            step = float(np.abs(trial.z - here.z).max())
            if trial.decrease <= tolerance * abs(here.value) and step < AT_BORDER * radius:
                converged = trial.converged
                message = "less decrease is expected than the tolerance"
                message += "" if converged else ", by a surrogate that was not minimised to its end"
                break
            if self.n_evaluations >= max_evaluations:
                break
            known = self.journal.upcoming
            if known is not None and np.abs(known - trial.z).max() <= SAME * step:
                trial = trial._replace(z=known)  # rounding on other ranks must not part a resumed run from its file
            try:
                at_trial, new = self.correct(trial.z)
                gain = (here.value - new.value) / trial.decrease
            except SolveError:
                gain = -np.inf
            if gain < POOR:
                radius = SHRINKAGE * step
            elif gain > GOOD and step >= AT_BORDER * radius:
                radius *= GROWTH
            if gain > 0:
                model = at_trial
                self.accept(new)
        return self.result(converged, message, model)

    def result(self, converged: bool, message: str, model: Objective) -> OptimalControl:
        last = self.history[-1]
        return OptimalControl(
            z=last.z.copy(),
            auxiliary=np.empty(0),
            value=last.value,
            risk=last.value - self.objective.penalty(last.z),
            gradient_norm=last.gradient_norm,
            converged=converged,
            message=message,
            n_iterations=len(self.history) - 1,
            n_evaluations=self.n_evaluations,
            n_hessian_actions=0,
            seconds=time.perf_counter() - self.begun,
            history=self.history,
            outside=self.pde.outside(last.z),
            smoothing=model.smoothing(last.z)[0],
        )
