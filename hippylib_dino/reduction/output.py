"""Output bases: derivative-informed subspace and proper orthogonal decomposition (POD).

Both decoders are Γ⁻¹-orthonormal: one unit of a latent output is one noise standard deviation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.linalg as sla

from hippylib_dino.errors import RankError
from hippylib_dino.modeling.data_space import DataSpace
from hippylib_dino.modeling.observation import NoiseCovariance
from hippylib_dino.reduction.basis import Basis
from hippylib_dino.reduction.eigen import NEGLIGIBLE, settle


def derivative_output_basis(mean: np.ndarray, covariance: np.ndarray, noise: NoiseCovariance, *, rank: int) -> Basis:
    """Eigenvectors of E[J R⁻¹ Jᵀ] in the Γ⁻¹ inner product.

    O'Leary-Roseberry et al., J. Comput. Phys. 496 (2024), section on derivative-informed output subspaces.

    Parameters
    ----------
    mean : (dQ,)
        Sample mean of q, which becomes the shift.
    covariance : (dQ, dQ)
        Sample mean of J R⁻¹ Jᵀ, the linearised covariance of the observable.
    noise : NoiseCovariance
    rank : int
        rQ.

    Raises
    ------
    RankError
        If `rank` is not in 1 .. dQ.
    """
    return _eigenbasis(mean, covariance, noise, rank, "derivative")


def pod_output_basis(observables: np.ndarray, noise: NoiseCovariance, *, rank: int) -> Basis:
    """Eigenvectors of the sample covariance of q in the Γ⁻¹ inner product; the mean is the shift.

    Parameters
    ----------
    observables : (n, dQ)
    noise : NoiseCovariance
    rank : int
        rQ.

    Raises
    ------
    RankError
        If `rank` is not in 1 .. min(dQ, n - 1).
    """
    n, dim = observables.shape
    if rank > min(dim, n - 1):
        raise RankError(
            f"output_rank: expected 1 .. {min(dim, n - 1)} for the POD of {n} samples of {dim} observables, "
            f"got {rank}. Lower output_rank or raise n_basis_samples."
        )
    mean = observables.mean(axis=0)
    centred = observables - mean
    return _eigenbasis(mean, centred.T @ centred / (n - 1), noise, rank, "pod")


def pod_state_basis(
    snapshots: Callable[[np.ndarray], np.ndarray], data: DataSpace, *, n_samples: int, rank: int
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
    rank : int
        rQ.

    Raises
    ------
    RankError
        If the samples do not hold `rank` directions.
    """
    blocks = np.array_split(np.arange(n_samples), -(-n_samples // rank))
    mean = sum(snapshots(block).sum(axis=1) for block in blocks) / n_samples
    gram = np.zeros((n_samples, n_samples))
    for i, block in enumerate(blocks):
        weighted = data.precision(snapshots(block) - mean[:, None])
        for other in blocks[: i + 1]:
            part = data.dot(snapshots(other) - mean[:, None], weighted)
            gram[np.ix_(other, block)], gram[np.ix_(block, other)] = part, part.T
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1], vectors[:, ::-1]
    found = int((values > NEGLIGIBLE * values[0]).sum())
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
        eigenvalues=np.maximum(values, 0.0) / max(n_samples - 1, 1),
        kind="pod",
        inner_product="noise precision",
    )


def _eigenbasis(mean: np.ndarray, covariance: np.ndarray, noise: NoiseCovariance, rank: int, kind: str) -> Basis:
    dim = mean.shape[0]
    if not 1 <= rank <= dim:
        raise RankError(f"output_rank: expected 1 .. {dim}, the number of observables, got {rank}.")
    # with Γ = L Lᵀ: eigenvectors W of L⁻¹ S L⁻ᵀ give decoder Φ = L W and encoder Γ⁻¹Φ = L⁻ᵀ W
    whitened = noise.whiten(noise.whiten(covariance).T)
    values, W = np.linalg.eigh(0.5 * (whitened + whitened.T))
    decoder = noise.color(W[:, ::-1])
    decoder, encoder = settle(values[::-1], decoder, noise.solve(decoder), rank)
    return Basis(
        decoder=decoder,
        encoder=encoder,
        shift=mean,
        eigenvalues=np.maximum(values[::-1], 0.0),
        kind=kind,
        inner_product="noise precision",
    )
