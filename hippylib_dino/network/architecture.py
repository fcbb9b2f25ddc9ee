"""Architectures: what a DINO's network looks like, apart from its weights."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass

import numpy as np

from hippylib_dino.errors import InputError
from hippylib_dino.network.activations import get_activation
from hippylib_dino.network.latent_map import LatentMap


@dataclass(frozen=True)
class ReducedDense:
    """Dense network from latent parameters (rM,) to latent observables (rQ,).

    Parameters
    ----------
    input_rank, output_rank : int
        rM and rQ.
    hidden : tuple of int
        Widths of the hidden layers; none makes an affine map.
    activation : str
        "gelu", "tanh", "softplus" or "silu".
    output_scale : float
        Spread of the outputs, a fixed factor of the last layer.

    Examples
    --------
    >>> network = ReducedDense(input_rank=3, output_rank=2, hidden=(8,))
    >>> ReducedDense.from_config(network.get_config()) == network
    True
    """

    input_rank: int
    output_rank: int
    hidden: tuple[int, ...] = (192, 192, 192)
    activation: str = "gelu"
    output_scale: float = 1.0

    def __post_init__(self):
        get_activation(self.activation)
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if any(width < 1 for width in self.hidden):
            raise InputError(f"hidden: expected positive layer widths, got {self.hidden}.")

    def get_config(self) -> dict:
        """Plain values that `from_config` takes."""
        return {**asdict(self), "hidden": list(self.hidden)}

    @classmethod
    def from_config(cls, config: dict) -> ReducedDense:
        """The architecture that `get_config` described."""
        return cls(**config)

    def weight_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of kernel, bias, kernel, bias, ... as Keras orders them."""
        widths = (self.input_rank, *self.hidden, self.output_rank)
        return [shape for a, b in itertools.pairwise(widths) for shape in ((a, b), (b,))]

    def keras_model(self, seed: int = 0):
        """A functional Keras model with outputs ``observable`` (rQ,) and ``jacobian`` (rQ, rM)."""
        from hippylib_dino.network.backend import keras
        from hippylib_dino.network.layers import JacobianOutput, TangentActivation, TangentDense

        seeds = np.random.SeedSequence(seed).generate_state(len(self.hidden) + 1)
        x = keras.Input((self.input_rank,), name="x")
        flow = x
        for width, layer_seed in zip(self.hidden, seeds, strict=False):
            flow = TangentActivation(self.activation)(TangentDense(width, seed=int(layer_seed))(flow))
        value, tangents = TangentDense(self.output_rank, scale=self.output_scale, seed=int(seeds[-1]))(flow)
        observable = keras.layers.Identity(name="observable")(value)
        jacobian = JacobianOutput(name="jacobian")(tangents)
        return keras.Model(x, {"observable": observable, "jacobian": jacobian}, name="dino")

    def latent_map(self, weights: list[np.ndarray]) -> LatentMap:
        """The float64 map of these Keras weights (kernel, bias, kernel, bias, ...)."""
        pairs = list(zip(weights[::2], weights[1::2], strict=True))
        kernel, bias = (np.asarray(a, dtype=np.float64) * self.output_scale for a in pairs[-1])
        return LatentMap([*pairs[:-1], (kernel, bias)], self.activation)
