"""Searches for the k sensors of n candidates that maximise a criterion.

A criterion is any function of a design, a tuple of sensor numbers.  One with `evaluate(designs)` or
`extensions(design, candidates)`, as those of this package have, is asked for many designs at once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hippylib_dino.errors import InputError
from hippylib_dino.oed.constraints import Budget, Constraint
from hippylib_dino.random_streams import Purpose, generator

BETTER = 1e-9  # relative; gains smaller than this are rounding
DESIGNS_AT_ONCE = 256
MAX_TRIES = 200  # random designs that violate a constraint, for one that does not


@dataclass(frozen=True)
class Design(Sequence):
    """Chosen sensors; a sequence of their numbers.

    Attributes
    ----------
    sensors : tuple of int
        In the order in which they tell most: the first is the best of them alone, and so on.
    value : float
        Of the criterion.
    path : tuple of float
        Values of the first 1, 2, ... sensors.
    n_evaluations : int
        Designs that the search asked the criterion for.
    """

    sensors: tuple[int, ...]
    value: float
    path: tuple[float, ...]
    n_evaluations: int

    def __len__(self) -> int:
        return len(self.sensors)

    def __getitem__(self, index):
        return self.sensors[index]


class Search:
    """A criterion, and the designs that are allowed.

    Parameters
    ----------
    gain, n_sensors, candidates, fixed, constraints
        See `greedy`.

    Raises
    ------
    InputError
        As `greedy` says.
    """

    def __init__(
        self,
        gain: Callable,
        n_sensors: int,
        candidates: Iterable[int] | None,
        fixed: Sequence[int],
        constraints: Sequence[Constraint],
    ):
        self.gain, self.n_sensors, self.n_evaluations = gain, n_sensors, 0
        if candidates is None:
            if not hasattr(gain, "n_candidates"):
                raise InputError("candidates: the criterion does not tell its number; pass candidates=range(n).")
            candidates = sorted(set(range(gain.n_candidates)) - set(getattr(gain, "measured", ())))
        self.fixed = tuple(fixed)
        self.candidates = tuple(dict.fromkeys([*self.fixed, *candidates]))
        self.constraints = tuple(constraints)
        if not self.candidates:
            raise InputError("candidates: expected at least one sensor to choose from, got none.")
        if not max(1, len(self.fixed)) <= n_sensors <= len(self.candidates):
            raise InputError(
                f"n_sensors: expected {max(1, len(self.fixed))} to {len(self.candidates)}, the number of fixed sensors "
                f"and of candidates, got {n_sensors}."
            )
        if len(set(self.fixed)) < len(self.fixed):
            raise InputError(f"fixed: expected each sensor once, got {self.fixed}.")
        if not self.allows(self.fixed):
            raise InputError(f"fixed: sensors {self.fixed} together violate a constraint.")

    def allows(self, design: Sequence[int]) -> bool:
        """Whether all constraints allow the design."""
        return all(constraint(tuple(design)) for constraint in self.constraints)

    def allowed(self, design: Sequence[int]) -> list[int]:
        """Candidates that may be added."""
        return [c for c in self.candidates if c not in design and self.allows((*design, c))]

    def values(self, designs: Sequence[tuple[int, ...]]) -> np.ndarray:
        """The criterion of each design, (n,)."""
        self.n_evaluations += len(designs)
        if hasattr(self.gain, "evaluate"):
            return np.asarray(self.gain.evaluate(designs), dtype=float)
        return np.array([float(self.gain(design)) for design in designs])

    def extensions(self, design: Sequence[int], candidates: Sequence[int]) -> np.ndarray:
        """The criterion of the design with each candidate added, (n_candidates,)."""
        if not hasattr(self.gain, "extensions"):
            return self.values([(*design, c) for c in candidates])
        self.n_evaluations += len(candidates)
        return np.asarray(self.gain.extensions(tuple(design), candidates), dtype=float)

    def ordered(self, sensors: Sequence[int]) -> Design:
        """The design with its sensors in the order of a greedy choice among them, the fixed ones first."""
        chosen: list[int] = []
        path: list[float] = []
        left = [s for s in sensors if s not in self.fixed]
        for s in self.fixed:
            chosen.append(s)
            path.append(float(self.values([tuple(chosen)])[0]))
        while left:
            values = self.extensions(chosen, left)
            best = int(np.argmax(values))
            chosen.append(left.pop(best))
            path.append(float(values[best]))
        return Design(tuple(chosen), path[-1], tuple(path), self.n_evaluations)

    def grow(self, design: Sequence[int], costs: np.ndarray | None = None) -> list[int]:
        """Add the best candidate, or the best for its cost, until there are enough, or none is allowed."""
        chosen = list(design)
        value = float(self.values([tuple(chosen)])[0]) if chosen and costs is not None else 0.0
        while len(chosen) < self.n_sensors:
            allowed = self.allowed(chosen)
            if not allowed:
                break
            values = self.extensions(chosen, allowed)
            best = int(np.argmax(values if costs is None else (values - value) / costs[allowed]))
            chosen.append(allowed[best])
            value = float(values[best])
        if not chosen:
            raise InputError("constraints: no candidate is allowed, not even alone.")
        return chosen

    def greedy(self) -> list[int]:
        """Of the greedy designs by gain and, with a budget, by gain for its cost, the better one."""
        budgets = [c for c in self.constraints if isinstance(c, Budget)]
        plain = self.grow(self.fixed)
        if not budgets:
            return plain
        thrifty = self.grow(self.fixed, budgets[0].costs)
        values = self.values([tuple(plain), tuple(thrifty)])
        return thrifty if values[1] > values[0] else plain


def greedy(
    gain: Callable,
    n_sensors: int,
    *,
    candidates: Iterable[int] | None = None,
    fixed: Sequence[int] = (),
    constraints: Sequence[Constraint] = (),
) -> Design:
    """Standard greedy: the sensor that gains most, added to those that are there.

    Of a monotone submodular criterion, such as the information gain of a linear problem with independent noise, the
    design is worth at least (1 - 1/e) of the best.  With a `Budget` the greedy choice by gain over cost is made as
    well, and the better design returned: at least (1 - 1/e)/2 of the best.

    Parameters
    ----------
    gain : callable
        Function of a design, to be maximised.
    n_sensors : int
        k, the fixed ones included; with constraints, k at most.
    candidates : sensor numbers, optional
        Default all of the criterion that are not measured.
    fixed : sensor numbers
        In every design.
    constraints : sequence of callables
        Each says whether it allows a design; a part of an allowed design must be allowed.

    Returns
    -------
    Design

    Raises
    ------
    InputError
        If there are fewer candidates than `n_sensors`, or none is allowed.

    References
    ----------
    Nemhauser, Wolsey, Fisher, Math. Program. 14 (1978); with costs: Leskovec et al., "Cost-effective outbreak detection
    in networks", KDD 2007.
    """
    search = Search(gain, n_sensors, candidates, fixed, constraints)
    return search.ordered(search.greedy())


def swapping_greedy(
    gain: Callable,
    n_sensors: int,
    *,
    candidates: Iterable[int] | None = None,
    fixed: Sequence[int] = (),
    constraints: Sequence[Constraint] = (),
    start: Sequence[int] | None = None,
    max_sweeps: int = 20,
) -> Design:
    """Swapping greedy: each chosen sensor in turn gives way to the candidate that raises the criterion most.

    Sweeps over the chosen sensors go on until one swaps none.  It starts from the sensors with the largest leverage
    scores, or from the greedy design for a criterion that has none; the order of the result is that of `Design`.

    Parameters
    ----------
    gain, n_sensors, candidates, fixed, constraints
        See `greedy`.
    start : sensor numbers, optional
        Design to start from.
    max_sweeps : int

    Returns
    -------
    Design

    Raises
    ------
    InputError
        As for `greedy`; if `start` is not an allowed design of the candidates, or `max_sweeps` less than 1.

    References
    ----------
    Wu, Chen, Ghattas, arXiv 2010.15196, algorithm 2.
    """
    search = Search(gain, n_sensors, candidates, fixed, constraints)
    if max_sweeps < 1:
        raise InputError(f"max_sweeps: expected at least 1, got {max_sweeps}.")
    chosen = _start(search, start)
    value = float(search.values([tuple(chosen)])[0])
    for _ in range(max_sweeps):
        swapped = False
        for position, sensor in enumerate(chosen):
            if sensor in search.fixed:
                continue
            others = chosen[:position] + chosen[position + 1 :]
            rivals = [c for c in search.allowed(others) if c != sensor]
            if not rivals:
                continue
            values = search.extensions(others, rivals)
            best = int(np.argmax(values))
            if values[best] > value + BETTER * abs(value):
                chosen[position], value, swapped = rivals[best], float(values[best]), True
        if not swapped:
            break
    return search.ordered(chosen)


def _start(search: Search, start: Sequence[int] | None) -> list[int]:
    if start is not None:
        start = list(start)
        if (
            not set(search.fixed) <= set(start) <= set(search.candidates)
            or len(set(start)) != len(start)
            or not 1 <= len(start) <= search.n_sensors
            or not search.allows(start)
        ):
            raise InputError(
                f"start: expected at most {search.n_sensors} different candidates, with the fixed ones among them and "
                f"within the constraints, got {start}."
            )
        return search.grow(start)
    if not hasattr(search.gain, "leverage_scores"):
        return search.greedy()
    scores = search.gain.leverage_scores(search.n_sensors)
    chosen = list(search.fixed)
    for c in sorted(search.candidates, key=lambda c: -scores[c]):
        if len(chosen) < search.n_sensors and c not in chosen and search.allows((*chosen, c)):
            chosen.append(c)
    return search.grow(chosen)


def exhaustive(
    gain: Callable,
    n_sensors: int,
    *,
    candidates: Iterable[int] | None = None,
    fixed: Sequence[int] = (),
    constraints: Sequence[Constraint] = (),
    max_designs: int = 100_000,
) -> Design:
    """The best of all designs of `n_sensors` sensors.

    Parameters
    ----------
    gain, n_sensors, candidates, fixed, constraints
        See `greedy`.
    max_designs : int
        Refuse to try more.

    Returns
    -------
    Design

    Raises
    ------
    InputError
        As for `greedy`; if there are more designs, or none that the constraints allow.
    """
    search = Search(gain, n_sensors, candidates, fixed, constraints)
    free = [c for c in search.candidates if c not in search.fixed]
    n = math.comb(len(free), n_sensors - len(search.fixed))
    if n > max_designs:
        raise InputError(
            f"n_sensors: expected at most {max_designs} designs to try, got {n}; choose fewer candidates or sensors, "
            "raise max_designs, or use swapping_greedy."
        )
    best, value = None, -np.inf
    every = itertools.combinations(free, n_sensors - len(search.fixed))
    allowed = (design for rest in every if search.allows(design := (*search.fixed, *rest)))
    for designs in _batches(allowed):
        values = search.values(designs)
        if values.max() > value:
            best, value = designs[int(np.argmax(values))], float(values.max())
    if best is None:
        raise InputError(f"constraints: no design of {n_sensors} sensors is allowed.")
    return search.ordered(best)


def _batches(designs: Iterator[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    while batch := list(itertools.islice(designs, DESIGNS_AT_ONCE)):
        yield batch


def random_designs(
    gain: Callable,
    n_sensors: int,
    n_designs: int = 200,
    seed: int = 0,
    *,
    candidates: Iterable[int] | None = None,
    fixed: Sequence[int] = (),
    constraints: Sequence[Constraint] = (),
) -> list[tuple[int, ...]]:
    """Designs drawn uniformly among those allowed, to compare a design with; the same for any larger number.

    Parameters
    ----------
    gain, n_sensors, candidates, fixed, constraints
        See `greedy`; the criterion tells its candidates only, ``gain.evaluate(designs)`` its values.
    n_designs : int
        Some may be equal.
    seed : int

    Returns
    -------
    list of tuple of int

    Raises
    ------
    InputError
        As for `greedy`; if next to no random design is allowed.
    """
    search = Search(gain, n_sensors, candidates, fixed, constraints)
    if n_designs < 1:
        raise InputError(f"n_designs: expected at least 1, got {n_designs}.")
    free = np.array([c for c in search.candidates if c not in search.fixed], dtype=int)
    rng = generator(Purpose.RANDOM_DESIGNS, seed)
    designs: list[tuple[int, ...]] = []
    for _ in range(n_designs * MAX_TRIES):
        rest = rng.choice(free, n_sensors - len(search.fixed), replace=False)
        design = (*search.fixed, *sorted(int(c) for c in rest))
        if search.allows(design):
            designs.append(design)
        if len(designs) == n_designs:
            return designs
    raise InputError(
        f"constraints: of {n_designs * MAX_TRIES} random designs of {n_sensors} sensors {len(designs)} were allowed, "
        f"{n_designs} were asked for; relax the constraints."
    )
