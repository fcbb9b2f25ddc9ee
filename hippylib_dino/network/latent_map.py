"""The trained network in NumPy, float64: values and exact derivatives of single points, fast.

Newton and MCMC loops ask for one point at a time; a Keras call would cost more than the arithmetic.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import SimpleNamespace

import numpy as np
from scipy.linalg.blas import dgemm

from hippylib_dino.network.activations import numpy_ops
from hippylib_dino.network.blocks import Chain


class LatentMap(ABC):
    """f: x (rM,) to y (rQ,), with its first and second derivatives.

    A subclass gives `value`, `value_and_jacobian` and `hessian_action`; where they cost less than products with the
    Jacobian, `jvp` and `vjp` too.

    Attributes
    ----------
    input_rank, output_rank : int
        rM, rQ.
    """

    input_rank: int
    output_rank: int

    @abstractmethod
    def value(self, x: np.ndarray) -> np.ndarray:
        """f(x) (..., rQ); x is (rM,) or a batch (..., rM)."""

    @abstractmethod
    def value_and_jacobian(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """f(x) (..., rQ) and ∂f(x) (..., rQ, rM), of one point or a batch."""

    @abstractmethod
    def hessian_action(self, x: np.ndarray, weights: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """∇²(wᵀf)(x) v, (rM,), at one point."""

    def jacobian(self, x: np.ndarray) -> np.ndarray:
        """∂f(x), (..., rQ, rM)."""
        return self.value_and_jacobian(x)[1]

    def jvp(self, x: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """∂f(x) v, (rQ,)."""
        return self.jacobian(x) @ direction

    def vjp(self, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """∂f(x)ᵀ w, (rM,)."""
        return self.jacobian(x).T @ weights


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a (..., k) @ b (k, n) by SciPy's BLAS, newer than that of NumPy 1: on a recent processor four times faster."""
    rows = a.reshape(-1, a.shape[-1])
    # the second for the transpose of a kernel, without a copy of it
    out = dgemm(1.0, b.T, rows.T) if b.flags.c_contiguous else dgemm(1.0, b, rows.T, trans_a=True)
    return out.T.reshape(*a.shape[:-1], b.shape[1])


_OPS = SimpleNamespace(**vars(numpy_ops), matmul=_product, transpose=np.transpose, array=np.array)


class BlockMap(LatentMap):
    """f of a chain of blocks.

    Parameters
    ----------
    blocks : Chain
    weights : list of arrays
        As `blocks.weights()` describes them.
    input_rank, output_rank : int
    """

    def __init__(self, blocks: Chain, weights: list[np.ndarray], input_rank: int, output_rank: int):
        self._blocks = blocks
        self._weights = [np.ascontiguousarray(w, dtype=np.float64) for w in weights]
        self.input_rank, self.output_rank = input_rank, output_rank
        self._rows = np.eye(output_rank)

    def _linearize(self, x: np.ndarray):
        return self._blocks.linearize(_OPS, self._weights, x)

    def value(self, x: np.ndarray) -> np.ndarray:
        return self._linearize(x)[0]

    def value_and_jacobian(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        y, state = self._linearize(x)
        rows = self._rows if x.ndim == 1 else np.broadcast_to(self._rows, (*x.shape[:-1], *self._rows.shape))
        return y, self._blocks.pull(_OPS, self._weights, state, rows)

    def jvp(self, x: np.ndarray, direction: np.ndarray) -> np.ndarray:
        _, state = self._linearize(x)
        return self._blocks.push(_OPS, self._weights, state, direction[None])[0]

    def vjp(self, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
        _, state = self._linearize(x)
        return self._blocks.pull(_OPS, self._weights, state, weights[None])[0]

    def hessian_action(self, x: np.ndarray, weights: np.ndarray, direction: np.ndarray) -> np.ndarray:
        _, state = self._linearize(x)
        bent = self._blocks.bend(_OPS, self._weights, state, direction, weights)
        return np.zeros(self.input_rank) if bent is None else bent
