"""Expected information gain by nested Monte Carlo: no Laplace approximation, the reference for those with one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from hippylib_dino.errors import InputError
from hippylib_dino.oed.criteria import Criterion, Estimate, mean_over_draws

PROPOSALS = ("laplace", "prior")
CHUNK = 1024  # inner samples that the network is asked for at once


@dataclass(frozen=True)
class NestedEstimate:
    """Nested Monte Carlo estimate of the expected information gain.

    Attributes
    ----------
    estimate : Estimate
        Mean over the outer draws.
    effective_samples : (n_draws,)
        (Σw)²/Σw² of the inner importance weights; where it is a few, the evidence is not to be trusted.
    """

    estimate: Estimate
    effective_samples: np.ndarray


def nested_monte_carlo(
    criterion: Criterion,
    design: Iterable[int],
    n_inner: int = 1000,
    *,
    proposal: str = "laplace",
    seed: int = 0,
    confidence: float = 0.95,
) -> NestedEstimate:
    """E[ln p(d|x) - ln p(d)] by draws of (x, d), and for each an importance sampling estimate of the evidence p(d).

    The bias is of order 1/n_inner and vanishes with it, whatever the posterior is.

    Parameters
    ----------
    criterion : Criterion
        Whose experiment and draws are taken; the draws are the outer ones.
    design : sensor numbers
    n_inner : int
        Samples of each evidence.
    proposal : str
        "laplace": from the Laplace approximation of each posterior, which needs few samples where data inform much;
        "prior": from the prior, as in the original estimator.
    seed : int
        Of the inner samples.
    confidence : float

    Returns
    -------
    NestedEstimate

    Raises
    ------
    InputError
        If an argument does not fit.

    References
    ----------
    Ryan, "Estimating expected information gains for experimental designs with application to the random fatigue-limit
    model", J. Comput. Graph. Stat. 12 (2003).  With Laplace proposals: Beck et al., "Fast Bayesian experimental design:
    Laplace-based importance sampling for the expected information gain", Comput. Methods Appl. Mech. Engrg. 334 (2018).
    """
    if n_inner < 2:
        raise InputError(f"n_inner: expected at least 2, got {n_inner}.")
    if proposal not in PROPOSALS:
        raise InputError(f"proposal: expected one of {PROPOSALS}, got {proposal!r}.")
    batch, experiment = criterion.map_points(design), criterion.experiment
    rows = experiment.rows(batch.designs[0])
    W = experiment.whiten(rows, experiment.decoder[rows])
    data = experiment.whiten(rows, experiment.data()[:, rows].T).T
    rng = np.random.default_rng(seed)
    own = _log_likelihood(experiment.f.value(experiment.draws.x) @ W.T, data)
    evidence, effective = np.full(len(data), np.nan), np.zeros(len(data))
    for i in np.flatnonzero(batch.converged):
        log_weights = []
        for size in np.diff([*range(0, n_inner, CHUNK), n_inner]):
            noise = rng.standard_normal((size, batch.x.shape[1]))
            z, log_ratio = _propose(proposal, batch.x[i], batch.jacobian[i], noise)
            log_weights.append(_log_likelihood(experiment.f.value(z) @ W.T, data[i]) + log_ratio)
        weights = np.concatenate(log_weights)
        evidence[i] = logsumexp(weights) - np.log(n_inner)
        effective[i] = np.exp(2 * logsumexp(weights) - logsumexp(2 * weights))
    return NestedEstimate(mean_over_draws(own - evidence, confidence), effective)


def _log_likelihood(whitened: np.ndarray, data: np.ndarray) -> np.ndarray:
    """ln p(d|x) but for a constant, (n,)."""
    return -0.5 * ((data - whitened) ** 2).sum(axis=-1)


def _propose(proposal: str, x: np.ndarray, G: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points z (n, rM) and ln of prior over proposal density there, (n,)."""
    if proposal == "prior":
        return noise, np.zeros(len(noise))
    _, singular, vectors = np.linalg.svd(G, full_matrices=False)
    shrink = 1 / np.sqrt(1 + singular**2) - 1
    z = x + noise + ((noise @ vectors.T) * shrink) @ vectors
    ratio = 0.5 * ((noise**2).sum(axis=1) - (z**2).sum(axis=1) - np.log1p(singular**2).sum())
    return z, ratio
