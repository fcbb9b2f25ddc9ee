"""The space in which observables live: its precision, and how a partitioned mesh holds it.

A pointwise observable is small: every rank holds all of it.  A whole state is as large as the mesh: a
rank holds the degrees of freedom that it owns, in dolfin's order, and stored arrays use the canonical one.
"""

from __future__ import annotations

import abc

import hippylib as hp
import numpy as np

from hippylib_dino.errors import MisfitError
from hippylib_dino.modeling.spaces import DofOrder, map_block, sum_over_ranks
from hippylib_dino.noise import NoiseCovariance


class DataSpace(abc.ABC):
    """Local pieces of observables, one column each, and the noise-precision inner product on them.

    Attributes
    ----------
    dim : int
        dQ.
    value : ndarray
        Γ as it is stored: (), (dQ,) or (dQ, dQ); of a whole state the variance () that divides its mass matrix.
    """

    dim: int
    value: np.ndarray

    @abc.abstractmethod
    def precision(self, local: np.ndarray) -> np.ndarray:
        """Γ⁻¹ a, dual, for the local rows of a (n_local,) or (n_local, k)."""

    @abc.abstractmethod
    def sum(self, local: np.ndarray) -> np.ndarray:
        """Sum over the ranks that hold pieces of the observable."""

    @abc.abstractmethod
    def local(self, array: np.ndarray) -> np.ndarray:
        """This rank's rows of an array (dQ, ...) in stored order."""

    @abc.abstractmethod
    def whole(self, local: np.ndarray) -> np.ndarray:
        """All rows (dQ, ...) in stored order, on every rank."""

    def dot(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Pairing aᵀ b over all rows, on every rank."""
        return self.sum(a.T @ b)

    def inner(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """aᵀ Γ⁻¹ b."""
        return self.dot(a, self.precision(b))


class PointwiseData(DataSpace):
    """Observables q = B u with noise covariance Γ, all of them on every rank."""

    def __init__(self, noise: NoiseCovariance):
        self.noise, self.dim, self.value = noise, noise.dim, noise.value

    def precision(self, local: np.ndarray) -> np.ndarray:
        return self.noise.solve(local)

    def sum(self, local: np.ndarray) -> np.ndarray:
        return local

    def local(self, array: np.ndarray) -> np.ndarray:
        return array

    def whole(self, local: np.ndarray) -> np.ndarray:
        return local


class StateData(DataSpace):
    """The state itself as observable, in the inner product of an `hp.ContinuousStateObservation`.

    Γ⁻¹ is W/σ², with W the misfit's mass matrix: over the domain, a subdomain, the boundary, or some components.
    What W does not see is not part of the observable, though it is decoded along.

    Parameters
    ----------
    misfit : hp.ContinuousStateObservation
    space : dolfin.FunctionSpace
        Of the state.

    Raises
    ------
    MisfitError
        If the noise variance is not set, or not positive.
    """

    def __init__(self, misfit: hp.ContinuousStateObservation, space):
        variance = misfit.noise_variance
        if variance is None or not variance > 0:
            raise MisfitError(
                f"noise variance: expected > 0, got {variance}; assign misfit.noise_variance = sigma**2, or 1.0 where "
                "the state is to be learned without data."
            )
        self._W, self._like = misfit.W, misfit.d
        self.order = DofOrder(space)
        self.dim, self.value = self.order.dim, np.asarray(float(variance))

    def precision(self, local: np.ndarray) -> np.ndarray:
        columns = local.reshape(len(local), -1)
        weighted = map_block(lambda out, x: self._W.mult(x, out), self._like, self._like, columns)
        return weighted.reshape(local.shape) / self.value

    def sum(self, local: np.ndarray) -> np.ndarray:
        return sum_over_ranks(local, self.order.comm)

    def local(self, array: np.ndarray) -> np.ndarray:
        return self.order.from_array(array)

    def whole(self, local: np.ndarray) -> np.ndarray:
        return self.order.to_array(local)
