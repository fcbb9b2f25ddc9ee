"""Surrogates that are no networks and train in seconds: what any network has to beat."""

from __future__ import annotations

from typing import Any

import numpy as np
from tqdm import tqdm

from hippylib_dino.data.dataset import Dataset
from hippylib_dino.errors import InputError, LibraryError
from hippylib_dino.network.architecture import Architecture, importance
from hippylib_dino.network.dino import DINO
from hippylib_dino.network.kernel import KernelRegression, check_kernel
from hippylib_dino.network.polynomial import Polynomial

ALPHAS = (1e-10, 1e-8, 1e-6, 1e-4, 1e-2)
LENGTH_SCALES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # times √rM, the root mean square of scaled inputs
DEGREES = (1, 2, 3)


def linear_model(dataset: Dataset, n_train: int | None = None) -> DINO:
    """The affine map f(x) = c + J̄ x with the mean Jacobian of the training samples.

    c makes the mean residual zero.  Among affine maps J̄ has the least mean squared error of the reduced Jacobian.

    Parameters
    ----------
    dataset : Dataset
    n_train : int, optional
        First training samples to use; default all.

    Returns
    -------
    DINO

    Raises
    ------
    InputError
        If there are fewer training samples.
    """
    samples = dataset.split("train", n_train)
    if len(samples) == 0:
        raise InputError("dataset: has no training samples; generate with n_samples of at least 1.")
    J = samples.reduced_jacobian.mean(axis=0)
    constant = (samples.y - samples.x @ J.T).mean(axis=0)
    architecture = Polynomial(samples.x.shape[1], samples.y.shape[1], degree=1)
    return _dino(dataset, architecture, [constant, J], {"formulation": "mean Jacobian", "n_train": len(samples)})


def kernel_regression(
    dataset: Dataset,
    n_train: int | None = None,
    kernel: str = "rbf",
    *,
    length_scale: float | None = None,
    degree: int | None = None,
    alpha: float | None = None,
    n_folds: int = 5,
    progress: bool = True,
) -> DINO:
    """Kernel ridge regression of latent observables, from values alone; its Jacobian is exact, but not fitted.

    Inputs are scaled by the square roots of the input basis' eigenvalues, mean square 1, targets are centred.  What of
    the parameters is left open minimises the squared error of a cross-validation over consecutive folds: with all
    three open, 30 (rbf) or 90 (polynomial) candidates, each `n_folds` factorizations of dense matrices of the
    size of the training samples.  The fit is scikit-learn's `KernelRidge`; loading and evaluating need NumPy only.

    Parameters
    ----------
    dataset : Dataset
    n_train : int, optional
        First training samples to use; default all.
    kernel : "rbf" or "polynomial"
        exp(-|u - v|²/(2 l²)) or (1 + u·v/l²)^d; "polynomial" with ``degree=2`` is quadratic regression.
    length_scale : float, optional
        l, of scaled inputs.
    degree : int, optional
        d, of the polynomial kernel.
    alpha : float, optional
        Regularization, added to the diagonal of the kernel matrix.
    n_folds : int
    progress : bool

    Returns
    -------
    DINO

    Raises
    ------
    InputError
        For an unknown kernel, a degree of another kernel, or fewer training samples than folds.
    LibraryError
        If scikit-learn is not installed.

    Examples
    --------
    ::

        quadratic = hd.kernel_regression(dataset, 1024, "polynomial", degree=2)
    """
    check_kernel(kernel)
    if degree is not None and kernel != "polynomial":
        raise InputError(f"degree: is of the polynomial kernel, got {degree} for {kernel!r}; leave it out.")
    samples = dataset.split("train", n_train)
    if not 2 <= n_folds <= len(samples):
        raise InputError(f"n_folds: expected 2 .. {len(samples)}, the number of training samples, got {n_folds}.")
    scale, offset = importance(dataset.input_basis), samples.y.mean(axis=0)
    n_inputs = samples.x.shape[1]
    candidates: dict[str, Any] = {
        "length_scale": [c * n_inputs**0.5 for c in LENGTH_SCALES] if length_scale is None else [length_scale],
        "alpha": ALPHAS if alpha is None else [alpha],
    }
    if kernel == "polynomial":
        candidates["degree"] = DEGREES if degree is None else [degree]
    chosen, error, ridge = _fit(samples.x * scale, samples.y - offset, kernel, candidates, n_folds, progress)
    used = {name: value for name, value in chosen.items() if name != "alpha"}
    architecture = KernelRegression(
        n_inputs, samples.y.shape[1], n_samples=len(samples), kernel=kernel, input_scale=scale, **used
    )
    record = {
        "formulation": f"{kernel} kernel",
        "n_train": len(samples),
        **chosen,
        "cross_validation_error": error,
    }
    return _dino(dataset, architecture, [samples.x, ridge.dual_coef_, offset], record)


def _fit(inputs: np.ndarray, targets: np.ndarray, kernel: str, candidates: dict, n_folds: int, progress: bool):
    """The candidate with the least error, its root mean square error by output, and its fit to everything."""
    try:
        from sklearn.kernel_ridge import KernelRidge
        from sklearn.model_selection import KFold, ParameterGrid, cross_val_score
    except ModuleNotFoundError as error:
        raise LibraryError(
            f"scikit-learn: cannot be imported, {error.name!r} is missing. Install it: `pip install scikit-learn`."
        ) from error

    def ridge(length_scale: float, alpha: float, degree: int = 1) -> KernelRidge:
        gamma = length_scale**-2 / (2 if kernel == "rbf" else 1)
        return KernelRidge(kernel=kernel, gamma=gamma, alpha=alpha, degree=degree, coef0=1)

    best: tuple[float, dict] = (np.inf, {})
    grid = list(ParameterGrid(candidates))
    bar = tqdm(grid, desc=f"cross-validation, {kernel} kernel", unit="candidate", disable=not progress)
    for candidate in bar:
        scores = cross_val_score(
            ridge(**candidate), inputs, targets, cv=KFold(n_folds), scoring="neg_mean_squared_error"
        )
        if -scores.mean() < best[0]:
            best = (-scores.mean(), candidate)
            bar.set_postfix(error=f"{best[0] ** 0.5:.3g}", refresh=False)
    chosen: dict[str, Any] = {name: value if name == "degree" else float(value) for name, value in best[1].items()}
    return chosen, float(best[0] ** 0.5), ridge(**chosen).fit(inputs, targets)


def _dino(dataset: Dataset, architecture: Architecture, weights: list[np.ndarray], training: dict) -> DINO:
    return DINO(
        architecture, weights, dataset.input_basis, dataset.output_basis, dataset.fingerprint, training=training
    )
