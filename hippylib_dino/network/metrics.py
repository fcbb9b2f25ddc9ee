"""Relative errors of a DINO on held-out samples; each is sqrt(mean_i of the relative squared error).

Observables are compared in noise standard deviations, relative to their spread about the mean: a constant scores 1, and
a shift of the observable (degrees Celsius to Kelvin) changes nothing.  tomoleary/dino divides each sample by its own
norm instead, which depends on where zero is.

Jacobians are compared in the noise-precision and prior-precision inner products, as operators from the
prior's Cameron-Martin space to data in noise standard deviations: ‖Γ^-½ J R^-½‖_HS, each relative to its own norm.
This norm does not depend on the mesh, and in it the reduced bases are orthonormal, so that the error of the full
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
    samples: Samples, values: np.ndarray, jacobians: np.ndarray, input_basis: Basis, *, spread: float
) -> dict[str, float]:
    """sqrt(mean) over the samples of all that `sample_errors` gives; arguments, names and errors are its own."""
    squares = sample_errors(samples, values, jacobians, input_basis, spread=spread)
    return {name: root_mean(values) for name, values in squares.items()}


def sample_errors(
    samples: Samples,
    values: np.ndarray,
    jacobians: np.ndarray,
    input_basis: Basis,
    *,
    spread: float,
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
    input_basis : Basis
        Of the samples.
    spread : float
        S, what squared errors of observables are divided by; see `hippylib_dino.network.sizes.spread`.
    spurious : (n,), optional
        E_z‖Ĵ(z - ΨΨᵀRz)‖² over prior draws z less their mean: the squared norm of a predicted full Jacobian outside
        the input basis.  It counts as error in ``jacobian`` and ``jacobian_network``, as if the true one had nothing
        there; default zero, which it is for a network on latent parameters.

    Returns
    -------
    dict
        ``observable``: ‖q̂ - q‖²/S of the full observable in the noise-precision norm (of a whole state its mass norm),
        S the mean of ‖q - q̄‖² over training samples: a constant scores 1.
        ``observable_in_noise``: ‖q̂ - q‖²/dQ in that norm, in noise variances of one observable; not of a whole state.
        ``jacobian``: of the **full** Jacobian.
        ``reduced_jacobian``: ‖∂f - J_r‖²/‖J_r‖².
        ``observable_truncation``, ``jacobian_truncation``: the share of the bases, that no network can undo.
        ``observable_network``, ``jacobian_network``: the share of the network, within the bases.
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
    By Pythagoras ``jacobian`` is ``jacobian_truncation`` plus ``jacobian_network``, and ``observable`` likewise: in
    these norms the bases are orthonormal.
    """
    J, dJ = samples.reduced_jacobian, jacobians - samples.reduced_jacobian
    errors = {
        **_observable_errors(samples, values, spread),
        **_jacobian_errors(samples, dJ, spurious),
        "reduced_jacobian": _squares(dJ) / floored(_squares(J)),
        **_hessian_errors(J, dJ),
    }
    if len(samples) > 1:
        errors.update(_gradient_errors(samples, values, jacobians, input_basis.parameter_part()))
    return errors


def headline_errors(
    samples: Samples, values: np.ndarray, jacobians: np.ndarray, spread: float
) -> dict[str, np.ndarray]:
    """As much of `sample_errors` as full observables and Jacobians have."""
    wrong = jacobians - samples.reduced_jacobian
    return {**_observable_errors(samples, values, spread), **_jacobian_errors(samples, wrong, None)}


def _observable_errors(samples: Samples, values: np.ndarray, spread: float) -> dict[str, np.ndarray]:
    """Of the full observable: the prediction's error, what the basis cuts off, what the network adds within it."""
    if samples.observable_residual is None:
        raise InputError("samples: have no residuals of their observables; take them from Dataset.split.")
    truncation, network = samples.observable_residual, _squares(values - samples.y)
    errors = {
        "observable": (truncation + network) / spread,
        "observable_truncation": truncation / spread,
        "observable_network": network / spread,
    }
    if samples.observable is not None:
        errors["observable_in_noise"] = (truncation + network) / samples.observable.shape[1]
    return errors


def _jacobian_errors(samples: Samples, dJ: np.ndarray, spurious: np.ndarray | None) -> dict[str, np.ndarray]:
    """Of the full Jacobian, and with a control of its parts."""
    J, full_energy = samples.reduced_jacobian, samples.jacobian_energy
    if (_squares(J) > full_energy * (1 + 1e-6)).any():
        raise InputError(
            "samples: reduced Jacobians are larger than the full ones; bases and samples do not belong together."
        )
    cut_off = np.maximum(full_energy - _squares(J), 0.0)  # above zero but for rounding
    wrong = _squares(dJ) if spurious is None else _squares(dJ) + spurious
    size = floored(full_energy)
    errors = {
        "jacobian": (cut_off + wrong) / size,
        "jacobian_truncation": cut_off / size,
        "jacobian_network": wrong / size,
    }
    if samples.control_jacobian_energy is not None:
        errors.update(_errors_by_part(samples, dJ))
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
    spread = np.ptp(table, axis=1) > 1e-12 * mean  # the others, which differ by rounding, stay where they are
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
