"""MAP points and Laplace approximations in latent coordinates, for one data set or many at once.

With x = (RΨ)ᵀ(m - m̄) the prior is N(0, I), and d = q̄ + Φ f(x) + noise gives the negative log-posterior
½‖d - q̄ - Φ f(x)‖²_{Γ⁻¹} + ½‖x‖².  What a parameter has outside the input basis does not reach the surrogate: there the
posterior is the prior.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import scipy.linalg as sla

from hippylib_dino.errors import InputError, ModelFileError, SolveError
from hippylib_dino.inference.newton import LatentSolutions, solve
from hippylib_dino.network.dino import DINO, read_arrays
from hippylib_dino.noise import NoiseCovariance

CHUNK = 64  # data sets that are solved together: their Jacobians fit a processor's cache
START_JACOBIANS, START_VALUES = 64, 1024  # prior draws that the starting points are fitted to


@dataclass(frozen=True)
class LatentPosterior:
    """Laplace approximations N(x, (I + V diag(λ) Vᵀ)⁻¹) of the posteriors of n data sets.

    Attributes
    ----------
    x : (n, rM)
        Latent MAP points.
    eigenvalues : (n, k)
        λ of the misfit's Gauss-Newton Hessian ∂fᵀΦᵀΓ⁻¹Φ∂f, descending; k is the smaller of rQ and rM.
    vectors : (n, rM, k)
        V, orthonormal columns.  hIPPYlib's pair is (λ, ΨV).
    """

    x: np.ndarray
    eigenvalues: np.ndarray
    vectors: np.ndarray

    def kl_from_prior(self) -> np.ndarray:
        """KL(posterior ‖ prior), (n,): ½ Σ ln(1+λ) - ½ Σ λ/(1+λ) + ½‖x‖², hIPPYlib's `klDistanceFromPrior`."""
        spread = np.log1p(self.eigenvalues) - self.eigenvalues / (1 + self.eigenvalues)
        return 0.5 * (spread.sum(axis=1) + (self.x**2).sum(axis=1))

    def sample(self, n_samples: int, rng: np.random.Generator) -> np.ndarray:
        """Draws of the latent parameter, (n, n_samples, rM).

        Raises
        ------
        InputError
            If `n_samples` is less than 1.
        """
        if n_samples < 1:
            raise InputError(f"n_samples: expected at least 1, got {n_samples}.")
        noise = rng.standard_normal((len(self.x), n_samples, self.x.shape[1]))
        shrink = 1 / np.sqrt(1 + self.eigenvalues) - 1
        seen = (noise @ self.vectors) * shrink[:, None, :]
        return self.x[:, None] + noise + seen @ self.vectors.swapaxes(1, 2)


class ReducedInference:
    """Bayesian inverse problem of a DINO in latent coordinates.

    It gives what hIPPYlib's Newton-CG and `doublePassG` give on `hd.SurrogateModel`, to solver tolerance, in
    milliseconds, and for many data sets at once.

    Parameters
    ----------
    dino : DINO
        Trained on pointwise observables.
    noise_covariance : float, (dQ,), (dQ, dQ) or NoiseCovariance
        Γ: variance, variances or matrix.  A model states it as ``model.noise_covariance``.
    prior_variance : (dM,), optional
        Pointwise variance of the prior in canonical dof order, kept for `pointwise_variance`.

    Raises
    ------
    MisfitError
        If `noise_covariance` has another shape, or is not positive definite.
    InputError
        If `prior_variance` has another shape, or the DINO has a control or gives whole states.

    Examples
    --------
    ::

        inference = hd.ReducedInference(dino, model.noise_covariance)
        x = inference.map(data)                   # data (n, dQ), x (n, rM)
        fields = inference.fields(x)              # (n, dM)
        inference.save("online.dino")             # and on another machine, without FEniCS:
        inference = hd.ReducedInference.load("online.dino")
    """

    def __init__(self, dino: DINO, noise_covariance, *, prior_variance: np.ndarray | None = None):
        basis = dino.output_basis
        check_of_observables(dino)
        noise_covariance = NoiseCovariance.of(noise_covariance, basis.dim)
        if prior_variance is not None and np.shape(prior_variance) != (dino.input_basis.dim,):
            raise InputError(
                f"prior_variance: expected shape ({dino.input_basis.dim},), got {np.shape(prior_variance)}."
            )
        self.dino, self.noise_covariance, self.prior_variance = dino, noise_covariance, prior_variance
        self._map = dino.latent_map
        whitened = noise_covariance.whiten(basis.decoder)
        # of the whole misfit, only its part in the span of the outputs depends on x
        self._L = np.linalg.cholesky(whitened.T @ whitened)
        self._project = sla.solve_triangular(self._L, whitened.T, lower=True)

    def _checked(self, data: np.ndarray) -> np.ndarray:
        if np.ma.is_masked(data):
            raise InputError(
                f"data: is a masked array, and {int(np.ma.getmaskarray(data).sum())} of its values are masked, which "
                "would count as readings. Give observables without a reading a variance in noise_covariance that is "
                "large against what they could read, and any value; data sets with the same ones share a "
                "ReducedInference."
            )
        data = np.asarray(data, dtype=float)
        dim = self.dino.output_basis.dim
        if data.shape[-1:] != (dim,) or data.ndim > 2:
            raise InputError(f"data: expected shape ({dim},) or (n, {dim}), got {data.shape}.")
        if not np.isfinite(data).all():
            raise InputError("data: has values that are not finite; leave out sensors without a reading.")
        return np.atleast_2d(data)

    @cached_property
    def _start(self) -> tuple[np.ndarray, np.ndarray]:
        """Matrix and offset of the best linear estimate of x from data, over prior draws.

        Cov(x, Lᵀf) is E[∂f]ᵀL for a Gaussian x (Stein's identity), of which a few Jacobians tell more than many values.
        """
        rng = np.random.default_rng(0)
        x = rng.standard_normal((START_VALUES, self.dino.input_basis.rank))
        values = self._map.value(x) @ self._L
        mean_jacobian = self._map.jacobian(x[:START_JACOBIANS]).mean(axis=0)
        covariance = np.atleast_2d(np.cov(values.T)) + np.eye(values.shape[1])
        return np.linalg.solve(covariance, self._L.T @ mean_jacobian), values.mean(axis=0)

    def solve(
        self, data: np.ndarray, *, start: np.ndarray | None = None, rel_tolerance: float = 1e-6, max_iter: int = 100
    ) -> LatentSolutions:
        """MAP points, with what the solver says of each.

        Parameters
        ----------
        data : (dQ,) or (n, dQ)
        start : (rM,) or (n, rM), optional
            Where to start; by default a linear estimate from the data.
        rel_tolerance : float
            Norm of the gradient relative to that at the prior mean, as in hIPPYlib's `ReducedSpaceNewtonCG`.
        max_iter : int

        Raises
        ------
        InputError
            If data or start have another shape, data are masked or not finite, or the tolerance is not positive.
        """
        data = self._checked(data)
        if not rel_tolerance > 0:
            raise InputError(f"rel_tolerance: expected > 0, got {rel_tolerance}.")
        centred = self.noise_covariance.whiten((data - self.dino.output_basis.shift).T)
        b = (self._project @ centred).T
        if start is None:
            gain, mean = self._start
            start = (b - mean) @ gain
        start = np.atleast_2d(np.asarray(start, dtype=float))
        if start.shape != (len(data), self.dino.input_basis.rank):
            raise InputError(
                f"start: expected shape {(len(data), self.dino.input_basis.rank)}, a latent point for each data set, "
                f"got {start.shape}."
            )
        parts = [
            solve(self._map, self._L, b[k], start[k], rel_tolerance=rel_tolerance, max_iter=max_iter)
            for k in _chunks(len(data))
        ]
        names = LatentSolutions.__dataclass_fields__
        found = LatentSolutions(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
        found.cost += 0.5 * ((centred**2).sum(axis=0) - (b**2).sum(axis=1))  # of data outside the span
        return found

    def map(
        self, data: np.ndarray, *, start: np.ndarray | None = None, rel_tolerance: float = 1e-6, max_iter: int = 100
    ) -> np.ndarray:
        """Latent MAP points: (rM,) for data (dQ,), (n, rM) for (n, dQ); the arguments are those of `solve`.

        Raises
        ------
        SolveError
            If a data set does not converge; `solve` gives what was reached.
        """
        found = self.solve(data, start=start, rel_tolerance=rel_tolerance, max_iter=max_iter)
        if not found.converged.all():
            failed = np.flatnonzero(~found.converged)
            raise SolveError(
                f"data: {len(failed)} of {len(found.x)} data sets did not converge, first those of index "
                f"{failed[:5].tolist()}, with relative gradients {found.gradient_norm[failed[:5]]}. Raise max_iter or "
                "rel_tolerance, or use solve(), which returns what was reached."
            )
        return found.x[0] if np.ndim(data) == 1 else found.x

    def laplace(self, x: np.ndarray) -> LatentPosterior:
        """Laplace approximations with the Gauss-Newton Hessian at latent points (rM,) or (n, rM)."""
        x = self._latent(x)
        singular, vectors = [], []
        for k in _chunks(len(x)):
            _, s, vt = np.linalg.svd(self._L.T @ self._map.jacobian(x[k]), full_matrices=False)
            singular.append(s)
            vectors.append(vt.swapaxes(1, 2))
        return LatentPosterior(x, np.concatenate(singular) ** 2, np.concatenate(vectors))

    def _latent(self, x: np.ndarray) -> np.ndarray:
        x, rank = np.asarray(x, dtype=float), self.dino.input_basis.rank
        if x.shape[-1:] != (rank,) or x.ndim > 2:
            raise InputError(f"x: expected shape ({rank},) or (n, {rank}), got {x.shape}.")
        return np.atleast_2d(x)

    def fields(self, x: np.ndarray) -> np.ndarray:
        """Parameters m̄ + Ψx (..., dM) in canonical dof order of latent points (..., rM)."""
        return self.dino.input_basis.decode(x)

    def pointwise_variance(self, posterior: LatentPosterior) -> np.ndarray:
        """Pointwise posterior variance (n, dM): the prior's less diag(ΨV diag(λ/(1+λ)) VᵀΨᵀ).

        Raises
        ------
        InputError
            If the variance of the prior was not given.
        """
        if self.prior_variance is None:
            raise InputError(
                "prior_variance: was not given. Make ReducedInference(dino, noise_covariance, prior_variance=...) with "
                "the values of prior.pointwise_variance(method='Exact') in canonical dof order."
            )
        share = posterior.eigenvalues / (1 + posterior.eigenvalues)
        decoder = self.dino.input_basis.decoder
        reduction = [((decoder @ V) ** 2) @ s for V, s in zip(posterior.vectors, share, strict=True)]
        return self.prior_variance - np.array(reduction)

    # ---- one file ------------------------------------------------------------------------

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """DINO and noise in one file, which `load` reads without FEniCS and Keras, and `hd.DINO.load` reads too.

        Raises
        ------
        InputError
            If the file exists and `overwrite` is False.
        """
        arrays = {"inference/noise_covariance": self.noise_covariance.value}
        if self.prior_variance is not None:
            arrays["inference/prior_variance"] = np.asarray(self.prior_variance)
        self.dino.save(path, overwrite, extra=arrays)

    @classmethod
    def load(cls, path: str | Path) -> ReducedInference:
        """Read a file that `save` wrote.

        Raises
        ------
        ModelFileError
            If it is missing, damaged, or the file of a DINO without noise.
        """
        dino = DINO.load(path)
        arrays = read_arrays(path, "inference/")
        if "noise_covariance" not in arrays:
            raise ModelFileError(
                f"path: {str(path)!r} is a DINO without noise covariance. Make ReducedInference(hd.DINO.load(path), "
                "noise_covariance)."
            )
        return cls(dino, arrays["noise_covariance"], prior_variance=arrays.get("prior_variance"))


def check_of_observables(dino: DINO) -> None:
    """Raise `InputError` for a DINO with a control, or one of whole states, whose noise has no values of its own."""
    if dino.input_basis.control_rank:
        raise InputError("dino: was trained with a control, which has no prior; train one of the parameter alone.")
    if dino.whole_state:
        raise InputError(
            "dino: gives whole states; train one of pointwise observables, or infer by hIPPYlib on hd.SurrogateModel."
        )


def _chunks(n: int) -> Iterator[slice]:
    return (slice(first, first + CHUNK) for first in range(0, n, CHUNK))
