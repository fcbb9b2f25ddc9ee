"""Bases of finite-dimensional controls: whitened by their distribution, and reduced by derivatives if asked for."""

from __future__ import annotations

import numpy as np
import scipy.linalg as sla

from hippylib_dino.control import ControlDistribution
from hippylib_dino.errors import RankError
from hippylib_dino.reduction.basis import Basis
from hippylib_dino.reduction.eigen import check_size, settle
from hippylib_dino.reduction.ranks import Rank, rank_of_share


def control_basis(distribution: ControlDistribution, hessian: np.ndarray, rank: Rank | None = None) -> Basis:
    """Whitened controls ζ = L⁻¹(z - z̄), all of them, or the eigenvectors of E[Lᵀ J_zᵀ Γ⁻¹ J_z L] among them.

    The second is the derivative-informed subspace of the control: the generalized eigenproblem of E[J_zᵀ Γ⁻¹ J_z]
    and C⁻¹, with C = L Lᵀ the covariance of the controls.

    Parameters
    ----------
    distribution : ControlDistribution
    hessian : (dZ, dZ)
        Sample mean of Lᵀ J_zᵀ Γ⁻¹ J_z L.
    rank : int or float, optional
        rZ, or the share of the trace of `hessian` that it is to hold at least; default all controls as they are.

    Raises
    ------
    RankError
        If `rank` is more than dZ, or there is one and the observable does not depend on the control.
    """
    factor, dim = distribution.factor, distribution.dim
    if rank is None:
        values, turn, kind = np.diag(hessian).copy(), np.eye(dim), "whitened"
    else:
        if rank > dim:
            raise RankError(f"control_rank: expected 1 .. {dim}, the number of controls, got {rank}.")
        check_size(float(np.trace(hessian)), name="control_rank", what="Jacobians by the control")
        values, turn = np.linalg.eigh(0.5 * (hessian + hessian.T))
        values, turn, kind = np.maximum(values[::-1], 0.0), turn[:, ::-1], "derivative"
    total = float(values.sum())
    if rank is None:
        rank = dim
    elif isinstance(rank, float):
        rank = rank_of_share(values, total, rank) or dim
    decoder, encoder = factor @ turn, sla.solve_triangular(factor, turn, lower=True, trans="T")
    if kind == "derivative":
        decoder, encoder = settle(values, decoder, encoder, rank)
    return Basis(
        decoder=decoder,
        encoder=encoder,
        shift=distribution.mean,
        eigenvalues=values,
        kind=kind,
        inner_product="control precision",
        total_energy=total,
    )
