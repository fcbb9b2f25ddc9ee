"""Input bases: derivative-informed subspace and Karhunen-Loève expansion (KLE).

Both decoders are R-orthonormal, so latent parameters x = (RΨ)ᵀ(m - m̄) are N(0, I) under the prior.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from hippylib_dino.errors import RankError
from hippylib_dino.modeling.spaces import DofOrder, map_block, owned_values, sum_over_ranks
from hippylib_dino.noise import NoiseCovariance
from hippylib_dino.reduction.basis import Basis
from hippylib_dino.reduction.eigen import NEGLIGIBLE, Operator, check_size, generalized_eigenpairs, settle
from hippylib_dino.reduction.ranks import Pairs, Rank, checked_rank, pairs_of_share

OVERSAMPLING = 10
# the trace of the prior covariance takes a prior solve a degree of freedom; for more than so many it is estimated
EXACT_TRACE_UP_TO = 2000
N_TRACE_PROBES = 128


def derivative_input_basis(
    prior,
    jacobians: Callable[[], Iterable[np.ndarray]],
    noise: NoiseCovariance,
    *,
    rank: Rank,
    n_samples: int,
    seed: int = 0,
    total_energy: float | None = None,
    at_most: bool = False,
) -> Basis:
    """Derivative-informed input basis: (E[Jᵀ Γ⁻¹ J]) ψ = λ R ψ, the expectation a sample mean.

    O'Leary-Roseberry et al., J. Comput. Phys. 496 (2024), section on derivative-informed input
    subspaces.  Memory is O(dM rank): the Jacobians are streamed, once for each application.

    Parameters
    ----------
    prior : hIPPYlib prior, with precision R
    jacobians : callable
        Gives a fresh iterator over `n_samples` transposed Jacobians, (n_owned, dQ).
    noise : NoiseCovariance
    rank : int or float
        rM, or the share of the total energy that it is to hold at least: then eigenpairs are computed with a rank
        that doubles until they do.
    n_samples : int
    seed : int
        Of the randomized range finder.
    total_energy : float, optional
        Sum of all eigenvalues, the mean of tr(Γ⁻¹ J R⁻¹ Jᵀ); what is missing for a share is computed, with dQ prior
        solves a sample.
    at_most : bool
        Take the directions that the samples hold where these are fewer than `rank`.

    Raises
    ------
    InputError
        If `rank` is neither.
    RankError
        If the samples do not hold `rank` directions, unless `at_most`; if their Jacobians are zero, or too large or
        small for floats in noise standard deviations.
    """
    rank = checked_rank("input_rank", rank)
    limit = min(prior.mean.size(), n_samples * noise.dim)
    source = f"{n_samples} Jacobians of {noise.dim} observables for {prior.mean.size()} parameters"
    if at_most and isinstance(rank, int):
        rank = min(rank, limit)
    _check_rank(rank, limit, source)
    order, R, R_inverse, reduce = _operators(prior)

    def H(block: np.ndarray) -> np.ndarray:
        total = np.zeros_like(block)
        for J_transposed in jacobians():
            total += J_transposed @ noise.solve(reduce(J_transposed.T @ block))
        return total / n_samples

    with np.errstate(over="ignore", invalid="ignore"):
        seen = float(reduce(np.array(np.abs(H(_start(order, 1, seed))).max(initial=0.0))))
    check_size(seen, name="input_rank", what=f"Jacobians of {n_samples} samples")

    def pairs(size: int) -> Pairs:
        start = _start(order, min(size + OVERSAMPLING, limit), seed)
        return generalized_eigenpairs(H, R, R_inverse, start, reduce=reduce)

    if isinstance(rank, float):
        total = _mean_energy(jacobians, R_inverse, reduce, noise) if total_energy is None else total_energy
        rank, found, total_energy = pairs_of_share(
            rank, limit, pairs, lambda _: total, name="input_rank", source=source
        )
    else:
        found = pairs(rank)
    independent = int((found[0] > NEGLIGIBLE * found[0][0]).sum())
    if at_most:
        rank = min(rank, max(1, independent))
    _check_rank(rank, independent, f"the mean of JᵀΓ⁻¹J over {n_samples} samples, numerically")
    return _gathered(order, prior, found, rank, "derivative", total_energy)


def kle_input_basis(prior, *, rank: Rank, seed: int = 0) -> Basis:
    """KLE: eigenpairs of the prior covariance in the mass inner product, M R⁻¹ M φ = λ M φ.

    The M-orthonormal modes φ are scaled by √λ, which makes them R-orthonormal.

    Parameters
    ----------
    prior : hIPPYlib prior, with precision R and mass matrix M
    rank : int or float
        rM, or the share of the prior's variance tr(R⁻¹ M) that it is to hold at least: then eigenpairs are computed
        with a rank that doubles until they do.
    seed : int
        Of the randomized range finder.

    Raises
    ------
    InputError
        If `rank` is neither.
    RankError
        If `rank` exceeds the dimension.

    Notes
    -----
    The trace is exact up to `EXACT_TRACE_UP_TO` degrees of freedom.  Beyond, what the computed pairs do not hold of
    it is estimated without bias by `N_TRACE_PROBES` random directions, the same on any partition of the mesh: the
    total is then off by a few per cent of that rest.
    """
    rank = checked_rank("input_rank", rank)
    _check_rank(rank, prior.mean.size(), "the parameter space")
    order, R, R_inverse, reduce = _operators(prior)
    mass_of = lambda block: map_block(lambda out, x: prior.M.mult(x, out), prior.mean, prior.mean, block)  # noqa: E731

    def covariance(block: np.ndarray) -> np.ndarray:
        return R_inverse(mass_of(block))

    # as (M, R) pencil: M φ = λ R φ has the same pairs, with φ R-orthonormal at once
    def pairs(size: int) -> Pairs:
        start = _start(order, min(size + 2 * OVERSAMPLING, order.dim), seed)
        return generalized_eigenpairs(mass_of, R, R_inverse, start, reduce=reduce, power_iterations=3)

    exact = _trace(order, covariance) if order.dim <= EXACT_TRACE_UP_TO else None

    def total(found: Pairs) -> float:
        return found[0].sum() + _rest(order, covariance, found, seed) if exact is None else exact

    if isinstance(rank, float):
        source = "the parameter space"
        rank, found, energy = pairs_of_share(rank, order.dim, pairs, total, name="input_rank", source=source)
    else:
        found = pairs(rank)
        energy = total(found)
    return _gathered(order, prior, found, rank, "kle", energy)


def _mean_energy(jacobians: Callable, R_inverse: Operator, reduce: Callable, noise: NoiseCovariance) -> float:
    """Mean of tr(Γ⁻¹ J R⁻¹ Jᵀ) over transposed Jacobians (n_owned, dQ)."""
    covariances = (reduce(J_transposed.T @ R_inverse(J_transposed)) for J_transposed in jacobians())
    return float(np.mean([np.trace(noise.solve(covariance)) for covariance in covariances]))


def _trace(order: DofOrder, operator: Operator, width: int = 256) -> float:
    """Trace of an operator on the space, one application a degree of freedom, `width` of them at a time."""
    trace = 0.0
    for first in range(0, order.dim, width):
        unit = (order.owned[:, None] == np.arange(first, min(first + width, order.dim))).astype(float)
        trace += (unit * operator(unit)).sum()
    return float(sum_over_ranks(np.array(trace), order.comm))


def _rest(order: DofOrder, operator: Operator, pairs: Pairs, seed: int) -> float:
    """Unbiased estimate of the trace of T less that of T ΨΨᵀR, Ψ the decoder and RΨ the encoder of `pairs`.

    Meyer, Musco, Musco, Woodruff, "Hutch++: optimal stochastic trace estimation", SOSA (2021), with given directions.
    """
    _, decoder, encoder = pairs
    signs = np.random.default_rng((seed, 1)).integers(0, 2, (order.dim, N_TRACE_PROBES))
    probes = order.from_array(2.0 * signs - 1.0)
    outside = probes - decoder @ sum_over_ranks(encoder.T @ probes, order.comm)
    return max(float(sum_over_ranks(np.array((probes * operator(outside)).sum()), order.comm)) / N_TRACE_PROBES, 0.0)


def _operators(prior):
    """Dof order, R and R⁻¹ on blocks of owned rows, and the sum over the mesh's ranks."""
    order = DofOrder(prior.Vh)
    R = lambda block: map_block(lambda out, x: prior.R.mult(x, out), prior.mean, prior.mean, block)  # noqa: E731
    R_inverse = lambda block: map_block(prior.Rsolver.solve, prior.mean, prior.mean, block)  # noqa: E731
    reduce = (lambda a: a) if order.comm.size == 1 else order.comm.allreduce
    return order, R, R_inverse, reduce


def _start(order: DofOrder, size: int, seed: int) -> np.ndarray:
    """Random directions that do not depend on the partition, (n_owned, size)."""
    return order.from_array(np.random.default_rng(seed).standard_normal((order.dim, size)))


def _gathered(order: DofOrder, prior, pairs: Pairs, rank: int, kind: str, total_energy: float | None) -> Basis:
    values, decoder, encoder = pairs
    decoder, encoder = settle(values, order.to_array(decoder), order.to_array(encoder), rank)
    return Basis(
        decoder=decoder,
        encoder=encoder,
        shift=order.to_array(owned_values(prior.mean)),
        eigenvalues=values,
        kind=kind,
        inner_product="prior precision",
        total_energy=None if total_energy is None else float(total_energy),
    )


def _check_rank(rank: Rank, limit: int, source: str) -> None:
    if rank > limit:
        raise RankError(
            f"input_rank: expected 1 .. {limit}, which is what {source} can give, got {rank}. "
            'Lower input_rank, raise n_basis_samples, or use input_basis="kle".'
        )
