"""Relative errors of a DINO on held-out samples: always normalised by the truth of each sample.

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
from hippylib_dino.network.sizes import floored
from hippylib_dino.reduction.basis import Basis

N_RESAMPLES = 2000
_BATCH = 4_000_000  # numbers that are resampled at once


def root_mean(squares: np.ndarray) -> float:
    """sqrt(mean_i s_i) of relative squared errors (n,)."""
    return float(np.sqrt(np.mean(squares)))


def _squares(a: np.ndarray) -> np.ndarray:
    """Squared Euclidean (Frobenius) norm of each sample."""
    return (a**2).reshape(len(a), -1).sum(axis=1)


def relative_errors(
    samples: Samples, values: np.ndarray, jacobians: np.ndarray, input_basis: Basis, output_basis: Basis
) -> dict[str, float]:
    """sqrt(mean) over the samples of all that `sample_errors` gives; arguments, names and errors are its own."""
    squares = sample_errors(samples, values, jacobians, input_basis, output_basis)
    return {name: root_mean(values) for name, values in squares.items()}


def sample_errors(
    samples: Samples,
    values: np.ndarray,
    jacobians: np.ndarray,
    input_basis: Basis,
    output_basis: Basis,
    spurious: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Relative **squared** errors of each sample of a prediction, (n,), by metric.

    Parameters
    ----------
    samples : Samples
        The truth.
    values : (n, rQ)
        Predicted latent observables.
    jacobians : (n, rQ, rM)
        Predicted reduced Jacobians.
    input_basis, output_basis : Basis
        Of the samples.
    spurious : (n,), optional
        E_z‖Ĵ(z - ΨΨᵀRz)‖² over prior draws z less their mean: the squared norm of a predicted full Jacobian outside
        the input basis.  It counts as error in ``jacobian`` and ``jacobian_network``, as if the true one had nothing
        there; default zero, which it is for a network on latent parameters.

    Returns
    -------
    dict
        ``observable``: ‖q̂ - q‖²/‖q‖² of the full observable; of a whole state in its mass norm.
        ``jacobian``: of the **full** Jacobian.
        ``reduced_jacobian``: ‖∂f - J_r‖²/‖J_r‖².
        ``observable_truncation``, ``jacobian_truncation``: the share of the bases, that no network can undo.
        ``observable_network``, ``jacobian_network``: the share of the network, within the bases, over the same norms.
        ``gauss_newton``: ‖∂fᵀ∂f - J_rᵀJ_r‖²/‖J_rᵀJ_r‖².
        ``dominant_jacobian``: ‖Uᵀ(∂f - J_r)V‖²/‖UᵀJ_rV‖² on each sample's leading half of singular vectors.
        ``null_space``: ‖∂f (I - VVᵀ)‖²/‖J_r‖², V the row space of J_r.
        ``misfit_gradient``, ``misfit_gradient_riesz``: of Jᵀ Γ⁻¹ (q - d), d the next sample's observable, before
        and after the prior solve (Euclidean norm of coefficients, within the input basis); of two samples or more.
        With a control the Jacobians are those of parameter and control side by side, the gradients those of the
        parameter, and in addition ``parameter_jacobian`` and ``control_jacobian``, each over its own part of the truth,
        each with ``..._truncation`` and ``..._network``.

    Raises
    ------
    InputError
        If a reduced Jacobian is larger than the full one it is said to come from.

    Notes
    -----
    By Pythagoras ``jacobian`` is ``jacobian_truncation`` plus ``jacobian_network``, always.  ``observable`` is the sum
    of its two in the noise-precision norm, in which the output basis is orthonormal: so it is for whole states and for
    noise of one standard deviation, Γ = σ²I.  For other noise the Euclidean norm of the observable leaves a cross term.
    """
    J, dJ = samples.reduced_jacobian, jacobians - samples.reduced_jacobian
    full_energy = samples.jacobian_energy
    if (_squares(J) > full_energy * (1 + 1e-6)).any():
        raise InputError(
            "samples: reduced Jacobians are larger than the full ones; bases and samples do not belong together."
        )
    cut_off = np.maximum(full_energy - _squares(J), 0.0)  # above zero but for rounding
    observable, truncation, network = _observable_errors(samples, values, output_basis)
    wrong = _squares(dJ) if spurious is None else _squares(dJ) + spurious
    size = floored(full_energy)
    errors = {
        "observable": observable,
        "jacobian": (cut_off + wrong) / size,
        "reduced_jacobian": _squares(dJ) / floored(_squares(J)),
        "observable_truncation": truncation,
        "jacobian_truncation": cut_off / size,
        "observable_network": network,
        "jacobian_network": wrong / size,
    }
    errors.update(_hessian_errors(J, dJ))
    if samples.control_jacobian_energy is not None:
        errors.update(_errors_by_part(samples, dJ))
    if len(samples) > 1:
        errors.update(_gradient_errors(samples, values, jacobians, input_basis.parameter_part()))
    return errors


def _errors_by_part(samples: Samples, dJ: np.ndarray) -> dict[str, np.ndarray]:
    """Jacobian errors of parameter and control, each over the norm of its own part of the full Jacobian."""
    J, rank = samples.reduced_jacobian, samples.control_rank
    energies = samples.jacobian_energy - samples.control_jacobian_energy, samples.control_jacobian_energy
    errors = {}
    for name, columns, energy in zip(("parameter", "control"), (np.s_[:-rank], np.s_[-rank:]), energies, strict=True):
        cut_off = np.maximum(energy - _squares(J[:, :, columns]), 0.0)
        wrong, size = _squares(dJ[:, :, columns]), floored(energy)
        errors[f"{name}_jacobian"] = (cut_off + wrong) / size
        errors[f"{name}_jacobian_truncation"] = cut_off / size
        errors[f"{name}_jacobian_network"] = wrong / size
    return errors


def confidence_intervals(squares: dict[str, np.ndarray], level: float = 0.95) -> dict[str, tuple[float, float]]:
    """Intervals of sqrt(mean) over samples, by metric: what other test samples of as many would give.

    Bias-corrected and accelerated bootstrap, of all metrics with the same resamples: Efron, "Better bootstrap
    confidence intervals", J. Amer. Statist. Assoc. 82 (1987), section 3.

    Parameters
    ----------
    squares : dict of (n,) arrays
        As `sample_errors` gives them.
    level : float

    Returns
    -------
    dict
        Name to (low, high); nan for a single sample, which tells of no spread.

    Examples
    --------
    >>> low, high = confidence_intervals({"observable": np.linspace(0.0, 2.0, 101) ** 2})["observable"]
    >>> low < np.sqrt(1.34) < high
    True
    """
    from scipy.stats import bootstrap  # slow to import: a process that only infers does without

    table = np.array(list(squares.values()))
    if table.shape[1] < 2:
        return dict.fromkeys(squares, (float("nan"), float("nan")))
    mean = table.mean(axis=1)
    ends = np.array([mean, mean])
    spread = np.ptp(table, axis=1) > 0  # the others stay where they are
    if spread.any():
        relative = table[spread] / mean[spread, None]
        ends[:, spread] *= bootstrap(
            (relative,),
            np.mean,
            axis=1,
            confidence_level=level,
            n_resamples=N_RESAMPLES,
            batch=max(1, _BATCH // relative.size),
            random_state=np.random.default_rng(0),
        ).confidence_interval
    return {name: (float(low), float(high)) for name, (low, high) in zip(squares, np.sqrt(ends).T, strict=True)}


def _observable_errors(samples: Samples, values: np.ndarray, output_basis: Basis) -> tuple[np.ndarray, ...]:
    """Of the full observable: the prediction's error, what the basis cuts off, what the network adds within it."""
    dy = values - samples.y
    if samples.observable_residual is not None:
        residual, energy = samples.observable_residual, floored(samples.observable_energy)
        return (residual + _squares(dy)) / energy, residual / energy, _squares(dy) / energy
    if samples.observable is None:
        raise InputError("samples: have neither observables nor residuals; take them from Dataset.split.")
    norms = floored(_squares(samples.observable))
    predicted, projected = (_squares(output_basis.decode(y) - samples.observable) for y in (values, samples.y))
    return predicted / norms, projected / norms, _squares(dy @ output_basis.decoder.T) / norms


def _hessian_errors(J: np.ndarray, dJ: np.ndarray) -> dict[str, np.ndarray]:
    """Gauss-Newton Hessian, dominant part and null space, sample by sample."""
    found: dict[str, list[tuple[float, float]]] = {"gauss_newton": [], "dominant_jacobian": [], "null_space": []}
    for truth, error in zip(J, dJ, strict=True):
        predicted = truth + error
        H = truth.T @ truth
        found["gauss_newton"].append((((predicted.T @ predicted - H) ** 2).sum(), (H**2).sum()))
        U, s, Vt = np.linalg.svd(truth, full_matrices=False)
        row_space = Vt[s > 1e-12 * s[0]]
        half = max(1, len(s) // 2)
        along = U[:, :half].T @ error @ Vt[:half].T
        found["dominant_jacobian"].append(((along**2).sum(), (s[:half] ** 2).sum()))
        outside = predicted - (predicted @ row_space.T) @ row_space
        found["null_space"].append(((outside**2).sum(), (s**2).sum()))
    pairs = {name: np.array(values).reshape(-1, 2) for name, values in found.items()}
    return {name: wrong / floored(size) for name, (wrong, size) in ((n, p.T) for n, p in pairs.items())}


def _gradient_errors(
    samples: Samples, values: np.ndarray, jacobians: np.ndarray, basis: Basis
) -> dict[str, np.ndarray]:
    """Misfit gradients towards the next sample's observable, as dual and as primal parameter vectors."""
    data = np.roll(samples.y, -1, axis=0)
    truth = np.einsum("nqm,nq->nm", samples.reduced_jacobian[:, :, : basis.rank], samples.y - data)
    error = np.einsum("nqm,nq->nm", jacobians[:, :, : basis.rank], values - data) - truth

    def error_in(vectors: np.ndarray) -> np.ndarray:
        gram = vectors.T @ vectors
        return np.einsum("nm,mk,nk->n", error, gram, error) / floored(np.einsum("nm,mk,nk->n", truth, gram, truth))

    return {"misfit_gradient": error_in(basis.encoder), "misfit_gradient_riesz": error_in(basis.decoder)}
