"""Input bases: derivative-informed subspace and Karhunen-Loève expansion (KLE).

Both decoders are R-orthonormal, so latent parameters x = (RΨ)ᵀ(m - m̄) are N(0, I) under the prior.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from hippylib_dino.errors import RankError
from hippylib_dino.modeling.observation import NoiseCovariance
from hippylib_dino.modeling.spaces import DofOrder, map_block, owned_values
from hippylib_dino.reduction.basis import Basis
from hippylib_dino.reduction.eigen import NEGLIGIBLE, generalized_eigenpairs, settle

OVERSAMPLING = 10


def derivative_input_basis(
    prior,
    jacobians: Callable[[], Iterable[np.ndarray]],
    noise: NoiseCovariance,
    *,
    rank: int,
    n_samples: int,
    seed: int = 0,
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
    rank : int
        rM.
    n_samples : int
    seed : int
        Of the randomized range finder.

    Raises
    ------
    RankError
        If the samples do not hold `rank` directions.
    """
    limit = min(prior.mean.size(), n_samples * noise.dim)
    _check_rank(rank, limit, f"{n_samples} Jacobians of {noise.dim} observables for {prior.mean.size()} parameters")
    order, R, R_inverse, reduce = _operators(prior)

    def H(block: np.ndarray) -> np.ndarray:
        total = np.zeros_like(block)
        for J_transposed in jacobians():
            total += J_transposed @ noise.solve(reduce(J_transposed.T @ block))
        return total / n_samples

    size = min(rank + OVERSAMPLING, limit)
    values, decoder, encoder = generalized_eigenpairs(H, R, R_inverse, _start(order, size, seed), reduce=reduce)
    found = int((values > NEGLIGIBLE * values[0]).sum())
    _check_rank(rank, found, f"the mean of JᵀΓ⁻¹J over {n_samples} samples, numerically")
    return _gathered(order, prior, decoder, encoder, values, rank, "derivative")


def kle_input_basis(prior, *, rank: int, seed: int = 0) -> Basis:
    """KLE: eigenpairs of the prior covariance in the mass inner product, M R⁻¹ M φ = λ M φ.

    The M-orthonormal modes φ are scaled by √λ, which makes them R-orthonormal.

    Parameters
    ----------
    prior : hIPPYlib prior, with precision R and mass matrix M
    rank : int
        rM.
    seed : int
        Of the randomized range finder.

    Raises
    ------
    RankError
        If `rank` exceeds the dimension.
    """
    _check_rank(rank, prior.mean.size(), "the parameter space")
    order, R, R_inverse, reduce = _operators(prior)
    mass_of = lambda block: map_block(lambda out, x: prior.M.mult(x, out), prior.mean, prior.mean, block)  # noqa: E731

    # as (M, R) pencil: M φ = λ R φ has the same pairs, with φ R-orthonormal at once
    size = min(rank + 2 * OVERSAMPLING, order.dim)
    values, decoder, encoder = generalized_eigenpairs(
        mass_of, R, R_inverse, _start(order, size, seed), reduce=reduce, power_iterations=3
    )
    return _gathered(order, prior, decoder, encoder, values, rank, "kle")


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


def _gathered(order: DofOrder, prior, decoder, encoder, values, rank: int, kind: str) -> Basis:
    decoder, encoder = settle(values, order.to_array(decoder), order.to_array(encoder), rank)
    return Basis(
        decoder=decoder,
        encoder=encoder,
        shift=order.to_array(owned_values(prior.mean)),
        eigenvalues=values,
        kind=kind,
        inner_product="prior precision",
    )


def _check_rank(rank: int, limit: int, source: str) -> None:
    if not 1 <= rank <= limit:
        raise RankError(
            f"input_rank: expected 1 .. {limit}, which is what {source} can give, got {rank}. "
            'Lower input_rank, raise n_basis_samples, or use input_basis="kle".'
        )
