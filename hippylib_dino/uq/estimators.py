"""Unbiased estimators of two levels: few paired values of PDE and surrogate, many of the surrogate alone.

Everything here is a function of values of the quantity of interest; nothing draws or solves.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from hippylib_dino.errors import InputError
from hippylib_dino.intervals import NONE, Level, check_confidence, influence, pivot_quantiles, welch

FOLDS = 5
FEWEST_FOR_VARIANCE = 8  # paired values from which the interval of a variance says anything
FEWEST, FEWEST_WITH_WEIGHT = 4, 2  # paired values from which a weight, or only a variance, is estimated


class Statistic(abc.ABC):
    """A statistic that has an unbiased estimator which is a mean of terms, one a value.

    Attributes
    ----------
    name : str
    support : (2,)
        Least and largest value the statistic can have; confidence intervals stay within.
    """

    name: str
    support: tuple[float, float] = (-math.inf, math.inf)

    @abc.abstractmethod
    def terms(self, values: np.ndarray) -> np.ndarray:
        """Terms (n,) whose mean is the unbiased estimate from the values (n,)."""

    def spread(self, pde: np.ndarray, paired: np.ndarray, weight: np.ndarray, centre: float) -> float:
        """Sample variance of a - w (b - centre), for terms a, b and weights w (n,)."""
        return float(np.var(pde - weight * (paired - centre), ddof=1))

    def loss_by_folds(self, size: float) -> float:
        """By what factor the estimator's variance grows when terms are computed in folds of some size."""
        return 1.0

    def interval(
        self, value: float, levels: list[Level], variances: list[float], confidence: float
    ) -> tuple[tuple[float, float], str]:
        """Confidence interval, and why there is none.

        Parameters
        ----------
        value : float
            The estimate.
        levels : list of Level
            Terms of the pairs and of the surrogate alone, with which errors are made.
        variances : list of float
            Of the two parts of the estimate.
        confidence : float
        """
        low, high = pivot_quantiles(levels, variances, confidence)
        error = math.sqrt(sum(variances))
        return (value - high * error, value - low * error), ""


class Mean(Statistic):
    """E[Q]."""

    name = "mean"

    def terms(self, values: np.ndarray) -> np.ndarray:
        return values


class Variance(Statistic):
    """Var[Q], by the sample variance with n - 1: the mean of (Q_i - Q̄)² n/(n-1)."""

    name = "variance"
    support = (0.0, math.inf)

    def terms(self, values: np.ndarray) -> np.ndarray:
        n = len(values)
        return (values - values.mean()) ** 2 * n / (n - 1)

    def loss_by_folds(self, size: float) -> float:
        """m/(m - 1) for folds of m, each with its own mean: exact for a Gaussian law."""
        return size / (size - 1)

    def interval(
        self, value: float, levels: list[Level], variances: list[float], confidence: float
    ) -> tuple[tuple[float, float], str]:
        """The upper end is the higher of that of the variance and that of its logarithm, which is less skewed."""
        n = len(levels[0].terms)
        if n < FEWEST_FOR_VARIANCE:
            return NONE, f"{n} pairs carry no variance, {FEWEST_FOR_VARIANCE} are needed"
        (low, high), _ = super().interval(value, levels, variances, confidence)
        if value > 0:
            high = max(high, value * math.exp(min(high / value - 1, 700.0)))
        return (low, high), ""


class Exceedance(Statistic):
    """P(Q > q0).

    Parameters
    ----------
    threshold : float
        q0.

    Raises
    ------
    InputError
        If it is not finite.
    """

    support = (0.0, 1.0)

    def __init__(self, threshold: float):
        if not math.isfinite(threshold):
            raise InputError(f"statistics: the threshold of an exceedance must be finite, got {threshold}.")
        self.threshold = float(threshold)
        self.name = f"P(Q > {self.threshold:g})"

    def terms(self, values: np.ndarray) -> np.ndarray:
        return (values > self.threshold).astype(float)

    def spread(self, pde: np.ndarray, paired: np.ndarray, weight: np.ndarray, centre: float) -> float:
        """With half an observation added in each of the four cells of the table of (PDE, surrogate) exceedances.

        Without, no disagreement among few samples would read as no error.  Agresti, Min, Statistics in Medicine 24
        (2005), who add these for the interval of a difference of paired proportions.
        """
        cells, w = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]), weight.mean()
        differences = np.concatenate([pde - weight * (paired - centre), cells[:, 0] - w * (cells[:, 1] - centre)])
        counts = np.concatenate([np.ones(len(pde)), np.full(4, 0.5)])
        return float(np.cov(differences, aweights=counts, ddof=0))

    def interval(
        self, value: float, levels: list[Level], variances: list[float], confidence: float
    ) -> tuple[tuple[float, float], str]:
        """The wider, at each end, of Student's interval and that of Clopper and Pearson, Biometrika 26 (1934).

        The latter is that of as many samples of the PDE alone as had this standard error, for a proportion to which one
        success and one failure are added, lest there be infinitely many.
        """
        variance, n = sum(variances), len(levels[0].terms)
        degrees = welch(variances, [len(level.terms) - 1 for level in levels])
        half = math.sqrt(variance) * float(stats.t.ppf(0.5 + confidence / 2, degrees))
        proportion = min(max(value, 0.0), 1.0)
        shrunk = (proportion * n + 1) / (n + 2)
        effective = max(float(n), shrunk * (1 - shrunk) / variance)
        successes, beyond = proportion * effective, (1 - confidence) / 2
        failures = effective - successes
        low = float(stats.beta.ppf(beyond, successes, failures + 1)) if successes > 0 else 0.0
        high = float(stats.beta.ppf(1 - beyond, successes + 1, failures)) if failures > 0 else 1.0
        return (min(low, value - half), max(high, value + half)), ""


@dataclass(frozen=True)
class Estimate:
    """A statistic of the quantity of interest under the PDE.

    Attributes
    ----------
    statistic : str
    value : float
        Unbiased, whatever the surrogate is.
    standard_error : float
        Of both levels, that of the weights included.
    interval : (2,)
        Confidence interval; (NaN, NaN) where there is none.
    weight : float
        Of the control variate; the mean of those of the folds.
    correlation : float
        Of the terms of the statistic by PDE and surrogate, which is what counts for this statistic; 0 if one is
        constant.
    plain, plain_error : float
        Estimate of the PDE samples alone and its standard error.
    surrogate : float
        Estimate of the surrogate alone, biased by its error.
    n_pde, n_surrogate : int
        Paired samples; all evaluations of the surrogate.
    reason : str
        Why there is no interval; "" where there is one.
    """

    statistic: str
    value: float
    standard_error: float
    interval: tuple[float, float]
    weight: float
    correlation: float
    plain: float
    plain_error: float
    surrogate: float
    n_pde: int
    n_surrogate: int
    reason: str = ""

    def variance_reduction(self, cost_ratio: float) -> float:
        """Variance of plain Monte Carlo at the same cost over the variance of this estimate.

        Parameters
        ----------
        cost_ratio : float
            Cost of a PDE sample over that of a surrogate sample.
        """
        afforded = self.n_pde + self.n_surrogate / cost_ratio
        plain = self.plain_error**2 * self.n_pde / afforded
        return plain / self.standard_error**2 if self.standard_error > 0 else math.nan


def estimate(
    statistic: Statistic,
    pde: np.ndarray,
    paired: np.ndarray,
    cheap: np.ndarray,
    *,
    weight: float | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """Control variate estimate from values of the quantity of interest.

    With terms a_i of Q(m_i) and b_i of Q̂(m_i), and b̄' the mean of the terms of N further surrogate values, which are
    independent of the n pairs,

        mean_i a_i - α_k(i) (mean_i b_i - b̄')                                                                    (1)

    is unbiased if α is independent of the samples that it multiplies.  So the pairs are dealt into folds, and the
    weight of a fold is estimated from the other folds,

        α_k = N/(N + n) cov(a, b)/var(b),                                                                        (2)

    which minimises the variance.  A weight from the same samples would bias the estimate by O(1/n).

    The error of the weights enters by the leverage that each pair has on the line of a over b, drawn to b̄'; residuals
    are those without the pair (HC3).  The interval is the wider of Student's, with degrees of freedom by the kurtosis
    of the terms, and that of their studentised bootstrap (`hippylib_dino.intervals`).

    Parameters
    ----------
    statistic : Statistic
    pde, paired : (n,)
        Q and Q̂ at the same parameters.
    cheap : (N,)
        Q̂ at other parameters of the same law.
    weight : float, optional
        α for all folds, instead of (2).
    confidence : float
        Level of the interval.

    Raises
    ------
    InputError
        For too few values, values that are not finite, or a confidence that is none.

    References
    ----------
    Peherstorfer, Willcox, Gunzburger, SIAM J. Sci. Comput. 38 (2016) A3163-A3194, for two models; of variances: Qian,
    Peherstorfer, O'Malley, Vesselinov, Willcox, SIAM/ASA J. Uncertain. Quantif. 6 (2018).  HC3: MacKinnon, White, J.
    Econometrics 29 (1985).
    """
    _check_values(pde, paired, cheap, fewest_pairs(weight, confidence))
    n, N = len(pde), len(cheap)
    fold = np.arange(n) % max(1, min(FOLDS, n // 2))
    free = statistic.terms(cheap)
    a, b, weights = np.empty(n), np.empty(n), np.empty(n)
    for k in range(fold.max() + 1):
        own = fold == k
        a[own], b[own] = statistic.terms(pde[own]), statistic.terms(paired[own])
        weights[own] = _weight(statistic, pde[~own], paired[~own], n, N) if weight is None else weight
    value = float(np.mean(a - weights * (b - free.mean())))
    alone = statistic.terms(pde)
    moved = influence(alone, statistic.terms(paired), float(free.mean()), weight)
    pairs = max(
        statistic.spread(a, b, weights, float(free.mean())) / n,
        statistic.loss_by_folds(n / (fold.max() + 1)) * float((moved**2).sum()) / n**2,
    )
    levels = [Level(moved), Level(free, float(weights.mean()))]
    variances = [pairs, levels[1].variance]
    (low, high), reason = statistic.interval(value, levels, variances, confidence)
    least, most = statistic.support
    return Estimate(
        statistic=statistic.name,
        value=value,
        standard_error=math.sqrt(sum(variances)),
        interval=NONE if reason else (max(least, min(low, most)), min(most, max(high, least))),
        weight=float(weights.mean()),
        correlation=_correlation(alone, statistic.terms(paired)),
        plain=float(alone.mean()),
        plain_error=math.sqrt(float(np.var(alone, ddof=1)) / n),
        surrogate=float(free.mean()),
        n_pde=n,
        n_surrogate=n + N,
        reason=reason,
    )


def fewest_pairs(weight: float | None, confidence: float) -> int:
    """How many paired values `estimate` needs.

    Raises
    ------
    InputError
        For a weight or a confidence that is none.
    """
    check_confidence(confidence)
    if weight is not None and not math.isfinite(weight):
        raise InputError(f"weight: expected a finite number, or None for the optimal one, got {weight}.")
    return FEWEST if weight is None else FEWEST_WITH_WEIGHT


def _check_values(pde: np.ndarray, paired: np.ndarray, cheap: np.ndarray, fewest: int) -> None:
    if pde.shape != paired.shape or pde.ndim != 1 or cheap.ndim != 1:
        raise InputError(
            f"pde, paired, cheap: expected shapes (n,), (n,), (N,), got {pde.shape}, {paired.shape}, {cheap.shape}."
        )
    for name, values, least in (("pde", pde, fewest), ("paired", paired, fewest), ("cheap", cheap, 2)):
        if len(values) < least:
            raise InputError(f"{name}: expected at least {least} values, got {len(values)}.")
        bad = np.count_nonzero(~np.isfinite(values))
        if bad:
            raise InputError(f"{name}: {bad} of {len(values)} values of the quantity of interest are not finite.")


def _weight(statistic: Statistic, pde: np.ndarray, paired: np.ndarray, n: int, n_cheap: int) -> float:
    """(2) from some of the pairs; 0 where the surrogate does not vary among them."""
    a, b = statistic.terms(pde), statistic.terms(paired)
    spread = np.var(b)
    if not spread > 0:
        return 0.0
    return float(n_cheap / (n_cheap + n) * np.mean((a - a.mean()) * (b - b.mean())) / spread)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if not (np.var(a) > 0 and np.var(b) > 0):
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
