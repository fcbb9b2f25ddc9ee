"""What the PDE says of a control: its risk and the gradient of it on fresh samples, with their errors."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import norm

from hippylib_dino.errors import InputError
from hippylib_dino.ouu.ensembles import Ensemble, checked_control
from hippylib_dino.ouu.minimization import checked_bounds, projected_gradient
from hippylib_dino.ouu.objective import Objective, finite_quantity
from hippylib_dino.ouu.risk import RiskMeasure
from hippylib_dino.random_streams import Purpose, generator


@dataclass(frozen=True)
class RiskEstimate:
    """A risk, or the gradient of one, under the PDE.

    Attributes
    ----------
    value, standard_error : float or (dZ,)
        With the surrogate as control variate where there is one.
    interval : pair of float or of (dZ,)
        Normal confidence interval.
    weight : float or (dZ,)
        α of the control variate; 0 without.
    plain, plain_error : float or (dZ,)
        By the PDE's samples alone.
    surrogate : float or (dZ,), optional
        By the surrogate alone, on its many samples; biased by its error.
    """

    value: np.ndarray
    standard_error: np.ndarray
    interval: tuple[np.ndarray, np.ndarray]
    weight: np.ndarray
    plain: np.ndarray
    plain_error: np.ndarray
    surrogate: np.ndarray | None


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

    def table(self) -> Table:
        """Risk by PDE and surrogate, and how far from stationary the control is."""
        with_surrogate = "" if self.cheap is None else f", {len(self.cheap)} of the surrogate"
        table = Table(title=f"{len(self.quantity)} PDE samples{with_surrogate}", show_header=False)
        low, high = self.risk.interval
        rows = {
            "risk": f"{self.risk.value:.6g} ± {self.risk.standard_error:.2g}",
            f"{self.confidence:.0%} interval": rf"\[{low:.6g}, {high:.6g}]",
            "PDE samples alone": f"{self.risk.plain:.6g} ± {self.risk.plain_error:.2g}",
        }
        if self.risk.surrogate is not None:
            rows["surrogate alone (biased)"] = f"{self.risk.surrogate:.6g}"
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
    For `WorstCase`, which speaks of the samples only, the interval means nothing.

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

    References
    ----------
    Efron, Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 6 and 13.

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
    whole = _combined(point, samples, confidence)
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


def _bootstrap(pairs: list[_Level], others: list[_Level], n: int, rng: np.random.Generator) -> np.ndarray:
    """Estimates (n, levels, 1 + dZ), the same draws for all of the pairs."""
    found = []
    for _ in range(n):
        weights = pairs[0].resampled(rng)
        rows = [at.estimate(weights) for at in pairs]
        found.append(rows + [at.estimate(at.resampled(rng)) for at in others])
    return np.array(found)


def _combined(point: np.ndarray, samples: np.ndarray, confidence: float) -> RiskEstimate:
    """(1) from estimates (levels, k) and their bootstrap samples (n, levels, k): PDE, then pairs and others if any."""
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
    half = norm.ppf(0.5 + confidence / 2) * error
    return RiskEstimate(value, error, (value - half, value + half), weight, plain, plain_error, surrogate)


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
    if not 0 < confidence < 1:
        raise InputError(f"confidence: expected a level in (0, 1), got {confidence}.")
    if n_bootstrap < 2:
        raise InputError(f"n_bootstrap: expected at least 2, got {n_bootstrap}.")
