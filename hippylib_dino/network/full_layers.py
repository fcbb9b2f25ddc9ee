"""`FullDense` as a Keras model that gives values, and Jacobians in the input basis."""

from __future__ import annotations

import numpy as np

from hippylib_dino.errors import InputError
from hippylib_dino.network.architecture import architecture_from_config
from hippylib_dino.network.backend import keras
from hippylib_dino.network.full import FullDense
from hippylib_dino.network.layers import NetworkLayer, Outputs, functional_model


@keras.saving.register_keras_serializable(package="hippylib_dino")
class FullLayer(NetworkLayer):
    """All blocks of a `FullDense`: full parameters (dM,) to observable (rQ,) and its Jacobian (rQ, rM), or part of it.

    Parameters
    ----------
    architecture : FullDense
        From a configuration it has no basis; the decoder is then among the weights to be loaded.
    outputs : Outputs
    seed : int
        Of the Glorot-uniform kernels.
    """

    def __init__(self, architecture: FullDense, outputs: Outputs, seed: int = 0, **kwargs):
        keras.layers.Layer.__init__(self, **kwargs)
        self.architecture, self.outputs, self.seed = architecture, outputs, seed

    def build(self, input_shape):
        self._blocks = self.architecture.blocks(input_shape["x"][-1])
        kernel, decoder, *others = self._blocks.weights()
        trained = [kernel, *others]
        seeds = np.random.SeedSequence(self.seed).generate_state(len(trained))
        self.arrays = []
        for i, (weight, seed) in enumerate(zip(trained, seeds, strict=True)):
            glorot = keras.initializers.GlorotUniform(seed=int(seed))
            initializer = glorot if weight.initial == "glorot" else weight.initial
            self.arrays.append(self.add_weight(name=f"weight_{i}", shape=weight.shape, initializer=initializer))
        fixed = self.add_weight(name="decoder", shape=decoder.shape, initializer=decoder.initial, trainable=False)
        if self.architecture.basis is not None:
            fixed.assign(self.architecture.decoder())
        self.arrays.insert(1, fixed)

    @classmethod
    def from_config(cls, config):
        architecture = architecture_from_config(config.pop("architecture"))
        if not isinstance(architecture, FullDense):
            raise InputError(f"architecture: expected a FullDense, got {architecture}.")
        return cls(architecture, Outputs(**config.pop("outputs")), **config)


def full_model(architecture: FullDense, outputs: Outputs, *, seed: int = 0, dtype: str | None = None):
    """A functional Keras model of an architecture that has its basis.

    Parameters
    ----------
    architecture : FullDense
    outputs : Outputs
    seed : int
        Of the initial weights.
    dtype : str, optional
        Keras dtype policy; default Keras's own.
    """
    layer = FullLayer(architecture, outputs, seed, dtype=dtype, name="network")
    return functional_model(layer, architecture.decoder().shape[0])
