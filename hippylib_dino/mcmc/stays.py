"""How long chains stay at one point: what tells a chain that never moved, or that froze, from one that samples.

A chain of Metropolis and Hastings holds each point for a number of steps, its stay.  Autocorrelations of a chain that
holds one point are 0/0, and of one that froze after a few moves they are those of the moves; stays say what it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LONG, LEAST = 0.25, 20  # share of a chain, and number of steps, from which on a stay is too long


def stays(moved: np.ndarray) -> np.ndarray:
    """Numbers of steps that a chain held its points, in their order, (n_points,); they add up to n_samples.

    Parameters
    ----------
    moved : (n_samples,)
        Whether each step was accepted; the first one's belongs to the point before.
    """
    arrivals = np.append(0, 1 + np.flatnonzero(moved[1:]))
    return np.diff(np.append(arrivals, len(moved)))


def longest_stay(moved: np.ndarray) -> slice:
    """The steps of a chain's longest stay."""
    lengths = stays(moved)
    k = int(lengths.argmax())
    first = int(lengths[:k].sum())
    return slice(first, first + int(lengths[k]))


def is_stuck(moved: np.ndarray) -> bool:
    """Whether a chain never moved, or held one point for a quarter of its steps and 20 of them."""
    longest = int(stays(moved).max())
    return longest == len(moved) or longest >= max(LEAST, LONG * len(moved))


def most_effective_samples(moved: np.ndarray) -> float:
    """What a chain's stays allow of effective samples, from 1 for a chain that never moved.

    Were the points independent, the mean would have Kish's n = (Σl)² / Σl² effective samples, l the stays.  Points that
    are negatively correlated may do better; these have ArviZ's own bound, n log10(n).

    References
    ----------
    Kish, "Survey Sampling", Wiley (1965), section 11.2; Vehtari, Gelman, Simpson, Carpenter, Bürkner,
    "Rank-normalization, folding, and localization", Bayesian Analysis 16 (2021), section 3.2.
    """
    lengths = stays(moved).astype(float)
    n = lengths.sum() ** 2 / (lengths**2).sum()
    return float(n * max(1.0, np.log10(n)))


def account(moved: np.ndarray) -> str:
    """Which of the chains (n_chains, n_samples) never moved or stood still for long, by number; empty if none."""
    lengths = [int(stays(chain).max()) for chain in moved]
    n = moved.shape[1]
    frozen = [c for c, length in enumerate(lengths) if length == n]
    long = [c for c, chain in enumerate(moved) if c not in frozen and is_stuck(chain)]
    parts = [f"{_chains(frozen)} never moved in {n} steps"] if frozen else []
    parts += [f"chain {c} stood at one point for {lengths[c]} of its {n} steps" for c in long]
    return ", ".join(parts)


def _chains(numbers: Sequence[int]) -> str:
    return f"chain{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
