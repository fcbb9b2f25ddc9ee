"""What relative errors are relative to: sizes of samples that stay away from zero."""

from __future__ import annotations

import numpy as np

LEAST = 1e-3  # of the mean square, that the square of a sample counts at least
ZERO = 1e-12  # of the mean square, below which a sample says nothing


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


def account_of_silent(index: np.ndarray, energies: dict[str, np.ndarray]) -> list[str]:
    """What is said of samples that are zero beside the mean, a sentence for each kind; empty where there are none.

    Parameters
    ----------
    index : (n,)
        Sample numbers.
    energies : dict of (n,) arrays
        Squares, by name: "observable", "Jacobian".
    """
    said = []
    for name, squares in energies.items():
        zero = index[squares <= ZERO * squares.mean()]
        if len(zero):
            first = ", ".join(map(str, zero[:8].tolist())) + (", ..." if len(zero) > 8 else "")
            said.append(
                f"{len(zero)} of {len(index)} samples have a zero {name} (numbers {first}); each counts a thousandth "
                "of the mean square."
            )
    return said
