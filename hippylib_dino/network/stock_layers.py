"""Stock Keras models: what of them is kept, Jacobians in training, float64 evaluation."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from hippylib_dino.errors import InputError
from hippylib_dino.network.autodiff import compiled, float64, pull, push
from hippylib_dino.network.backend import keras
from hippylib_dino.network.latent_map import LatentMap
from hippylib_dino.network.layers import NetworkLayer, Outputs
from hippylib_dino.network.stock import StockNetwork

# stock activations and layers whose second derivative is zero or jumps
ROUGH = frozenset(
    (
        *("relu", "relu6", "leaky_relu", "elu", "celu", "selu", "softsign", "threshold", "hard_shrink", "soft_shrink"),
        *("hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh", "sparse_plus", "sparsemax", "sparse_sigmoid"),
        *("tanh_shrink_hard", "ReLU", "Relu", "Relu6", "LeakyReLU", "LeakyRelu", "PReLU", "ELU", "Elu", "Selu"),
        *("MaxPooling1D", "MaxPooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D", "Maximum", "Minimum", "Absolute"),
    )
)


def network_of(model) -> StockNetwork:
    """The architecture of a Keras model, checked; see `StockNetwork.from_keras`."""
    ranks = _ranks(model)
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    rough = sorted({name for name in _names(config) if name in ROUGH})
    if rough:
        raise InputError(
            f"model: expected smooth layers, got {rough}; a Newton Hessian needs second derivatives. "
            'Use for instance "gelu", "silu", "softplus" or "tanh".'
        )
    if '"float64"' in json.dumps(config):  # of Keras's global dtype; training is in float32
        config = _with_dtype(config, "float32")
    text = json.dumps(config)
    again = _rebuilt(text)
    shapes = tuple(tuple(w.shape) for w in again.weights)
    if shapes != tuple(tuple(w.shape) for w in model.weights):
        raise InputError(
            f"model: rebuilt from its configuration it has weights {shapes}; get_config of a layer of its own does not "
            "give all of its arguments."
        )
    again.set_weights(model.get_weights())
    _check_repeatable(again, ranks[0])
    network = StockNetwork(*ranks, text, shapes)
    _check_derivatives(network, again.get_weights())
    return network


def _ranks(model) -> tuple[int, int]:
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs:
        raise InputError(
            f"model: expected a functional or sequential Keras model that is built, got {type(model).__name__}. "
            "Start it with keras.Input((rM,))."
        )
    found = [tuple(tensor.shape) for tensor in (*inputs, *outputs)]
    if len(found) != 2 or any(len(shape) != 2 or None in shape[1:] for shape in found):
        raise InputError(
            "model: expected one input (None, rM) and one output (None, rQ), got inputs "
            f"{[tuple(t.shape) for t in inputs]} and outputs {[tuple(t.shape) for t in outputs]}. "
            "Reshape or flatten them within the model."
        )
    return int(found[0][1]), int(found[1][1])


def _names(config) -> Iterator[str]:
    """Classes and activations that a configuration names."""
    if isinstance(config, dict):
        for key, value in config.items():
            if key in ("class_name", "activation", "recurrent_activation") and isinstance(value, str):
                yield value
            else:
                yield from _names(value)
    elif isinstance(config, list):
        for value in config:
            yield from _names(value)


def _with_dtype(config, policy: str):
    """The configuration with another dtype policy in all layers."""
    if isinstance(config, list):
        return [_with_dtype(value, policy) for value in config]
    if not isinstance(config, dict):
        return config
    changed = {key: _with_dtype(value, policy) for key, value in config.items()}
    if "dtype" in changed:
        number = policy.startswith("float")  # and not a mixed policy, which no tensor can have
        if isinstance(config["dtype"], dict) or number:
            changed["dtype"] = policy
    return changed


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Keras draws the seeds of initializers that have none from Python's generator, which is left as it was."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def _rebuilt(model: str, *, policy: str = "float32", seed: int = 0):
    """The Keras model of a configuration.

    Raises
    ------
    InputError
        If Keras cannot make it.
    """
    config = json.loads(model)
    if policy != "float32":
        config = _with_dtype(config, policy)
    try:
        with _seeded(seed):
            return keras.saving.deserialize_keras_object(config)
    except (TypeError, ValueError, KeyError, ImportError) as error:
        raise InputError(
            "model: Keras cannot rebuild it from its configuration. Layers of your own need "
            "@keras.saving.register_keras_serializable() and get_config, and have to be imported before; instead of a "
            f"Lambda write such a layer. Keras says: {error}"
        ) from error


def _check_repeatable(model, n_in: int) -> None:
    x = keras.ops.convert_to_tensor(np.random.default_rng(0).standard_normal((4, n_in)).astype("float32"))
    trainable, fixed = ([v.value for v in vs] for vs in (model.trainable_variables, model.non_trainable_variables))
    trained, after = model.stateless_call(trainable, fixed, x, training=True)
    to_numpy = keras.ops.convert_to_numpy
    changed = [
        variable.path
        for variable, old, new in zip(model.non_trainable_variables, fixed, after, strict=True)
        if not np.array_equal(to_numpy(old), to_numpy(new))
    ]
    if changed:
        raise InputError(
            f"model: expected layers without random numbers and without a state, but a call in training changes "
            f"{changed}. Leave out layers such as Dropout, GaussianNoise and BatchNormalization."
        )
    if not np.allclose(to_numpy(trained), to_numpy(model(x, training=False)), rtol=1e-4, atol=1e-5):
        raise InputError("model: expected the same values in training and evaluation, got others.")


def _check_derivatives(network: StockNetwork, weights: list[np.ndarray]) -> None:
    """Jacobian and Hessian against central differences: backends have layers whose second derivatives are wrong."""
    latent, rng, h = KerasMap(network, weights), np.random.default_rng(0), 1e-3
    for _ in range(8):  # where one direction hardly shows what is wrong, another does
        x, v = rng.standard_normal((2, network.input_rank))
        w = rng.standard_normal(network.output_rank)
        slope = (latent.value(x + h * v) - latent.value(x - h * v)) / (2 * h)
        bent = (latent.vjp(x + h * v, w) - latent.vjp(x - h * v, w)) / (2 * h)
        floor = 1e-4 * np.linalg.norm(latent.vjp(x, w))
        checks = (("Jacobian", latent.jvp(x, v), slope), ("Hessian", latent.hessian_action(x, w, v), bent))
        for name, found, expected in checks:
            error, size = np.linalg.norm(found - expected), max(np.linalg.norm(expected), floor)
            if not error <= 1e-2 * size:
                raise InputError(
                    f"model: its {name} by {keras.backend.backend()} differs from central differences by "
                    f"{error / size:.1e}; a layer is not smooth, or the backend's derivative of it is wrong (as the "
                    "second one of LayerNormalization is in TensorFlow). Leave that layer out, or write it in "
                    "keras.ops."
                )


@keras.saving.register_keras_serializable(package="hippylib_dino")
class StockLayer(NetworkLayer):
    """A stock model with its Jacobian: x (rM,) to observable (rQ,) and its Jacobian (rQ, rM), or part of it.

    Parameters
    ----------
    architecture : StockNetwork
    outputs : Outputs
    seed : int
        Of initializers that have none of their own.
    """

    kind = StockNetwork

    def __init__(self, architecture: StockNetwork, outputs: Outputs, seed: int = 0, **kwargs):
        super().__init__(architecture, outputs, seed, **kwargs)
        self.model = _rebuilt(architecture.model, policy=self.dtype_policy.name, seed=seed)

    def build(self, input_shape):
        """Nothing: the model came built."""

    def _function(self):
        return _scaled(self.model, self.architecture)

    def _value(self, x):
        return self._function()(x)

    def _pulled(self, x, rows):
        return pull(self._function(), x, rows)

    def _pushed(self, x, columns):
        return push(self._function(), x, columns)


def _scaled(model, architecture: StockNetwork):
    """The model between the scales of inputs and outputs."""

    def function(x):
        if architecture.input_scale is not None:
            x = x * keras.ops.convert_to_tensor(architecture.input_scale, dtype=x.dtype)
        y = model(x, training=False)
        return y if architecture.output_scale is None else y * architecture.output_scale

    return function


class KerasMap(LatentMap):
    """f of a stock model in float64, by Keras.

    Parameters
    ----------
    architecture : StockNetwork
    weights : list of arrays
        In Keras's order.

    Raises
    ------
    InputError
        If Keras cannot make the model, or a layer cannot be made float64.
    """

    def __init__(self, architecture: StockNetwork, weights: list[np.ndarray]):
        self.input_rank, self.output_rank = architecture.input_rank, architecture.output_rank
        with float64():
            model = _rebuilt(architecture.model, policy="float64")
            model.set_weights([np.asarray(w, dtype=np.float64) for w in weights])
        single = [w.path for w in model.weights if w.dtype != "float64"]
        if single:
            raise InputError(
                f"model: expected weights that can be made float64, but {single} cannot. get_config of a layer of your "
                "own has to hold that of the base class: {**super().get_config(), ...}."
            )
        f = _scaled(model, architecture)
        reverse = self.output_rank <= self.input_rank
        self._value = compiled(lambda x: [f(x)])
        self._whole = compiled(lambda x: pull(f, x) if reverse else push(f, x))
        self._pull = compiled(lambda x, rows: [pull(f, x, rows)[1]])
        self._push = compiled(lambda x, columns: [push(f, x, columns)[1]])

        def bend(x, rows, columns):
            return [push(lambda z: pull(f, z, rows)[1][:, 0], x, columns)[1]]

        self._bend = compiled(bend)

    def value(self, x: np.ndarray) -> np.ndarray:
        return self._value(np.reshape(x, (-1, self.input_rank)))[0].reshape(*x.shape[:-1], self.output_rank)

    def value_and_jacobian(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        y, jacobian = self._whole(np.reshape(x, (-1, self.input_rank)))
        shape = (*x.shape[:-1], self.output_rank)
        return y.reshape(shape), jacobian.reshape(*shape, self.input_rank)

    def _rows(self, a: np.ndarray) -> np.ndarray:
        """One vector a point, (n, 1, rank)."""
        return np.reshape(a, (-1, 1, a.shape[-1]))

    def jvp(self, x: np.ndarray, direction: np.ndarray) -> np.ndarray:
        found = self._push(np.reshape(x, (-1, self.input_rank)), self._rows(direction))[0]
        return found[..., 0].reshape(*x.shape[:-1], self.output_rank)

    def vjp(self, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return self._pull(np.reshape(x, (-1, self.input_rank)), self._rows(weights))[0][:, 0].reshape(x.shape)

    def hessian_action(self, x: np.ndarray, weights: np.ndarray, direction: np.ndarray) -> np.ndarray:
        points = np.reshape(x, (-1, self.input_rank))
        return self._bend(points, self._rows(weights), self._rows(direction))[0][..., 0].reshape(x.shape)
