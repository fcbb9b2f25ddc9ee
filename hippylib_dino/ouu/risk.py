"""Risk measures of a quantity of interest, from samples of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import logsumexp

from hippylib_dino.errors import InputError


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
        """
        return self.expand(*checked_samples(q, weights)).value

    def gradient(self, q: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """∂R/∂q, (n,); arguments and errors are those of `value`."""
        return self.expand(*checked_samples(q, weights)).gradient

    def hessian_action(self, q: np.ndarray, direction: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """∇²R(q) v, (n,), of a direction v (n,); arguments and errors are those of `value`."""
        samples, weights = checked_samples(q, weights)
        if np.shape(direction) != samples.shape:
            raise InputError(f"direction: expected shape {samples.shape}, as q has, got {np.shape(direction)}.")
        return self.expand(samples, weights).hessian(np.asarray(direction, dtype=float))


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


@dataclass(frozen=True)
class CVaR(RiskMeasure):
    """Conditional value at risk, the mean of the worst 1 - β of all outcomes, smoothed.

    R(q) = min_t t + E[(Q - t)⁺_ε]/(1 - β) with (s)⁺_ε = 0, s³/ε² - s⁴/(2ε³), s - ε/2 on s < 0, [0, ε), s ≥ ε, which
    is twice continuously differentiable, and at most ε/2 below max(0, s).  So R is at most ε/(2(1 - β)) below the
    exact CVaR, and never above.

    Parameters
    ----------
    beta : float
        Level β in (0, 1).
    epsilon : float
        Smoothing ε > 0, in units of Q.  A small one makes the value exact, a larger one helps the optimiser; choose it
        by the spread of Q.

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
    """

    beta: float = 0.95
    epsilon: float = 1e-4

    n_auxiliary: ClassVar[int] = 1

    def __post_init__(self):
        if not 0 < self.beta < 1:
            raise InputError(f"beta: expected a level in (0, 1), such as 0.95, got {self.beta}.")
        if not 0 < self.epsilon < math.inf:
            raise InputError(f"epsilon: expected a smoothing > 0 in units of the quantity, got {self.epsilon}.")

    def _first(self, s: np.ndarray) -> np.ndarray:
        """Derivative of (s)⁺_ε."""
        r = np.clip(s / self.epsilon, 0, 1)
        return r * r * (3 - 2 * r)

    def auxiliary(self, q: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """t (1,), where the smoothed share of samples beyond it is 1 - β."""
        order = np.argsort(q)[::-1]
        beyond = np.cumsum(weights[order])
        last = min(int(np.searchsorted(beyond, 1 - self.beta)), len(q) - 1)
        quantile = float(q[order[last]])
        # smoothing moves t by at most ε below the quantile: only samples this near to it are in question
        near = np.abs(q - quantile) < self.epsilon
        far = weights[~near & (q > quantile)].sum()

        def slope(t: float) -> float:
            return (1 - self.beta) - far - float(weights[near] @ self._first(q[near] - t))

        low, high = quantile - self.epsilon, quantile
        if slope(high) <= 0:  # equal to rounding
            return np.array([high])
        if slope(low) >= 0:
            return np.array([low])
        return np.array([brentq(slope, low, high, xtol=1e-300, rtol=8.9e-16, maxiter=1000)])

    def expand_jointly(self, q: np.ndarray, auxiliary: np.ndarray, weights: np.ndarray) -> JointExpansion:
        (t,) = auxiliary
        s = q - t
        r = np.clip(s / self.epsilon, 0, 1)
        excess = np.where(s < self.epsilon, self.epsilon * r**3 * (1 - r / 2), s - self.epsilon / 2)
        share = weights / (1 - self.beta)
        slope, curvature = share * self._first(s), share * 6 * r * (1 - r) / self.epsilon

        def hessian(v: np.ndarray, along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            bent = curvature * (v - along)
            return bent, np.array([-bent.sum()])

        return JointExpansion(float(t + share @ excess), slope, np.array([1 - slope.sum()]), hessian)

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
        return _exponential(q, weights, self.theta)


@dataclass(frozen=True)
class WorstCase(RiskMeasure):
    """The largest outcome, smoothed: ε ln Σ exp(q_i/ε) over the n samples of positive weight.

    It lies between max q and max q + ε ln n.  It speaks of these samples, not of the law that they are drawn from:
    more samples make it larger.

    Parameters
    ----------
    epsilon : float
        Smoothing ε > 0, in units of Q.

    Raises
    ------
    InputError
        If ε is not positive.

    Examples
    --------
    >>> round(WorstCase(epsilon=0.01).value(np.array([1.0, 2.0, 4.0])), 12)
    4.0
    """

    epsilon: float = 1e-2

    def __post_init__(self):
        if not 0 < self.epsilon < math.inf:
            raise InputError(f"epsilon: expected a smoothing > 0 in units of the quantity, got {self.epsilon}.")

    def expand(self, q: np.ndarray, weights: np.ndarray) -> Expansion:
        return _exponential(q, (weights > 0).astype(float), 1 / self.epsilon)


def _exponential(q: np.ndarray, factors: np.ndarray, theta: float) -> Expansion:
    """ln Σ f exp(θq)/θ for factors f (n,); its gradient is a probability p, its Hessian θ times the covariance of p."""
    total = logsumexp(theta * q, b=factors)
    p = factors * np.exp(theta * q - total)
    return Expansion(float(total / theta), p, lambda v: theta * p * (v - p @ v))


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
    CVaR(beta=0.9, epsilon=0.0001)
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
