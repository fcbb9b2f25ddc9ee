"""A quantity of interest at common samples of the parameter, as a function of the control."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from hippylib_dino.control import ControlDistribution
from hippylib_dino.errors import InputError
from hippylib_dino.network.dino import DINO
from hippylib_dino.network.latent_map import LatentMap
from hippylib_dino.ouu.quantities import LatentQuantity
from hippylib_dino.reduction.basis import Basis

CHUNK = 128  # samples that are evaluated together: what the sweeps remember fits a processor's cache


class Ensemble(ABC):
    """Q(m_i, z) for fixed samples m_i: the sample average approximation with common random numbers.

    Attributes
    ----------
    n : int
        Samples.
    n_control : int
        dZ.
    is_first : bool
        Whether this rank shows progress and writes files; all ranks get the same arrays.
    """

    n: int
    n_control: int
    is_first: bool = True

    @abstractmethod
    def quantity(self, z: np.ndarray) -> np.ndarray:
        """Q (n,) at a control z (dZ,) in its own units."""

    @abstractmethod
    def quantity_and_jacobian(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Q (n,) and ∂Q/∂z (n, dZ); rows are dual vectors of the control."""

    @abstractmethod
    def hessian_actions(self, z: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """∂²Q_i/∂z² v for each sample, (n, dZ), of a direction v (dZ,)."""

    def outside(self, z: np.ndarray) -> str | None:
        """Why the ensemble is not to be relied on at z (dZ,); None where it is."""
        return None

    def of_first(self, numbers: np.ndarray) -> np.ndarray:
        """The first rank's array, on all: what each rank computes by itself may differ by rounding."""
        return numbers


class SurrogateEnsemble(Ensemble):
    """Q by a surrogate of latent parameter and control, f: (x, ζ) ↦ y, in NumPy.

    A gradient takes one evaluation and one reverse sweep a sample, never the Jacobian of the network.  Samples are
    taken in chunks, and what the network makes of their parameters alone is computed once.

    Parameters
    ----------
    latent_map : LatentMap
        f, of input rank rM + rZ: latent parameter first.
    control_basis : Basis
        Of the control: ζ = encoderᵀ(z - shift) (rZ,).
    quantity : LatentQuantity
        Of y (rQ,).
    x : (n, rM)
        Latent parameters of the samples: draws of N(0, I) for the prior, or encoded parameters to compare with the PDE.
    trained_on : ControlDistribution, optional
        Distribution of the controls that f was trained on.

    Raises
    ------
    InputError
        If the shapes do not fit.

    Examples
    --------
    ::

        x = np.random.default_rng(0).standard_normal((256, dino.input_basis.parameter_part().rank))
        ensemble = hd.ouu.SurrogateEnsemble.of_dino(dino, quantity, x)
    """

    def __init__(
        self,
        latent_map: LatentMap,
        control_basis: Basis,
        quantity: LatentQuantity,
        x: np.ndarray,
        trained_on: ControlDistribution | None = None,
    ):
        x = np.array(x, dtype=float)
        self.n_control, rank = control_basis.encoder.shape
        expected = latent_map.input_rank - rank
        if x.ndim != 2 or x.shape[1] != expected or len(x) == 0:
            raise InputError(
                f"x: expected shape (n, {expected}), as the surrogate takes {latent_map.input_rank} inputs of which "
                f"{rank} are of the control, got {x.shape}."
            )
        if not np.isfinite(x).all():
            raise InputError("x: expected finite latent parameters.")
        if quantity.rank != latent_map.output_rank:
            raise InputError(
                f"quantity: expected one of {latent_map.output_rank} latent outputs, as the surrogate has, got one of "
                f"{quantity.rank}."
            )
        self.control_basis, self._quantity = control_basis, quantity
        self._trained_on = trained_on
        self.n = len(x)
        parts = [slice(first, first + CHUNK) for first in range(0, self.n, CHUNK)]
        self._parts = [(part, latent_map.with_first(x[part])) for part in parts]

    @classmethod
    def of_dino(cls, dino: DINO, quantity: LatentQuantity, x: np.ndarray) -> SurrogateEnsemble:
        """The ensemble of a DINO of parameter and control.

        Parameters
        ----------
        dino : DINO
        quantity : LatentQuantity
            Of its latent outputs (rQ,).
        x : (n, rM)
            Latent parameters: draws of N(0, I), or ``dino.input_basis.parameter_part().encode(m)``.

        Raises
        ------
        InputError
            If the DINO has no control, or the shapes do not fit.
        """
        return cls(dino.latent_map, dino.input_basis.control_part(), quantity, x, dino.control)

    def _latent_control(self, z: np.ndarray) -> np.ndarray:
        return self.control_basis.encode(checked_control(z, self.n_control))

    def quantity(self, z: np.ndarray) -> np.ndarray:
        zeta = self._latent_control(z)
        return np.concatenate([self._quantity.value(f.value(zeta)) for _, f in self._parts])

    def quantity_and_jacobian(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        zeta = self._latent_control(z)
        q, pulled = np.empty(self.n), np.empty((self.n, len(zeta)))
        for part, f in self._parts:
            at = f.linearize(zeta)
            q[part], gradient = self._quantity.value_and_gradient(at.value)
            pulled[part] = at.vjp(gradient)
        return q, pulled @ self.control_basis.encoder.T

    def hessian_actions(self, z: np.ndarray, direction: np.ndarray) -> np.ndarray:
        zeta = self._latent_control(z)
        along = checked_control(direction, self.n_control, "direction") @ self.control_basis.encoder
        bent = np.empty((self.n, len(along)))
        for part, f in self._parts:
            at = f.linearize(zeta)
            _, gradient = self._quantity.value_and_gradient(at.value)
            curved = at.vjp(self._quantity.hessian_action(at.value, at.jvp(along)))
            bent[part] = curved + at.hessian(gradient)(along)
        return bent @ self.control_basis.encoder.T

    def outside(self, z: np.ndarray) -> str | None:
        if self._trained_on is None or self._trained_on.contains(z):
            return None
        zeta = self.control_basis.encode(z)
        i = np.abs(zeta).argmax()
        return (
            f"{type(self._trained_on).__name__} does not contain it; the {i + 1}. of {len(zeta)} latent controls is "
            f"{zeta[i]:+.2f} standard deviations from the mean."
        )


def checked_control(z: np.ndarray, n_control: int, name: str = "z") -> np.ndarray:
    """A control (dZ,) as floats; `InputError` unless it is one, and finite."""
    z = np.asarray(z, dtype=float)
    if z.shape != (n_control,):
        raise InputError(f"{name}: expected shape ({n_control},), one entry for each control variable, got {z.shape}.")
    if not np.isfinite(z).all():
        raise InputError(f"{name}: {np.count_nonzero(~np.isfinite(z))} of {n_control} entries are not finite.")
    return z
