"""Networks of blocks as Keras models that give values and Jacobians.

Values and derivative sweeps are plain `keras.ops`, so that `fit`, XLA, saving, distribution and the choice of
backend are Keras's own, and no gradient tape is nested.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hippylib_dino.errors import InputError
from hippylib_dino.network.architecture import BlockArchitecture, architecture_from_config
from hippylib_dino.network.backend import keras


@dataclass(frozen=True)
class Outputs:
    """What a Keras model gives besides the observable, and what it takes for that.

    Parameters
    ----------
    jacobian : bool
        Whether it gives Jacobians at all.
    rows, columns : int, optional
        Number k of output directions W (k, rQ), l of input directions V (l, rM), which the model takes for each sample
        as inputs "rows" and "columns": then the Jacobian is W ∂f Vᵀ; without them whole.
    sweep : "auto", "reverse" or "forward"
        Through the network from its outputs, or from its inputs; "auto" takes the one with fewer directions.
    """

    jacobian: bool = True
    rows: int | None = None
    columns: int | None = None
    sweep: str = "auto"

    def reverse(self, input_rank: int, output_rank: int) -> bool:
        """Whether the sweep starts at the outputs."""
        if self.sweep == "auto":
            return (self.rows or output_rank) <= (self.columns or input_rank)
        return self.sweep == "reverse"


@keras.saving.register_keras_serializable(package="hippylib_dino")
class NetworkLayer(keras.layers.Layer):
    """All blocks of an architecture: x (rM,) to observable (rQ,) and its Jacobian (rQ, rM), or part of it.

    Parameters
    ----------
    architecture : BlockArchitecture
    outputs : Outputs
    seed : int
        Of the Glorot-uniform kernels.
    """

    architecture: Any  # of another kind in subclasses

    def __init__(self, architecture: BlockArchitecture, outputs: Outputs, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.architecture, self.outputs, self.seed = architecture, outputs, seed
        self._blocks = architecture.blocks()

    def build(self, input_shape):
        weights = self._blocks.weights()
        seeds = np.random.SeedSequence(self.seed).generate_state(len(weights))
        self.arrays = []
        for i, (weight, seed) in enumerate(zip(weights, seeds, strict=True)):
            glorot = keras.initializers.GlorotUniform(seed=int(seed))
            initializer = glorot if weight.initial == "glorot" else weight.initial
            self.arrays.append(self.add_weight(name=f"weight_{i}", shape=weight.shape, initializer=initializer))

    def call(self, inputs):
        ops, architecture, outputs = keras.ops, self.architecture, self.outputs
        weights = [ops.convert_to_tensor(array) for array in self.arrays]
        value, state = self._blocks.linearize(ops, weights, inputs["x"])
        if not outputs.jacobian:
            return {"observable": value}
        rows, columns = inputs.get("rows"), inputs.get("columns")
        if outputs.reverse(architecture.input_rank, architecture.output_rank):
            start = ops.eye(architecture.output_rank, dtype=value.dtype)[None] if rows is None else rows
            jacobian = self._blocks.pull(ops, weights, state, start)
            if columns is not None:
                jacobian = ops.matmul(jacobian, ops.swapaxes(columns, 1, 2))
        else:
            start = ops.eye(architecture.input_rank, dtype=value.dtype)[None] if columns is None else columns
            jacobian = ops.swapaxes(self._blocks.push(ops, weights, state, start), 1, 2)
            if rows is not None:
                jacobian = ops.matmul(rows, jacobian)
        return {"observable": value, "jacobian": jacobian}

    def compute_output_shape(self, input_shape):
        batch, architecture = input_shape["x"][0], self.architecture
        shapes: dict[str, tuple] = {"observable": (batch, architecture.output_rank)}
        if self.outputs.jacobian:
            k, n = self.outputs.rows or architecture.output_rank, self.outputs.columns or architecture.input_rank
            shapes["jacobian"] = (batch, k, n)
        return shapes

    def get_config(self):
        outputs = {name: getattr(self.outputs, name) for name in ("jacobian", "rows", "columns", "sweep")}
        config = {"architecture": self.architecture.get_config(), "outputs": outputs, "seed": self.seed}
        return {**super().get_config(), **config}

    @classmethod
    def from_config(cls, config):
        architecture = architecture_from_config(config.pop("architecture"))
        if not isinstance(architecture, BlockArchitecture):
            raise InputError(f"architecture: expected one made of blocks, got {architecture}.")
        return cls(architecture, Outputs(**config.pop("outputs")), **config)


def network_model(
    architecture: BlockArchitecture, outputs: Outputs | None = None, *, seed: int = 0, dtype: str | None = None
):
    """A functional Keras model of an architecture.

    Parameters
    ----------
    architecture : BlockArchitecture
    outputs : Outputs, optional
        Default the observable and its whole Jacobian.
    seed : int
        Of the initial weights.
    dtype : str, optional
        Keras dtype policy, for instance "mixed_bfloat16"; default Keras's own.
    """
    layer = NetworkLayer(architecture, outputs or Outputs(), seed, dtype=dtype, name="network")
    return functional_model(layer, architecture.input_rank)


def functional_model(layer: NetworkLayer, n_in: int):
    """A functional Keras model of a layer whose input "x" is (n_in,)."""
    architecture, outputs = layer.architecture, layer.outputs
    inputs = {"x": keras.Input((n_in,), name="x")}
    if outputs.rows is not None:
        inputs["rows"] = keras.Input((outputs.rows, architecture.output_rank), name="rows")
    if outputs.columns is not None:
        inputs["columns"] = keras.Input((outputs.columns, architecture.input_rank), name="columns")
    named = {name: keras.layers.Identity(name=name, dtype="float32")(value) for name, value in layer(inputs).items()}
    return keras.Model(inputs if len(inputs) > 1 else inputs["x"], named, name="dino")
