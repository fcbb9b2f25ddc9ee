"""Polynomials of degree 1 and 2 in the latent parameters: regressions and Taylor expansions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hippylib_dino.errors import InputError
from hippylib_dino.network.architecture import Architecture
from hippylib_dino.network.latent_map import LatentMap


class PolynomialMap(LatentMap):
    """f(x) = c + J x + ½ H[x, x].

    Parameters
    ----------
    constant : (rQ,)
        c.
    linear : (rQ, rM)
        J.
    quadratic : (rQ, rM, rM), optional
        H, of which only the symmetric part matters; default 0.
    """

    def __init__(self, constant: np.ndarray, linear: np.ndarray, quadratic: np.ndarray | None = None):
        self._constant = np.asarray(constant, dtype=np.float64)
        self._linear = np.asarray(linear, dtype=np.float64)
        self.output_rank, self.input_rank = self._linear.shape
        self._quadratic: np.ndarray | None = None  # (rQ rM, rM)
        if quadratic is not None:
            symmetric = 0.5 * (quadratic + np.swapaxes(quadratic, 1, 2))
            self._quadratic = np.ascontiguousarray(symmetric, dtype=np.float64).reshape(-1, self.input_rank)

    def value(self, x: np.ndarray) -> np.ndarray:
        return self.value_and_jacobian(x)[0]

    def value_and_jacobian(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shape = (*x.shape[:-1], *self._linear.shape)
        value = self._constant + x @ self._linear.T
        if self._quadratic is None:
            return value, np.broadcast_to(self._linear, shape).copy()
        bent = (x @ self._quadratic.T).reshape(shape)
        return value + 0.5 * (bent @ x[..., None])[..., 0], self._linear + bent

    def hessian_action(self, x: np.ndarray, weights: np.ndarray, direction: np.ndarray) -> np.ndarray:
        if self._quadratic is None:
            return np.zeros(x.shape)
        bent = (direction @ self._quadratic.T).reshape(*x.shape[:-1], *self._linear.shape)
        return (weights[..., None, :] @ bent)[..., 0, :]


@dataclass(frozen=True)
class Polynomial(Architecture):
    """Polynomial f(x) = c + J x + ½ H[x, x]; weights c (rQ,), J (rQ, rM) and, of degree 2, H (rQ, rM, rM).

    Parameters
    ----------
    input_rank, output_rank : int
        rM and rQ.
    degree : int
        1 or 2.

    Raises
    ------
    InputError
        For another degree.

    Examples
    --------
    >>> square = Polynomial(1, 1, degree=2).latent_map([np.ones(1), np.zeros((1, 1)), 2 * np.ones((1, 1, 1))])
    >>> [a.item() for a in square.value_and_jacobian(np.array([3.0]))]  # of 1 + x²
    [10.0, 6.0]
    """

    degree: int = 1

    def __post_init__(self):
        super().__post_init__()
        if self.degree not in (1, 2):
            raise InputError(f"degree: expected 1 or 2, got {self.degree}.")

    def weight_shapes(self) -> list[tuple[int, ...]]:
        q, m = self.output_rank, self.input_rank
        return [(q,), (q, m), (q, m, m)][: self.degree + 1]

    def latent_map(self, weights: list[np.ndarray]) -> PolynomialMap:
        return PolynomialMap(*weights)
