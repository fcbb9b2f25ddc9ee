"""Layers that carry tangents, the architecture, and its float64 evaluation."""

import numpy as np
import pytest

from hippylib_dino.errors import InputError
from hippylib_dino.network import ReducedDense
from hippylib_dino.network.backend import keras


@pytest.fixture(params=["gelu", "tanh", "softplus", "silu"])
def network(request):
    return ReducedDense(5, 4, hidden=(7, 6), activation=request.param, output_scale=3.0)


@pytest.fixture
def latent(network, rng):
    """The map of random weights, biases included."""
    model = network.keras_model(seed=1)
    return network.latent_map([rng.standard_normal(w.shape) * 0.5 for w in model.get_weights()])


def test_config_round_trip(network):
    assert ReducedDense.from_config(network.get_config()) == network


def test_bad_width_is_named():
    with pytest.raises(InputError, match=r"hidden: expected positive layer widths, got \(8, 0\)"):
        ReducedDense(2, 2, hidden=(8, 0))


def test_keras_outputs_equal_the_latent_map(network, rng):
    model = network.keras_model(seed=2)
    weights = [rng.standard_normal(w.shape) * 0.5 for w in model.get_weights()]
    model.set_weights(weights)
    latent, x = network.latent_map(model.get_weights()), rng.standard_normal((3, 5))
    out = model.predict(x, verbose=0)
    np.testing.assert_allclose(out["observable"], latent.value(x), rtol=1e-4, atol=1e-4)
    for i in range(3):
        np.testing.assert_allclose(out["jacobian"][i], latent.jacobian(x[i]), rtol=1e-4, atol=1e-4)


def test_keras_model_survives_kerass_own_saving(network, tmp_path, rng):
    model = network.keras_model(seed=2)
    model.save(tmp_path / "network.keras")
    again = keras.models.load_model(tmp_path / "network.keras")
    x = rng.standard_normal((3, 5)).astype("float32")
    np.testing.assert_array_equal(model.predict(x, verbose=0)["jacobian"], again.predict(x, verbose=0)["jacobian"])


def test_one_seed_gives_one_network(network):
    a, b, c = (network.keras_model(seed).get_weights() for seed in (4, 4, 5))
    assert all((x == y).all() for x, y in zip(a, b, strict=True))
    assert not np.array_equal(a[0], c[0])


def test_jacobian_jvp_vjp_agree(latent, rng):
    x, v, w = rng.standard_normal(5), rng.standard_normal(5), rng.standard_normal(4)
    value, J = latent.value_and_jacobian(x)
    np.testing.assert_allclose(value, latent.value(x), rtol=1e-14)
    np.testing.assert_allclose(latent.jvp(x, v), J @ v, rtol=1e-12)
    np.testing.assert_allclose(latent.vjp(x, w), J.T @ w, rtol=1e-12)


def test_batch_equals_loop(latent, rng):
    x = rng.standard_normal((6, 5))
    np.testing.assert_allclose(latent.value(x), [latent.value(row) for row in x], rtol=1e-12)


def test_jacobian_and_hessian_against_central_differences(latent, rng):
    x, v, w, h = rng.standard_normal(5), rng.standard_normal(5), rng.standard_normal(4), 1e-5
    slope = (latent.value(x + h * v) - latent.value(x - h * v)) / (2 * h)
    np.testing.assert_allclose(latent.jvp(x, v), slope, rtol=1e-6, atol=1e-7)
    curvature = (latent.vjp(x + h * v, w) - latent.vjp(x - h * v, w)) / (2 * h)
    np.testing.assert_allclose(latent.hessian_action(x, w, v), curvature, rtol=1e-6, atol=1e-6)


def test_hessian_is_symmetric(latent, rng):
    x, w, a, b = rng.standard_normal(5), rng.standard_normal(4), rng.standard_normal(5), rng.standard_normal(5)
    assert a @ latent.hessian_action(x, w, b) == pytest.approx(b @ latent.hessian_action(x, w, a), rel=1e-11)


def test_no_hidden_layer_is_an_affine_map(rng):
    network = ReducedDense(3, 2, hidden=(), output_scale=2.0)
    K, b = rng.standard_normal((3, 2)), rng.standard_normal(2)
    latent, x = network.latent_map([K, b]), rng.standard_normal(3)
    np.testing.assert_allclose(latent.value(x), 2.0 * (x @ K + b))
    np.testing.assert_allclose(latent.jacobian(x), 2.0 * K.T)
    assert (latent.hessian_action(x, np.ones(2), x) == 0).all()
    model = network.keras_model()
    model.set_weights([K, b])
    out = model.predict(x[None], verbose=0)
    np.testing.assert_allclose(out["jacobian"][0], 2.0 * K.T, rtol=1e-5)
