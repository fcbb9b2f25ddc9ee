"""Kernel regression in the latent parameters: values and exact derivatives in NumPy.

A kernel is a profile φ of a product t of two points, φ(|u - v|²) or φ(u·v); with ∇t and ∇²t = κ I in u,

    ∇φ(t) = φ' ∇t,      ∇²φ(t) = φ'' ∇t ∇tᵀ + κ φ' I.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hippylib_dino.errors import InputError
from hippylib_dino.network.architecture import Architecture, checked_scale
from hippylib_dino.network.latent_map import LatentMap

KERNELS = ("rbf", "polynomial")


class Kernel(ABC):
    """k(u, v) = φ(t(u, v)).

    Attributes
    ----------
    bend : float
        κ, of ∇²t = κ I.
    """

    bend: float

    @abstractmethod
    def product(self, u: np.ndarray, centres: np.ndarray) -> np.ndarray:
        """t (..., n) of points (..., r) with all centres (n, r)."""

    @abstractmethod
    def slopes(self, u: np.ndarray, centres: np.ndarray) -> np.ndarray:
        """∇t (n, r) at one point (r,)."""

    @abstractmethod
    def profile(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """φ, φ' and φ'' at t."""


@dataclass(frozen=True)
class Gaussian(Kernel):
    """k = exp(-|u - v|²/(2 l²))."""

    length_scale: float
    bend = 2.0

    def product(self, u: np.ndarray, centres: np.ndarray) -> np.ndarray:
        squares = (u**2).sum(axis=-1)[..., None] + (centres**2).sum(axis=1)
        return np.maximum(squares - 2 * u @ centres.T, 0.0)  # below zero by rounding

    def slopes(self, u: np.ndarray, centres: np.ndarray) -> np.ndarray:
        return 2 * (u - centres)

    def profile(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rate = -0.5 / self.length_scale**2
        value = np.exp(rate * t)
        return value, rate * value, rate**2 * value


@dataclass(frozen=True)
class Power(Kernel):
    """k = (1 + u·v/l²)^d."""

    length_scale: float
    degree: int
    bend = 0.0

    def product(self, u: np.ndarray, centres: np.ndarray) -> np.ndarray:
        return u @ centres.T

    def slopes(self, u: np.ndarray, centres: np.ndarray) -> np.ndarray:
        return centres

    def profile(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rate, d = self.length_scale**-2, self.degree
        base = 1 + rate * t
        second = rate**2 * d * (d - 1) * base ** max(d - 2, 0)
        return base**d, rate * d * base ** (d - 1), second


class KernelMap(LatentMap):
    """f(x) = c + Σᵢ aᵢ k(S x, S xᵢ), S diagonal.

    Parameters
    ----------
    kernel : Kernel
    scale : (rM,)
        Diagonal of S.
    inputs : (n, rM)
        xᵢ.
    dual : (n, rQ)
        aᵢ.
    offset : (rQ,)
        c.
    """

    def __init__(self, kernel: Kernel, scale: np.ndarray, inputs: np.ndarray, dual: np.ndarray, offset: np.ndarray):
        self._kernel, self._scale = kernel, np.asarray(scale, dtype=np.float64)
        self._centres = np.asarray(inputs, dtype=np.float64) * self._scale
        self._dual = np.asarray(dual, dtype=np.float64)
        self._offset = np.asarray(offset, dtype=np.float64)
        self.input_rank, self.output_rank = len(self._scale), len(self._offset)

    def value(self, x: np.ndarray) -> np.ndarray:
        t = self._kernel.product(x * self._scale, self._centres)
        return self._offset + self._kernel.profile(t)[0] @ self._dual

    def value_and_jacobian(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        points = x.reshape(-1, self.input_rank) * self._scale
        value, first, _ = self._kernel.profile(self._kernel.product(points, self._centres))
        jacobian = np.empty((len(points), self.output_rank, self.input_rank))
        for u, slope, out in zip(points, first, jacobian, strict=True):  # all at once takes n times the memory
            out[:] = (slope[:, None] * self._dual).T @ self._kernel.slopes(u, self._centres) * self._scale
        shape = x.shape[:-1]
        return (
            (self._offset + value @ self._dual).reshape(*shape, self.output_rank),
            jacobian.reshape(*shape, self.output_rank, self.input_rank),
        )

    def _weighted_slopes(self, x: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(aᵢ·w) φ' and (aᵢ·w) φ'' (n,), and ∇t (n, rM), at one point."""
        u = x * self._scale
        _, first, second = self._kernel.profile(self._kernel.product(u, self._centres))
        share = self._dual @ weights
        return share * first, share * second, self._kernel.slopes(u, self._centres)

    def vjp(self, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return _by_point(self._vjp, x, weights)

    def _vjp(self, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
        first, _, slopes = self._weighted_slopes(x, weights)
        return self._scale * (first @ slopes)

    def hessian_action(self, x: np.ndarray, weights: np.ndarray, direction: np.ndarray) -> np.ndarray:
        return _by_point(self._hessian_action, x, weights, direction)

    def _hessian_action(self, x: np.ndarray, weights: np.ndarray, direction: np.ndarray) -> np.ndarray:
        first, second, slopes = self._weighted_slopes(x, weights)
        along = self._scale * direction
        return self._scale * ((second * (slopes @ along)) @ slopes + self._kernel.bend * first.sum() * along)


def _by_point(function: Callable[..., np.ndarray], *arrays: np.ndarray) -> np.ndarray:
    """`function` of one point, or of each of a batch in turn: all at once takes n times the memory."""
    if arrays[0].ndim == 1:
        return function(*arrays)
    return np.array([function(*point) for point in zip(*arrays, strict=True)])


@dataclass(frozen=True)
class KernelRegression(Architecture):
    """f(x) = c + Σᵢ aᵢ k(S x, S xᵢ) over training samples; weights xᵢ (n, rM), aᵢ (n, rQ) and c (rQ,).

    Parameters
    ----------
    input_rank, output_rank : int
        rM and rQ.
    n_samples : int
        n.
    kernel : "rbf" or "polynomial"
        exp(-|u - v|²/(2 l²)) or (1 + u·v/l²)^d.
    length_scale : float
        l.
    degree : int
        d, of the polynomial kernel.
    input_scale : tuple of float, optional
        Diagonal of S, (rM,); default 1.

    Raises
    ------
    InputError
        For an unknown kernel, or numbers that are not positive.

    Examples
    --------
    >>> regression = KernelRegression(1, 1, n_samples=1)
    >>> regression.latent_map([np.zeros((1, 1)), np.ones((1, 1)), np.zeros(1)]).value(np.zeros(1)).item()
    1.0
    """

    n_samples: int
    kernel: str = "rbf"
    length_scale: float = 1.0
    degree: int = 2
    input_scale: tuple[float, ...] | None = None

    def __post_init__(self):
        super().__post_init__()
        check_kernel(self.kernel)
        for name in ("n_samples", "length_scale", "degree"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}: expected > 0, got {getattr(self, name)}.")
        if self.input_scale is not None:
            checked_scale(self.input_scale, self.input_rank)

    def weight_shapes(self) -> list[tuple[int, ...]]:
        return [(self.n_samples, self.input_rank), (self.n_samples, self.output_rank), (self.output_rank,)]

    def latent_map(self, weights: list[np.ndarray]) -> KernelMap:
        kernel = Gaussian(self.length_scale) if self.kernel == "rbf" else Power(self.length_scale, self.degree)
        scale = np.ones(self.input_rank) if self.input_scale is None else np.array(self.input_scale)
        return KernelMap(kernel, scale, *weights)


def check_kernel(kernel: str) -> None:
    """Raise `InputError` unless there is a kernel of that name."""
    if kernel not in KERNELS:
        raise InputError(f"kernel: expected one of {KERNELS}, got {kernel!r}.")
