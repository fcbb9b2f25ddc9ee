"""Networks of blocks as Keras models that give values and Jacobians.

Values and derivative sweeps are plain `keras.ops`, so that `fit`, XLA, saving, distribution and the choice of
backend are Keras's own, and no gradient tape is nested.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from hippylib_dino.errors import InputError
from hippylib_dino.network.architecture import BlockArchitecture, architecture_from_config
from hippylib_dino.network.backend import keras
from hippylib_dino.network.blocks import Weight


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
    architecture : TrainableArchitecture
        Of the layer's `kind`.
    outputs : Outputs
    seed : int
        Of the Glorot-uniform kernels.
    """

    kind: ClassVar[type] = BlockArchitecture
    architecture: Any  # of this kind

    def __init__(self, architecture: Any, outputs: Outputs, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.architecture, self.outputs, self.seed = architecture, outputs, seed

    def build(self, input_shape):
        self._blocks = self.architecture.blocks()
        self.arrays = self._added(self._blocks.weights())

    def _added(self, weights: list[Weight]) -> list:
        """Keras variables for these weights."""
        seeds = np.random.SeedSequence(self.seed).generate_state(len(weights))
        arrays = []
        for i, (weight, seed) in enumerate(zip(weights, seeds, strict=True)):
            glorot = keras.initializers.GlorotUniform(seed=int(seed))
            initializer = glorot if weight.initial == "glorot" else weight.initial
            arrays.append(self.add_weight(name=f"weight_{i}", shape=weight.shape, initializer=initializer))
        return arrays

    def call(self, inputs):
        ops, outputs, x = keras.ops, self.outputs, inputs["x"]
        if not outputs.jacobian:
            return {"observable": self._value(x)}
        rows, columns = inputs.get("rows"), inputs.get("columns")
        if outputs.reverse(self.architecture.input_rank, self.architecture.output_rank):
            value, jacobian = self._pulled(x, rows)
            if columns is not None:
                jacobian = ops.matmul(jacobian, ops.swapaxes(columns, 1, 2))
        else:
            value, jacobian = self._pushed(x, columns)
            if rows is not None:
                jacobian = ops.matmul(rows, jacobian)
        return {"observable": value, "jacobian": jacobian}

    def _linearized(self, x) -> tuple[list, Any, Any]:
        weights = [keras.ops.convert_to_tensor(array) for array in self.arrays]
        return weights, *self._blocks.linearize(keras.ops, weights, x)

    def _value(self, x):
        return self._linearized(x)[1]

    def _pulled(self, x, rows):
        """Value, and W ∂f by a reverse sweep; all rows if there is no W."""
        ops = keras.ops
        weights, value, state = self._linearized(x)
        start = ops.eye(self.architecture.output_rank, dtype=value.dtype)[None] if rows is None else rows
        return value, self._blocks.pull(ops, weights, state, start)

    def _pushed(self, x, columns):
        """Value, and ∂f Vᵀ by a forward sweep; all columns if there is no V."""
        ops = keras.ops
        weights, value, state = self._linearized(x)
        start = ops.eye(self.architecture.input_rank, dtype=value.dtype)[None] if columns is None else columns
        return value, ops.swapaxes(self._blocks.push(ops, weights, state, start), 1, 2)

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
        if not isinstance(architecture, cls.kind):
            raise InputError(f"architecture: expected a {cls.kind.__name__}, got {architecture}.")
        return cls(architecture, Outputs(**config.pop("outputs")), **config)


def functional_model(
    kind: type[NetworkLayer], architecture: Any, n_in: int, seed: int, outputs: dict | None, dtype: str | None
):
    """A functional Keras model of a layer for this architecture, whose input "x" is (n_in,).

    Other arguments are those of `TrainableArchitecture.keras_model`.  Every dtype is said, so that Keras's global one,
    which is the user's, does not matter.
    """
    layer = kind(architecture, Outputs(**(outputs or {})), seed, dtype=dtype or "float32", name="network")
    shapes: dict[str, tuple[int, ...]] = {"x": (n_in,)}
    if layer.outputs.rows is not None:
        shapes["rows"] = (layer.outputs.rows, architecture.output_rank)
    if layer.outputs.columns is not None:
        shapes["columns"] = (layer.outputs.columns, architecture.input_rank)
    inputs = {name: keras.Input(shape, name=name, dtype="float32") for name, shape in shapes.items()}
    named = {name: keras.layers.Identity(name=name, dtype="float32")(value) for name, value in layer(inputs).items()}
    return keras.Model(inputs if len(inputs) > 1 else inputs["x"], named, name="dino")
