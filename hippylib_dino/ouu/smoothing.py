"""Widths of smoothing that follow the spread of what is smoothed, and what a given width does to a risk."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

SHARE = 0.01  # of the spread: less than samples of a tail are apart, and no more than half of it in a CVaR
LEAST = 1e-11  # of the size: below this, differences of samples are rounding
LEAST_OF_ALL = 1e-304  # whose inverse, the curvature of what is smoothed, does not overflow
MATERIAL = 0.1  # of the spread: a risk that smoothing moves by more is not that of the samples
MATERIAL_OF_CONSTANT = 1e-3  # of the size, where there is no spread


class SmoothingWarning(UserWarning):
    """A width of smoothing that was given is not small beside the spread of the quantity."""


class Width(NamedTuple):
    """A width of smoothing as a function of samples, to second order.

    Attributes
    ----------
    value : float
        ε, in units of the samples.
    gradient : (n,)
        ∂ε/∂q_i; zero of a width that was given.
    hessian : callable
        v (n,) to ∇²ε v (n,).
    """

    value: float
    gradient: np.ndarray
    hessian: Callable[[np.ndarray], np.ndarray]


def spread_and_size(q: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Standard deviation and largest modulus of samples (n,) of weights (n,), without overflow or underflow."""
    counts = weights > 0
    size = float(np.abs(q[counts]).max())
    deviation = q[counts] - weights[counts] @ q[counts]
    scale = float(np.abs(deviation).max())
    if not scale > 0:
        return 0.0, size
    return scale * float(np.sqrt(weights[counts] @ (deviation / scale) ** 2)), size


def width_of(q: np.ndarray, weights: np.ndarray) -> Width:
    """A hundredth of the spread of samples (n,) of weights (n,); of constant ones 1e-11 of their size."""
    spread, size = spread_and_size(q, weights)
    least = max(LEAST * size, LEAST_OF_ALL)
    if SHARE * spread <= least:
        return given(least, len(q))
    standardised = weights * ((q - weights @ q) / spread)

    def hessian(v: np.ndarray) -> np.ndarray:
        return SHARE / spread * (weights * (v - weights @ v) - standardised * (standardised @ v))

    return Width(SHARE * spread, SHARE * standardised, hessian)


def given(epsilon: float, n: int) -> Width:
    """A width that does not depend on the n samples."""
    return Width(epsilon, np.zeros(n), np.zeros_like)


def is_material(moved: float, q: np.ndarray, weights: np.ndarray) -> bool:
    """Whether a risk that smoothing moved by so much is no more that of the samples (n,) of weights (n,)."""
    spread, size = spread_and_size(q, weights)
    return abs(moved) > (MATERIAL * spread if spread > LEAST * size else MATERIAL_OF_CONSTANT * size)
