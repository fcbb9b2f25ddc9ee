"""Keras layers that carry tangents: (value, tangents) in, (value, tangents) out.

Tangents are derivatives of the layer's value with respect to the network's input, shape
(batch, rM, units).  The first layer takes a value alone, whose tangents are the identity.
Written in `keras.ops`, so that `fit`, XLA, saving and the choice of backend are Keras's own.
"""

from __future__ import annotations

from hippylib_dino.network.activations import get_activation
from hippylib_dino.network.backend import keras


@keras.saving.register_keras_serializable(package="hippylib_dino")
class TangentDense(keras.layers.Layer):
    """z = scale (x K + b), tangents T K scale.

    Parameters
    ----------
    units : int
    scale : float
        Fixed factor, for instance the spread of the outputs, so that the weights stay of order one.
    seed : int, optional
        Of the Glorot-uniform kernel.
    """

    def __init__(self, units: int, scale: float = 1.0, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.units, self.scale, self.seed = units, scale, seed

    def build(self, input_shape):
        width = input_shape[0][-1] if isinstance(input_shape[0], (tuple, list)) else input_shape[-1]
        initializer = keras.initializers.GlorotUniform(seed=self.seed)
        self.kernel = self.add_weight(name="kernel", shape=(width, self.units), initializer=initializer)
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")

    def call(self, inputs):
        ops = keras.ops
        kernel = self.kernel * self.scale
        if isinstance(inputs, (tuple, list)):
            value, tangents = inputs
            tangents = ops.matmul(tangents, kernel)
        else:
            value = inputs
            tangents = ops.broadcast_to(kernel[None], (ops.shape(value)[0], *kernel.shape))
        return ops.matmul(value, kernel) + self.bias * self.scale, tangents

    def compute_output_shape(self, input_shape):
        nested = isinstance(input_shape[0], (tuple, list))
        value, directions = (input_shape[0], input_shape[1][1]) if nested else (input_shape, input_shape[-1])
        return (value[0], self.units), (value[0], directions, self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units, "scale": self.scale, "seed": self.seed}


@keras.saving.register_keras_serializable(package="hippylib_dino")
class TangentActivation(keras.layers.Layer):
    """σ(z), tangents σ'(z) T.

    Parameters
    ----------
    activation : str
        See `hippylib_dino.network.activations`.
    """

    def __init__(self, activation: str, **kwargs):
        super().__init__(**kwargs)
        self.activation = get_activation(activation)

    def call(self, inputs):
        value, tangents = inputs
        ops = keras.ops
        return self.activation.value(ops, value), self.activation.first(ops, value)[:, None, :] * tangents

    def compute_output_shape(self, input_shape):
        return input_shape[0], input_shape[1]

    def get_config(self):
        return {**super().get_config(), "activation": self.activation.name}


@keras.saving.register_keras_serializable(package="hippylib_dino")
class JacobianOutput(keras.layers.Layer):
    """Tangents (batch, rM, rQ) as Jacobians (batch, rQ, rM)."""

    def call(self, tangents):
        return keras.ops.swapaxes(tangents, 1, 2)

    def compute_output_shape(self, input_shape):
        return input_shape[0], input_shape[2], input_shape[1]
