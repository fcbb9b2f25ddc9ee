"""Designs by continuous weights: a concave problem, then a penalty that drives the weights to 0 and 1."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import LinearConstraint, minimize

from hippylib_dino.errors import InputError
from hippylib_dino.oed.constraints import Budget, Constraint
from hippylib_dino.oed.criteria import Criterion
from hippylib_dino.oed.search import Design, Search

FIRST_PENALTY = 0.02  # relative to the criterion for each sensor
STAGES = 14  # of the penalty, each twice the one before
BINARY = 1e-3  # largest w(1 - w) of weights that count as 0 or 1


@dataclass(frozen=True)
class RelaxedDesign(Design):
    """A design from continuous weights.

    Attributes
    ----------
    sensors, value, path, n_evaluations
        As in `Design`, by the criterion itself.
    weights : (n_candidates,)
        Optimal weights without penalty: how much of each sensor.
    bound : float
        No design of so many sensors has a larger *linearised* criterion; NaN where noise is correlated between
        candidates, where the problem is not known to be concave.
    """

    weights: np.ndarray
    bound: float


def relaxed(
    gain: Criterion,
    n_sensors: int,
    *,
    candidates: Iterable[int] | None = None,
    fixed: Sequence[int] = (),
    constraints: Sequence[Constraint] = (),
) -> RelaxedDesign:
    """Maximise the linearised criterion over weights in [0, 1] of sum `n_sensors`, with a sparsifying penalty.

    Without penalty first, then with γ Σ w(1 - w) and γ doubled until the weights are 0 or 1, by SciPy's SLSQP.  At each
    stage the largest weights that the constraints allow are a design; of these the criterion chooses the best.

    Parameters
    ----------
    gain : Criterion
        Of this package; its linearisation at the draws is what is maximised, also for ``method="laplace"``.
    n_sensors, candidates, fixed, constraints
        See `greedy`.  Budgets bound the weights, other constraints the choice among them.

    Returns
    -------
    RelaxedDesign

    Raises
    ------
    InputError
        As for `greedy`.

    References
    ----------
    Boyd, Vandenberghe, Convex Optimization, section 7.5; for sparsifying penalties with PDEs Alexanderian, Petra,
    Stadler, Ghattas, SIAM J. Sci. Comput. 36 (2014).
    """
    search = Search(gain, n_sensors, candidates, fixed, constraints)
    free = np.array([c for c in search.candidates if c not in search.fixed], dtype=int)
    problem = _Relaxation(gain, free, search)
    weights = problem.solve(np.full(len(free), problem.left / max(len(free), 1)), 0.0)
    best, bound = weights, problem.bound(weights)
    designs = {problem.rounded(weights)}
    penalty = FIRST_PENALTY * max(problem.value(weights), 1e-300) / n_sensors
    for _ in range(STAGES):
        if (weights * (1 - weights)).max(initial=0.0) < BINARY:
            break
        weights = problem.solve(weights, penalty)
        designs.add(problem.rounded(weights))
        penalty *= 2
    tried = sorted(designs)
    design = search.ordered(tried[int(np.argmax(search.values(tried)))])
    return RelaxedDesign(**vars(design), weights=problem.everywhere(best), bound=bound)


class _Relaxation:
    """The linearised criterion of weights of the free candidates."""

    def __init__(self, gain: Criterion, free: np.ndarray, search: Search):
        self._gain, self._free, self._search = gain, free, search
        self.left = search.n_sensors - len(search.fixed)

    def everywhere(self, weights: np.ndarray) -> np.ndarray:
        """Weights of all candidates."""
        out = np.zeros(self._gain.n_candidates)
        out[list(self._search.fixed)] = 1.0
        out[self._free] = weights
        return out

    def rounded(self, weights: np.ndarray) -> tuple[int, ...]:
        """The fixed sensors and those of the largest weights that the constraints allow."""
        chosen = list(self._search.fixed)
        for c in self._free[np.argsort(-weights, kind="stable")]:
            if len(chosen) < self._search.n_sensors and self._search.allows((*chosen, int(c))):
                chosen.append(int(c))
        if not chosen:
            raise InputError("constraints: no candidate is allowed, not even alone.")
        return tuple(sorted(chosen))

    def value(self, weights: np.ndarray) -> float:
        return self._gain.relaxed(self.everywhere(weights))[0]

    def solve(self, start: np.ndarray, penalty: float) -> np.ndarray:
        if len(self._free) == 0:
            return start

        def cost(w: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = self._gain.relaxed(self.everywhere(w))
            return penalty * float((w * (1 - w)).sum()) - value, penalty * (1 - 2 * w) - gradient[self._free]

        budgets = [c for c in self._search.constraints if isinstance(c, Budget)]
        # with a budget there may be fewer sensors
        limits = [LinearConstraint(np.ones(len(start)), 0 if budgets else self.left, self.left)]
        for budget in budgets:
            spent = budget.costs[list(self._search.fixed)].sum()
            limits.append(LinearConstraint(budget.costs[self._free], 0, budget.total - spent))
        found = minimize(
            cost, start, jac=True, method="SLSQP", bounds=[(0.0, 1.0)] * len(start), constraints=limits,
            options={"maxiter": 200, "ftol": 1e-9},
        )  # fmt: skip
        return np.clip(found.x, 0.0, 1.0)

    def bound(self, weights: np.ndarray) -> float:
        """φ(w) + max over v of ∇φ(w)ᵀ(v - w), an upper bound of a concave φ wherever w is."""
        correlation = self._gain.experiment.correlation
        if correlation is not None:
            within = np.zeros(correlation.shape, dtype=bool)
            for rows in self._gain.experiment.groups:
                within[np.ix_(rows, rows)] = True
            if np.abs(correlation[~within & ~np.eye(len(correlation), dtype=bool)]).max(initial=0.0) > 0:
                return float("nan")
        value, gradient = self._gain.relaxed(self.everywhere(weights))
        slope = gradient[self._free]
        best = np.sort(slope)[::-1][: self.left]
        return float(value + np.maximum(best, 0.0).sum() - slope @ weights)
