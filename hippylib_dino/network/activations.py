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
    """σ with σ' and σ'', elementwise: ``expand(ops, z)`` gives σ and σ' with shared work, ``second(ops, z)`` σ''."""

    name: str
    expand: Callable[[Any, Any], tuple[Any, Any]]
    second: Callable[[Any, Any], Any]


def _normal_pdf(ops, z):
    return ops.exp(-0.5 * z * z) * (1.0 / math.sqrt(2.0 * math.pi))


def _gelu(ops, z):
    cdf = 0.5 * (1.0 + ops.erf(z * math.sqrt(0.5)))
    return z * cdf, cdf + z * _normal_pdf(ops, z)


def _tanh(ops, z):
    t = ops.tanh(z)
    return t, 1.0 - t * t


def _tanh_second(ops, z):
    t, slope = _tanh(ops, z)
    return -2.0 * t * slope


def _logistic_slope(ops, z):
    s = ops.sigmoid(z)
    return s * (1.0 - s)


def _silu(ops, z):
    s = ops.sigmoid(z)
    return z * s, s * (1.0 + z * (1.0 - s))


def _silu_second(ops, z):
    return _logistic_slope(ops, z) * (2.0 + z * (1.0 - 2.0 * ops.sigmoid(z)))


_ACTIVATIONS = {
    a.name: a
    for a in (
        Activation("gelu", _gelu, lambda ops, z: _normal_pdf(ops, z) * (2.0 - z * z)),
        Activation("tanh", _tanh, _tanh_second),
        Activation("softplus", lambda ops, z: (ops.softplus(z), ops.sigmoid(z)), _logistic_slope),
        Activation("silu", _silu, _silu_second),
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
    >>> [float(v) for v in get_activation("tanh").expand(numpy_ops, 0.0)]
    [0.0, 1.0]
    """
    if name not in _ACTIVATIONS:
        raise InputError(f"activation: expected one of {sorted(_ACTIVATIONS)}, got {name!r}.")
    return _ACTIVATIONS[name]
