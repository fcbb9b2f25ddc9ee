"""Stock Keras layers as a DINO's network: equal to the network of blocks, and refused where they cannot work."""

import dataclasses
import json

import numpy as np
import pytest

import hippylib_dino as hd
from hippylib_dino.errors import InputError, ModelFileError
from hippylib_dino.network import ReducedDense, StockNetwork
from hippylib_dino.network.architecture import architecture_from_config
from hippylib_dino.network.backend import keras
from hippylib_dino.network.formulations import SketchedH1

pytestmark = pytest.mark.backends

layers = keras.layers
SCALES = {"input_scale": (0.5, 2.0, 1.0, 1.5, 3.0), "output_scale": 3.0}


def sequential(*middle, n_in=5, n_out=4):
    return keras.Sequential([keras.Input((n_in,)), *middle, layers.Dense(n_out)])


@keras.saving.register_keras_serializable(package="tests")
class Cubic(layers.Layer):
    """x + a x³, a layer as a user would write it."""

    def __init__(self, start=0.1, **kwargs):
        super().__init__(**kwargs)
        self.start = start

    def build(self, input_shape):
        self.a = self.add_weight(
            name="a", shape=(input_shape[-1],), initializer=keras.initializers.Constant(self.start)
        )

    def call(self, x):
        return x + self.a * x**3

    def get_config(self):
        return {**super().get_config(), "start": self.start}


@pytest.fixture
def pair():
    """The same network of stock layers and of blocks."""
    stock = StockNetwork.from_keras(sequential(layers.Dense(7, "silu"), layers.Dense(6, "silu")))
    return dataclasses.replace(stock, **SCALES), ReducedDense(5, 4, hidden=(7, 6), activation="silu", **SCALES)


@pytest.fixture
def weights(pair, rng):
    return [rng.standard_normal(shape) * 0.5 for shape in pair[0].weight_shapes()]


def test_config_round_trip(pair):
    network = pair[0]
    assert architecture_from_config(json.loads(json.dumps(network.get_config()))) == network
    assert network.weight_shapes() == pair[1].weight_shapes()


def test_float64_map_equals_that_of_the_blocks(pair, weights, rng):
    stock, blocks = (network.latent_map(weights) for network in pair)
    x, v, w = rng.standard_normal(5), rng.standard_normal(5), rng.standard_normal(4)
    for name, arguments in (
        ("value", (x,)), ("jacobian", (x,)), ("jvp", (x, v)), ("vjp", (x, w)), ("hessian_action", (x, w, v)),
    ):  # fmt: skip
        expected, found = getattr(blocks, name)(*arguments), getattr(stock, name)(*arguments)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())
    batch = rng.standard_normal((3, 2, 5))
    for found, expected in zip(stock.value_and_jacobian(batch), blocks.value_and_jacobian(batch), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())
    np.testing.assert_allclose(stock.value(batch), blocks.value(batch), rtol=1e-12)


@pytest.mark.parametrize("outputs", [{}, {"rows": 2}, {"columns": 3}, {"rows": 2, "columns": 3}])
@pytest.mark.parametrize("sweep", ["reverse", "forward"])
def test_keras_outputs_equal_those_of_the_blocks(pair, weights, outputs, sweep, rng):
    given = {"x": rng.standard_normal((3, 5))}
    given.update({name: rng.standard_normal((3, k, {"rows": 4, "columns": 5}[name])) for name, k in outputs.items()})
    results = []
    for network in pair:
        model = network.keras_model(outputs={**outputs, "sweep": sweep})
        model.set_weights(weights)
        results.append(model(given if len(given) > 1 else given["x"]))
    for name in ("observable", "jacobian"):
        found, expected = (keras.ops.convert_to_numpy(result[name]) for result in results)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("formulation", ["l2", "h1", SketchedH1(4), SketchedH1(4, sweep="forward")])
def test_training_equals_that_of_the_blocks(confusion_dataset, formulation):
    """From the same weights, by XLA: the same losses."""
    stock = StockNetwork.from_keras(sequential(layers.Dense(12, "tanh"), n_in=24, n_out=30))
    losses = []
    for network in (stock, ReducedDense(24, 30, hidden=(12,), activation="tanh")):
        start = hd.train(confusion_dataset, formulation, architecture=network, epochs=1, progress=False, seed=1)
        rng = np.random.default_rng(0)
        start.weights = [rng.standard_normal(shape) * 0.1 for shape in network.weight_shapes()]
        fit = {"epochs": 1, "batch_size": 48, "learning_rate": 1e-3, "optimizer": "adam", "progress": False}
        dino = hd.train(confusion_dataset, formulation, start=start, **fit)
        history = dino.training["history"]
        losses.append([history["loss"][0], history["val_loss"][0]])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_one_seed_gives_one_network(pair):
    a, b, c = (pair[0].keras_model(seed).get_weights() for seed in (4, 4, 5))
    assert all((x == y).all() for x, y in zip(a, b, strict=True))
    assert not np.array_equal(a[0], c[0])


def test_keras_model_survives_kerass_own_saving(pair, weights, tmp_path, rng):
    model = pair[0].keras_model()
    model.set_weights(weights)
    model.save(tmp_path / "network.keras")
    again = keras.models.load_model(tmp_path / "network.keras")
    x = rng.standard_normal((3, 5)).astype("float32")
    np.testing.assert_array_equal(model.predict(x, verbose=0)["jacobian"], again.predict(x, verbose=0)["jacobian"])


@pytest.fixture(scope="module")
def user_dino(confusion_dataset):
    """Layers with a branch, frozen weights, and one of the user's own."""
    x = keras.Input((24,))
    z = layers.Dense(16, "silu")(x)
    z = layers.Add()([z, Cubic()(layers.Dense(16, trainable=False)(z))])
    network = StockNetwork.from_keras(keras.Model(x, layers.Dense(30)(z)))
    return hd.train(confusion_dataset, "h1", architecture=network, epochs=60, batch_size=12, progress=False)


def test_layers_of_a_user_train_and_are_saved(user_dino, confusion_dataset, tmp_path):
    history = user_dino.training["history"]
    assert (
        np.nanmin(history["val_loss"]) < 0.5 * history["val_loss"][np.flatnonzero(np.isfinite(history["val_loss"]))[0]]
    )
    user_dino.save(tmp_path / "user.dino")
    again = hd.DINO.load(tmp_path / "user.dino")
    assert again.architecture == user_dino.architecture
    assert again.evaluate(confusion_dataset) == user_dino.evaluate(confusion_dataset)


def test_hessian_of_a_users_layer_against_central_differences(user_dino, rng):
    latent, h = user_dino.latent_map, 1e-5
    x, v, w = rng.standard_normal(24), rng.standard_normal(24), rng.standard_normal(30)
    slope = (latent.value(x + h * v) - latent.value(x - h * v)) / (2 * h)
    np.testing.assert_allclose(latent.jacobian(x) @ v, slope, rtol=1e-6, atol=1e-7 * np.abs(slope).max())
    bent = (latent.vjp(x + h * v, w) - latent.vjp(x - h * v, w)) / (2 * h)
    np.testing.assert_allclose(latent.hessian_action(x, w, v), bent, rtol=1e-6, atol=1e-7 * np.abs(bent).max())


def test_surrogate_model_takes_it(user_dino, models):
    """Rates 1, 2, 3 of the misfit in the loops of hIPPYlib."""
    model = models["confusion"]
    surrogate = hd.SurrogateModel(user_dino, model.prior, model.misfit)
    m, direction = (hd.data.draw_parameter(model.prior, 1, i) for i in (1, 2))
    rates = hd.modeling.cost_rates(surrogate, m, direction)
    np.testing.assert_allclose(rates, (1, 2, 3), atol=0.15)


def test_loading_needs_no_keras(user_dino, tmp_path, run_python):
    user_dino.save(tmp_path / "user.dino")
    code = f"""
import sys
import hippylib_dino as hd
dino = hd.DINO.load({str(tmp_path / "user.dino")!r})
assert "keras" not in sys.modules
from hippylib_dino.errors import InputError
try:
    dino.latent_map
except InputError as error:
    print(error)
"""
    assert "have to be imported before" in run_python(code).stdout  # Cubic is not


def unbuilt():
    return keras.Sequential([layers.Dense(3)])


def two_inputs():
    a, b = keras.Input((3,)), keras.Input((3,))
    return keras.Model([a, b], layers.Add()([a, b]))


class Forgetful(layers.Layer):
    """Registered nowhere, and without its argument in the configuration."""

    def __init__(self, n, **kwargs):
        super().__init__(**kwargs)
        self.n = n

    def call(self, x):
        return x * self.n


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (unbuilt, r"Start it with keras.Input"),
        (lambda: 3, "expected a functional or sequential Keras model that is built, got int"),
        (two_inputs, r"expected one input \(None, rM\) and one output \(None, rQ\), got inputs \[\(None, 3\), "),
        (lambda: sequential(layers.Reshape((5, 1))), r"and outputs \[\(None, 5, 4\)\]"),
        (lambda: sequential(layers.Dropout(0.1)), r"a call in training changes \['.*seed.*Leave out"),
        (lambda: sequential(layers.GaussianNoise(0.1)), "without random numbers and without a state"),
        (lambda: sequential(layers.BatchNormalization()), r"changes \['batch_normalization.*moving_mean"),
        (lambda: sequential(layers.Dense(3, "relu")), r"expected smooth layers, got \['relu'\]"),
        (lambda: sequential(layers.LeakyReLU()), r"expected smooth layers, got \['LeakyReLU'\]"),
        (lambda: sequential(layers.Lambda(lambda x: x**2)), "instead of a Lambda write such a layer"),
        (lambda: sequential(Forgetful(2.0)), "cannot rebuild it from its configuration"),
    ],
)  # fmt: skip
def test_models_that_cannot_work_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        StockNetwork.from_keras(make())


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="right elsewhere")
def test_layer_whose_second_derivative_tensorflow_gets_wrong_is_refused():
    """Its moments stop the gradient of the mean, which a first derivative does not see."""
    with pytest.raises(InputError, match="its Hessian by tensorflow differs from central differences by"):
        StockNetwork.from_keras(sequential(layers.Dense(7, "tanh"), layers.LayerNormalization()))


@keras.saving.register_keras_serializable(package="tests")
class Stopped(layers.Layer):
    """Says that it does not depend on x."""

    def build(self, input_shape):
        self.a = self.add_weight(shape=(input_shape[-1],), initializer="zeros")

    def call(self, x):
        return keras.ops.stop_gradient(x) + self.a


def test_layer_with_a_wrong_derivative_is_refused():
    with pytest.raises(InputError, match=r"its Jacobian by .* differs from central differences by 1.0e"):
        StockNetwork.from_keras(sequential(layers.Dense(7, "tanh"), Stopped()))


def test_bad_arguments_are_named(pair):
    with pytest.raises(InputError, match=r"use StockNetwork.from_keras\(model\)"):
        StockNetwork(3, 2)
    with pytest.raises(InputError, match="input_scale: expected 5 factors, one a latent parameter, got 1"):
        dataclasses.replace(pair[0], input_scale=(1.0,))


def test_damaged_configuration_is_named(user_dino):
    broken = dataclasses.replace(user_dino.architecture, model='{"class_name": "Nothing", "config": {}}')
    with pytest.raises((InputError, ModelFileError), match="cannot rebuild"):
        broken.latent_map(user_dino.weights)
