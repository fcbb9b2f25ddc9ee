"""Proposals of the Langevin family in latent coordinates, and their acceptance ratios.

There the prior is N(0, I), and all of pCN, MALA, mMALA and generalised pCN are one formula.  With a potential Φ (the
misfit), a metric I + H and a force s, the semi-implicit Euler step of length h of dx = -x + (I+H)⁻¹ s with its noise is

    x* = ρx + (1-ρ) (I+H)⁻¹ s(x) + √(1-ρ²) (I+H)^-½ ξ,   ξ ~ N(0, I),   ρ = (4-h)/(4+h).

| proposal | force s | metric H |
|---|---|---|
| pCN | 0 | 0 |
| MALA | -∇Φ(x) | 0 |
| geometric (mMALA) | H(x) x - ∇Φ(x) | Gauss-Newton Hessian at x |
| Laplace (generalised pCN) | (I+H) μ | of a Gaussian N(μ, (I+H)⁻¹) |

The move of pCN alone, x* ~ N(ρx, (1-ρ²) I), is reversible with respect to the prior.  With b = (x* - ρx)/√(1-ρ²),
N(0, I) under it and N(√h/2 (I+H)⁻¹s, (I+H)⁻¹) under the proposal, the log density of the latter with respect to the
former is

    -(h/8) sᵀ(I+H)⁻¹s + (√h/2) bᵀs - ½ bᵀHb + ½ ln det(I+H),

and the ratio of Metropolis and Hastings is exp(r(x*, x) - r(x, x*)) with r(x, x*) that density less Φ(x).
Only H = AᵀA in factors is ever needed, neither eigenpairs nor a square matrix of the latent dimension.

Reference: Cao, O'Leary-Roseberry, Ghattas, "Derivative-informed neural operator acceleration of geometric MCMC",
arXiv 2403.08220; Beskos, Girolami, Lan, Farrell, Stuart, "Geometric MCMC for infinite-dimensional inverse problems",
J. Comput. Phys. 335 (2017).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotrs

from hippylib_dino.errors import InputError, SolveError

if TYPE_CHECKING:
    import hippylib as hp

    from hippylib_dino.mcmc.potentials import LatentCoordinates


Derivatives = Literal["none", "gradient", "metric"]


class Evaluation(NamedTuple):
    """The potential at a point, with what derivatives were asked for.

    Attributes
    ----------
    potential : float
        Φ, ½‖d - q‖² in noise standard deviations.
    gradient : ndarray, (rM,), or None
        ∇Φ.
    factor : ndarray, (k, rM), or None
        A of the Gauss-Newton Hessian AᵀA.
    """

    potential: float
    gradient: np.ndarray | None = None
    factor: np.ndarray | None = None

    def is_finite(self) -> bool:
        """Whether no number in it is NaN or infinite."""
        return all(np.isfinite(part).all() for part in self if part is not None)


class Metric:
    """I + AᵀA in factors.

    Parameters
    ----------
    factor : (k, rM)
        A.

    Raises
    ------
    SolveError
        If the metric cannot be factored in double precision.
    """

    def __init__(self, factor: np.ndarray):
        self._factor = factor
        with np.errstate(over="ignore", invalid="ignore"):  # seen below
            small = factor @ factor.T
        small.flat[:: len(small) + 1] += 1.0
        self._cholesky, info = dpotrf(small, lower=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            self.log_det = 2.0 * float(np.log(self._cholesky.diagonal()).sum())
        if info or not np.isfinite(self.log_det):
            raise SolveError("the metric I + A Aᵀ is not positive definite in double precision: A has huge entries.")

    def solve(self, vector: np.ndarray) -> np.ndarray:
        """(I + AᵀA)⁻¹ v = v - Aᵀ(I + AAᵀ)⁻¹ A v."""
        return vector - self._factor.T @ dpotrs(self._cholesky, self._factor @ vector, lower=True)[0]

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A sample of N(0, (I + AᵀA)⁻¹): (I + AᵀA)⁻¹ (ξ₁ + Aᵀξ₂), whose covariance that is."""
        k, n = self._factor.shape
        return self.solve(rng.standard_normal(n) + self._factor.T @ rng.standard_normal(k))

    def misfit_energy(self, vector: np.ndarray) -> float:
        """vᵀAᵀA v."""
        image = self._factor @ vector
        return float(image @ image)


class LatentPoint(NamedTuple):
    """Where a chain is in latent coordinates, with what a proposal from there needs.

    Attributes
    ----------
    x : (rM,)
    potential : float
        Φ.
    force : (rM,) or None
        s; None is zero.
    metric : Metric or None
        None is the prior's, I.
    """

    x: np.ndarray
    potential: float
    force: np.ndarray | None
    metric: Metric | None


class Proposal(ABC):
    """A proposal of length h in latent coordinates.

    Parameters
    ----------
    step : float
        h > 0.  hIPPYlib's pCN and gpCN have s = 4√h/(4+h), its MALA ``delta_t`` = h/2.  With h = 4 pCN and the
        Laplace proposal are independent of the current point.

    Attributes
    ----------
    derivatives : str
        What points need of the potential: "none", its "gradient", or also the Gauss-Newton factor of its "metric".
    """

    derivatives: Derivatives

    def __init__(self, step: float):
        if not (np.isfinite(step) and step > 0):
            raise InputError(f"step: expected a length h > 0, got {step}.")
        self.step = float(step)

    @property
    def rho(self) -> float:
        """ρ = (4-h)/(4+h)."""
        return (4.0 - self.step) / (4.0 + self.step)

    @abstractmethod
    def point(self, x: np.ndarray, evaluation: Evaluation) -> LatentPoint:
        """The point x (rM,) with force and metric."""

    def prepare(self, coordinates: LatentCoordinates) -> None:  # noqa: B027  most need nothing
        """Read off what the proposal needs of the problem, before a chain starts."""

    def draw(self, point: LatentPoint, rng: np.random.Generator) -> np.ndarray:
        """x* (rM,)."""
        rho, metric = self.rho, point.metric
        noise = rng.standard_normal(len(point.x)) if metric is None else metric.draw(rng)
        mean = rho * point.x
        if point.force is not None:
            mean += (1.0 - rho) * (point.force if metric is None else metric.solve(point.force))
        return mean + np.sqrt(1.0 - rho**2) * noise

    def log_density(self, point: LatentPoint, x: np.ndarray) -> float:
        """r(point, x): log density of proposing x, with respect to pCN's move of the same length, less Φ(point)."""
        b = (x - self.rho * point.x) / np.sqrt(1.0 - self.rho**2)
        value = -point.potential
        if point.metric is not None:
            value += 0.5 * (point.metric.log_det - point.metric.misfit_energy(b))
        if point.force is not None:
            drift = point.force if point.metric is None else point.metric.solve(point.force)
            value += 0.5 * np.sqrt(self.step) * (b @ point.force) - self.step / 8.0 * (point.force @ drift)
        return float(value)

    def log_ratio(self, point: LatentPoint, other: LatentPoint) -> float:
        """Logarithm of the ratio of Metropolis and Hastings for the move from `point` to `other`."""
        return self.log_density(other, point.x) - self.log_density(point, other.x)


class PCN(Proposal):
    """Preconditioned Crank-Nicolson: the prior alone."""

    derivatives = "none"

    def point(self, x: np.ndarray, evaluation: Evaluation) -> LatentPoint:
        return LatentPoint(x, evaluation.potential, None, None)


class MALA(Proposal):
    """Metropolis-adjusted Langevin in the metric of the prior."""

    derivatives = "gradient"

    def point(self, x: np.ndarray, evaluation: Evaluation) -> LatentPoint:
        if evaluation.gradient is None:
            raise InputError("evaluation: expected the gradient of the potential, got none.")
        return LatentPoint(x, evaluation.potential, -evaluation.gradient, None)


class Geometric(Proposal):
    """mMALA without the derivative of the metric: Gauss-Newton Hessian and gradient at each point."""

    derivatives = "metric"

    def point(self, x: np.ndarray, evaluation: Evaluation) -> LatentPoint:
        gradient, factor = evaluation.gradient, evaluation.factor
        if gradient is None or factor is None:
            raise InputError("evaluation: expected gradient and Gauss-Newton factor of the potential, got none.")
        return LatentPoint(x, evaluation.potential, factor.T @ (factor @ x) - gradient, Metric(factor))


class Laplace(Proposal):
    """Generalised pCN: reversible with respect to a Laplace approximation of the posterior.

    Parameters
    ----------
    step : float
    posterior : hp.GaussianLRPosterior
        From `hd.laplace`, of the surrogate or of the PDE; it shapes the proposals, and decides nothing else.
    """

    derivatives = "none"

    def __init__(self, step: float, posterior: hp.GaussianLRPosterior):
        super().__init__(step)
        if posterior.mean is None:
            raise InputError("posterior: has no mean; assign posterior.mean, as `hd.laplace` does.")
        self.posterior = posterior

    def prepare(self, coordinates: LatentCoordinates) -> None:
        vectors = [self.posterior.U[i] for i in range(len(self.posterior.d))]
        modes = np.array([coordinates.pair(vector) for vector in vectors])  # rows (RΨ)ᵀu
        factor = np.sqrt(np.maximum(self.posterior.d, 0.0))[:, None] * modes
        mean = coordinates.encode(self.posterior.mean)
        self._metric = Metric(factor)
        self._force = mean + factor.T @ (factor @ mean)

    def point(self, x: np.ndarray, evaluation: Evaluation) -> LatentPoint:
        return LatentPoint(x, evaluation.potential, self._force, self._metric)
