"""Quantities of interest of the latent state, evaluated without the mesh."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np

from hippylib_dino.errors import InputError
from hippylib_dino.reduction.basis import Basis

PROBES, TOLERANCE = 3, 1e-6  # points at which a reduction is tried, and how exact it must be there


class LatentQuantity(ABC):
    """Q: latent state y (rQ,) to a number, with its derivatives; all methods take one state or a batch.

    Attributes
    ----------
    rank : int
        rQ.
    """

    rank: int

    @abstractmethod
    def value(self, y: np.ndarray) -> np.ndarray:
        """Q(y) (...), of latent states (..., rQ)."""

    @abstractmethod
    def value_and_gradient(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Q(y) (...) and ∇Q(y) (..., rQ)."""

    @abstractmethod
    def hessian_action(self, y: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """∇²Q(y) v (..., rQ), of a direction v (..., rQ)."""


class LatentQuadratic(LatentQuantity):
    """Q(y) = c + gᵀy + ½ yᵀHy.

    Parameters
    ----------
    constant : float
        c.
    gradient : (rQ,)
        g.
    hessian : (rQ, rQ), optional
        H, of which only the symmetric part matters; default 0.

    Raises
    ------
    InputError
        If the shapes do not fit, or an entry is not finite.

    Examples
    --------
    >>> Q = LatentQuadratic(1.0, np.array([0.0, 2.0]), np.eye(2))
    >>> Q.value(np.array([1.0, 1.0])).item()
    4.0
    """

    def __init__(self, constant: float, gradient: np.ndarray, hessian: np.ndarray | None = None):
        self.gradient = np.array(gradient, dtype=float)
        if self.gradient.ndim != 1:
            raise InputError(f"gradient: expected shape (rQ,), got {self.gradient.shape}.")
        self.rank = n = len(self.gradient)
        self.hessian = np.zeros((n, n)) if hessian is None else np.array(hessian, dtype=float)
        if self.hessian.shape != (n, n):
            raise InputError(
                f"hessian: expected shape {(n, n)}, as gradient has {n} entries, got {self.hessian.shape}."
            )
        self.hessian = (self.hessian + self.hessian.T) / 2
        self.constant = float(constant)
        if not (np.isfinite(self.constant) and np.isfinite(self.gradient).all() and np.isfinite(self.hessian).all()):
            raise InputError("constant, gradient, hessian: expected finite numbers.")

    def value(self, y: np.ndarray) -> np.ndarray:
        return self.value_and_gradient(y)[0]

    def value_and_gradient(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        bent = y @ self.hessian
        return self.constant + ((self.gradient + 0.5 * bent) * y).sum(axis=-1), self.gradient + bent

    def hessian_action(self, y: np.ndarray, direction: np.ndarray) -> np.ndarray:
        return direction @ self.hessian

    @classmethod
    def reduce(
        cls,
        value: Callable[[np.ndarray], float],
        gradient: Callable[[np.ndarray], np.ndarray],
        basis: Basis,
    ) -> LatentQuadratic:
        """The exact reduction of a quantity Q(u) that is at most quadratic: y ↦ Q(ū + Φy).

        With gradients at the shift ū and at ū + φ_j, c = Q(ū), g = Φᵀ∇Q(ū) and H e_j = Φᵀ(∇Q(ū + φ_j) - ∇Q(ū)).  It
        costs rQ + 1 gradients, and nothing of the mesh is needed afterwards.

        Parameters
        ----------
        value : callable
            Full state (dQ,) to Q.
        gradient : callable
            Full state (dQ,) to its derivative (dQ,), dual: the change of Q along v is gradient(u) @ v.
        basis : Basis
            Output basis of the surrogate.

        Raises
        ------
        InputError
            If gradient or value has another shape, they are not of the same function, or Q is not quadratic: all told
            by evaluation at random states of the basis.
        """
        start = np.asarray(gradient(basis.shift), dtype=float)
        if start.shape != (basis.dim,):
            raise InputError(f"gradient: expected to return shape ({basis.dim},), as a state has, got {start.shape}.")
        bent = [basis.decoder.T @ (gradient(basis.shift + phi) - start) for phi in basis.decoder.T]
        found = cls(float(value(basis.shift)), basis.decoder.T @ start, np.array(bent))
        spread = np.sqrt(np.maximum(basis.eigenvalues[: basis.rank], 0))
        scale = np.where(spread > 0, spread, 1.0)
        for y in scale * np.random.default_rng(0).standard_normal((PROBES, basis.rank)):
            for factor in (1.0, 3.0):
                exact, reduced = float(value(basis.decode(factor * y))), found.value(factor * y)
                size = max(abs(exact), abs(exact - found.constant), abs(found.constant))
                if not abs(exact - reduced) <= TOLERANCE * size:
                    raise InputError(
                        f"value, gradient: expected a quantity that is at most quadratic in the state, and its "
                        f"gradient; at a state of the basis it is {exact:.9g}, by its reduction {float(reduced):.9g}. "
                        "Check the gradient. A quantity of higher order has no reduction: learn it as the output, "
                        "or write a LatentQuantity."
                    )
        return found
