"""Where a design is expected to reduce the variance of the parameter."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hippylib_dino.oed.criteria import Criterion


def variance_reduction(criterion: Criterion, design: Iterable[int]) -> np.ndarray:
    """Expected decrease of the pointwise variance of the parameter, (dM,) in canonical dof order.

    diag(Ψ T E[I - (I + H)⁻¹] Tᵀ Ψᵀ), with T the root of the law before the experiment, the identity under the prior.
    The prior's pointwise variance less this is the expected posterior one.

    Parameters
    ----------
    criterion : Criterion
        Whose draws and MAP points are taken; which criterion it is does not matter.
    design : sensor numbers

    Raises
    ------
    InputError
        If the design is empty, or a sensor is unknown.
    """
    batch = criterion.map_points(design)
    G = batch.jacobian[batch.converged]
    inner = G @ G.swapaxes(1, 2) + np.eye(G.shape[1])
    mean = np.einsum("nki,nkj->ij", G, np.linalg.solve(inner, G), optimize=True) / len(G)
    _, root = criterion.parameter_law
    modes = criterion.dino.input_basis.decoder @ root
    return np.einsum("ij,jk,ik->i", modes, mean, modes, optimize=True)
