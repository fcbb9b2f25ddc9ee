"""Distributions of controls: what an MR-DINO is trained on.  NumPy and SciPy only, so that training needs no dolfin."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import scipy.linalg as sla
from scipy.special import gammaincinv

from hippylib_dino.errors import InputError

_COVERED = 0.999  # probability of what counts as inside an unbounded distribution


class ControlDistribution(ABC):
    """Distribution of z (dZ,) with mean z̄ and covariance C = L Lᵀ; ζ = L⁻¹(z - z̄) has zero mean and covariance I.

    Attributes
    ----------
    mean : (dZ,)
        z̄, in the control's own units.
    factor : (dZ, dZ)
        L, lower triangular.
    """

    kinds: ClassVar[dict[str, type[ControlDistribution]]] = {}
    mean: np.ndarray
    factor: np.ndarray

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        ControlDistribution.kinds[cls.__name__] = cls

    @property
    def dim(self) -> int:
        """dZ."""
        return len(self.mean)

    def decode(self, latent: np.ndarray) -> np.ndarray:
        """ζ (..., dZ) to z (..., dZ)."""
        return self.mean + np.asarray(latent) @ self.factor.T

    def encode(self, z: np.ndarray) -> np.ndarray:
        """z (..., dZ) to ζ (..., dZ)."""
        return sla.solve_triangular(self.factor, (np.asarray(z, dtype=float) - self.mean).T, lower=True).T

    @abstractmethod
    def draw(self, rng: np.random.Generator, n: int | None = None) -> np.ndarray:
        """One control (dZ,), or n of them (n, dZ)."""

    @abstractmethod
    def contains(self, z: np.ndarray) -> bool:
        """Whether z (dZ,) lies where controls are drawn: there a surrogate was trained."""

    @abstractmethod
    def get_config(self) -> dict:
        """Its kind and numbers, for JSON; `control_from_config` makes it again."""


class UniformControl(ControlDistribution):
    """Independent controls, uniform between bounds.

    Parameters
    ----------
    lower, upper : (dZ,)
        In the control's own units.

    Raises
    ------
    InputError
        If the bounds are not arrays of one length, not finite, or not in order.

    Examples
    --------
    >>> UniformControl([-4.0, 0.0], [4.0, 1.0]).mean
    array([0. , 0.5])
    """

    def __init__(self, lower: np.ndarray, upper: np.ndarray):
        self.lower, self.upper = _vector("lower", lower), _vector("upper", upper)
        if self.lower.shape != self.upper.shape:
            raise InputError(
                f"lower, upper: expected one length, got {self.lower.shape} and {self.upper.shape}. "
                "Pass np.full(n, bound) for equal bounds."
            )
        wrong = np.flatnonzero(self.lower >= self.upper)
        if len(wrong):
            i = int(wrong[0])
            raise InputError(
                f"lower, upper: expected lower < upper for every control, got {self.lower[i]} and {self.upper[i]} for "
                f"control {i}. Exchange them, or leave a control that is fixed out of the control space."
            )
        self.mean = 0.5 * (self.lower + self.upper)
        self.factor = np.diag((self.upper - self.lower) / np.sqrt(12.0))

    def draw(self, rng: np.random.Generator, n: int | None = None) -> np.ndarray:
        return rng.uniform(self.lower, self.upper, None if n is None else (n, self.dim))

    def contains(self, z: np.ndarray) -> bool:
        slack = 1e-9 * (self.upper - self.lower)
        return bool(np.all((z >= self.lower - slack) & (z <= self.upper + slack)))

    def get_config(self) -> dict:
        return {"kind": "UniformControl", "lower": self.lower.tolist(), "upper": self.upper.tolist()}


class GaussianControl(ControlDistribution):
    """Gaussian controls.

    Parameters
    ----------
    mean : (dZ,)
        In the control's own units.
    covariance : float, (dZ,) or (dZ, dZ)
        One variance, variances, or a matrix.

    Raises
    ------
    InputError
        If the covariance is not of this shape, or not symmetric and positive definite.

    Examples
    --------
    >>> GaussianControl([1.0, 2.0], 4.0).encode([3.0, 2.0])
    array([1., 0.])
    """

    def __init__(self, mean: np.ndarray, covariance: float | np.ndarray):
        self.mean = _vector("mean", mean)
        C, n = np.asarray(covariance, dtype=float), len(self.mean)
        if C.shape not in ((), (n,), (n, n)):
            raise InputError(f"covariance: expected a number, shape ({n},) or ({n}, {n}), got {C.shape}.")
        self.covariance = C if C.ndim == 2 else np.diag(np.broadcast_to(C, n))
        try:
            if not np.allclose(self.covariance, self.covariance.T, rtol=1e-10, atol=0):
                raise np.linalg.LinAlgError
            self.factor = np.linalg.cholesky(self.covariance)
        except np.linalg.LinAlgError:
            raise InputError(
                "covariance: expected a symmetric positive definite matrix, or positive variances; its Cholesky factor "
                "does not exist."
            ) from None

    def draw(self, rng: np.random.Generator, n: int | None = None) -> np.ndarray:
        return self.decode(rng.standard_normal(self.dim if n is None else (n, self.dim)))

    def contains(self, z: np.ndarray) -> bool:
        quantile = 2 * gammaincinv(self.dim / 2, _COVERED)  # of chi-squared; SciPy's stats are slow to import
        return bool((self.encode(z) ** 2).sum() <= quantile)

    def get_config(self) -> dict:
        return {"kind": "GaussianControl", "mean": self.mean.tolist(), "covariance": self.covariance.tolist()}


def control_from_config(config: dict) -> ControlDistribution:
    """The distribution that `get_config` described.

    Raises
    ------
    InputError
        If its kind is not known.
    """
    kind = config.get("kind")
    if kind not in ControlDistribution.kinds:
        raise InputError(f"control: expected one of {sorted(ControlDistribution.kinds)}, got {kind!r}.")
    return ControlDistribution.kinds[kind](**{key: value for key, value in config.items() if key != "kind"})


def _vector(name: str, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise InputError(f"{name}: expected finite numbers of shape (dZ,), dZ at least 1, got shape {values.shape}.")
    return values
