"""The parameter in latent coordinates and its complement, and the misfit as a function of either."""

from __future__ import annotations

from typing import Any

import dolfin as dl
import hippylib as hp
import numpy as np

from hippylib_dino.data.streams import noise_positions
from hippylib_dino.errors import InputError, SolveError
from hippylib_dino.mcmc.proposals import Derivatives, Evaluation
from hippylib_dino.modeling.jacobian import Jacobian
from hippylib_dino.modeling.jacobian_model import JacobianModel
from hippylib_dino.modeling.observation import has_gaussian_noise, members_of, observed_data
from hippylib_dino.modeling.spaces import DofOrder, owned_values, set_owned_values, sum_over_ranks
from hippylib_dino.reduction.basis import Basis
from hippylib_dino.surrogate.model import SurrogateModel

ORTHONORMAL = 1e-6  # what priors with an iterative solver for R reach with room to spare


class LatentCoordinates:
    """m = m̄ + Ψx + w, with x = (RΨ)ᵀ(m - m̄) and w in the prior's complement of the basis.

    Under the prior x ~ N(0, I) and w are independent.

    Parameters
    ----------
    prior : hIPPYlib prior
    basis : Basis
        Input basis, orthonormal in the prior precision: that of a dataset or a DINO.

    Raises
    ------
    InputError
        If the basis has another dimension, or is not orthonormal in this prior's precision.
    """

    def __init__(self, prior, basis: Basis):
        order = DofOrder(prior.Vh)
        if basis.dim != order.dim:
            raise InputError(f"basis: expected dimension {order.dim}, that of the prior's space, got {basis.dim}.")
        self.prior, self.rank, self._comm = prior, basis.rank, order.comm
        self._decoder, self._encoder = order.from_array(basis.decoder), order.from_array(basis.encoder)
        self._mean = owned_values(prior.mean)
        self._noise = dl.Vector(prior.R.mpi_comm())
        prior.init_vector(self._noise, "noise")
        self._positions = noise_positions(prior)
        self._check_orthonormal()

    def _check_orthonormal(self) -> None:
        """ΨᵀRΨ = I, and the encoder is RΨ: seen on one random combination of the columns."""
        weights = np.random.default_rng(0).standard_normal(self.rank)
        m, dual = self.prior.mean.copy(), self.prior.mean.copy()
        set_owned_values(m, self._decoder @ weights)
        self.prior.R.mult(m, dual)
        encoded, expected = owned_values(dual), self._encoder @ weights
        gap = sum_over_ranks(np.array([((encoded - expected) ** 2).sum(), (encoded**2).sum()]), self._comm)
        gram = sum_over_ranks(self._encoder.T @ self._decoder, self._comm)
        if gap[0] > ORTHONORMAL**2 * gap[1] or np.abs(gram - np.eye(self.rank)).max() > ORTHONORMAL:
            raise InputError(
                "basis: expected vectors orthonormal in this prior's precision, got others; the chain would not sample "
                'the posterior. Take a "derivative" or "kle" basis that was made with this prior.'
            )

    def pair(self, direction: dl.GenericVector) -> np.ndarray:
        """(RΨ)ᵀ v, (rM,), of a parameter direction v."""
        return sum_over_ranks(self._encoder.T @ owned_values(direction), self._comm)

    def encode(self, m: dl.GenericVector) -> np.ndarray:
        """x (rM,) of a parameter m."""
        return sum_over_ranks(self._encoder.T @ (owned_values(m) - self._mean), self._comm)

    def move(
        self, m: dl.GenericVector, start: np.ndarray, end: np.ndarray, rho: float, rng: np.random.Generator
    ) -> dl.Vector:
        """The parameter with latent coordinates `end` and a complement moved by pCN, ρw + √(1-ρ²)(I - ΨΨᵀR)ξ.

        Parameters
        ----------
        m : dolfin vector, (dM,)
        start : (rM,)
            Latent coordinates of `m`.
        end : (rM,)
        rho : float
            ρ in (-1, 1); 0 draws the complement afresh.
        rng : numpy.random.Generator
            In the same state on every rank of the mesh.
        """
        new = self.prior.mean.copy()
        set_owned_values(self._noise, rng.standard_normal(self._noise.size())[self._positions])
        self.prior.sample(self._noise, new, add_mean=False)
        complement = np.sqrt(1.0 - rho**2) * owned_values(new)
        if rho != 0.0:
            complement += rho * (owned_values(m) - self._mean - self._decoder @ start)
        latent = sum_over_ranks(self._encoder.T @ complement, self._comm)
        set_owned_values(new, self._mean + self._decoder @ (end - latent) + complement)
        return new

    def reduce(self, jacobian: Jacobian) -> np.ndarray:
        """J Ψ, (dQ, rM), by adjoint or by forward solves, the fewer."""
        if jacobian.shape[0] <= self.rank:
            return sum_over_ranks(jacobian.owned_rows().T @ self._decoder, self._comm)
        return jacobian.mult_block(self._decoder)


class SurrogatePotential:
    """Φ_s(x) = ½‖d - q̄ - Φf(x)‖² in noise standard deviations, with data and noise as the misfit states them now.

    The observables outside the output basis add a constant, so that the algebra is of size rQ.

    Parameters
    ----------
    surrogate : SurrogateModel

    Attributes
    ----------
    map : LatentMap
        f.
    decoder : ndarray, (k, rQ)
        D of ½‖D f(x) - data‖² + constant, which is Φ_s.
    data : ndarray, (k,)
    """

    def __init__(self, surrogate: SurrogateModel):
        noise, basis = surrogate.noise_covariance, surrogate.dino.output_basis
        residual = noise.whiten(observed_data(surrogate.misfit) - basis.shift)
        orthonormal, self.decoder = np.linalg.qr(noise.whiten(basis.decoder))
        self.data = orthonormal.T @ residual
        self._constant = 0.5 * float(residual @ residual - self.data @ self.data)
        self.map = surrogate.dino.latent_map

    def evaluate(self, x: np.ndarray, derivatives: Derivatives) -> Evaluation:
        """Φ_s at x (rM,), with what derivatives are asked for."""
        if derivatives == "none":
            value, jacobian = self.map.value(x), None
        else:
            at = self.map.linearize(x)
            value, jacobian = at.value, at.jacobian() if derivatives == "metric" else None
        residual = self.decoder @ value - self.data
        potential = 0.5 * float(residual @ residual) + self._constant
        if derivatives == "none":
            return Evaluation(potential)
        if jacobian is None:
            return Evaluation(potential, at.vjp(self.decoder.T @ residual))
        factor = self.decoder @ jacobian
        return Evaluation(potential, factor.T @ residual, factor)


class PDEPotential:
    """Φ(m), the misfit of the PDE, with the derivatives along latent coordinates.

    Parameters
    ----------
    model : JacobianModel
    coordinates : LatentCoordinates
    """

    def __init__(self, model: JacobianModel, coordinates: LatentCoordinates):
        self._model, self._coordinates = model, coordinates

    def evaluate(self, m: dl.GenericVector, derivatives: Derivatives) -> tuple[Any, Evaluation]:
        """State u(m), and Φ with what derivatives along x are asked for.

        Raises
        ------
        SolveError
            If the PDE cannot be solved, or the misfit is not finite.
        """
        u = self._model.solveState(m)
        potential = float(self._model.misfit.cost([u, m, None]))
        if not np.isfinite(potential):
            raise SolveError(f"the misfit is {potential} where the PDE has a solution.")
        if derivatives == "none":
            return u, Evaluation(potential)
        noise = self._model.noise_covariance
        residual = noise.whiten(self._model.observe(u) - observed_data(self._model.misfit))
        factor = noise.whiten(self._coordinates.reduce(self._model.linearize_at(u, m)))
        return u, Evaluation(potential, factor.T @ residual, factor)


def check_gaussian(misfit: hp.Misfit, name: str) -> None:
    """Raise `InputError` unless the noise is Gaussian, on observables of one time or several."""
    for member in members_of(misfit):
        if not (hasattr(member, "B") and has_gaussian_noise(member)):
            raise InputError(
                f"{name}: expected a misfit with Gaussian noise on observables B u, got {type(member).__name__}. "
                "Use hp.DiscreteStateObservation or hd.CovarianceStateObservation, or assign misfit.noise_covariance "
                "to one of your own whose noise is Gaussian."
            )
