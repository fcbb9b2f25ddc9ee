"""Each block: its two sweeps are adjoint, its derivatives are those of its values, Keras and NumPy agree."""

from types import SimpleNamespace

import numpy as np
import pytest

from hippylib_dino.network.activations import numpy_ops
from hippylib_dino.network.backend import keras
from hippylib_dino.network.blocks import Activate, Chain, Dense, Residual, Scale, chain

pytestmark = pytest.mark.backends

OPS = SimpleNamespace(**vars(numpy_ops), matmul=np.matmul, transpose=np.transpose, array=np.array)
N = 4  # entries of x
LOW_RANK = chain([Dense(N, 2), Activate("softplus"), Dense(2, N, initial="zeros")])
BLOCKS = {
    "dense": Dense(N, 3),
    "scale": Scale(1.7),
    "scale of each entry": Scale((0.5, 2.0, -1.0, 3.0)),
    **{name: Activate(name) for name in ("gelu", "tanh", "softplus", "silu")},
    "residual": Residual(LOW_RANK),
    "chain": chain([Scale((0.5, 2.0, -1.0, 3.0)), Dense(N, 5), Activate("gelu"), Dense(5, 3), Scale(0.3)]),
    "chain of all": chain(
        [Dense(N, N), Activate("tanh"), Residual(LOW_RANK), Activate("silu"), Residual(LOW_RANK), Dense(N, 2)]
    ),
    "empty chain": Chain(()),
}
CURVED = [name for name in BLOCKS if name not in ("dense", "scale", "scale of each entry", "empty chain")]


def _case(name, rng):
    """Block, random weights, a batch of points, the number of outputs."""
    block = BLOCKS[name]
    weights = [rng.standard_normal(weight.shape) * 0.7 for weight in block.weights()]
    x = rng.standard_normal((2, N))
    return block, weights, x, block.linearize(OPS, weights, x)[0].shape[-1]


@pytest.mark.parametrize("name", BLOCKS)
def test_sweeps_are_adjoint(name, rng):
    """c · (∂b t) = (∂bᵀ c) · t for every tangent and cotangent."""
    block, weights, x, n_out = _case(name, rng)
    _, state = block.linearize(OPS, weights, x)
    tangents, cotangents = rng.standard_normal((2, 3, N)), rng.standard_normal((2, 5, n_out))
    forward = cotangents @ block.push(OPS, weights, state, tangents).swapaxes(1, 2)
    backward = block.pull(OPS, weights, state, cotangents) @ tangents.swapaxes(1, 2)
    np.testing.assert_allclose(forward, backward, rtol=0, atol=1e-13 * np.abs(forward).max())


@pytest.mark.parametrize("name", BLOCKS)
def test_pull_against_central_differences(name, rng):
    block, weights, x, n_out = _case(name, rng)
    _, state = block.linearize(OPS, weights, x)
    v, c, h = rng.standard_normal((2, N)), rng.standard_normal((2, 1, n_out)), 1e-5
    sides = [block.linearize(OPS, weights, x + sign * h * v)[0] for sign in (1, -1)]
    slope = ((sides[0] - sides[1]) / (2 * h) * c[:, 0]).sum(axis=1)
    exact = (block.pull(OPS, weights, state, c)[:, 0] * v).sum(axis=1)
    np.testing.assert_allclose(exact, slope, rtol=1e-7, atol=1e-8)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(1.01 * exact, slope, rtol=1e-7, atol=1e-8)


def _bent(block, ops, weights, state, tangent, cotangent):
    """∇²(cᵀb) t."""
    curvature = block.curve(ops, weights, state, cotangent)[1]
    image, along = block.push_along(ops, weights, state, tangent)
    return block.pull_bent(ops, weights, state, curvature, along, 0.0 * image)


def _curvature(block, weights, x, v, c, h=1e-5):
    """∂(pull of c) along v, by central differences."""
    sides = []
    for sign in (1, -1):
        _, state = block.linearize(OPS, weights, x + sign * h * v)
        sides.append(block.pull(OPS, weights, state, c[:, None])[:, 0])
    return (sides[0] - sides[1]) / (2 * h)


@pytest.mark.parametrize("name", BLOCKS)
def test_bent_sweep_is_the_derivative_of_pull(name, rng):
    block, weights, x, n_out = _case(name, rng)
    v, c = rng.standard_normal((2, N)), rng.standard_normal((2, n_out))
    bent = _bent(block, OPS, weights, block.linearize(OPS, weights, x)[1], v, c)
    curvature = _curvature(block, weights, x, v, c)
    if name not in CURVED:
        np.testing.assert_allclose(bent, 0.0, atol=1e-14)
        np.testing.assert_allclose(curvature, 0.0, atol=1e-10)
        return
    assert np.abs(curvature).max() > 1e-2  # there is something to get wrong
    np.testing.assert_allclose(bent, curvature, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", BLOCKS)
def test_sweeps_of_one_vector_are_those_of_several(name, rng):
    block, weights, x, n_out = _case(name, rng)
    v, c = rng.standard_normal((2, N)), rng.standard_normal((2, n_out))
    _, state = block.linearize(OPS, weights, x)
    pulled = block.pull(OPS, weights, state, c[:, None])[:, 0]
    np.testing.assert_allclose(block.curve(OPS, weights, state, c)[0], pulled, rtol=1e-12)
    pushed, along = block.push_along(OPS, weights, state, v)
    np.testing.assert_allclose(pushed, block.push(OPS, weights, state, v[:, None])[:, 0], rtol=1e-12)
    flat = block.curve(OPS, weights, state, 0.0 * c)[1]
    np.testing.assert_allclose(block.pull_bent(OPS, weights, state, flat, along, c), pulled, rtol=1e-12)


@pytest.mark.parametrize("name", BLOCKS)
def test_keras_and_numpy_agree(name, rng):
    block, weights, x, n_out = _case(name, rng)
    tensor = lambda a: keras.ops.convert_to_tensor(a, dtype="float32")  # noqa: E731
    tangents, cotangents = rng.standard_normal((2, 3, N)), rng.standard_normal((2, 5, n_out))
    results = []
    for ops, own, convert in ((OPS, weights, np.asarray), (keras.ops, [tensor(w) for w in weights], tensor)):
        y, state = block.linearize(ops, own, convert(x))
        swept = block.push(ops, own, state, convert(tangents)), block.pull(ops, own, state, convert(cotangents))
        bent = _bent(block, ops, own, state, convert(tangents[:, 0]), convert(cotangents[:, 0]))
        results.append([np.asarray(a) for a in (y, *swept, bent)])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-5)
