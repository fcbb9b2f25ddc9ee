"""Activation functions with first and second derivatives, once for Keras and for NumPy.

Each formula takes `ops`, either `keras.ops` or `numpy_ops`, so that the trained network and its
float64 evaluation cannot differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.special

from hippylib_dino.errors import InputError

numpy_ops = SimpleNamespace(
    erf=scipy.special.erf,
    exp=np.exp,
    tanh=np.tanh,
    sigmoid=scipy.special.expit,
    softplus=lambda z: np.logaddexp(0.0, z),
)


@dataclass(frozen=True)
class Activation:
    """σ with σ' and σ'', elementwise: ``value(ops, z)``, ``first(ops, z)``, ``second(ops, z)``."""

    name: str
    value: Callable[[Any, Any], Any]
    first: Callable[[Any, Any], Any]
    second: Callable[[Any, Any], Any]


def _normal_cdf(ops, z):
    return 0.5 * (1.0 + ops.erf(z * math.sqrt(0.5)))


def _normal_pdf(ops, z):
    return ops.exp(-0.5 * z * z) * (1.0 / math.sqrt(2.0 * math.pi))


def _logistic_slope(ops, z):
    s = ops.sigmoid(z)
    return s * (1.0 - s)


def _tanh_slope(ops, z):
    t = ops.tanh(z)
    return 1.0 - t * t


def _silu_first(ops, z):
    s = ops.sigmoid(z)
    return s * (1.0 + z * (1.0 - s))


def _silu_second(ops, z):
    return _logistic_slope(ops, z) * (2.0 + z * (1.0 - 2.0 * ops.sigmoid(z)))


_ACTIVATIONS = {
    a.name: a
    for a in (
        Activation(
            "gelu",
            lambda ops, z: z * _normal_cdf(ops, z),
            lambda ops, z: _normal_cdf(ops, z) + z * _normal_pdf(ops, z),
            lambda ops, z: _normal_pdf(ops, z) * (2.0 - z * z),
        ),
        Activation(
            "tanh",
            lambda ops, z: ops.tanh(z),
            _tanh_slope,
            lambda ops, z: -2.0 * ops.tanh(z) * _tanh_slope(ops, z),
        ),
        Activation(
            "softplus",
            lambda ops, z: ops.softplus(z),
            lambda ops, z: ops.sigmoid(z),
            _logistic_slope,
        ),
        Activation("silu", lambda ops, z: z * ops.sigmoid(z), _silu_first, _silu_second),
    )
}


def get_activation(name: str) -> Activation:
    """The smooth activation called `name`.

    Raises
    ------
    InputError
        If it is not known; ReLU is left out because a Newton Hessian needs σ''.

    Examples
    --------
    >>> get_activation("tanh").first(numpy_ops, 0.0)
    1.0
    """
    if name not in _ACTIVATIONS:
        raise InputError(f"activation: expected one of {sorted(_ACTIVATIONS)}, got {name!r}.")
    return _ACTIVATIONS[name]
