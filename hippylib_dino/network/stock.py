"""A route for networks of stock Keras layers, and of layers that a user wrote."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hippylib_dino.data.dataset import Dataset, Samples
from hippylib_dino.errors import InputError
from hippylib_dino.network.architecture import TrainableArchitecture, checked_scale, with_scales
from hippylib_dino.network.formulations import Formulation
from hippylib_dino.network.latent_map import LatentMap


@dataclass(frozen=True)
class StockNetwork(TrainableArchitecture):
    """Any Keras model from latent parameters (rM,) to latent observables (rQ,), functional or sequential.

    Derivatives are the backend's own (TensorFlow or JAX), in training and evaluation, so that layers need to give
    values alone.  They have to be smooth, since Newton Hessians take second derivatives; those that draw random
    numbers (Dropout) or keep a state (BatchNormalization) are refused, and those whose derivatives differ from central
    differences, as TensorFlow's second one of LayerNormalization does.  Layers of your own need
    ``@keras.saving.register_keras_serializable()`` and `get_config`, and have to be imported before a saved DINO with
    them is evaluated.

    Evaluation needs Keras, and compiles the model in float64 at the first call of each kind (0.1 to 1 s).  For three
    layers of 192 and ranks 200 and 50, on one core, a value costs 0.4 ms by TensorFlow and 0.09 ms by JAX (0.05 ms by
    `ReducedDense`), value and Jacobian 0.7 ms by both (0.4 ms), a Hessian action 0.5 and 0.3 ms (0.15 ms).
    On JAX, Keras computes some functions in float32 whatever their dtype (tanh, LayerNormalization), with a noise
    of 1e-7 in values; TensorFlow keeps float64.

    Made by `StockNetwork.from_keras`.

    Parameters
    ----------
    input_rank, output_rank : int
        rM and rQ.
    model : str
        Keras's configuration of the model, JSON.
    shapes : tuple of shapes
        Of the weights, in Keras's order.
    input_scale : tuple of float, optional
        Fixed factors of the latent parameters, (rM,), before the model; see `BlockArchitecture`.
    output_scale : float, optional
        Fixed factor of the model's outputs; see `BlockArchitecture`.

    Examples
    --------
    >>> from hippylib_dino.network.backend import keras
    >>> x = keras.Input((20,))
    >>> z = keras.layers.Dense(64, "silu")(x)
    >>> z = keras.layers.Add()([z, keras.layers.Dense(64, "tanh")(z)])
    >>> network = StockNetwork.from_keras(keras.Model(x, keras.layers.Dense(10)(z)))
    >>> network.input_rank, network.output_rank
    (20, 10)

    and then ``hd.train(dataset, "h1", architecture=network)``.
    """

    model: str = field(default="", repr=False)
    shapes: tuple[tuple[int, ...], ...] = field(default=(), repr=False)
    input_scale: tuple[float, ...] | None = field(default=None, repr=False)
    output_scale: float | None = None

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "shapes", tuple(tuple(shape) for shape in self.shapes))
        if not self.model:
            raise InputError("model: expected the configuration of a Keras model; use StockNetwork.from_keras(model).")
        if self.input_scale is not None:
            object.__setattr__(self, "input_scale", checked_scale(self.input_scale, self.input_rank))

    @classmethod
    def from_keras(cls, model) -> StockNetwork:
        """The architecture of a Keras model; its weights are not taken.

        Parameters
        ----------
        model : keras.Model
            Functional or sequential, with input (None, rM) and output (None, rQ).

        Raises
        ------
        InputError
            If it is not built, has other inputs or outputs, cannot be rebuilt from its configuration, is not smooth,
            draws random numbers, keeps a state, or has derivatives that the backend gets wrong.
        """
        from hippylib_dino.network.stock_layers import network_of

        return network_of(model)

    def weight_shapes(self) -> list[tuple[int, ...]]:
        return list(self.shapes)

    def latent_map(self, weights: list[np.ndarray]) -> LatentMap:
        from hippylib_dino.network.stock_layers import KerasMap

        return KerasMap(self, weights)

    def fitted(self, samples: Samples, dataset: Dataset, formulation: Formulation) -> TrainableArchitecture:
        return with_scales(self, samples, dataset, formulation)

    def keras_model(self, seed: int = 0, outputs: dict | None = None, dtype: str | None = None):
        from hippylib_dino.network.layers import functional_model
        from hippylib_dino.network.stock_layers import StockLayer

        return functional_model(StockLayer, self, self.input_rank, seed, outputs, dtype)
