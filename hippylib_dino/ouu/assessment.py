"""What the PDE says of a control: its risk and the gradient of it on fresh samples, with their errors."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, replace

import numpy as np
from rich.console import Console
from rich.table import Table

from hippylib_dino.errors import InputError
from hippylib_dino.intervals import Level, check_confidence, influence, pivot_quantiles, shown
from hippylib_dino.ouu.ensembles import Ensemble, checked_control
from hippylib_dino.ouu.minimization import checked_bounds, projected_gradient
from hippylib_dino.ouu.objective import Objective, finite_quantity
from hippylib_dino.ouu.risk import Expectation, RiskMeasure, WorstCase
from hippylib_dino.ouu.smoothing import SmoothingWarning
from hippylib_dino.random_streams import Purpose, generator

FEWEST_CARRIERS = 8  # samples that carry a risk which has an interval
GROUPS = 64  # of samples that the jackknife leaves out together, where there are at least twice as many


@dataclass(frozen=True)
class RiskEstimate:
    """A risk, or the gradient of one, under the PDE.

    Attributes
    ----------
    value, standard_error : float or (dZ,)
        With the surrogate as control variate where there is one.
    interval : pair of float or of (dZ,)
        Confidence interval, of each entry; NaN where there is none.
    weight : float or (dZ,)
        α of the control variate; 0 without.
    plain, plain_error : float or (dZ,)
        By the PDE's samples alone.
    surrogate : float or (dZ,), optional
        By the surrogate alone, on its many samples; biased by its error.
    reason : str
        Why there is no interval; "" where there is one.
    """

    value: np.ndarray
    standard_error: np.ndarray
    interval: tuple[np.ndarray, np.ndarray]
    weight: np.ndarray
    plain: np.ndarray
    plain_error: np.ndarray
    surrogate: np.ndarray | None
    reason: str = ""


@dataclass(frozen=True)
class Assessment:
    """What `assess` found at a control.

    Attributes
    ----------
    z : (dZ,)
    risk : RiskEstimate
        Of the risk measure, without penalties.
    gradient : RiskEstimate
        Of the objective: ∂R/∂z (dZ,) and the penalties' gradient, which has no error.
    penalty : float
    projected_gradient : (dZ,)
        z - P(z - g), what the bounds leave of the gradient; 0 at a stationary point.
    quantity : (n,)
        Of the PDE, at the samples.
    paired, cheap : (n,), (N,), optional
        Of the surrogate, at the same samples and at many others.
    confidence : float
    smoothing : float, optional
        Width ε of the risk's smoothing at the samples, in units of Q; None of a measure that does not smooth.
    """

    z: np.ndarray
    risk: RiskEstimate
    gradient: RiskEstimate
    penalty: float
    projected_gradient: np.ndarray
    quantity: np.ndarray
    paired: np.ndarray | None
    cheap: np.ndarray | None
    confidence: float
    smoothing: float | None = None

    def table(self) -> Table:
        """Risk by PDE and surrogate, and how far from stationary the control is."""
        with_surrogate = "" if self.cheap is None else f", {len(self.cheap)} of the surrogate"
        table = Table(title=f"{len(self.quantity)} PDE samples{with_surrogate}", show_header=False)
        low, high = map(float, self.risk.interval)
        rows = {
            "risk": f"{self.risk.value:.6g} ± {self.risk.standard_error:.2g}",
            f"{self.confidence:.0%} interval": shown((low, high), self.risk.reason, 6).replace("[", r"\["),
            "PDE samples alone": f"{self.risk.plain:.6g} ± {self.risk.plain_error:.2g}",
        }
        if self.risk.surrogate is not None:
            rows["surrogate alone (biased)"] = f"{self.risk.surrogate:.6g}"
        if self.smoothing is not None:
            rows["smoothing"] = f"{self.smoothing:.3g}"
        rows["penalty"] = f"{self.penalty:.6g}"
        largest = int(np.abs(self.projected_gradient).argmax())
        error = self.gradient.standard_error[largest]
        rows["largest projected gradient"] = f"{self.projected_gradient[largest]:+.3g} ± {error:.2g}"
        for row in rows.items():
            table.add_row(*row)
        return table

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=100)
        console.print(self.table())
        return console.file.getvalue()  # type: ignore[attr-defined]  # the StringIO above


def assess(
    objective: Objective,
    z: np.ndarray,
    *,
    paired: Ensemble | None = None,
    cheap: Ensemble | None = None,
    bounds: tuple[float | np.ndarray, float | np.ndarray] | None = None,
    confidence: float = 0.95,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> Assessment:
    """Risk and gradient at a control, by the PDE on samples that no optimiser has seen.

    With the surrogate at the same samples and at N others the estimate of R, and of each entry of its gradient, is

        R_n[Q] - α (R_n[Q̂] - R_N[Q̂]),                                                                         (1)

    R_n being the measure of the empirical law.  Errors, and the α of least variance, are those of the bootstrap: the n
    pairs and the N others are drawn anew with replacement.  For an expectation (1) is unbiased up to the choice of α.
    Other measures of n samples have a bias of O(1/n) of their own, most of which (1) removes where the surrogate is
    near.

    Intervals are those of a mean of terms, what each sample moves (1) by as the jackknife finds it, with the error of α
    (`hippylib_dino.intervals`).  There is none where fewer than eight samples carry the risk, (Σ|g|)²/Σg² of the
    derivatives g = ∂R/∂q: for a CVaR these are the n(1 - β) of its tail.  Nor is there one for `WorstCase`, which
    speaks of the samples only.

    Parameters
    ----------
    objective : Objective
        With an ensemble of the PDE, on fresh samples.
    z : (dZ,)
    paired, cheap : Ensemble, optional
        Of the surrogate: at the samples of the PDE, in their order; and at others, as many as one likes.
    bounds : pair of float or (dZ,), optional
        As in `minimize`.
    confidence : float
        Level of the intervals.
    n_bootstrap, seed : int
        Repetitions of the bootstrap, and the seed of their draws.

    Returns
    -------
    Assessment

    Raises
    ------
    InputError
        For arguments that cannot be, or that do not fit each other.
    SolveError
        If a quantity of interest is not finite, or a PDE solve failed.

    Warns
    -----
    SmoothingWarning
        If the risk's smoothing was given, and dominates the spread of the quantity.

    References
    ----------
    Efron, Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 6, 11 and 12.

    Examples
    --------
    ::

        fresh = hd.ouu.Objective(pde_ensemble, objective.risk, objective.penalties)
        found = hd.ouu.assess(fresh, result.z, paired=surrogate_at_the_same, cheap=surrogate_at_many)
        print(found)
        found.risk.interval
    """
    z = checked_control(z, objective.ensemble.n_control)
    low, high = checked_bounds(bounds, len(z))
    _check(objective, paired, cheap, confidence, n_bootstrap)
    rng = generator(Purpose.BOOTSTRAP, seed)
    level = _Level(objective.risk, objective.weights, objective.ensemble, z)
    if complaint := objective.risk.smoothing_complaint(level.q, level.weights):
        warnings.warn(complaint, SmoothingWarning, stacklevel=2)
    pairs = [level]
    if paired is not None and cheap is not None:
        pairs.append(_Level(objective.risk, objective.weights, paired, z))
        others = [_Level(objective.risk, np.full(cheap.n, 1 / cheap.n), cheap, z)]
    else:
        others = []
    samples = _bootstrap(pairs, others, n_bootstrap, rng)
    point = np.array([at.estimate(at.weights) for at in (*pairs, *others)])
    penalties = [penalty.value_and_gradient(z) for penalty in objective.penalties]
    slope = sum((gradient for _, gradient in penalties), np.zeros(len(z)))
    point[:, 1:] += slope
    whole = _combined(point, samples)
    reason = _too_few(level)
    if not reason:
        moved = [at.moved(point_of) for at, point_of in zip((*pairs, *others), point - [0.0, *slope], strict=True)]
        scale = level.risk.scale_part(level.q, level.weights)
        whole = _with_interval(whole, point, moved, scale, confidence)
    whole = replace(whole, reason=reason)
    risk, gradient = (_part(whole, entry) for entry in (0, slice(1, None)))
    return Assessment(
        z=z.copy(),
        risk=risk,
        gradient=gradient,
        penalty=float(sum(value for value, _ in penalties)),
        projected_gradient=projected_gradient(z, gradient.value, low, high),
        quantity=level.q,
        paired=pairs[1].q if others else None,
        cheap=others[0].q if others else None,
        confidence=confidence,
        smoothing=objective.risk.smoothing(level.q, level.weights),
    )


class _Level:
    """Quantity and Jacobian of an ensemble at z: risk and its gradient as functions of the samples' weights."""

    def __init__(self, risk: RiskMeasure, weights: np.ndarray, ensemble: Ensemble, z: np.ndarray):
        self.risk, self.weights = risk, weights
        q, self.jacobian = ensemble.quantity_and_jacobian(z)
        self.q = finite_quantity(q)

    def estimate(self, weights: np.ndarray) -> np.ndarray:
        """R and ∂R/∂z, (1 + dZ,)."""
        at = self.risk.expand(self.q, weights)
        return np.concatenate([[at.value], at.gradient @ self.jacobian])

    def resampled(self, rng: np.random.Generator) -> np.ndarray:
        """Weights of samples that are drawn anew, (n,)."""
        n = len(self.weights)
        drawn = self.weights * rng.multinomial(n, np.full(n, 1 / n))
        return drawn / drawn.sum()

    def moved(self, estimate: np.ndarray) -> np.ndarray:
        """Terms (k, 1 + dZ) whose mean moves as the estimate does, by the jackknife.

        One a sample, or where there are many, one for each of `GROUPS` groups of them.
        """
        n = len(self.weights)
        groups = np.arange(n) if n < 2 * GROUPS else np.arange(n) * GROUPS // n
        terms = np.zeros((groups[-1] + 1, len(estimate)))
        for k in range(len(terms)):
            left = np.where(groups == k, 0.0, self.weights)
            rest = left.sum()
            if rest > 0:
                terms[k] = len(terms) * rest * (estimate - self.estimate(left / rest))
        return terms - terms.mean(axis=0)


def _too_few(level: _Level) -> str:
    """Why the samples carry no interval."""
    if isinstance(level.risk, WorstCase):
        return "a worst case is that of these samples alone"
    gradient = np.abs(level.risk.expand(level.q, level.weights).gradient)
    square = float(gradient @ gradient)
    carriers = gradient.sum() ** 2 / square if square > 0 else 0.0
    if isinstance(level.risk, Expectation) or carriers > FEWEST_CARRIERS - 1e-6:
        return ""
    return f"{carriers:.1f} of {len(gradient)} samples carry the risk, {FEWEST_CARRIERS} are needed"


def _with_interval(
    whole: RiskEstimate, point: np.ndarray, moved: list[np.ndarray], scale: float, confidence: float
) -> RiskEstimate:
    """The estimate (k,) with its interval, from `_Level.moved` of the PDE, and of pairs and others if any.

    `scale` is the risk's `scale_part`.
    """
    low, high = np.empty_like(whole.value), np.empty_like(whole.value)
    for j, weight in enumerate(whole.weight):
        a = moved[0][:, j]
        if weight == 0:
            levels = [Level(influence(a, a, 0.0, 0.0))]
            pairs = levels[0].variance
        else:
            centre = float(point[2, j] - point[1, j])
            b = moved[1][:, j]
            levels = [Level(influence(a, b, centre)), Level(moved[2][:, j], float(weight))]
            pairs = max(Level(a - weight * b).variance, float(levels[0].terms @ levels[0].terms) / len(a) ** 2)
        variances = [pairs, *(level.variance for level in levels[1:])]
        ends = pivot_quantiles(levels, variances, confidence)
        error = float(np.sqrt(sum(variances)))
        low[j], high[j] = whole.value[j] - ends[1] * error, whole.value[j] - ends[0] * error
    if scale > 0:  # the upper end of what is as a variance is that of its logarithm, which is less skewed
        high[0] = whole.value[0] + scale * np.expm1(min((high[0] - whole.value[0]) / scale, 700.0))
    return replace(whole, interval=(low, high))


def _bootstrap(pairs: list[_Level], others: list[_Level], n: int, rng: np.random.Generator) -> np.ndarray:
    """Estimates (n, levels, 1 + dZ), the same draws for all of the pairs."""
    found = []
    for _ in range(n):
        weights = pairs[0].resampled(rng)
        rows = [at.estimate(weights) for at in pairs]
        found.append(rows + [at.estimate(at.resampled(rng)) for at in others])
    return np.array(found)


def _combined(point: np.ndarray, samples: np.ndarray) -> RiskEstimate:
    """(1) without its interval, from estimates (levels, k) and their bootstrap samples (n, levels, k).

    The levels are the PDE, then pairs and others if any.
    """
    plain, plain_error = point[0], samples[:, 0].std(axis=0, ddof=1)
    value, error, weight, surrogate = plain, plain_error, np.zeros_like(plain), None
    if len(point) > 1:
        difference = samples[:, 1] - samples[:, 2]
        centred = difference - difference.mean(axis=0)
        variance, surrogate = (centred**2).mean(axis=0), point[2]
        rounding = (1e-12 * np.abs(point[1:]).max(axis=0)) ** 2
        covariance = (centred * samples[:, 0]).mean(axis=0)
        weight = np.divide(covariance, variance, out=np.zeros_like(variance), where=variance > rounding)
        value = plain - weight * (point[1] - point[2])
        error = (samples[:, 0] - weight * difference).std(axis=0, ddof=1)
    none = np.full_like(value, np.nan)
    return RiskEstimate(value, error, (none, none), weight, plain, plain_error, surrogate)


def _part(whole: RiskEstimate, entry: int | slice) -> RiskEstimate:
    """Some of the entries of an estimate."""
    return RiskEstimate(
        whole.value[entry],
        whole.standard_error[entry],
        (whole.interval[0][entry], whole.interval[1][entry]),
        whole.weight[entry],
        whole.plain[entry],
        whole.plain_error[entry],
        None if whole.surrogate is None else whole.surrogate[entry],
        whole.reason,
    )


def _check(
    objective: Objective, paired: Ensemble | None, cheap: Ensemble | None, confidence: float, n_bootstrap: int
) -> None:
    if (paired is None) != (cheap is None):
        raise InputError(
            "paired, cheap: a control variate takes both, the surrogate at the PDE's samples and at others."
        )
    n, n_control = objective.ensemble.n, objective.ensemble.n_control
    for name, ensemble in (("paired", paired), ("cheap", cheap)):
        if ensemble is not None and ensemble.n_control != n_control:
            raise InputError(f"{name}: expected an ensemble of {n_control} controls, got one of {ensemble.n_control}.")
    if paired is not None and paired.n != n:
        raise InputError(
            f"paired: expected the surrogate at the {n} samples of the PDE, got {paired.n} samples. Encode the same "
            "parameters."
        )
    if n < 2:
        raise InputError(f"objective: expected an ensemble of at least 2 samples, got {n}.")
    check_confidence(confidence)
    if n_bootstrap < 2:
        raise InputError(f"n_bootstrap: expected at least 2, got {n_bootstrap}.")
