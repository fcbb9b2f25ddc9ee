"""MAP points of thousands of (design, draw) pairs at once on Keras's device, a GPU for instance, in float64.

Gauss-Newton with the damping of Levenberg and Marquardt, all pairs in lockstep: step and update of the damping are
those of `hippylib_dino.inference.newton`.  Operations are those of `keras.ops`, on whichever backend Keras runs.
"""

from __future__ import annotations

import numpy as np

from hippylib_dino.errors import InputError
from hippylib_dino.inference.newton import ARMIJO, ROUNDING, STALLED
from hippylib_dino.network.autodiff import float64
from hippylib_dino.network.backend import keras
from hippylib_dino.network.blocks import Chain, Dense, chain
from hippylib_dino.network.latent_map import BlockMap, LatentMap
from hippylib_dino.oed.affine import AffineMap

ops = keras.ops


def solve(
    f: LatentMap,
    rows: np.ndarray,
    b: np.ndarray,
    start: np.ndarray,
    scale: np.ndarray,
    *,
    rel_tolerance: float,
    max_iter: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Minimise ½‖W f(x) - b‖² + ½‖x‖² for each pair.

    Parameters
    ----------
    f : LatentMap
        Made of blocks.
    rows : (n, k, rQ)
        W.
    b : (n, k)
    start : (n, rM)
    scale : (n,)
        The gradient's norm at x = 0.
    rel_tolerance : float
        Of the gradient's norm, relative to `scale`.
    max_iter : int

    Returns
    -------
    x (n, rM), W ∂f(x) (n, k, rM), whether it converged (n,)

    Raises
    ------
    InputError
        If the map is not made of blocks.
    """
    blocks, weights = _blocks(f)
    with float64():
        return _solve(blocks, weights, rows, b, start, scale, rel_tolerance, max_iter)


def _solve(
    blocks: Chain, weights: list, rows: np.ndarray, b: np.ndarray, start: np.ndarray, scale: np.ndarray,
    rel_tolerance: float, max_iter: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    problem = _Pairs(blocks, [_tensor(w) for w in weights], _tensor(rows), _tensor(b))
    tolerance = rel_tolerance * _tensor(np.maximum(scale, np.finfo(float).tiny))
    x = _tensor(start)
    cost, gradient, G = problem.at(x)
    # as many as there are: what is left of the pairs would need other shapes, that a compiler sees for the first time
    damping, growth = ops.zeros_like(cost), 2.0 * ops.ones_like(cost)
    refused = ops.zeros_like(cost)
    least = 1e-3 * ops.maximum(ops.sum(G * G, axis=(1, 2)) / G.shape[1], 1.0)
    for _ in range(max_iter):
        going = ops.logical_and(ops.norm(gradient, axis=1) > tolerance, refused < STALLED)
        if not bool(ops.any(going)):
            break
        step = _step(G, gradient, 1.0 + damping)
        predicted = 0.5 * ops.sum((damping[:, None] * step - gradient) * step, axis=1)
        new = problem.at(x + step)
        ratio = (cost - new[0] + ROUNDING * ops.abs(cost)) / ops.where(predicted > 0, predicted, 1.0)
        good = ops.logical_and(going, ratio > ARMIJO)
        bad = ops.logical_and(going, ops.logical_not(good))
        shrunk = damping * ops.maximum(1 / 3, 1 - (2 * ops.clip(ratio, 0.0, 1.0) - 1) ** 3)
        damping = ops.where(good, shrunk, ops.where(bad, ops.maximum(damping, least) * growth, damping))
        growth = ops.where(good, 2.0, ops.where(bad, 2.0 * growth, growth))
        refused = ops.where(good, 0.0, ops.where(bad, refused + 1.0, refused))
        x = ops.where(good[:, None], x + step, x)
        cost = ops.where(good, new[0], cost)
        gradient = ops.where(good[:, None], new[1], gradient)
        G = ops.where(good[:, None, None], new[2], G)
    converged = ops.norm(gradient, axis=1) <= tolerance
    x, G, converged = (ops.convert_to_numpy(a) for a in (x, G, converged))
    return x, G, converged


class _Pairs:
    """Cost, gradient and whitened Jacobian of all pairs at their points."""

    def __init__(self, blocks: Chain, weights: list, rows, b):
        self._blocks, self._weights, self._rows, self._b = blocks, weights, rows, b

    def at(self, x):
        value, state = self._blocks.linearize(ops, self._weights, x)
        residual = ops.matmul(self._rows, value[..., None])[..., 0] - self._b
        cost = 0.5 * (ops.sum(residual**2, axis=1) + ops.sum(x**2, axis=1))
        G = self._blocks.pull(ops, self._weights, state, self._rows)
        gradient = x + ops.matmul(residual[:, None], G)[:, 0]
        finite = ops.logical_and(ops.isfinite(cost), ops.all(ops.isfinite(gradient), axis=1))
        return ops.where(finite, cost, np.inf), gradient, G


def _step(G, gradient, shift):
    """-(K I + GᵀG)⁻¹ g with a system of size k (Woodbury)."""
    inner = ops.matmul(G, ops.transpose(G, (0, 2, 1))) + shift[:, None, None] * _tensor(np.eye(G.shape[1]))
    seen = ops.solve(inner, ops.matmul(G, gradient[..., None]))
    return -(gradient - ops.matmul(ops.transpose(seen, (0, 2, 1)), G)[:, 0]) / shift[:, None]


def _blocks(f: LatentMap) -> tuple[Chain, list[np.ndarray]]:
    """f as a chain of blocks; an affine change of its parameter is a first one."""
    if isinstance(f, BlockMap):
        return f.blocks, f.weights
    if isinstance(f, AffineMap):
        inner, weights = _blocks(f.f)
        return chain([Dense(f.T.shape[1], f.T.shape[0]), *inner.blocks]), [f.T.T.copy(), f.x, *weights]
    raise InputError(
        f'engine: "keras" needs a network of blocks, such as hd.train makes by default, got {type(f).__name__}. Use '
        'engine="numpy".'
    )


def _tensor(array: np.ndarray):
    return ops.convert_to_tensor(np.asarray(array, dtype=np.float64), dtype="float64")
