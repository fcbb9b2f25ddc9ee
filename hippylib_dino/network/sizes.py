"""What errors are relative to: the spread of observables, and norms of Jacobians that stay away from zero.

How large an observable is depends on where zero is (degrees Celsius or Kelvin), how far it is from the mean does not:
errors of observables are relative to the mean square of that distance over training samples, one number for all.
A Jacobian does not see a shift, and each is compared with its own norm.
"""

from __future__ import annotations

import numpy as np

from hippylib_dino.data.dataset import Dataset, Samples
from hippylib_dino.errors import InputError
from hippylib_dino.noise import NoiseCovariance
from hippylib_dino.reduction.eigen import ROUNDING

SINGLE = (1e-30, 1e30)  # mean squares that training in single precision can hold
LEAST = 1e-3  # of the mean square, that the square of a sample counts at least
ZERO = 1e-12  # of the mean square, below which a sample says nothing


def spread(samples: Samples, dataset: Dataset) -> float:
    """Mean of ‖q - mean q‖² over the samples in the noise-precision norm; 1 where all observables are equal.

    Of a whole state, what the basis cuts off counts as it is: the basis holds the mean.
    """
    if samples.observable is not None:
        noise = NoiseCovariance(dataset.weight_covariance, samples.observable.shape[1])
        centred = noise.whiten((samples.observable - samples.observable.mean(axis=0)).T)
        found = (centred**2).sum(axis=0).mean()
    elif samples.observable_residual is not None:
        found = samples.observable_residual.mean() + samples.y.var(axis=0).sum()
    else:
        raise InputError("samples: have neither observables nor residuals; take them from Dataset.split.")
    return float(found) if found > ROUNDING * samples.observable_energy.mean() else 1.0


def check_data(samples: Samples, spread: float, dataset: Dataset) -> None:
    """Raise `InputError` for data that no training can use, and name array and samples.

    Parameters
    ----------
    samples : Samples
    spread : float
        Of the training samples.
    dataset : Dataset
        That they are of.
    """
    for name in ("x", "y", "observable_energy", "jacobian_energy", "reduced_jacobian"):
        values = getattr(samples, name)
        bad = samples.index[: len(values)][~np.isfinite(values).all(axis=tuple(range(1, values.ndim)))]
        if len(bad):
            raise InputError(
                f"dataset: array {name!r} of {len(bad)} samples (numbers {_named(bad)}) of {dataset.path} is not "
                "finite. Solve them again with hd.generate(..., resume=True, repair=True)."
            )
    for name, size in (("observables", spread), ("Jacobians", samples.jacobian_energy.mean())):
        if size > 0 and not SINGLE[0] < size < SINGLE[1]:
            raise InputError(
                f"dataset: {name} of {dataset.path} have a mean square of {size:.1e} in noise standard deviations, "
                f"expected {SINGLE[0]:.0e} .. {SINGLE[1]:.0e}, which single precision holds. Check the noise variance."
            )


def floored(squares: np.ndarray) -> np.ndarray:
    """Squares of the samples (n,), each at least a thousandth of their mean.

    A sample far below the mean (a source below its threshold, a dry cell) would otherwise have all the weight, and one
    that is zero an infinite one.  Where all are zero they count 1, the square of one noise standard deviation.

    Examples
    --------
    >>> floored(np.array([0.0, 0.5, 2.5])).tolist()
    [0.001, 0.5, 2.5]
    """
    mean = squares.mean() if len(squares) else 0.0
    return np.maximum(squares, LEAST * mean if mean > 0 else 1.0)


def account_of_silent(samples: Samples) -> list[str]:
    """What is said of samples and observables that tell nothing, a sentence for each kind; empty where there are none.

    Jacobians that are zero beside the mean, and observables that are the same in all samples.
    """
    said = []
    energies = samples.jacobian_energy
    zero = samples.index[energies <= ZERO * energies.mean()]
    if len(zero):
        counts = "each counts a thousandth of the mean square" if len(zero) < len(samples) else "there is none to learn"
        said.append(f"{len(zero)} of {len(samples)} samples have a zero Jacobian (numbers {_named(zero)}); {counts}.")
    if samples.observable is not None and len(samples) > 1:
        q = samples.observable
        same = np.flatnonzero(q.var(axis=0) <= ROUNDING * (q**2).mean(axis=0))
        if len(same):
            said.append(
                f"{len(same)} of {q.shape[1]} observables are the same in all samples (numbers {_named(same)}); they "
                "add nothing to the spread that errors are relative to."
            )
    return said


def _named(numbers: np.ndarray) -> str:
    return ", ".join(map(str, numbers[:8].tolist())) + (", ..." if len(numbers) > 8 else "")
