"""Architectures: their Keras models, and their float64 evaluation."""

import dataclasses
import json

import numpy as np
import pytest

from hippylib_dino.errors import InputError
from hippylib_dino.network import ReducedDense
from hippylib_dino.network.architecture import ReducedProduct, ReducedResNet, architecture_from_config
from hippylib_dino.network.backend import keras

pytestmark = pytest.mark.backends

SCALE = (0.5, 2.0, 1.0, 1.5, 3.0)
NETWORKS = {
    **{
        name: ReducedDense(5, 4, hidden=(7, 6), activation=name, output_scale=3.0)
        for name in ("gelu", "tanh", "softplus", "silu")
    },
    "scaled inputs": ReducedDense(5, 4, hidden=(7,), input_scale=SCALE),
    "residual": ReducedResNet(5, 4, depth=2, layer_rank=3, input_scale=SCALE, output_scale=3.0),
    "product": ReducedProduct(
        5, 4, n_control=2, hidden=(6,), width=7, depth=1, layer_rank=3, input_scale=SCALE, output_scale=3.0
    ),
    "bilinear": ReducedProduct(5, 4, n_control=2, hidden=(), width=3, depth=0, activation="tanh"),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    return NETWORKS[request.param]


@pytest.fixture
def latent(network, rng):
    """The map of random weights, biases included."""
    model = network.keras_model(seed=1)
    return network.latent_map([rng.standard_normal(w.shape) * 0.5 for w in model.get_weights()])


def test_weights_have_the_shapes_that_are_said(network):
    assert [w.shape for w in network.keras_model().get_weights()] == network.weight_shapes()


def test_config_round_trip(network):
    config = json.loads(json.dumps(network.get_config()))
    assert architecture_from_config(config) == network
    assert type(network).from_config(config) == network


def test_config_without_a_kind_is_dense():
    """As files of the first format have it."""
    network = ReducedDense(3, 2, hidden=(8,))
    config = network.get_config()
    del config["kind"]
    assert architecture_from_config(config) == network


def test_unknown_kind_is_named():
    with pytest.raises(InputError, match=r"architecture: expected one of \[.*'ReducedDense'.*\], got 'Perceiver'"):
        architecture_from_config({"kind": "Perceiver", "input_rank": 2, "output_rank": 2})


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (ReducedDense, {"hidden": (8, 0)}, r"hidden: expected positive layer widths, got \(8, 0\)"),
        (ReducedDense, {"activation": "relu"}, "activation: expected one of"),
        (ReducedDense, {"input_rank": 0}, "input_rank: expected at least 1, got 0"),
        (ReducedDense, {"output_rank": 0}, "output_rank: expected at least 1, got 0"),
        (ReducedDense, {"input_scale": (1.0,)}, "input_scale: expected 2 factors, one a latent parameter, got 1"),
        (ReducedResNet, {"depth": -1}, "depth: expected at least 0, got -1"),
        (ReducedResNet, {"layer_rank": 0}, r"layer_rank, width: expected positive layer widths, got \(0, 1\)"),
        (ReducedProduct, {"n_control": 2}, "n_control: expected some of the 2 inputs, but not all, got 2"),
        (ReducedProduct, {"depth": -1}, "depth: expected at least 0, got -1"),
        (
            ReducedProduct,
            {"width": 0},
            r"hidden, width, layer_rank: expected positive layer widths, got \(256, 0, 128\)",
        ),
    ],
)
def test_bad_arguments_are_named(kind, arguments, message):
    with pytest.raises(InputError, match=message):
        kind(**{"input_rank": 2, "output_rank": 2, **arguments})


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


@pytest.mark.parametrize("outputs", [{"rows": 2}, {"columns": 3}, {"rows": 2, "columns": 3}])
@pytest.mark.parametrize("sweep", ["auto", "reverse", "forward"])
def test_part_of_the_jacobian_is_that_part(network, outputs, sweep, rng):
    """W ∂f Vᵀ, from whichever side the sweep starts."""
    model = network.keras_model(seed=3, outputs={**outputs, "sweep": sweep})
    given = {"x": rng.standard_normal((2, 5))}
    J = network.latent_map(model.get_weights()).jacobian(given["x"])
    for name, width in (("rows", 4), ("columns", 5)):
        if name in outputs:
            given[name] = rng.standard_normal((2, outputs[name], width))
    expected = given["rows"] @ J if "rows" in outputs else J
    expected = expected @ given["columns"].swapaxes(1, 2) if "columns" in outputs else expected
    np.testing.assert_allclose(model(given)["jacobian"], expected, rtol=1e-4, atol=1e-4 * np.abs(J).max())


def test_values_alone_need_no_jacobian(network):
    assert set(network.keras_model(outputs={"jacobian": False}).output) == {"observable"}


def _grown_weights(network, weights, depth):
    """The weights of `network.grown(depth)`: new layers before the last, with what they start with."""
    fresh = network.grown(depth).keras_model(seed=8).get_weights()
    last = len(weights) - 2
    return [*weights[:last], *fresh[last:-2], *weights[last:]]


def test_a_grown_network_is_the_same_map(rng):
    network = dataclasses.replace(NETWORKS["residual"], depth=1)
    weights = [rng.standard_normal(shape) for shape in network.weight_shapes()]
    grown = network.grown(3)
    assert (grown.depth, dataclasses.replace(grown, depth=1)) == (3, network)
    more = _grown_weights(network, weights, 3)
    before, after, x = network.latent_map(weights), grown.latent_map(more), rng.standard_normal((4, 5))
    for old, new in zip(before.value_and_jacobian(x), after.value_and_jacobian(x), strict=True):
        np.testing.assert_allclose(new, old, rtol=0, atol=1e-14 * np.abs(old).max())
    assert np.abs(more[-6]).max() > 0  # a layer that starts at zero altogether would never learn
    more[-4] = np.ones_like(more[-4])
    assert np.abs(grown.latent_map(more).value(x) - before.value(x)).max() > 1e-2


def test_a_fitted_network_is_scaled_to_the_data(confusion_dataset):
    from hippylib_dino.network.formulations import get_formulation

    samples = confusion_dataset.split("train")
    network = ReducedDense(24, 30)
    fitted = network.fitted(samples, confusion_dataset, get_formulation("h1"))
    centred = samples.y - samples.y.mean(axis=0)
    assert fitted.output_scale == pytest.approx(np.sqrt((centred**2).mean()))
    squares = (samples.reduced_jacobian**2).sum(axis=1).mean(axis=0)
    scale = np.array(fitted.input_scale)
    np.testing.assert_allclose(scale / scale[0], np.cbrt(squares / squares[0]), rtol=1e-10)
    assert (scale**2).mean() == pytest.approx(1.0)
    # the eigenvalues of a derivative-informed basis are the same mean squares, of other samples
    values_alone = np.array(network.fitted(samples, confusion_dataset, get_formulation("l2")).input_scale)
    np.testing.assert_allclose(values_alone[:4] / values_alone[0], np.sqrt(squares / squares[0])[:4], rtol=0.3)
    assert (values_alone**2).mean() == pytest.approx(1.0)
    given = dataclasses.replace(network, input_scale=(1.0,) * 24, output_scale=2.0)
    assert given.fitted(samples, confusion_dataset, get_formulation("h1")) == given
