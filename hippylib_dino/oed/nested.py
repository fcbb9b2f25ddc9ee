"""Expected information gain by nested Monte Carlo: no Laplace approximation, the reference for those with one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import logsumexp

from hippylib_dino.errors import InputError
from hippylib_dino.intervals import NONE
from hippylib_dino.oed.criteria import Criterion, Estimate, mean_over_draws
from hippylib_dino.random_streams import Purpose, generator

PROPOSALS = ("laplace", "prior")
CHUNK = 1024  # inner samples that the network is asked for at once
PRIOR_SHARE = 0.2  # of the inner samples, which bounds all weights by a multiple of the likelihood
SAME_MODE = 1.0  # posterior standard deviations between MAP points that are taken for one
NEGLIGIBLE = 1e-3  # mass of a mode, by its Laplace approximation, relative to the largest
POOR = 0.1  # relative variance of an evidence from which its logarithm is not to be relied on
MOST_POOR = 0.1  # share of draws with such evidences from which no interval is given


@dataclass(frozen=True)
class NestedEstimate:
    """Nested Monte Carlo estimate of the expected information gain.

    Attributes
    ----------
    estimate : Estimate
        Mean over the outer draws, less the bias.  The interval is that over the outer draws, wider by the bias; (NaN,
        NaN) if more than a tenth of the evidences are poor.
    effective_samples : (n_draws,)
        (Σw)²/Σw² of the inner importance weights; where it is a few, the evidence is not to be trusted.
    bias : float
        What the logarithm of the noisy evidences adds to the gain, to first order in 1/n_inner: the mean of half their
        relative variances.  It has been taken off the estimate.
    n_poor : int
        Draws whose evidence has a relative standard deviation above 30 %; the warning counts these.
    """

    estimate: Estimate
    effective_samples: np.ndarray
    bias: float
    n_poor: int


def nested_monte_carlo(
    criterion: Criterion,
    design: Iterable[int],
    n_inner: int = 1000,
    *,
    proposal: str = "laplace",
    n_starts: int = 16,
    seed: int = 0,
    confidence: float = 0.95,
) -> NestedEstimate:
    """E[ln p(d|x) - ln p(d)] by draws of (x, d), and for each an importance sampling estimate of the evidence p(d).

    With weights w = p(d|z) π(z)/p(z) of samples z of the proposal p the evidence is w's mean, and its logarithm is low
    by half its relative variance v/2, v = 1/ESS - 1/n_inner to first order: this is corrected.  What remains is of
    order 1/n_inner² and vanishes, whatever the posterior is.

    A proposal that is blind for a mode of the posterior gives too small an evidence and too large a gain without a
    sign of it in the weights.  Hence the Laplace proposal is a mixture: of the Laplace approximations at all MAP points
    that are found from `n_starts` starts, and of the prior, which reaches everywhere.

    Parameters
    ----------
    criterion : Criterion
        Whose experiment and draws are taken; the draws are the outer ones.
    design : sensor numbers
    n_inner : int
        Samples of each evidence.
    proposal : str
        "laplace": the mixture, which needs few samples where data inform much; "prior": the prior alone, as in the
        original estimator.
    n_starts : int
        From which MAP points are looked for: the parameter that made the data, and prior draws.
    seed : int
        Of the inner samples, and of the starts.
    confidence : float

    Returns
    -------
    NestedEstimate

    Raises
    ------
    InputError
        If an argument does not fit.

    Warns
    -----
    UserWarning
        If evidences of some draws rest on a few effective samples.

    References
    ----------
    Ryan, "Estimating expected information gains for experimental designs with application to the random fatigue-limit
    model", J. Comput. Graph. Stat. 12 (2003).  With Laplace proposals: Beck et al., "Fast Bayesian experimental design:
    Laplace-based importance sampling for the expected information gain", Comput. Methods Appl. Mech. Engrg. 334 (2018).
    Mixtures with the prior: Hesterberg, "Weighted average importance sampling and defensive mixture distributions",
    Technometrics 37 (1995); with a fixed number of samples of each component: Owen, Zhou, J. Amer. Stat. Assoc. 95
    (2000).
    """
    if n_inner < 2:
        raise InputError(f"n_inner: expected at least 2, got {n_inner}.")
    if n_starts < 1:
        raise InputError(f"n_starts: expected at least 1, got {n_starts}.")
    if proposal not in PROPOSALS:
        raise InputError(f"proposal: expected one of {PROPOSALS}, got {proposal!r}.")
    experiment = criterion.experiment
    checked = experiment.check(design)
    if not checked:
        raise InputError("design: expected at least one sensor, got none.")
    rng = generator(Purpose.NESTED, seed)
    rows = experiment.rows(checked)
    W = experiment.whiten(rows, experiment.decoder[rows])
    data = experiment.whiten(rows, experiment.data()[:, rows].T).T
    own = _log_likelihood(experiment.f.value(experiment.draws.x) @ W.T, data)
    found = _map_points(criterion, checked, n_starts, rng) if proposal == "laplace" else [[] for _ in data]
    evidence, effective = np.empty(len(data)), np.empty(len(data))
    for i, modes in enumerate(found):
        log_likelihood = lambda z, d=data[i]: _log_likelihood(experiment.f.value(z) @ W.T, d)  # noqa: E731
        mixture = _Mixture(_distinct(modes, log_likelihood), n_inner)
        points = mixture.draw(experiment.draws.x.shape[1], rng)
        parts = [points[first : first + CHUNK] for first in range(0, n_inner, CHUNK)]
        weights = np.concatenate([log_likelihood(z) + mixture.log_ratio(z) for z in parts])
        evidence[i] = logsumexp(weights) - np.log(n_inner)
        effective[i] = np.exp(2 * logsumexp(weights) - logsumexp(2 * weights))
    variance = np.maximum(1 / effective - 1 / n_inner, 0.0)
    n_poor = int(np.count_nonzero(variance > POOR))
    if n_poor:
        warnings.warn(_few(n_poor, effective, n_inner), stacklevel=2)
    bias = float(variance.mean()) / 2
    estimate = mean_over_draws(own - evidence - variance / 2, confidence)
    if n_poor <= MOST_POOR * len(data):
        low, high = estimate.interval
        estimate = replace(estimate, interval=(low - bias, high + bias))
    else:
        estimate = replace(estimate, interval=NONE, reason=f"{n_poor} of {len(data)} evidences rest on few samples")
    return NestedEstimate(estimate, effective, bias, n_poor)


def _few(n_poor: int, effective: np.ndarray, n_inner: int) -> str:
    none = n_poor > MOST_POOR * len(effective)
    return (
        f"nested_monte_carlo: the evidences of {n_poor} of {len(effective)} draws rest on few effective samples, at "
        f"least {effective.min():.1f} of {n_inner}, and the gain may be too large"
        f"{'; there is no interval' if none else ' by more than its interval'}. Raise n_inner, or n_starts where the "
        "posterior has many modes."
    )


def _log_likelihood(whitened: np.ndarray, data: np.ndarray) -> np.ndarray:
    """ln p(d|x) but for a constant, (n,)."""
    return -0.5 * ((data - whitened) ** 2).sum(axis=-1)


class _Mode:
    """N(x, (I + GᵀG)⁻¹), a Laplace approximation, with x (rM,) and G (k, rM)."""

    def __init__(self, x: np.ndarray, G: np.ndarray):
        self.x, self._G = x, G
        _, self._singular, self._vectors = np.linalg.svd(G, full_matrices=False)
        self.log_det = float(np.log1p(self._singular**2).sum())

    def square_distance(self, z: np.ndarray) -> np.ndarray:
        """In the posterior precision, (n,), of points (n, rM)."""
        away = z - self.x
        return (away**2).sum(axis=-1) + ((away @ self._G.T) ** 2).sum(axis=-1)

    def log_density(self, z: np.ndarray) -> np.ndarray:
        """(n,), but for the constant of N(0, I)."""
        return 0.5 * (self.log_det - self.square_distance(z))

    def draw(self, noise: np.ndarray) -> np.ndarray:
        """Points (n, rM) from white noise (n, rM)."""
        shrink = 1 / np.sqrt(1 + self._singular**2) - 1
        return self.x + noise + ((noise @ self._vectors.T) * shrink) @ self._vectors


class _Mixture:
    """Modes in equal parts, and the prior: fixed numbers of samples of each, n together."""

    def __init__(self, modes: list[_Mode], n: int):
        n_prior = int(PRIOR_SHARE * n) if modes else n
        parts = np.array_split(np.arange(n - n_prior), len(modes)) if modes else []
        counts = [(mode, len(part)) for mode, part in zip(modes, parts, strict=True)]
        self._prior, self._modes = n_prior, [(mode, count) for mode, count in counts if count]
        self._n = n

    def draw(self, rank: int, rng: np.random.Generator) -> np.ndarray:
        """(n, rM)."""
        points = [mode.draw(rng.standard_normal((count, rank))) for mode, count in self._modes]
        return np.concatenate([*points, rng.standard_normal((self._prior, rank))])

    def log_ratio(self, z: np.ndarray) -> np.ndarray:
        """ln of prior over mixture density, (n,)."""
        prior = -0.5 * (z**2).sum(axis=1)
        parts = [np.log(count / self._n) + mode.log_density(z) for mode, count in self._modes]
        if self._prior:
            parts.append(np.log(self._prior / self._n) + prior)
        return prior - logsumexp(np.array(parts), axis=0)


def _map_points(
    criterion: Criterion, design: tuple[int, ...], n_starts: int, rng: np.random.Generator
) -> list[list[_Mode]]:
    """Laplace approximations at the MAP points of each draw that were found, the same perhaps several times."""
    shape = criterion.draws.x.shape
    found: list[list[_Mode]] = [[] for _ in range(shape[0])]
    for k in range(n_starts):
        batch = criterion.map_points(design, start=rng.standard_normal(shape) if k else None)
        for i, x in enumerate(batch.x):  # a point that did not converge is a worse proposal, not a wrong one
            if np.isfinite(x).all() and all(mode.square_distance(x) > SAME_MODE**2 for mode in found[i]):
                found[i].append(_Mode(x, batch.jacobian[i]))
    return found


def _distinct(modes: list[_Mode], log_likelihood: Callable[[np.ndarray], np.ndarray]) -> list[_Mode]:
    """Those whose mass is not negligible."""
    if not modes:
        return []
    x = np.array([mode.x for mode in modes])
    mass = log_likelihood(x) - 0.5 * (x**2).sum(axis=1) - 0.5 * np.array([mode.log_det for mode in modes])
    return [mode for mode, own in zip(modes, mass, strict=True) if own >= mass.max() + np.log(NEGLIGIBLE)]
