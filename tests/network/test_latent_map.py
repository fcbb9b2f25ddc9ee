"""Laws of every latent map: a batch is a loop over its points, a linearization gives what the map gives."""

import numpy as np
import pytest

from hippylib_dino.network import (
    Ensemble,
    KernelRegression,
    Polynomial,
    ReducedDense,
    ReducedProduct,
    ReducedResNet,
    StockNetwork,
)
from hippylib_dino.network.backend import keras

pytestmark = pytest.mark.backends
SCALE = (1.5, 0.3, 2.0, 1.0, 0.7)


def stock():
    return StockNetwork.from_keras(
        keras.Sequential([keras.Input((5,)), keras.layers.Dense(7, "silu"), keras.layers.Dense(4)])
    )


ARCHITECTURES = {
    "dense": lambda: ReducedDense(5, 4, hidden=(7, 6), input_scale=SCALE),
    "affine dense": lambda: ReducedDense(5, 4, hidden=()),
    "residual": lambda: ReducedResNet(5, 4, depth=2),
    "product": lambda: ReducedProduct(5, 4, n_control=2, hidden=(7,), width=6, layer_rank=3),
    "ensemble": lambda: Ensemble(5, 4, member=ReducedDense(5, 4, hidden=(6,)), n_members=3),
    "stock": stock,
    "affine": lambda: Polynomial(5, 4),
    "quadratic": lambda: Polynomial(5, 4, degree=2),
    "kernel": lambda: KernelRegression(5, 4, n_samples=9, length_scale=1.7, input_scale=SCALE),
}


@pytest.fixture(params=ARCHITECTURES)
def latent(request, rng):
    architecture = ARCHITECTURES[request.param]()
    return architecture.latent_map([rng.standard_normal(shape) for shape in architecture.weight_shapes()])


@pytest.mark.parametrize(
    ("name", "ranks"),
    [("value", ()), ("jacobian", ()), ("jvp", (5,)), ("vjp", (4,)), ("hessian_action", (4, 5))],
)
def test_batch_is_a_loop(latent, name, ranks, rng):
    x, *others = (rng.standard_normal((3, n)) for n in (5, *ranks))
    expected = np.array([getattr(latent, name)(*point) for point in zip(x, *others, strict=True)])
    found = getattr(latent, name)(x, *others)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize("shape", [(), (3,)])
def test_linearization_gives_what_the_map_gives(latent, shape, rng):
    x, v, w = (rng.standard_normal((*shape, n)) for n in (5, 5, 4))
    at, metric = latent.linearize(x), np.diag([1.0, 2.0, 0.5, 3.0])
    rows = rng.standard_normal((*shape, 2, 4))
    each = rows.swapaxes(-1, -2) @ rows
    for found, expected in (
        (at.value, latent.value(x)), (at.jacobian(), latent.jacobian(x)), (at.jvp(v), latent.jvp(x, v)),
        (at.vjp(w), latent.vjp(x, w)), (at.hessian(w)(v), latent.hessian_action(x, w, v)),
        (at.hessian(w, metric)(v), at.hessian(w)(v) + at.vjp(at.jvp(v) @ metric)),
        (at.hessian(w, each)(v), at.hessian(w)(v) + at.vjp((each @ at.jvp(v)[..., None])[..., 0])),
        (at.jvp(v), (at.jacobian() @ v[..., None])[..., 0]), (at.pull(rows), rows @ at.jacobian()),
    ):  # fmt: skip
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", [(), (3,)])
@pytest.mark.parametrize("k", [2, 3])
def test_first_inputs_are_fixed(latent, k, shape, rng):
    """A product does so by itself where k is its own number of first inputs, else as the maps in general do."""
    first, other, v, w = (rng.standard_normal(s) for s in ((3, k), (*shape, 5 - k), (*shape, 5 - k), (3, 4)))
    whole, moved = (
        np.concatenate([a, np.broadcast_to(b, (3, 5 - k))], axis=1) for a, b in ((first, other), (0 * first, v))
    )
    f = latent.with_first(first)
    assert (f.input_rank, f.output_rank) == (5 - k, 4)
    at, expected = f.linearize(other), latent.linearize(whole)
    pairs = [
        (f.value(other), latent.value(whole)),
        (at.value, latent.value(whole)),
        (at.jacobian(), expected.jacobian()[..., k:]),
        (f.jacobian(other), expected.jacobian()[..., k:]),
        (at.jvp(v), expected.jvp(moved)),
        (at.vjp(w), expected.vjp(w)[:, k:]),
        (at.hessian(w)(v), expected.hessian(w)(moved)[:, k:]),
        (at.hessian(w, np.eye(4))(v), expected.hessian(w, np.eye(4))(moved)[:, k:]),
    ]
    for found, known in pairs:  # of an affine map, derivatives along one direction are one for all samples
        assert found.shape == known.shape or not shape
        np.testing.assert_allclose(
            np.broadcast_to(found, known.shape), known, rtol=1e-10, atol=1e-10 * np.abs(known).max()
        )


def test_a_product_computes_the_features_of_fixed_inputs_once():
    network = ReducedProduct(5, 4, n_control=2, hidden=(7,), width=6, layer_rank=3)
    f = network.latent_map([np.ones(shape) for shape in network.weight_shapes()])
    fixed = f.with_first(np.ones((3, 3)))
    assert len(fixed.weights) == len(f.weights) - 4 + 1  # two layers of the parameter are three rows of factors now
    assert any(w.shape == (3, 6) for w in fixed.weights)
