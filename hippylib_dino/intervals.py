"""Confidence intervals of means of few terms, which have the coverage that they state in simulations, or are not given.

Student's interval covers too little where terms have a skewed law, since estimate and standard error then go together,
and where they have heavy tails, since the standard error itself is poor.  Few terms do not show either: so both are
allowed for beforehand, and less the more terms there are.  ``benchmarks/coverage.py`` measures what that gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from hippylib_dino.errors import InputError
from hippylib_dino.random_streams import Purpose, generator

KURTOSIS = 5.0  # of terms at least, a Gaussian's being 3: few show less than they have
WIDER, NARROWS = 0.4, 15.0  # share of the error level that is kept back, up to so many degrees of freedom
BLOCKS = 256  # means that many terms are reduced to before they are resampled
RESAMPLES = 400  # at least, and as many as leave ten beyond a quantile
NONE = (math.nan, math.nan)


class Level(NamedTuple):
    """Independent terms whose mean enters an estimate.

    Attributes
    ----------
    terms : (n,)
    weight : float
        Factor of the mean.
    """

    terms: np.ndarray
    weight: float = 1.0

    @property
    def variance(self) -> float:
        """Of the weighted mean."""
        return self.weight**2 * float(np.var(self.terms, ddof=1)) / len(self.terms)


def check_confidence(confidence: float) -> None:
    """Raise `InputError` unless `confidence` is a level in (0, 1)."""
    if not 0 < confidence < 1:
        raise InputError(f"confidence: expected a level in (0, 1), got {confidence}.")


def of_mean(terms: np.ndarray, confidence: float) -> tuple[tuple[float, float], str]:
    """Interval of the mean that independent terms (n,) are samples of, and why there is none, "" where there is one."""
    if len(terms) < 2:
        return NONE, "one sample has no spread"
    size = float(np.abs(terms).max()) or 1.0  # lest squares overflow or underflow
    level = Level(terms / size)
    low, high = pivot_quantiles([level], [level.variance], confidence)
    error, value = size * math.sqrt(level.variance), float(terms.mean())
    return (value - high * error, value - low * error), ""


def pivot_quantiles(levels: Sequence[Level], variances: Sequence[float], confidence: float) -> tuple[float, float]:
    """Quantiles of (estimate - truth)/error for a sum of means, each the wider of Student's and the bootstrap's.

    Student's with degrees of freedom that match the variance of the sample variances; the bootstrap's, which know of
    skewness, of studentised resamples, at a level nearer to 1 for few degrees of freedom.

    Parameters
    ----------
    levels : sequence of Level
    variances : sequence of float
        Of the weighted means, as they enter the standard error.
    confidence : float

    References
    ----------
    Satterthwaite, Biometrics Bulletin 2 (1946), and Welch, Biometrika 34 (1947), for the degrees of freedom; Efron,
    Tibshirani, "An Introduction to the Bootstrap" (1993), section 12.5.
    """
    degrees = welch(variances, [freedom(level.terms) for level in levels])
    student = float(stdtrit(degrees, 0.5 + confidence / 2))
    beyond = (1 - confidence) * (1 - WIDER * min(1.0, math.sqrt(NARROWS / degrees)))
    low, high = _studentised(levels, beyond / 2)
    return min(low, -student), max(high, student)


def influence(a: np.ndarray, b: np.ndarray, centre: float, weight: float | None = None) -> np.ndarray:
    """n times what each pair moves the estimate by, (n,): their sum of squares over n² is its variance.

    Of the value at `centre` of the line of a over b, by residuals without the pair (HC3; MacKinnon, White, J.
    Econometrics 29 (1985)), or of the mean of a - αb with a given α.
    """
    n, x = len(a), b - b.mean()
    square = float(x @ x)
    if weight is not None or not square > 1e-24 * float(b @ b):
        rest = a - (0.0 if weight is None else weight) * b
        return (rest - rest.mean()) * math.sqrt(n / (n - 1))
    rest = a - a.mean() - (x @ (a - a.mean())) / square * x
    leverage = np.minimum(1 / n + x**2 / square, 1 - 0.5 / n)
    return (1 + n * (centre - b.mean()) * x / square) * rest / (1 - leverage)


def freedom(terms: np.ndarray) -> float:
    """Degrees of freedom of the sample variance of terms (n,), 2(n - 1)/(κ - 1), which is n - 1 for a Gaussian law.

    The kurtosis κ is that of the terms, and at least `KURTOSIS`.
    """
    return max(1.0, 2 * (len(terms) - 1) / (max(KURTOSIS, kurtosis(terms)) - 1))


def kurtosis(values: np.ndarray) -> float:
    """Fourth standardised moment of values (n,), 3 for a Gaussian law; 0 where they do not vary."""
    centred = values - values.mean()
    scale = float(np.abs(centred).max())
    if not scale > 1e-14 * float(np.abs(values).max()):
        return 0.0
    square = (centred / scale) ** 2
    return float((square @ square) / len(square) / square.mean() ** 2)


def welch(variances: Sequence[float], freedoms: Sequence[float]) -> float:
    """Degrees of freedom of a sum of variances."""
    largest = max(variances)
    if not largest > 0:
        return min(freedoms)
    shares = [variance / largest for variance in variances]
    return sum(shares) ** 2 / sum(share**2 / f for share, f in zip(shares, freedoms, strict=True))


def _studentised(levels: Sequence[Level], beyond: float) -> tuple[float, float]:
    """Quantiles of a share `beyond` and 1 - `beyond` of the studentised resamples; (0, 0) where terms do not vary.

    Resamples that hardly vary are left out: of those of few terms, some are of one value.
    """
    n_resamples = max(RESAMPLES, math.ceil(10 / beyond))
    centred = [level.weight * (level.terms - level.terms.mean()) for level in levels]
    scale = max(float(np.abs(terms).max()) for terms in centred)
    if not scale > 0:
        return 0.0, 0.0
    moved, variance, expected = np.zeros(n_resamples), np.zeros(n_resamples), 0.0
    for k, terms in enumerate(map(_blocks, centred)):
        n, terms = len(terms), terms / scale
        resamples, squares = _resamples(n, n_resamples, k), terms**2
        mean, middle = resamples @ terms, terms.mean()
        moved += mean - middle
        variance += np.maximum(resamples @ squares - mean**2, 0.0) / (n - 1)
        expected += float(squares.mean() - middle**2) / n
    good = variance > 1e-12 * expected
    if not good.any():
        return 0.0, 0.0
    pivots = np.sort(moved[good] / np.sqrt(variance[good]))
    last = len(pivots) - 1
    return float(pivots[round(beyond * last)]), float(pivots[round((1 - beyond) * last)])


@lru_cache(maxsize=8)
def _resamples(n: int, n_resamples: int, level: int) -> np.ndarray:
    """Shares (n_resamples, n) of n terms in resamples, the same for all terms: an interval is a function of them."""
    return generator(Purpose.BOOTSTRAP, n, level).multinomial(n, np.full(n, 1 / n), size=n_resamples) / n


def _blocks(terms: np.ndarray) -> np.ndarray:
    """Means of blocks of many terms: fewer to resample, of the same mean and error."""
    size = len(terms) // BLOCKS
    return terms if size < 4 else terms[: size * BLOCKS].reshape(BLOCKS, size).mean(axis=1)


def shown(interval: tuple[float, float], reason: str, digits: int = 5) -> str:
    """Text of an interval, or why there is none."""
    low, high = interval
    return f"none: {reason}" if reason else f"[{low:.{digits}g}, {high:.{digits}g}]"
