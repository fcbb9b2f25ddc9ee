"""Output bases: derivative-informed subspace, proper orthogonal decomposition (POD), no reduction.

All decoders are Γ⁻¹-orthonormal: one unit of a latent output is one noise standard deviation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.linalg as sla

from hippylib_dino.errors import RankError
from hippylib_dino.modeling.data_space import DataSpace
from hippylib_dino.noise import NoiseCovariance
from hippylib_dino.reduction.basis import Basis
from hippylib_dino.reduction.eigen import NEGLIGIBLE, check_size, settle
from hippylib_dino.reduction.ranks import FIRST_RANK, Rank, checked_rank, rank_of_share


def derivative_output_basis(mean: np.ndarray, covariance: np.ndarray, noise: NoiseCovariance, *, rank: Rank) -> Basis:
    """Eigenvectors of E[J R⁻¹ Jᵀ] in the Γ⁻¹ inner product.

    O'Leary-Roseberry et al., J. Comput. Phys. 496 (2024), section on derivative-informed output subspaces.

    Parameters
    ----------
    mean : (dQ,)
        Sample mean of q, which becomes the shift.
    covariance : (dQ, dQ)
        Sample mean of J R⁻¹ Jᵀ, the linearised covariance of the observable.
    noise : NoiseCovariance
    rank : int or float
        rQ, or the share of the spectrum's sum that it is to hold at least.

    Raises
    ------
    RankError
        If `rank` is not in 1 .. dQ; if all Jacobians are zero, or too large or small for floats in noise standard
        deviations.
    """
    return _eigenbasis(mean, covariance, noise, rank, "derivative")


def pod_output_basis(observables: np.ndarray, noise: NoiseCovariance, *, rank: Rank, at_most: bool = False) -> Basis:
    """Eigenvectors of the sample covariance of q in the Γ⁻¹ inner product; the mean is the shift.

    Parameters
    ----------
    observables : (n, dQ)
    noise : NoiseCovariance
    rank : int or float
        rQ, or the share of the spectrum's sum that it is to hold at least.
    at_most : bool
        Take min(dQ, n - 1) where that is less than `rank`.

    Raises
    ------
    RankError
        If `rank` is not in 1 .. min(dQ, n - 1), unless `at_most`; if all observables are equal, or too large or small
        for floats in noise standard deviations.
    """
    n, dim = observables.shape
    if at_most and n > 1:
        rank = min(rank, dim, n - 1)
    if checked_rank("output_rank", rank) > min(dim, n - 1):
        raise RankError(
            f"output_rank: expected 1 .. {min(dim, n - 1)} for the POD of {n} samples of {dim} observables, "
            f"got {rank}. Lower output_rank or raise n_basis_samples."
        )
    mean = observables.mean(axis=0)
    centred = observables - mean
    return _eigenbasis(mean, centred.T @ centred / (n - 1), noise, rank, "pod")


def pod_state_basis(
    snapshots: Callable[[np.ndarray], np.ndarray],
    data: DataSpace,
    *,
    n_samples: int,
    rank: Rank,
    at_most: bool = False,
) -> Basis:
    """POD of a whole state in its data space, by the method of snapshots: mass-weighted, mean as shift.

    Sirovich, "Turbulence and the dynamics of coherent structures", Quart. Appl. Math. 45 (1987), part I.
    Memory is O(dU rank) and O(n_samples²): snapshots are read in blocks.

    Parameters
    ----------
    snapshots : callable
        Gives the samples of an index array as columns (n_local, k) of this rank's rows.
    data : DataSpace
        Of the observable; its precision is the inner product.
    n_samples : int
    rank : int or float
        rQ, or the share of the spectrum's sum that it is to hold at least.
    at_most : bool
        Take the directions that the samples hold where these are fewer than `rank`.

    Raises
    ------
    RankError
        If the samples do not hold `rank` directions, unless `at_most`; if all states are equal.
    """
    rank = checked_rank("output_rank", rank)
    width = FIRST_RANK if isinstance(rank, float) else rank
    blocks = np.array_split(np.arange(n_samples), -(-n_samples // width))
    mean = sum(snapshots(block).sum(axis=1) for block in blocks) / n_samples
    gram = np.zeros((n_samples, n_samples))
    for i, block in enumerate(blocks):
        weighted = data.precision(snapshots(block) - mean[:, None])
        for other in blocks[: i + 1]:
            part = data.dot(snapshots(other) - mean[:, None], weighted)
            gram[np.ix_(other, block)], gram[np.ix_(block, other)] = part, part.T
    beside = n_samples * float(data.dot(mean[:, None], data.precision(mean[:, None]))[0, 0])
    check_size(float(np.trace(gram)), name="output_rank", what="deviations of states from their mean", beside=beside)
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1], vectors[:, ::-1]
    found = int((values > NEGLIGIBLE * values[0]).sum())
    spectrum = np.maximum(values, 0.0) / max(n_samples - 1, 1)
    total = float(spectrum.sum())
    rank = _by_hand(rank, spectrum, total)
    if at_most:
        rank = min(rank, max(1, found))
    if rank > found:
        raise RankError(
            f"output_rank: expected 1 .. {found}, the number of independent directions in {n_samples} states, "
            f"got {rank}. Lower output_rank or raise n_basis_samples."
        )
    scaled = vectors[:, :rank] / np.sqrt(values[:rank])
    decoder = sum((snapshots(block) - mean[:, None]) @ scaled[block] for block in blocks)
    # against rounding in the last columns; by a triangular factor, so that every column stays the eigenvector it is
    factor = np.linalg.cholesky(data.dot(decoder, data.precision(decoder)))
    decoder = sla.solve_triangular(factor, decoder.T, lower=True).T
    decoder, encoder = settle(values, data.whole(decoder), data.whole(data.precision(decoder)), rank)
    return Basis(
        decoder=decoder,
        encoder=encoder,
        shift=data.whole(mean),
        eigenvalues=spectrum,
        kind="pod",
        inner_product="noise precision",
        total_energy=total,
    )


def identity_output_basis(observables: np.ndarray, noise: NoiseCovariance) -> Basis:
    """All observables, whitened by Γ = L Lᵀ: decoder L, encoder L⁻ᵀ, the mean as shift; rank dQ.

    For a diagonal Γ a latent output is one observable in its noise standard deviations; for a dense one the Cholesky
    factor takes from each observable what the ones before it tell of its noise.  The eigenvalues are the sample
    variances of the latent outputs, in their order, not sorted.

    Parameters
    ----------
    observables : (n, dQ)
    noise : NoiseCovariance
    """
    mean = observables.mean(axis=0)
    decoder = noise.color(np.eye(noise.dim))
    encoder = noise.solve(decoder)
    variances = (((observables - mean) @ encoder) ** 2).sum(axis=0) / max(len(observables) - 1, 1)
    return Basis(
        decoder=decoder,
        encoder=encoder,
        shift=mean,
        eigenvalues=variances,
        kind="identity",
        inner_product="noise precision",
        total_energy=float(variances.sum()),
    )


def _by_hand(rank: Rank, spectrum: np.ndarray, total: float) -> int:
    """A rank or the rank of a share, of a spectrum that is whole."""
    if isinstance(rank, float):
        return rank_of_share(spectrum, total, rank) or len(spectrum)
    return rank


def _eigenbasis(mean: np.ndarray, covariance: np.ndarray, noise: NoiseCovariance, rank: Rank, kind: str) -> Basis:
    dim = mean.shape[0]
    rank = checked_rank("output_rank", rank)
    if rank > dim:
        raise RankError(f"output_rank: expected 1 .. {dim}, the number of observables, got {rank}.")
    # with Γ = L Lᵀ: eigenvectors W of L⁻¹ S L⁻ᵀ give decoder Φ = L W and encoder Γ⁻¹Φ = L⁻ᵀ W
    with np.errstate(over="ignore", invalid="ignore"):
        whitened = noise.whiten(noise.whiten(covariance).T)
        size, square = float(np.trace(whitened)), float((noise.whiten(mean) ** 2).sum())
    if kind == "pod":
        check_size(size, name="output_rank", what="deviations of observables from their mean", beside=square)
    else:
        check_size(size, name="output_rank", what="Jacobians of the basis samples")
    values, W = np.linalg.eigh(0.5 * (whitened + whitened.T))
    spectrum = np.maximum(values[::-1], 0.0)
    total = float(spectrum.sum())
    decoder = noise.color(W[:, ::-1])
    decoder, encoder = settle(values[::-1], decoder, noise.solve(decoder), _by_hand(rank, spectrum, total))
    return Basis(
        decoder=decoder,
        encoder=encoder,
        shift=mean,
        eigenvalues=spectrum,
        kind=kind,
        inner_product="noise precision",
        total_energy=total,
    )
