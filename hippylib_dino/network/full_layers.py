"""`FullDense` as a Keras model that gives values, and Jacobians in the input basis."""

from __future__ import annotations

from hippylib_dino.network.backend import keras
from hippylib_dino.network.full import FullDense
from hippylib_dino.network.layers import NetworkLayer


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

    kind = FullDense

    def build(self, input_shape):
        self._blocks = self.architecture.blocks(input_shape["x"][-1])
        kernel, decoder, *others = self._blocks.weights()
        self.arrays = self._added([kernel, *others])
        fixed = self.add_weight(name="decoder", shape=decoder.shape, initializer=decoder.initial, trainable=False)
        if self.architecture.basis is not None:
            fixed.assign(self.architecture.decoder())
        self.arrays.insert(1, fixed)
