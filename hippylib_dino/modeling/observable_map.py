"""The contract that PDE and surrogate share: a parameter-to-observable map and its derivative."""

from __future__ import annotations

import abc

import dolfin as dl
import numpy as np

from hippylib_dino.errors import InputError
from hippylib_dino.modeling.jacobian import Jacobian
from hippylib_dino.modeling.spaces import check_vector, owned_values, set_owned_values


class ParameterToObservable(abc.ABC):
    """q = F(m) with its Jacobian; mixed into an `hp.Model`.

    Whatever answers `evalObservable` and `jacobian` also answers `value`, `jvp` and `vjp`.
    """

    @abc.abstractmethod
    def evalObservable(self, m: dl.GenericVector) -> np.ndarray:
        """F(m), shape (dQ,), the same on every rank of the mesh.

        Raises
        ------
        VectorError
            If `m` is not a vector of this model's parameter space.
        SolveError
            If the map cannot be evaluated at `m`.
        """

    @abc.abstractmethod
    def jacobian(self, m: dl.GenericVector) -> Jacobian:
        """J(m), (dQ x dM)."""

    def value(self, m: dl.GenericVector) -> np.ndarray:
        """F(m), shape (dQ,); `evalObservable` by its short name."""
        return self.evalObservable(m)

    def jvp(self, m: dl.GenericVector, direction: dl.GenericVector) -> np.ndarray:
        """J(m) v, (dQ,), for a primal parameter direction v."""
        check_vector(direction, m, "direction")
        return self.jacobian(m).mult_block(owned_values(direction)[:, None])[:, 0]

    def vjp(self, m: dl.GenericVector, weights: np.ndarray) -> dl.GenericVector:
        """J(m)ᵀ w, a dual parameter vector, for dual data weights w (dQ,)."""
        J, weights = self.jacobian(m), np.asarray(weights, dtype=float)
        if weights.shape != J.shape[:1]:
            raise InputError(f"weights: expected shape {J.shape[:1]}, one for each observable, got {weights.shape}.")
        out = m.copy()
        set_owned_values(out, J.transpmult_block(weights[:, None])[:, 0])
        return out
