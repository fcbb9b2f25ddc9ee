"""Output bases: derivative-informed subspace and proper orthogonal decomposition (POD).

Both decoders are Γ⁻¹-orthonormal: one unit of a latent output is one noise standard deviation.
"""

from __future__ import annotations

import numpy as np

from hippylib_dino.errors import RankError
from hippylib_dino.modeling.observation import NoiseCovariance
from hippylib_dino.reduction.basis import Basis


def derivative_output_basis(
    observables: np.ndarray, covariances: np.ndarray, noise: NoiseCovariance, *, rank: int
) -> Basis:
    """Eigenvectors of E[J R⁻¹ Jᵀ] in the Γ⁻¹ inner product.

    O'Leary-Roseberry et al., J. Comput. Phys. 496 (2024), section on derivative-informed output subspaces.

    Parameters
    ----------
    observables : (n, dQ)
        Samples of q; their mean becomes the shift.
    covariances : (n, dQ, dQ)
        J R⁻¹ Jᵀ of each sample: the linearised covariance of the observable.
    noise : NoiseCovariance
    rank : int
        rQ.

    Raises
    ------
    RankError
        If `rank` is not in 1 .. dQ.
    """
    return _eigenbasis(observables.mean(axis=0), covariances.mean(axis=0), noise, rank, "derivative")


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


def _eigenbasis(mean: np.ndarray, covariance: np.ndarray, noise: NoiseCovariance, rank: int, kind: str) -> Basis:
    dim = mean.shape[0]
    if not 1 <= rank <= dim:
        raise RankError(f"output_rank: expected 1 .. {dim}, the number of observables, got {rank}.")
    # with Γ = L Lᵀ: eigenvectors W of L⁻¹ S L⁻ᵀ give decoder Φ = L W and encoder Γ⁻¹Φ = L⁻ᵀ W
    whitened = noise.whiten(noise.whiten(covariance).T)
    values, W = np.linalg.eigh(0.5 * (whitened + whitened.T))
    decoder = noise.color(W[:, ::-1][:, :rank])
    return Basis(
        decoder=decoder,
        encoder=noise.solve(decoder),
        shift=mean,
        eigenvalues=np.maximum(values[::-1], 0.0),
        kind=kind,
        inner_product="noise precision",
    )
