"""The trained network in NumPy, float64: values and exact derivatives of single points, fast.

Newton and MCMC loops ask for one point at a time; a Keras call would cost more than the arithmetic.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from types import SimpleNamespace

import numpy as np
from scipy.linalg.blas import dgemm, sgemm

from hippylib_dino.network.activations import numpy_ops
from hippylib_dino.network.blocks import Chain


class LatentMap(ABC):
    """f: x (rM,) to y (rQ,), with its first and second derivatives.

    All methods take one point (rM,) or a batch (n, rM), and directions and weights of the same leading shape.  A
    subclass gives `value`, `value_and_jacobian` and `hessian_action`; where products cost less than the Jacobian,
    `linearize` too.

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
        """∇²(wᵀf)(x) v, (..., rM)."""

    def linearize(self, x: np.ndarray) -> Linearization:
        """f(x) and what products with its derivatives at `x` share."""
        return _DenseLinearization(self, x)

    def jacobian(self, x: np.ndarray) -> np.ndarray:
        """∂f(x), (..., rQ, rM)."""
        return self.value_and_jacobian(x)[1]

    def linearize_roughly(self, x: np.ndarray) -> Linearization:
        """`linearize` in single precision where that is faster, for steps and preconditioners."""
        return self.linearize(x)

    def with_first(self, x: np.ndarray) -> LatentMap:
        """f(x_i, ·) of the other inputs, for fixed first inputs x (n, k).

        It takes other inputs (n, rM - k), or one (rM - k,) for all; what then does not differ between the samples may
        come without their axis.
        """
        return _FixedFirst(self, x)

    def jvp(self, x: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """∂f(x) v, (..., rQ)."""
        return self.linearize(x).jvp(direction)

    def vjp(self, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """∂f(x)ᵀ w, (..., rM)."""
        return self.linearize(x).vjp(weights)


class Linearization(ABC):
    """Derivatives of f at one point (rM,) or a batch of points (n, rM).

    Attributes
    ----------
    value : (..., rQ)
        f(x).
    """

    value: np.ndarray

    @abstractmethod
    def jacobian(self) -> np.ndarray:
        """∂f(x), (..., rQ, rM)."""

    @abstractmethod
    def jvp(self, direction: np.ndarray) -> np.ndarray:
        """∂f(x) v, (..., rQ)."""

    @abstractmethod
    def vjp(self, weights: np.ndarray) -> np.ndarray:
        """∂f(x)ᵀ w, (..., rM)."""

    @abstractmethod
    def hessian(self, weights: np.ndarray, metric: np.ndarray | None = None) -> Callable[[np.ndarray], np.ndarray]:
        """v ↦ ∂fᵀ M ∂f v + ∇²(wᵀf) v, (..., rM) to (..., rM); M, (rQ, rQ) or one a point, is 0 unless given."""

    def pull(self, weights: np.ndarray) -> np.ndarray:
        """W ∂f(x), (..., k, rM), for k rows W (..., k, rQ) at each point."""
        return weights @ self.jacobian()


class _FixedFirst(LatentMap):
    """f with its first inputs fixed, by f itself."""

    def __init__(self, f: LatentMap, first: np.ndarray):
        self._map, self._first = f, first
        self.input_rank, self.output_rank = f.input_rank - first.shape[-1], f.output_rank

    def _whole(self, other: np.ndarray, first: np.ndarray | float) -> np.ndarray:
        out = np.empty((len(self._first), self._map.input_rank))
        k = self._first.shape[-1]
        out[:, :k], out[:, k:] = first, other
        return out

    def value(self, x: np.ndarray) -> np.ndarray:
        return self._map.value(self._whole(x, self._first))

    def value_and_jacobian(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value, jacobian = self._map.value_and_jacobian(self._whole(x, self._first))
        return value, jacobian[..., self._first.shape[-1] :]

    def hessian_action(self, x: np.ndarray, weights: np.ndarray, direction: np.ndarray) -> np.ndarray:
        return self.linearize(x).hessian(weights)(direction)

    def linearize(self, x: np.ndarray) -> Linearization:
        return _FixedFirstLinearization(self._map.linearize(self._whole(x, self._first)), self._whole, self.input_rank)


class _FixedFirstLinearization(Linearization):
    def __init__(self, at: Linearization, whole: Callable[[np.ndarray, float], np.ndarray], n_other: int):
        self._at, self._whole, self._n = at, whole, n_other
        self.value = at.value

    def jacobian(self) -> np.ndarray:
        return self._at.jacobian()[..., -self._n :]

    def jvp(self, direction: np.ndarray) -> np.ndarray:
        return self._at.jvp(self._whole(direction, 0.0))

    def vjp(self, weights: np.ndarray) -> np.ndarray:
        return self._at.vjp(weights)[..., -self._n :]

    def hessian(self, weights: np.ndarray, metric: np.ndarray | None = None) -> Callable[[np.ndarray], np.ndarray]:
        action = self._at.hessian(weights, metric)
        return lambda direction: action(self._whole(direction, 0.0))[..., -self._n :]


def weigh(metric: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """M v for each of the vectors (..., n); the symmetric M is (n, n), or one for each, (..., n, n)."""
    return vectors @ metric if metric.ndim == 2 else (metric @ vectors[..., None])[..., 0]


class _DenseLinearization(Linearization):
    """Products with the Jacobian."""

    def __init__(self, f: LatentMap, x: np.ndarray):
        self._map, self._x = f, x
        self.value, self._jacobian = f.value_and_jacobian(x)

    def jacobian(self) -> np.ndarray:
        return self._jacobian

    def jvp(self, direction: np.ndarray) -> np.ndarray:
        return (self._jacobian @ direction[..., None])[..., 0]

    def vjp(self, weights: np.ndarray) -> np.ndarray:
        return (weights[..., None, :] @ self._jacobian)[..., 0, :]

    def hessian(self, weights: np.ndarray, metric: np.ndarray | None = None) -> Callable[[np.ndarray], np.ndarray]:
        def action(direction: np.ndarray) -> np.ndarray:
            bent = self._map.hessian_action(self._x, weights, direction)
            return bent if metric is None else bent + self.vjp(weigh(metric, self.jvp(direction)))

        return action


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a (..., k) @ b (k, n) by SciPy's BLAS, newer than that of NumPy 1: on a recent processor four times faster."""
    rows, gemm = a.reshape(-1, a.shape[-1]), sgemm if a.dtype == np.float32 else dgemm
    # the second for the transpose of a kernel, without a copy of it
    out = gemm(1.0, b.T, rows.T) if b.flags.c_contiguous else gemm(1.0, b, rows.T, trans_a=True)
    return out.T.reshape(*a.shape[:-1], b.shape[1])


_OPS = SimpleNamespace(
    **vars(numpy_ops), matmul=_product, transpose=np.transpose, array=np.array, concatenate=np.concatenate
)


class BlockMap(LatentMap):
    """f of a chain of blocks.

    Parameters
    ----------
    blocks : Chain
    weights : list of arrays
        As `blocks.weights()` describes them.
    input_rank, output_rank : int

    Attributes
    ----------
    blocks, weights
        The weights in float64.
    """

    def __init__(self, blocks: Chain, weights: list[np.ndarray], input_rank: int, output_rank: int):
        self.blocks = blocks
        self.weights = [np.ascontiguousarray(w, dtype=np.float64) for w in weights]
        self.input_rank, self.output_rank = input_rank, output_rank

    def linearize(self, x: np.ndarray) -> Linearization:
        return _BlockLinearization(self.blocks, self.weights, x)

    def value(self, x: np.ndarray) -> np.ndarray:
        return self.linearize(x).value

    def value_and_jacobian(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        at = self.linearize(x)
        return at.value, at.jacobian()

    def with_first(self, x: np.ndarray) -> LatentMap:
        fixed = self.blocks.fix(_OPS, self.weights, x)
        if fixed is None:
            return super().with_first(x)
        blocks, weights, _ = fixed
        return BlockMap(blocks, weights, self.input_rank - x.shape[-1], self.output_rank)

    @cached_property
    def _single(self) -> list[np.ndarray]:
        return [w.astype(np.float32) for w in self.weights]

    def linearize_roughly(self, x: np.ndarray) -> Linearization:
        return _BlockLinearization(self.blocks, self._single, x.astype(np.float32))

    def hessian_action(self, x: np.ndarray, weights: np.ndarray, direction: np.ndarray) -> np.ndarray:
        return self.linearize(x).hessian(weights)(direction)


class _BlockLinearization(Linearization):
    """Sweeps over the blocks from one evaluation."""

    def __init__(self, blocks: Chain, weights: list[np.ndarray], x: np.ndarray):
        self._blocks, self._weights = blocks, weights
        self.value, self._state = blocks.linearize(_OPS, weights, x)

    def jacobian(self) -> np.ndarray:
        rank = self.value.shape[-1]
        return self.pull(np.broadcast_to(np.eye(rank, dtype=self.value.dtype), (*self.value.shape, rank)))

    def pull(self, weights: np.ndarray) -> np.ndarray:
        return self._blocks.pull(_OPS, self._weights, self._state, weights)

    def jvp(self, direction: np.ndarray) -> np.ndarray:
        return self._blocks.push(_OPS, self._weights, self._state, direction[..., None, :])[..., 0, :]

    def vjp(self, weights: np.ndarray) -> np.ndarray:
        return self.pull(weights[..., None, :])[..., 0, :]

    def hessian(self, weights: np.ndarray, metric: np.ndarray | None = None) -> Callable[[np.ndarray], np.ndarray]:
        blocks, sweep = self._blocks, (_OPS, self._weights, self._state)
        _, curvature = blocks.curve(*sweep, weights)

        def action(direction: np.ndarray) -> np.ndarray:
            tangent, along = blocks.push_along(*sweep, direction)
            seed = np.zeros_like(tangent) if metric is None else weigh(metric, tangent)
            return blocks.pull_bent(*sweep, curvature, along, seed)

        return action
