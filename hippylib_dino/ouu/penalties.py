"""Penalties on the control, added to the risk."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from hippylib_dino.errors import InputError


class Penalty(ABC):
    """P(z) of a control z (dZ,), with its derivatives."""

    @abstractmethod
    def value_and_gradient(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        """P(z) and ∇P(z) (dZ,)."""

    @abstractmethod
    def hessian_action(self, z: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """∇²P(z) v (dZ,), of a direction v (dZ,)."""


class L2Penalty(Penalty):
    """½ α (z - z₀)ᵀ M (z - z₀).

    Parameters
    ----------
    weight : float
        α ≥ 0.
    mass : (dZ, dZ), optional
        M, symmetric: array, sparse matrix or linear operator, such as the mass matrix of a field; default the identity.
    reference : (dZ,), optional
        z₀; default 0.

    Raises
    ------
    InputError
        If α is negative or not finite.

    Examples
    --------
    >>> L2Penalty(2.0).value_and_gradient(np.array([3.0]))
    (9.0, array([6.]))
    """

    def __init__(self, weight: float, mass: Any = None, reference: np.ndarray | None = None):
        self.weight, self._mass = _checked(weight), mass
        self._reference = 0.0 if reference is None else np.array(reference, dtype=float)

    def _applied(self, v: np.ndarray) -> np.ndarray:
        return self.weight * (v if self._mass is None else self._mass @ v)

    def value_and_gradient(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        gradient = self._applied(z - self._reference)
        return float(0.5 * (z - self._reference) @ gradient), gradient

    def hessian_action(self, z: np.ndarray, direction: np.ndarray) -> np.ndarray:
        return self._applied(direction)


class L1Penalty(Penalty):
    """α Σ_i (√((Dz)_i² + ε²) - ε), at most α ε a term below α‖Dz‖₁: controls that are sparse, or piecewise constant.

    Parameters
    ----------
    weight : float
        α ≥ 0.
    epsilon : float
        Smoothing ε > 0, in units of Dz.
    operator : (k, dZ), optional
        D, an array or sparse matrix; default the identity.  Differences of neighbours make it the (anisotropic) total
        variation.

    Raises
    ------
    InputError
        If α is negative, or ε not positive.

    Examples
    --------
    >>> differences = np.diff(np.eye(4), axis=0)
    >>> variation, _ = L1Penalty(1.0, 1e-9, differences).value_and_gradient(np.array([0.0, 0.0, 3.0, 1.0]))
    >>> round(variation, 6)
    5.0
    """

    def __init__(self, weight: float, epsilon: float = 1e-3, operator: Any = None):
        self.weight, self._operator = _checked(weight), operator
        if not 0 < epsilon < math.inf:
            raise InputError(f"epsilon: expected a smoothing > 0 in units of the control, got {epsilon}.")
        self.epsilon = epsilon

    def _forward(self, z: np.ndarray) -> np.ndarray:
        return z if self._operator is None else self._operator @ z

    def _back(self, s: np.ndarray) -> np.ndarray:
        return self.weight * (s if self._operator is None else self._operator.T @ s)

    def value_and_gradient(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        s = self._forward(z)
        root = np.hypot(s, self.epsilon)
        return float(self.weight * (root - self.epsilon).sum()), self._back(s / root)

    def hessian_action(self, z: np.ndarray, direction: np.ndarray) -> np.ndarray:
        root = np.hypot(self._forward(z), self.epsilon)
        return self._back(self.epsilon**2 / root**3 * self._forward(direction))


def _checked(weight: float) -> float:
    if not 0 <= weight < math.inf:
        raise InputError(f"weight: expected a number >= 0, got {weight}.")
    return float(weight)
