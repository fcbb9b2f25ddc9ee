"""Risk measures of a quantity of interest, from samples of it."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from scipy.optimize import brentq

from hippylib_dino.errors import InputError
from hippylib_dino.ouu.smoothing import SmoothingWarning, Width, given, is_material, width_of


class Expansion(NamedTuple):
    """A function of samples to second order.

    Attributes
    ----------
    value : float
    gradient : (n,)
        In the samples, weights included: ∂R/∂q_i.
    hessian : callable
        v (n,) to ∇²R v (n,).
    """

    value: float
    gradient: np.ndarray
    hessian: Callable[[np.ndarray], np.ndarray]


class JointExpansion(NamedTuple):
    """A function of samples (n,) and auxiliary variables (k,) to second order.

    Attributes
    ----------
    value : float
    gradient : (n,)
    auxiliary_gradient : (k,)
    hessian : callable
        (v (n,), s (k,)) to the pair of the same shapes.
    """

    value: float
    gradient: np.ndarray
    auxiliary_gradient: np.ndarray
    hessian: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class RiskMeasure(ABC):
    """R(Q) of a quantity of interest Q with samples q (n,) of weights w (n,), Σ w = 1; equal weights by default.

    A subclass gives `expand`: value, gradient and Hessian action in q.  One that is itself a minimum over auxiliary
    variables t, R(q) = min_t r(q, t), may offer these to the optimiser of the control: it gives `auxiliary`, the
    minimiser, and `expand_jointly`, the expansion of r, and counts them in `n_auxiliary`.
    """

    n_auxiliary: ClassVar[int] = 0

    @abstractmethod
    def expand(self, q: np.ndarray, weights: np.ndarray) -> Expansion:
        """Value, gradient and Hessian action at samples q (n,) of weights (n,)."""

    def auxiliary(self, q: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The minimiser t (k,) of r(q, ·)."""
        return np.empty(0)

    def expand_jointly(self, q: np.ndarray, auxiliary: np.ndarray, weights: np.ndarray) -> JointExpansion:
        """r(q, t) and its derivatives in both."""
        return without_auxiliary(self.expand(q, weights))

    def value(self, q: np.ndarray, weights: np.ndarray | None = None) -> float:
        """R(q).

        Parameters
        ----------
        q : (n,)
            Samples of the quantity of interest.
        weights : (n,), optional
            Not negative, of sum 1; default 1/n.

        Raises
        ------
        InputError
            If samples or weights have another shape, are not finite, or weights are none.

        Warns
        -----
        SmoothingWarning
            If the measure smooths with a given width that dominates the spread of these samples.
        """
        return self.expand(*self._checked(q, weights)).value

    def gradient(self, q: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """∂R/∂q, (n,); arguments, errors and warnings are those of `value`."""
        return self.expand(*self._checked(q, weights)).gradient

    def hessian_action(self, q: np.ndarray, direction: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """∇²R(q) v, (n,), of a direction v (n,); arguments, errors and warnings are those of `value`."""
        samples, weights = self._checked(q, weights)
        if np.shape(direction) != samples.shape:
            raise InputError(f"direction: expected shape {samples.shape}, as q has, got {np.shape(direction)}.")
        return self.expand(samples, weights).hessian(np.asarray(direction, dtype=float))

    def _checked(self, q: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        samples = checked_samples(q, weights)
        if complaint := self.smoothing_complaint(*samples):
            warnings.warn(complaint, SmoothingWarning, stacklevel=3)
        return samples

    def scale_part(self, q: np.ndarray, weights: np.ndarray) -> float:
        """The part of the risk that is positive and of a law as skewed as a variance's; 0 where there is none."""
        return 0.0

    def smoothing(self, q: np.ndarray, weights: np.ndarray | None = None) -> float | None:
        """Width ε that the measure smooths with at samples q (n,), in their units; None of one that does not smooth."""
        return None

    def smoothing_complaint(self, q: np.ndarray, weights: np.ndarray) -> str:
        """Why the width that was given is too large for samples q (n,) of weights (n,); "" where it is not."""
        return ""


class SmoothedRisk(RiskMeasure):
    """A measure with a kink that is smoothed over a width ε: a given one, or by default one that follows the samples.

    The default is ε(q) = σ(q)/100, with the weighted standard deviation σ of the samples, so that R(aQ + c) = aR(Q) + c
    for a > 0 as of the exact measure.  All derivatives are those of q ↦ R(q; ε(q)), the width's own included, so that
    value, gradient and Hessian agree, in an optimisation as for samples alone.

    A subclass has a field `epsilon`, and gives the expansion at a width and the value without smoothing.
    """

    epsilon: float | None

    def __post_init__(self):
        epsilon = self.epsilon
        if epsilon is not None and not 0 < epsilon < math.inf:
            raise InputError(
                f"epsilon: expected a smoothing > 0 in units of the quantity, or None to follow its spread, got "
                f"{epsilon}."
            )

    @abstractmethod
    def expand_at(self, q: np.ndarray, auxiliary: np.ndarray, epsilon: float, weights: np.ndarray) -> JointExpansion:
        """r(q, t; ε) in q (n,) and in the variables (t, ε) (k + 1,)."""

    @abstractmethod
    def unsmoothed(self, q: np.ndarray, weights: np.ndarray) -> float:
        """The exact measure, ε → 0."""

    def width(self, q: np.ndarray, weights: np.ndarray) -> Width:
        """ε and its derivatives at samples q (n,) of weights (n,)."""
        return width_of(q, weights) if self.epsilon is None else given(float(self.epsilon), len(q))

    def smoothing(self, q: np.ndarray, weights: np.ndarray | None = None) -> float | None:
        return self.width(*checked_samples(q, weights)).value

    def smoothing_complaint(self, q: np.ndarray, weights: np.ndarray) -> str:
        if self.epsilon is None:
            return ""
        moved = self.expand(q, weights).value - self.unsmoothed(q, weights)
        if not is_material(moved, q, weights):
            return ""
        return (
            f"epsilon: a smoothing of {self.epsilon:g} dominates: it moves the risk by {moved:.3g}, of a quantity with "
            f"a width of {width_of(q, weights).value:.3g} by default. Leave epsilon out, or pass a smaller one."
        )

    def expand_jointly(self, q: np.ndarray, auxiliary: np.ndarray, weights: np.ndarray) -> JointExpansion:
        """r(q, t; ε(q)) by the chain rule."""
        width = self.width(q, weights)
        at = self.expand_at(q, auxiliary, width.value, weights)
        along = float(at.auxiliary_gradient[-1])

        def hessian(v: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            bent, pull = at.hessian(v, np.append(s, width.gradient @ v))
            return bent + pull[-1] * width.gradient + along * width.hessian(v), pull[:-1]

        return JointExpansion(at.value, at.gradient + along * width.gradient, at.auxiliary_gradient[:-1], hessian)


@dataclass(frozen=True)
class Expectation(RiskMeasure):
    """E[Q].

    Examples
    --------
    >>> Expectation().value(np.array([1.0, 2.0, 6.0]))
    3.0
    """

    def expand(self, q: np.ndarray, weights: np.ndarray) -> Expansion:
        return Expansion(float(weights @ q), weights.copy(), np.zeros_like)


@dataclass(frozen=True)
class MeanVariance(RiskMeasure):
    """E[Q] + β Var[Q], the variance by deviations from the mean, Σ w (q - Σ w q)², not by a difference of moments.

    Parameters
    ----------
    beta : float
        β ≥ 0, in units of 1/Q.

    Raises
    ------
    InputError
        If β is negative or not finite.

    Examples
    --------
    >>> MeanVariance(beta=0.5).value(np.array([1.0, 3.0]))
    2.5
    """

    beta: float = 1.0

    def __post_init__(self):
        if not 0 <= self.beta < math.inf:
            raise InputError(f"beta: expected a number >= 0, got {self.beta}.")

    def expand(self, q: np.ndarray, weights: np.ndarray) -> Expansion:
        mean = weights @ q
        deviation = q - mean
        return Expansion(
            float(mean + self.beta * (weights @ deviation**2)),
            weights * (1 + 2 * self.beta * deviation),
            lambda v: 2 * self.beta * weights * (v - weights @ v),
        )

    def scale_part(self, q: np.ndarray, weights: np.ndarray) -> float:
        return float(self.beta * (weights @ (q - weights @ q) ** 2))


@dataclass(frozen=True)
class CVaR(SmoothedRisk):
    """Conditional value at risk, the mean of the worst 1 - β of all outcomes, smoothed.

    R(q) = min_t t + E[(Q - t)⁺_ε]/(1 - β) with (s)⁺_ε = 0, s³/ε² - s⁴/(2ε³), s - ε/2 on s < 0, [0, ε), s ≥ ε, which
    is twice continuously differentiable, and at most ε/2 below max(0, s).  So R is at most ε/(2(1 - β)) below the
    exact CVaR, and never above.

    Parameters
    ----------
    beta : float
        Level β in (0, 1).
    epsilon : float, optional
        Smoothing ε > 0, in units of Q; default a hundredth of the standard deviation of Q, see `SmoothedRisk`.  A small
        one makes the value exact, a larger one helps the optimiser.

    Raises
    ------
    InputError
        If a parameter is outside its range.

    References
    ----------
    Rockafellar, Uryasev, J. Risk 2 (2000) 21-41, theorem 1; smoothing: Kouri, Surowiec, SIAM J. Optim. 26 (2016), and
    Luo et al., arXiv 2305.20053.

    Examples
    --------
    >>> round(CVaR(beta=0.75, epsilon=1e-9).value(np.arange(8.0)), 6)  # mean of the two largest
    6.5
    >>> round(CVaR(beta=0.75).value(1e-9 * np.arange(8.0)) / 1e-9, 1)  # in any units
    6.5
    """

    beta: float = 0.95
    epsilon: float | None = None

    n_auxiliary: ClassVar[int] = 1

    def __post_init__(self):
        if not 0 < self.beta < 1:
            raise InputError(f"beta: expected a level in (0, 1), such as 0.95, got {self.beta}.")
        super().__post_init__()

    def unsmoothed(self, q: np.ndarray, weights: np.ndarray) -> float:
        """The mean of the worst 1 - β of the samples, the last of them in part."""
        order = np.argsort(q)[::-1]
        beyond = np.cumsum(weights[order])
        share = np.diff(np.minimum(beyond, 1 - self.beta), prepend=0.0)
        return float(share @ q[order] / share.sum())

    def auxiliary(self, q: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """t (1,), where the smoothed share of samples beyond it is 1 - β."""
        epsilon = self.width(q, weights).value
        order = np.argsort(q)[::-1]
        beyond = np.cumsum(weights[order])
        last = min(int(np.searchsorted(beyond, 1 - self.beta)), len(q) - 1)
        quantile = float(q[order[last]])
        # smoothing moves t by at most ε below the quantile: only samples this near to it are in question
        near = np.abs(q - quantile) < epsilon
        far = weights[~near & (q > quantile)].sum()

        def slope(t: float) -> float:
            r = np.clip((q[near] - t) / epsilon, 0, 1)
            return (1 - self.beta) - far - float(weights[near] @ (r * r * (3 - 2 * r)))

        low, high = quantile - epsilon, quantile
        if slope(high) <= 0:  # equal to rounding
            return np.array([high])
        if slope(low) >= 0:
            return np.array([low])
        return np.array([brentq(slope, low, high, xtol=5e-324, rtol=8.9e-16, maxiter=1000)])

    def expand_at(self, q: np.ndarray, auxiliary: np.ndarray, epsilon: float, weights: np.ndarray) -> JointExpansion:
        (t,) = auxiliary
        s = q - t
        r = np.clip(s / epsilon, 0, 1)
        excess = np.where(s < epsilon, epsilon * r**3 * (1 - r / 2), s - epsilon / 2)
        share = weights / (1 - self.beta)
        slope, curvature = share * r * r * (3 - 2 * r), share * 6 * r * (1 - r) / epsilon
        by_width = float(share @ (r**3 * (1.5 * r - 2)))  # ∂/∂ε of εφ(s/ε) is φ - rφ', which ends at -1/2

        def hessian(v: np.ndarray, along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            bent = curvature * (v - along[0] - r * along[1])
            return bent, np.array([-bent.sum(), -(r @ bent)])

        return JointExpansion(float(t + share @ excess), slope, np.array([1 - slope.sum(), by_width]), hessian)

    def expand(self, q: np.ndarray, weights: np.ndarray) -> Expansion:
        """At the minimising t; the gradient does not see that t moves with q, the Hessian does."""
        at = self.expand_jointly(q, self.auxiliary(q, weights), weights)
        _, (curvature,) = at.hessian(np.zeros_like(q), np.ones(1))

        def hessian(v: np.ndarray) -> np.ndarray:
            bent, pull = at.hessian(v, np.zeros(1))
            if curvature > 0:  # else no sample is within the smoothing, and t does not couple them
                bent = at.hessian(v, -pull / curvature)[0]
            return bent

        return Expansion(at.value, at.gradient, hessian)


@dataclass(frozen=True)
class Entropic(RiskMeasure):
    """ln E[exp(θQ)]/θ: E[Q] + θ Var[Q]/2 for small θ, the largest outcome for large θ.

    Parameters
    ----------
    theta : float
        Aversion θ > 0, in units of 1/Q.

    Raises
    ------
    InputError
        If θ is not positive.

    Examples
    --------
    >>> round(Entropic(theta=2.0).value(np.zeros(3) + 5.0), 12)
    5.0
    """

    theta: float = 1.0

    def __post_init__(self):
        if not 0 < self.theta < math.inf:
            raise InputError(f"theta: expected a number > 0, got {self.theta}.")

    def expand(self, q: np.ndarray, weights: np.ndarray) -> Expansion:
        highest = q[weights > 0].max()
        below = np.minimum(self.theta * (q - highest), 0.0)  # what has no weight may be higher
        share = weights * np.exp(below)
        lost = float(weights @ np.expm1(below))
        # of a quantity far smaller than 1/θ the sum of exponentials differs from 1 by less than rounding
        logarithm = math.log1p(lost) if lost > -0.5 else math.log(share.sum())
        p = share / share.sum()
        return Expansion(float(highest + logarithm / self.theta), p, lambda v: self.theta * p * (v - p @ v))


@dataclass(frozen=True)
class WorstCase(SmoothedRisk):
    """The largest outcome, smoothed: ε ln Σ exp(q_i/ε) over the n samples of positive weight.

    It lies between max q and max q + ε ln n.  It speaks of these samples, not of the law that they are drawn from:
    more samples make it larger.

    Parameters
    ----------
    epsilon : float, optional
        Smoothing ε > 0, in units of Q; default a hundredth of the standard deviation of Q, see `SmoothedRisk`.

    Raises
    ------
    InputError
        If ε is not positive.

    Examples
    --------
    >>> round(WorstCase(epsilon=0.01).value(np.array([1.0, 2.0, 4.0])), 12)
    4.0
    """

    epsilon: float | None = None

    def unsmoothed(self, q: np.ndarray, weights: np.ndarray) -> float:
        return float(q[weights > 0].max())

    def expand_at(self, q: np.ndarray, auxiliary: np.ndarray, epsilon: float, weights: np.ndarray) -> JointExpansion:
        """The gradient is a probability p; ∂R/∂ε is its entropy."""
        highest = self.unsmoothed(q, weights)
        r = np.minimum(q - highest, 0.0) / epsilon  # what has no weight may be higher
        factors = np.where(weights > 0, np.exp(r), 0.0)
        total = factors.sum()
        p = factors / total
        logarithm, mean = math.log(total), float(p @ r)

        def hessian(v: np.ndarray, along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            moved = v - r * along[0]
            bent = p * (moved - p @ moved) / epsilon
            return bent, np.array([-(r @ bent)])

        return JointExpansion(highest + epsilon * logarithm, p, np.array([logarithm - mean]), hessian)

    def expand(self, q: np.ndarray, weights: np.ndarray) -> Expansion:
        at = self.expand_jointly(q, np.empty(0), weights)
        return Expansion(at.value, at.gradient, lambda v: at.hessian(v, np.empty(0))[0])


KINDS = {
    "expectation": Expectation,
    "mean-variance": MeanVariance,
    "cvar": CVaR,
    "entropic": Entropic,
    "worst-case": WorstCase,
}


def parse_risk(text: str) -> RiskMeasure:
    """The risk measure of a name, with its parameter after a colon if it is not to be the default.

    Raises
    ------
    InputError
        If there is no such measure, or its parameter is no number or outside of its range.

    Examples
    --------
    >>> parse_risk("cvar:0.9")
    CVaR(beta=0.9, epsilon=None)
    """
    name, _, parameter = text.partition(":")
    if name not in KINDS or (parameter and name == "expectation"):
        raise InputError(f"risk: expected one of {list(KINDS)}, with a parameter as in cvar:0.95, got {text!r}.")
    try:
        values = [float(parameter)] if parameter else []
    except ValueError:
        raise InputError(f"risk: expected a number after the colon, got {text!r}.") from None
    return KINDS[name](*values)


def without_auxiliary(at: Expansion) -> JointExpansion:
    """The same expansion, in no further variables."""
    return JointExpansion(at.value, at.gradient, np.empty(0), lambda v, s: (at.hessian(v), np.empty(0)))


def checked_samples(q: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Samples and weights (n,) as floats; `InputError` unless they are such."""
    q = np.asarray(q, dtype=float)
    if q.ndim != 1 or len(q) == 0:
        raise InputError(f"q: expected samples of shape (n,), n >= 1, got {q.shape}.")
    bad = np.count_nonzero(~np.isfinite(q))
    if bad:
        raise InputError(f"q: {bad} of {len(q)} samples are not finite.")
    return q, checked_weights(weights, len(q))


def checked_weights(weights: np.ndarray | None, n: int) -> np.ndarray:
    """Weights (n,), equal ones by default; `InputError` unless they are not negative and of sum 1."""
    if weights is None:
        return np.full(n, 1 / n)
    weights = np.asarray(weights, dtype=float)
    if weights.shape != (n,):
        raise InputError(f"weights: expected shape ({n},), one for each sample, got {weights.shape}.")
    if not (weights >= 0).all() or abs(weights.sum() - 1) > 1e-9:
        raise InputError(
            f"weights: expected numbers >= 0 of sum 1, got a least of {weights.min():g} and a sum of "
            f"{weights.sum():.12g}. Pass weights / weights.sum()."
        )
    return weights
