"""Covariance of the observation noise.  NumPy and SciPy only, so that inference needs no dolfin."""

from __future__ import annotations

import numpy as np
import scipy.linalg as sla

from hippylib_dino.errors import InputError, MisfitError

WHOLE_STATE = "mass matrix of the observed state"  # in fingerprints of problems whose observable is the whole state


class NoiseCovariance:
    """Covariance Γ of Gaussian observation noise: scalar variance, diagonal or dense matrix.

    Parameters
    ----------
    value : float, (dQ,) or (dQ, dQ) array
        Variance of every observable, variances, or a symmetric positive definite matrix; in the
        observable's units squared.
    dim : int
        dQ.

    Raises
    ------
    MisfitError
        If `value` has another shape, or is not symmetric positive definite.

    Examples
    --------
    >>> import numpy as np
    >>> gamma = NoiseCovariance([1.0, 4.0], dim=2)
    >>> gamma.solve(np.array([1.0, 1.0]))
    array([1.  , 0.25])
    """

    def __init__(self, value, dim: int):
        value = np.asarray(value, dtype=float)
        self.dim = dim
        if value.shape not in ((), (dim,), (dim, dim)):
            raise MisfitError(
                f"noise covariance: expected a scalar, ({dim},) variances or a ({dim}, {dim}) matrix, "
                f"got shape {value.shape}."
            )
        if not np.isfinite(value).all():
            raise MisfitError("noise covariance: has entries that are not finite; check the variance you set.")
        self.value = value
        if value.ndim == 2:
            if not np.allclose(value, value.T, rtol=1e-10, atol=0):
                raise MisfitError("noise covariance: the matrix is not symmetric; pass (G + G.T) / 2.")
            try:
                self._root = np.linalg.cholesky(value)
            except np.linalg.LinAlgError as error:
                raise MisfitError("noise covariance: the matrix is not positive definite.") from error
        else:
            if (value <= 0).any():
                raise MisfitError(f"noise variance: expected > 0, got {value.min():g}; set misfit.noise_variance.")
            self._root = np.sqrt(value)

    @classmethod
    def of(cls, noise_covariance, dim: int) -> NoiseCovariance:
        """What a user gives as the noise of `dim` observables: one of these already, or what makes one.

        Raises
        ------
        InputError
            If it is one of another number of observables.
        MisfitError
            If it makes none.
        """
        if not isinstance(noise_covariance, cls):
            return cls(noise_covariance, dim)
        if noise_covariance.dim != dim:
            raise InputError(f"noise_covariance: expected one of {dim} observables, got one of {noise_covariance.dim}.")
        return noise_covariance

    def _columns(self, a: np.ndarray) -> np.ndarray:
        """The diagonal root, shaped to divide the rows of `a`."""
        return self._root if self.value.ndim == 0 or a.ndim == 1 else self._root[:, None]

    def whiten(self, a: np.ndarray) -> np.ndarray:
        """L⁻¹ a for Γ = L Lᵀ; `a` is (dQ,) or (dQ, k).  Rows become noise standard deviations."""
        if self.value.ndim == 2:
            return sla.solve_triangular(self._root, a, lower=True)
        return a / self._columns(a)

    def color(self, a: np.ndarray) -> np.ndarray:
        """L a for Γ = L Lᵀ, the inverse of `whiten`; `a` is (dQ,) or (dQ, k)."""
        return self._root @ a if self.value.ndim == 2 else a * self._columns(a)

    def solve(self, a: np.ndarray) -> np.ndarray:
        """Γ⁻¹ a, from data space to its dual; `a` is (dQ,) or (dQ, k)."""
        if self.value.ndim == 2:
            return sla.cho_solve((self._root, True), a)
        return a / self._columns(a) ** 2

    def to_dense(self) -> np.ndarray:
        """Γ as a (dQ, dQ) array."""
        return self.value if self.value.ndim == 2 else np.diag(np.broadcast_to(self.value, (self.dim,)))

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """A draw from N(0, Γ), shape (dQ,)."""
        return self.color(rng.standard_normal(self.dim))
