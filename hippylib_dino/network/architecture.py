"""Architectures: what a DINO's map looks like, apart from its weights."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np

from hippylib_dino.data.dataset import Dataset, Samples
from hippylib_dino.errors import InputError
from hippylib_dino.network.activations import get_activation
from hippylib_dino.network.blocks import Activate, Block, Chain, Dense, Product, Residual, Scale, chain
from hippylib_dino.network.formulations import Formulation, JacobianFormulation
from hippylib_dino.network.latent_map import BlockMap, LatentMap
from hippylib_dino.reduction.basis import Basis

SOME = 1024  # samples that tell enough of the spread of all


@dataclass(frozen=True)
class Architecture(ABC):
    """Base: from latent parameters (rM,) to latent observables (rQ,).

    Parameters
    ----------
    input_rank, output_rank : int
        rM and rQ.
    """

    input_rank: int
    output_rank: int

    kinds: ClassVar[dict[str, type[Architecture]]] = {}

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        Architecture.kinds[cls.__name__] = cls

    def __post_init__(self):
        for name in ("input_rank", "output_rank"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected at least 1, got {getattr(self, name)}.")

    def get_config(self) -> dict:
        """Plain values, for JSON, that `architecture_from_config` takes."""
        return {"kind": type(self).__name__, **asdict(self)}

    @classmethod
    def from_config(cls, config: dict) -> Architecture:
        """The architecture that `get_config` described."""
        values: dict = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items() if k != "kind"}
        return cls(**values)

    @abstractmethod
    def weight_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the weights, in order."""

    @abstractmethod
    def latent_map(self, weights: list[np.ndarray]) -> LatentMap:
        """The float64 map of these weights."""


def architecture_from_config(config: dict) -> Architecture:
    """The architecture that some `get_config` described.

    Raises
    ------
    InputError
        If its kind is not known.
    """
    kind = config.get("kind", "ReducedDense")  # which files of format 1 did not say
    if kind not in Architecture.kinds:
        raise InputError(f"architecture: expected one of {sorted(Architecture.kinds)}, got {kind!r}.")
    return Architecture.kinds[kind].from_config(config)


@dataclass(frozen=True)
class TrainableArchitecture(Architecture):
    """Base of what `hd.train` trains: how it sees a dataset, its Keras model, and what becomes of the weights."""

    def fitted(self, samples: Samples, dataset: Dataset, formulation: Formulation) -> TrainableArchitecture:
        """The architecture with the scales that the data give, where they are left open."""
        return self

    def inputs(self, samples: Samples, dataset: Dataset) -> np.ndarray:
        """What the Keras model takes as "x", (n, n_in)."""
        return samples.x

    @abstractmethod
    def keras_model(self, seed: int = 0, outputs: dict | None = None, dtype: str | None = None):
        """A functional Keras model with outputs ``observable`` (rQ,) and ``jacobian`` (rQ, rM).

        Parameters
        ----------
        seed : int
            Of the initial weights.
        outputs : dict, optional
            Keywords of `hippylib_dino.network.layers.Outputs`: what of the Jacobian to give.
        dtype : str, optional
            Keras dtype policy; default float32, whatever Keras's global one is.
        """

    def finished(self, weights: list[np.ndarray], dataset: Dataset) -> tuple[Architecture, list[np.ndarray], Basis]:
        """Architecture, weights and input basis of the DINO that these trained weights make."""
        return self, weights, dataset.input_basis


@dataclass(frozen=True)
class BlockArchitecture(TrainableArchitecture):
    """Base of the networks that are made of blocks, which train in Keras and evaluate in NumPy.

    Parameters
    ----------
    input_rank, output_rank : int
        rM and rQ.
    activation : str
        "gelu", "tanh", "softplus" or "silu".
    input_scale : tuple of float, optional
        Fixed factors of the latent parameters, (rM,); default 1.  `hd.train` takes the importance that the
        training data give to each, unless some are given here.
    output_scale : float, optional
        Spread of the outputs, a fixed factor of the last layer; default 1.  `hd.train` takes it from the data, unless
        it is given here.
    """

    activation: str = "gelu"
    input_scale: tuple[float, ...] | None = None
    output_scale: float | None = None

    def __post_init__(self):
        super().__post_init__()
        get_activation(self.activation)
        if self.input_scale is not None:
            object.__setattr__(self, "input_scale", checked_scale(self.input_scale, self.input_rank))

    @abstractmethod
    def hidden_blocks(self) -> Sequence[Block]:
        """Blocks between the scales of input and output."""

    def blocks(self) -> Chain:
        """All blocks."""
        scale_in = [] if self.input_scale is None else [Scale(self.input_scale)]
        scale_out = [] if self.output_scale is None else [Scale(self.output_scale)]
        return chain([*scale_in, *self.hidden_blocks(), *scale_out])

    def weight_shapes(self) -> list[tuple[int, ...]]:
        return [weight.shape for weight in self.blocks().weights()]

    def latent_map(self, weights: list[np.ndarray]) -> LatentMap:
        return BlockMap(self.blocks(), weights, self.input_rank, self.output_rank)

    def fitted(self, samples: Samples, dataset: Dataset, formulation: Formulation) -> TrainableArchitecture:
        return with_scales(self, samples, dataset, formulation)

    def keras_model(self, seed: int = 0, outputs: dict | None = None, dtype: str | None = None):
        from hippylib_dino.network.layers import NetworkLayer, functional_model

        return functional_model(NetworkLayer, self, self.input_rank, seed, outputs, dtype)


def with_scales(network: Any, samples: Samples, dataset: Dataset, formulation: Formulation) -> TrainableArchitecture:
    """An architecture that has `input_scale` and `output_scale`, with those that the data give where they are None."""
    if network.input_scale is None:
        trained_on = isinstance(formulation, JacobianFormulation)
        jacobians = None
        if trained_on:  # streamed ones are not in memory
            kept = samples.reduced_jacobian[:SOME]
            jacobians = kept if len(kept) else dataset.jacobians(samples.index[:SOME])
        network = replace(network, input_scale=importance(dataset.input_basis, jacobians))
    if network.output_scale is None:
        network = replace(network, output_scale=spread_of_outputs(samples))
    return network


def spread_of_outputs(samples: Samples) -> float:
    """Root mean square distance of all latent observables from their means; 1 where there is none."""
    return float(np.sqrt(samples.y.var(axis=0).mean())) or 1.0


def checked_scale(scale: Iterable[float], input_rank: int) -> tuple[float, ...]:
    """Factors of the latent parameters as floats; `InputError` unless there is one for each."""
    factors = tuple(float(s) for s in scale)
    if len(factors) != input_rank:
        raise InputError(f"input_scale: expected {input_rank} factors, one a latent parameter, got {len(factors)}.")
    return factors


def importance(basis: Basis, jacobians: np.ndarray | None = None) -> tuple[float, ...]:
    """How strongly the observable depends on each latent parameter, (rM,), mean square 1.

    Without Jacobians, the root of the basis' eigenvalues, which are mean squares of the Jacobian's columns for a
    derivative-informed basis.  With some reduced Jacobians (n, rQ, rM), the cube root of their columns' mean squares:
    softer, since a network that is trained on them learns the rest, and faster (benchmarks/results/training_study.md).
    """
    if jacobians is None:
        squares, power = basis.eigenvalues[: basis.rank], 1 / 2
    else:
        squares, power = (jacobians**2).sum(axis=1).mean(axis=0), 1 / 3
    if not squares.max() > 0:  # of Jacobians that are all zero
        return (1.0,) * len(squares)
    scale = np.maximum(squares / squares.max(), np.finfo(np.float32).eps) ** power
    return tuple((scale / np.sqrt((scale**2).mean())).tolist())


def dense_blocks(widths: Sequence[int], activation: str) -> list[Block]:
    """Dense layers from each width to the next, with activations between them."""
    blocks: list[Block] = []
    for n_in, n_out in itertools.pairwise(widths):
        blocks += [Dense(n_in, n_out), Activate(activation)]
    return blocks[:-1]


def _low_rank_residuals(width: int, rank: int, depth: int, activation: str) -> list[Block]:
    """`depth` layers z ← z + W σ(V z + b) of some rank, which start as the identity."""
    layer = chain([Dense(width, rank), Activate(activation), Dense(rank, width, initial="zeros")])
    return [Residual(layer)] * depth


def _check_depth(depth: int) -> None:
    if depth < 0:
        raise InputError(f"depth: expected at least 0, got {depth}.")


def _check_widths(name: str, widths: Sequence[int]) -> None:
    if any(width < 1 for width in widths):
        raise InputError(f"{name}: expected positive layer widths, got {tuple(widths)}.")


@dataclass(frozen=True)
class ReducedDense(BlockArchitecture):
    """Dense network on the latent coordinates.

    Parameters
    ----------
    input_rank, output_rank, activation, input_scale, output_scale
        See `BlockArchitecture`.
    hidden : tuple of int
        Widths of the hidden layers; none makes an affine map.

    Examples
    --------
    >>> network = ReducedDense(input_rank=3, output_rank=2, hidden=(8,))
    >>> ReducedDense.from_config(network.get_config()) == network
    True
    """

    hidden: tuple[int, ...] = (192, 192, 192)

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "hidden", tuple(self.hidden))
        _check_widths("hidden", self.hidden)

    def hidden_blocks(self) -> Sequence[Block]:
        return dense_blocks((self.input_rank, *self.hidden, self.output_rank), self.activation)


@dataclass(frozen=True)
class ReducedResNet(BlockArchitecture):
    """Residual network with low-rank layers: z ← z + W σ(V z + b), after an affine map to its width.

    The family of O'Leary-Roseberry, Du, Chaudhuri, Martins, Willcox, Ghattas, "Learning high-dimensional parametric
    maps via reduced basis adaptive residual networks", Comput. Methods Appl. Mech. Engrg. 402 (2022), arXiv
    2112.07096.  A new layer starts at zero, so that it does not change the map: layers may be added one by one while
    training goes on (`hd.train_growing`).

    Parameters
    ----------
    input_rank, output_rank, activation, input_scale, output_scale
        See `BlockArchitecture`.
    depth : int
        Residual layers.
    layer_rank : int
        Rank of each layer.
    width : int, optional
        Of z; default the larger of the ranks.

    Examples
    --------
    >>> network = ReducedResNet(input_rank=3, output_rank=2, depth=4, layer_rank=8)
    >>> network.grown(5).depth
    5
    """

    depth: int = 6
    layer_rank: int = 64
    width: int | None = None

    def __post_init__(self):
        super().__post_init__()
        _check_depth(self.depth)
        _check_widths("layer_rank, width", (self.layer_rank, 1 if self.width is None else self.width))

    def hidden_blocks(self) -> Sequence[Block]:
        width = max(self.input_rank, self.output_rank) if self.width is None else self.width
        residuals = _low_rank_residuals(width, self.layer_rank, self.depth, self.activation)
        return [Dense(self.input_rank, width), *residuals, Dense(width, self.output_rank)]

    def grown(self, depth: int) -> ReducedResNet:
        """The same with `depth` layers."""
        return replace(self, depth=depth)


@dataclass(frozen=True)
class ReducedProduct(BlockArchitecture):
    """Products of features of the parameter and of the control, then residual layers with low rank.

    y = V r(f(x) g(ζ)), with a dense network f of the latent parameter, an affine g of the latent control, residual
    layers r that start as the identity, and a product entry by entry.  Without r it is what a PDE that is linear in
    state and control gives: u(m, z) = A(m) z + c(m); r learns how far the PDE is from that.  The products are those of
    DeepONets (Lu, Jin, Pang, Zhang, Karniadakis, Nature Machine Intelligence 3 (2021)), with the control in the place
    of the point.

    Parameters
    ----------
    input_rank, output_rank, activation, input_scale, output_scale
        See `BlockArchitecture`; the input rank is that of parameter and control.
    n_control : int, optional
        Rank rZ of the control, the last of the inputs; `hd.train` takes it from the dataset.
    hidden : tuple of int
        Widths of f's hidden layers.
    width : int
        Products.
    depth, layer_rank : int
        Residual layers, and the rank of each.

    Examples
    --------
    >>> network = ReducedProduct(input_rank=5, output_rank=2, n_control=2, width=8)
    >>> ReducedProduct.from_config(network.get_config()) == network
    True
    """

    n_control: int | None = None
    hidden: tuple[int, ...] = (256,)
    width: int = 256
    depth: int = 2
    layer_rank: int = 128

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "hidden", tuple(self.hidden))
        _check_widths("hidden, width, layer_rank", (*self.hidden, self.width, self.layer_rank))
        _check_depth(self.depth)
        if self.n_control is not None and not 0 < self.n_control < self.input_rank:
            raise InputError(
                f"n_control: expected some of the {self.input_rank} inputs, but not all, got {self.n_control}."
            )

    def fitted(self, samples: Samples, dataset: Dataset, formulation: Formulation) -> TrainableArchitecture:
        if dataset.input_basis.parameter_block is None:
            raise InputError(
                "architecture: a ReducedProduct needs a dataset with controls; without, take a ReducedDense."
            )
        network = replace(self, n_control=dataset.input_basis.control_part().rank)
        return with_scales(network, samples, dataset, formulation)

    def hidden_blocks(self) -> Sequence[Block]:
        if self.n_control is None:
            raise InputError("n_control: expected the rank of the control, got None.")
        n_first = self.input_rank - self.n_control
        f = chain(dense_blocks((n_first, *self.hidden, self.width), self.activation))
        products = Product(n_first, f, chain([Dense(self.n_control, self.width)]))
        residuals = _low_rank_residuals(self.width, self.layer_rank, self.depth, self.activation)
        return [products, *residuals, Dense(self.width, self.output_rank)]
