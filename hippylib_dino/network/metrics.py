"""Relative errors of a DINO on held-out samples: always normalised by the truth, over all samples at once.

Definitions after tomoleary/dino; each is sqrt(mean_i of the relative squared error).  Jacobians are
compared in the noise-precision and prior-precision inner products, as operators from the
prior's Cameron-Martin space to data in noise standard deviations: ‖Γ^-½ J R^-½‖_HS.  This norm does not
depend on the mesh, and in it the reduced bases are orthonormal, so that the error of the full
Jacobian is that of the reduced one plus what the bases cut off.
"""

from __future__ import annotations

import numpy as np

from hippylib_dino.data.dataset import Samples
from hippylib_dino.errors import InputError
from hippylib_dino.reduction.basis import Basis


def relative(squared_errors: np.ndarray, squared_norms: np.ndarray) -> float:
    """sqrt(mean_i e_i / n_i)."""
    return float(np.sqrt(np.mean(squared_errors / squared_norms)))


def _squares(a: np.ndarray) -> np.ndarray:
    """Squared Euclidean (Frobenius) norm of each sample."""
    return (a**2).reshape(len(a), -1).sum(axis=1)


def relative_errors(
    samples: Samples, values: np.ndarray, jacobians: np.ndarray, input_basis: Basis, output_basis: Basis
) -> dict[str, float]:
    """All metrics of a prediction.

    Parameters
    ----------
    samples : Samples
        The truth.
    values : (n, rQ)
        Predicted latent observables.
    jacobians : (n, rQ, rM)
        Predicted reduced Jacobians.
    input_basis, output_basis : Basis

    Returns
    -------
    dict
        ``observable``: ‖q̂ - q‖/‖q‖ of the full observable; of a whole state in its mass norm.
        ``jacobian``: of the **full** Jacobian.
        ``reduced_jacobian``: ‖∂f - J_r‖/‖J_r‖.
        ``observable_truncation``, ``jacobian_truncation``: the share of the bases, that no network can undo.
        ``gauss_newton``: ‖∂fᵀ∂f - J_rᵀJ_r‖/‖J_rᵀJ_r‖.
        ``dominant_jacobian``: ‖Uᵀ(∂f - J_r)V‖/‖UᵀJ_rV‖ on each sample's leading half of singular vectors.
        ``null_space``: ‖∂f (I - VVᵀ)‖/‖J_r‖, V the row space of J_r.
        ``misfit_gradient``, ``misfit_gradient_riesz``: of Jᵀ Γ⁻¹ (q - d), d the next sample's observable, before
        and after the prior solve (Euclidean norm of coefficients, within the input basis); of two samples or more.

    Raises
    ------
    InputError
        If a reduced Jacobian is larger than the full one it is said to come from.
    """
    J, dJ = samples.reduced_jacobian, jacobians - samples.reduced_jacobian
    observable, truncation = _observable_errors(samples, values, output_basis)
    full_energy = samples.jacobian_energy
    if (_squares(J) > full_energy * (1 + 1e-6)).any():
        raise InputError(
            "samples: reduced Jacobians are larger than the full ones; bases and samples do not belong together."
        )
    cut_off = np.maximum(full_energy - _squares(J), 0.0)  # above zero but for rounding
    errors = {
        "observable": observable,
        "jacobian": relative(cut_off + _squares(dJ), full_energy),
        "reduced_jacobian": relative(_squares(dJ), _squares(J)),
        "observable_truncation": truncation,
        "jacobian_truncation": relative(cut_off, full_energy),
    }
    errors.update(_hessian_errors(J, dJ))
    if len(samples) > 1:
        errors.update(_gradient_errors(samples, values, jacobians, input_basis))
    return errors


def _observable_errors(samples: Samples, values: np.ndarray, output_basis: Basis) -> tuple[float, float]:
    """Relative errors of the full observable: of the prediction, and of what the basis cuts off."""
    if samples.observable_residual is not None:
        residual, energy = samples.observable_residual, samples.observable_energy
        return relative(residual + _squares(values - samples.y), energy), relative(residual, energy)
    if samples.observable is None:
        raise InputError("samples: have neither observables nor residuals; take them from Dataset.split.")
    norms = _squares(samples.observable)
    predicted, projected = (_squares(output_basis.decode(y) - samples.observable) for y in (values, samples.y))
    return relative(predicted, norms), relative(projected, norms)


def _hessian_errors(J: np.ndarray, dJ: np.ndarray) -> dict[str, float]:
    """Gauss-Newton Hessian, dominant part and null space, sample by sample."""
    gauss_newton, dominant, null = [], [], []
    for truth, error in zip(J, dJ, strict=True):
        predicted = truth + error
        H = truth.T @ truth
        gauss_newton.append(((predicted.T @ predicted - H) ** 2).sum() / (H**2).sum())
        U, s, Vt = np.linalg.svd(truth, full_matrices=False)
        row_space = Vt[s > 1e-12 * s[0]]
        half = max(1, len(s) // 2)
        dominant.append(((U[:, :half].T @ error @ Vt[:half].T) ** 2).sum() / (s[:half] ** 2).sum())
        outside = predicted - (predicted @ row_space.T) @ row_space
        null.append((outside**2).sum() / (s**2).sum())
    root_mean = {"gauss_newton": gauss_newton, "dominant_jacobian": dominant, "null_space": null}
    return {name: float(np.sqrt(np.mean(values))) for name, values in root_mean.items()}


def _gradient_errors(samples: Samples, values: np.ndarray, jacobians: np.ndarray, basis: Basis) -> dict[str, float]:
    """Misfit gradients towards the next sample's observable, as dual and as primal parameter vectors."""
    data = np.roll(samples.y, -1, axis=0)
    truth = np.einsum("nqm,nq->nm", samples.reduced_jacobian, samples.y - data)
    error = np.einsum("nqm,nq->nm", jacobians, values - data) - truth

    def error_in(vectors: np.ndarray) -> float:
        gram = vectors.T @ vectors
        return relative(np.einsum("nm,mk,nk->n", error, gram, error), np.einsum("nm,mk,nk->n", truth, gram, truth))

    return {"misfit_gradient": error_in(basis.encoder), "misfit_gradient_riesz": error_in(basis.decoder)}
