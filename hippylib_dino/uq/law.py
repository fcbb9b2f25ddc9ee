"""A Gaussian law of the parameter, in full coordinates for the PDE and in latent ones for the surrogate."""

from __future__ import annotations

import dolfin as dl
import hippylib as hp
import numpy as np

from hippylib_dino.data.streams import draw_parameter, draw_posterior
from hippylib_dino.errors import InputError
from hippylib_dino.modeling.spaces import DofOrder, map_block, owned_values, sum_over_ranks
from hippylib_dino.reduction.basis import Basis


class GaussianLaw:
    """The prior, or a low-rank Gaussian posterior, with the exact law of its latent parameters x = Eᵀ(m - m̄).

    With E = RΨ, the encoder, x is N(0, I) under the prior.  Under a posterior N(μ, R⁻¹ - U D Uᵀ), D = diag(λ/(1+λ)), it
    is N(Eᵀ(μ - m̄), EᵀR⁻¹E - (EᵀU) D (EᵀU)ᵀ), where EᵀR⁻¹E = I but for an encoder that was learned.  So a draw for
    the surrogate costs no prior solve, and has the law of an encoded draw for the PDE.

    Parameters
    ----------
    prior : hIPPYlib prior
    basis : Basis
        Input basis of the surrogate.
    posterior : hp.GaussianLRPosterior, optional
        Of this prior, with its ``mean`` set.

    Raises
    ------
    InputError
        If the posterior has no mean, or another prior.

    Attributes
    ----------
    mean : (rM,)
        Of the latent parameter.
    covariance : (rM, rM)
        Of the latent parameter.
    """

    def __init__(self, prior, basis: Basis, posterior: hp.GaussianLRPosterior | None = None):
        if posterior is not None and (posterior.mean is None or posterior.prior is not prior):
            raise InputError(
                "posterior: expected an hp.GaussianLRPosterior of this model's prior with its mean assigned, as "
                "hd.laplace(model, solution) returns it."
            )
        self._prior, self._posterior = prior, posterior
        order = DofOrder(prior.Vh)
        self._comm = order.comm
        self._encoder = np.ascontiguousarray(order.from_array(basis.encoder))
        self._shift = order.from_array(basis.shift)
        self.mean, self.covariance = np.zeros(basis.rank), np.eye(basis.rank)
        if basis.kind == "learned":
            solved = map_block(prior.Rsolver.solve, prior.mean, prior.mean, self._encoder)
            self.mean = self.encode(prior.mean)
            self.covariance = sum_over_ranks(self._encoder.T @ solved, self._comm)
        if posterior is not None:
            vectors = np.column_stack([owned_values(posterior.U[i]) for i in range(posterior.U.nvec())])
            reached = sum_over_ranks(self._encoder.T @ vectors, self._comm)
            self.mean = self.encode(posterior.mean)
            self.covariance = self.covariance - (reached * (posterior.d / (1.0 + posterior.d))) @ reached.T
        values, rotation = np.linalg.eigh(self.covariance)
        self._factor = rotation * np.sqrt(np.maximum(values, 0.0))

    def encode(self, m: dl.GenericVector) -> np.ndarray:
        """x (rM,) of a parameter vector."""
        return sum_over_ranks(self._encoder.T @ (owned_values(m) - self._shift), self._comm)

    def draw(self, seed: tuple[int, ...], index: int) -> dl.GenericVector:
        """Draw `index` of the law, a function of (seed, index) alone; a new parameter vector."""
        if self._posterior is None:
            return draw_parameter(self._prior, seed, index)
        return draw_posterior(self._posterior, seed, index)

    def latent(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Draws of the latent parameter, (n, rM)."""
        return self.mean + rng.standard_normal((n, len(self.mean))) @ self._factor.T
