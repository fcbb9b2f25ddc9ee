"""Derivative sweeps of any function of Keras tensors, by the backend's own automatic differentiation.

For a function from (n, n_in) to (n, n_out), row by row.  Both sweeps can be differentiated again, and compiled by XLA.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hippylib_dino.errors import LibraryError
from hippylib_dino.network.backend import keras

Function = Callable  # of one tensor


def _backend() -> str:
    name = keras.backend.backend()
    if name not in ("tensorflow", "jax"):
        raise LibraryError(
            f"keras: Jacobians of stock layers need TensorFlow or JAX, the backend is {name!r}. Set KERAS_BACKEND to "
            "one of these, or use an architecture of hippylib_dino, such as ReducedDense."
        )
    return name


def pull(function: Function, x, rows=None):
    """Reverse sweep: f(x) (n, n_out), and W ∂f(x) (n, k, n_in).

    Parameters
    ----------
    function : callable
    x : (n, n_in)
    rows : (n, k, n_out), optional
        W; default the identity.
    """
    if _backend() == "jax":
        import jax

        y, transposed = jax.vjp(function, x)
        rows = _each(rows, y, y.shape[1])
        return y, jax.vmap(lambda w: transposed(w)[0], in_axes=1, out_axes=1)(rows)
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
        target = y if rows is None else tf.einsum("nkq,nq->nk", tf.cast(rows, y.dtype), y)
    return y, tape.batch_jacobian(target, x, unconnected_gradients="zero")


def push(function: Function, x, columns=None):
    """Forward sweep: f(x) (n, n_out), and ∂f(x) Vᵀ (n, n_out, l).

    Parameters
    ----------
    function : callable
    x : (n, n_in)
    columns : (n, l, n_in), optional
        V; default the identity.
    """
    if _backend() == "jax":
        import jax

        y, tangent = jax.linearize(function, x)
        return y, jax.vmap(tangent, in_axes=1, out_axes=2)(_each(columns, x, x.shape[1]))
    import tensorflow as tf

    # one row of a larger batch for each direction; no shape is asked for, since XLA would compile for each batch anew
    width = x.shape[1]
    each = tf.zeros_like(x)[:, :1, None]
    given = each + tf.eye(width, dtype=x.dtype) if columns is None else tf.cast(columns, x.dtype)
    k = given.shape[1]
    tangents, points = tf.reshape(given, (-1, width)), tf.reshape(tf.tile(x[:, None], (1, k, 1)), (-1, width))
    # the reverse sweep is linear in its weights u: the gradient of ⟨reverse sweep, tangents⟩ by u is the forward sweep
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            inner.watch(points)
            y = function(points)
        u = tf.zeros_like(y)
        outer.watch(u)
        swept = inner.gradient(y, points, output_gradients=u, unconnected_gradients="zero")
        target = tf.reduce_sum(swept * tangents)
    along = outer.gradient(target, u, unconnected_gradients="zero")
    shape = (-1, k, y.shape[1])
    return tf.reshape(y, shape)[:, 0], tf.transpose(tf.reshape(along, shape), (0, 2, 1))


def _each(directions, like, n: int):
    """Directions of every sample, in the dtype of `like`; the identity (n, n) for None."""
    import jax.numpy as jnp

    given = jnp.eye(n)[None] if directions is None else directions
    return jnp.broadcast_to(given, (like.shape[0], *given.shape[1:])).astype(like.dtype)


def compiled(function: Callable) -> Callable[..., list[np.ndarray]]:
    """A compiled function of float64 arrays, that gives NumPy arrays; compiled for each shape of its arguments."""
    if _backend() == "jax":
        import jax

        jitted = jax.jit(function)

        def run(*arrays: np.ndarray) -> list[np.ndarray]:
            with float64():
                return [np.array(result) for result in jitted(*arrays)]

        return run
    import tensorflow as tf

    graph = tf.function(function, autograph=False)

    def run_graph(*arrays: np.ndarray) -> list[np.ndarray]:
        return [result.numpy() for result in graph(*(tf.constant(array, tf.float64) for array in arrays))]

    return run_graph


def float64():
    """A context in which the backend computes in float64 where it is asked to."""
    if _backend() == "jax":
        from jax.experimental import enable_x64

        return enable_x64()
    from contextlib import nullcontext

    return nullcontext()
