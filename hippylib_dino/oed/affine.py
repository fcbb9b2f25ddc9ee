"""A latent map after an affine change of its parameter."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hippylib_dino.network.latent_map import LatentMap, Linearization


class AffineMap(LatentMap):
    """z ↦ f(x + T z).

    Parameters
    ----------
    f : LatentMap
    x : (rM,)
    T : (rM, rM)

    Attributes
    ----------
    f, x, T
    """

    def __init__(self, f: LatentMap, x: np.ndarray, T: np.ndarray):
        self.f, self.x, self.T = f, x, T
        self.input_rank, self.output_rank = T.shape[1], f.output_rank

    def _at(self, z: np.ndarray) -> np.ndarray:
        return self.x + z @ self.T.T

    def value(self, x: np.ndarray) -> np.ndarray:
        return self.f.value(self._at(x))

    def value_and_jacobian(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value, jacobian = self.f.value_and_jacobian(self._at(x))
        return value, jacobian @ self.T

    def hessian_action(self, x: np.ndarray, weights: np.ndarray, direction: np.ndarray) -> np.ndarray:
        return self.f.hessian_action(self._at(x), weights, direction @ self.T.T) @ self.T

    def linearize(self, x: np.ndarray) -> Linearization:
        return _AffineLinearization(self.f.linearize(self._at(x)), self.T)


class _AffineLinearization(Linearization):
    def __init__(self, inner: Linearization, T: np.ndarray):
        self._inner, self._T = inner, T
        self.value = inner.value

    def jacobian(self) -> np.ndarray:
        return self._inner.jacobian() @ self._T

    def jvp(self, direction: np.ndarray) -> np.ndarray:
        return self._inner.jvp(direction @ self._T.T)

    def vjp(self, weights: np.ndarray) -> np.ndarray:
        return self._inner.vjp(weights) @ self._T

    def pull(self, weights: np.ndarray) -> np.ndarray:
        return self._inner.pull(weights) @ self._T

    def hessian(self, weights: np.ndarray, metric: np.ndarray | None = None) -> Callable[[np.ndarray], np.ndarray]:
        action = self._inner.hessian(weights, metric)
        return lambda direction: action(direction @ self._T.T) @ self._T
