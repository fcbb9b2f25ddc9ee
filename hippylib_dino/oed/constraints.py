"""What a design must keep to.  A constraint is a function of a design that says whether it is allowed.

A part of an allowed design has to be allowed, so that sensors can be added one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.spatial.distance import pdist

from hippylib_dino.errors import InputError

Constraint = Callable[[Sequence[int]], bool]


class MinimalDistance:
    """No two sensors closer to each other than a distance.

    Parameters
    ----------
    points : (n_candidates, d)
        Where the candidates are.
    distance : float
        In the units of `points`.

    Raises
    ------
    InputError
        If points have another shape, or the distance is negative.
    """

    def __init__(self, points: np.ndarray, distance: float):
        self.points = np.asarray(points, dtype=float)
        if self.points.ndim != 2 or not np.isfinite(self.points).all():
            raise InputError(f"points: expected finite coordinates (n_candidates, d), got {self.points.shape}.")
        if not distance >= 0:
            raise InputError(f"distance: expected at least 0, got {distance}.")
        self.distance = distance

    def __call__(self, design: Sequence[int]) -> bool:
        return len(design) < 2 or bool(pdist(self.points[list(design)]).min() >= self.distance * (1 - 1e-12))


class Budget:
    """Costs of the sensors sum up to a total at most.

    Parameters
    ----------
    costs : (n_candidates,)
        Positive.
    total : float
        In their units.

    Raises
    ------
    InputError
        If a cost is not positive.
    """

    def __init__(self, costs: np.ndarray, total: float):
        self.costs = np.asarray(costs, dtype=float)
        if self.costs.ndim != 1 or not np.isfinite(self.costs).all() or not (self.costs > 0).all():
            raise InputError(f"costs: expected positive numbers (n_candidates,), got {costs}.")
        self.total = total

    def __call__(self, design: Sequence[int]) -> bool:
        return float(self.costs[list(design)].sum()) <= self.total * (1 + 1e-12)
