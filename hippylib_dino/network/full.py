"""Dense networks on full parameters: the paper's control, that sees no input basis.

A trained one is a DINO like any other: its first layer is an encoder that was learned, and the rest a small network on
what this encodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np

from hippylib_dino.data.dataset import Dataset, Samples
from hippylib_dino.errors import InputError
from hippylib_dino.network.activations import get_activation
from hippylib_dino.network.architecture import (
    BlockArchitecture,
    ReducedDense,
    TrainableArchitecture,
    dense_blocks,
    spread_of_outputs,
)
from hippylib_dino.network.blocks import Activate, Block, Chain, Weight, Weights, chain
from hippylib_dino.network.formulations import Formulation
from hippylib_dino.network.latent_map import LatentMap
from hippylib_dino.reduction.basis import Basis


@dataclass(frozen=True)
class Bias(Block):
    """y = x + b."""

    n: int

    def weights(self) -> list[Weight]:
        return [Weight((self.n,), "zeros")]

    def linearize(self, ops, weights: Weights, x):
        return x + weights[0], None

    def push(self, ops, weights: Weights, state, tangents):
        return tangents

    def pull(self, ops, weights: Weights, state, cotangents):
        return cotangents


@dataclass(frozen=True)
class Encode(Block):
    """y = z K of full parameters z (..., dM); its sweeps stand in latent parameters x, with z = Ψ x.

    They take ΨᵀK (rM, n_out) once a batch, so that a direction costs what it costs in the reduced network.
    Weights: K, and Ψ (dM, rM), which is not trained.
    """

    dim: int
    rank: int
    n_out: int

    def weights(self) -> list[Weight]:
        return [Weight((self.dim, self.n_out), "glorot"), Weight((self.dim, self.rank), "zeros")]

    def linearize(self, ops, weights: Weights, x):
        return ops.matmul(x, weights[0]), None

    def _reduced(self, ops, weights: Weights):
        kernel, decoder = weights
        return ops.matmul(ops.transpose(decoder), kernel)

    def push(self, ops, weights: Weights, state, tangents):
        return ops.matmul(tangents, self._reduced(ops, weights))

    def pull(self, ops, weights: Weights, state, cotangents):
        return ops.matmul(cotangents, ops.transpose(self._reduced(ops, weights)))


def _check_hidden(hidden: tuple[int, ...]) -> None:
    if not hidden or any(width < 1 for width in hidden):
        raise InputError(f"hidden: expected at least one layer, with positive widths, got {hidden}.")


def _after_encoder(hidden: tuple[int, ...], output_rank: int, activation: str) -> list[Block]:
    """What follows the first kernel."""
    return [Bias(hidden[0]), Activate(activation), *dense_blocks((*hidden, output_rank), activation)]


@dataclass(frozen=True)
class EncodedDense(BlockArchitecture):
    """Dense network on what a learned encoder gives: bias and activation of its first layer, and the other layers.

    Parameters
    ----------
    input_rank, output_rank, activation, input_scale, output_scale
        See `BlockArchitecture`.
    hidden : tuple of int
        Widths of the hidden layers; the first is `input_rank`.
    """

    hidden: tuple[int, ...] = ()

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "hidden", tuple(self.hidden))
        _check_hidden(self.hidden)
        if self.hidden[0] != self.input_rank:
            raise InputError(
                f"hidden: expected the first width to be the input rank {self.input_rank}, got {self.hidden}."
            )

    def hidden_blocks(self) -> Sequence[Block]:
        return _after_encoder(self.hidden, self.output_rank, self.activation)


@dataclass(frozen=True)
class FullDense(TrainableArchitecture):
    """Dense network from full parameters (dM,) to latent observables (rQ,), for comparison with reduced ones.

    Its cost and its number of weights grow with the mesh, and a basis that knows the problem has to be found by
    training.  The generic dense network of O'Leary-Roseberry et al., J. Comput. Phys. 496 (2024), arXiv 2206.10745.
    Trained by `hd.train` on a dataset with full parameters (``store_parameters=True``), with any formulation:
    Jacobians are compared in the dataset's input basis.

    The trained DINO has the first layer's kernel as its input basis (of kind "learned"), and an `EncodedDense`.

    Parameters
    ----------
    input_rank, output_rank : int
        rM and rQ of the dataset.
    hidden : tuple of int
        Widths of the hidden layers, at least one; the first at most dM.
    activation : str
        "gelu", "tanh", "softplus" or "silu".
    input_scale : float, optional
        Divides m - m̄; default its root mean square over training samples and their entries.
    output_scale : float, optional
        Spread of the outputs, a fixed factor of the last layer; default that of the training data.
    basis : Basis, optional
        Input basis of the dataset; `hd.train` gives it, and it is not kept in the configuration.

    Examples
    --------
    >>> network = FullDense(input_rank=20, output_rank=10, hidden=(64, 64))
    >>> FullDense.from_config(network.get_config()) == network
    True
    """

    hidden: tuple[int, ...] = (192, 192, 192)
    activation: str = "gelu"
    input_scale: float | None = None
    output_scale: float | None = None
    basis: Basis | None = field(default=None, repr=False, compare=False)

    def __post_init__(self):
        super().__post_init__()
        get_activation(self.activation)
        object.__setattr__(self, "hidden", tuple(self.hidden))
        _check_hidden(self.hidden)
        for name in ("input_scale", "output_scale"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name}: expected > 0, got {value}.")
        if self.basis is not None and self.hidden[0] > self.basis.dim:
            raise InputError(
                f"hidden: expected a first layer not wider than the {self.basis.dim} parameters, got {self.hidden[0]}."
            )

    def get_config(self) -> dict:
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "basis"}
        return {"kind": type(self).__name__, **values}

    def fitted(self, samples: Samples, dataset: Dataset, formulation: Formulation) -> FullDense:
        if dataset.control is not None:
            raise InputError(
                "architecture: FullDense takes parameters alone, and the dataset has a control; train ReducedDense."
            )
        network = replace(self, basis=dataset.input_basis)
        if network.input_scale is None:
            network = replace(network, input_scale=float(np.sqrt((self.inputs(samples, dataset) ** 2).mean())))
        if network.output_scale is None:
            network = replace(network, output_scale=spread_of_outputs(samples))
        return network

    def inputs(self, samples: Samples, dataset: Dataset) -> np.ndarray:
        """Full parameters z = (m - m̄)/s of the samples, (n, dM)."""
        try:
            return (dataset.full("m", samples.index) - dataset.input_basis.shift) / self._scale
        except InputError as error:
            raise InputError(
                f"dataset: FullDense takes full parameters, which {dataset.path} does not hold. Generate it with "
                "store_parameters=True, or train on latent parameters, for instance with ReducedDense."
            ) from error

    @property
    def _scale(self) -> float:
        return 1.0 if self.input_scale is None else self.input_scale

    def _fitted_basis(self) -> Basis:
        if self.basis is None:
            raise InputError("basis: FullDense needs the dataset's input basis; hd.train gives it, or pass basis=....")
        return self.basis

    def decoder(self) -> np.ndarray:
        """Ψ/s (dM, rM), of z = (m - m̄)/s.

        Raises
        ------
        InputError
            If the architecture has no basis.
        """
        return self._fitted_basis().decoder / self._scale

    def blocks(self, dim: int) -> Chain:
        """All blocks, for dM = `dim`."""
        return chain([Encode(dim, self.input_rank, self.hidden[0]), *self._tail().blocks().blocks])

    def _tail(self) -> EncodedDense:
        """What follows the first kernel."""
        return EncodedDense(
            self.hidden[0], self.output_rank, self.activation, None, self.output_scale, hidden=self.hidden
        )

    def weight_shapes(self) -> list[tuple[int, ...]]:
        dim = self._fitted_basis().dim
        return [(dim, self.hidden[0]), *self._tail().weight_shapes(), (dim, self.input_rank)]

    def _encoder(self, weights: list[np.ndarray]) -> np.ndarray:
        """K/s, (dM, hidden[0])."""
        return np.asarray(weights[0], dtype=np.float64) / self._scale

    def latent_map(self, weights: list[np.ndarray]) -> LatentMap:
        """The float64 map of m = m̄ + Ψ x."""
        reduced = ReducedDense(
            self.input_rank, self.output_rank, self.activation, None, self.output_scale, hidden=self.hidden
        )
        return reduced.latent_map([self._fitted_basis().decoder.T @ self._encoder(weights), *weights[1:-1]])

    def keras_model(self, seed: int = 0, outputs: dict | None = None, dtype: str | None = None):
        """A functional Keras model; its input "x" is what `inputs` gives, its Jacobian in the input basis."""
        from hippylib_dino.network.full_layers import FullLayer
        from hippylib_dino.network.layers import functional_model

        return functional_model(FullLayer, self, self._fitted_basis().dim, seed, outputs, dtype)

    def finished(self, weights: list[np.ndarray], dataset: Dataset) -> tuple[EncodedDense, list[np.ndarray], Basis]:
        encoder = self._encoder(weights)
        reduced = dataset.input_basis.decoder.T @ encoder
        basis = Basis(
            decoder=np.linalg.pinv(encoder).T,
            encoder=encoder,
            shift=dataset.input_basis.shift,
            eigenvalues=np.sort((reduced**2).sum(axis=0))[::-1],  # prior variances of the latent inputs
            kind="learned",
            inner_product="Euclidean",
        )
        return self._tail(), weights[1:-1], basis
