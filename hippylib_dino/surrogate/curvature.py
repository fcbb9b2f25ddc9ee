"""What a few products with the PDE's own Hessian say of the surrogate's, and of the distance to the PDE's MAP point.

With H the PDE's Hessian and Ĥ the surrogate's as a metric, T = Ĥ^{-½} H Ĥ^{-½} is the identity for an exact surrogate.
Three directions are asked about: the Newton step Ĥ⁻¹g, a draw w from the surrogate's Laplace posterior in the span of
its input basis, and Ĥ⁻¹(H - Ĥ)w, which turns to where the error is largest (a step of the power method); a fourth where
these leave a doubt.  Rayleigh and Ritz in their span V bound the spectrum of T from inside, and

    gᵀH⁻¹g = bᵀ(VᵀHV)⁻¹b + rᵀH⁻¹r,    b = Vᵀg,    r = g - HV(VᵀHV)⁻¹b,

whose last term is taken as rᵀĤ⁻¹r / θ, with θ the smallest Ritz value of T, or 1 if that is less.
"""

from __future__ import annotations

from dataclasses import dataclass

import dolfin as dl
import hippylib as hp
import numpy as np

from hippylib_dino.errors import SolveError
from hippylib_dino.modeling.spaces import owned_values, set_owned_values, sum_over_ranks

SPREAD = 0.5  # the norm of T - I beyond which one of its eigenvalues may be near -1
TAIL = 0.1  # the share of gᵀH⁻¹g that may be estimated
SMALLEST = 1e-6  # a direction that is left by cancellation has no meaning


@dataclass(frozen=True, eq=False)
class Curvature:
    """The PDE's curvature against the surrogate's.

    Attributes
    ----------
    step : dolfin vector, (dM,)
        -H⁻¹g as far as the directions tell, or -Ĥ⁻¹g where H is not positive definite.
    distance : float
        √(gᵀ H⁻¹ g), estimated; √(gᵀ Ĥ⁻¹ g) where H is not positive definite.
    lowest : float
        The smallest Ritz value of T: of an exact surrogate 1.
    error : float
        ‖Ĥ^{-½}(H - Ĥ)w‖, of which the mean square is that of the Frobenius norm of T - I on the input basis.
    share : float
        wᵀ(H - R)w / wᵀ(Ĥ - R)w: how much of the information that the surrogate sees the PDE sees too.
    """

    step: dl.GenericVector
    distance: float
    lowest: float
    error: float
    share: float


def ask(
    hessian: hp.ReducedHessian,
    posterior: hp.GaussianLRPosterior,
    gradient: dl.GenericVector,
    rng: np.random.Generator,
) -> Curvature:
    """Ask the PDE.

    Parameters
    ----------
    hessian : hp.ReducedHessian
        H, of the PDE at the point, prior included.
    posterior : hp.GaussianLRPosterior
        The surrogate's there: ``Hlr`` is Ĥ.
    gradient : dolfin vector, (dM,), dual
        g, of the PDE.
    rng : numpy.random.Generator
        In the same state on every rank.

    Raises
    ------
    SolveError
        If a product is not finite.

    References
    ----------
    Parlett, The Symmetric Eigenvalue Problem, SIAM 1998, chapter 11, for Ritz values; Golub, Meurant, Matrices, Moments
    and Quadrature with Applications, Princeton 2010, for bounds of gᵀH⁻¹g.
    """
    span = _Span(hessian, posterior.Hlr, gradient)
    span.add(-span.smooth_gradient, -owned_values(gradient))
    w, dual, seen = _draw(posterior, gradient, rng)
    first = len(span.directions)
    size = span.add(w, dual)
    image = size * size * float(span.inner(span.directions[first], span.images[first]))
    prior_part = size * size - seen  # wᵀRw
    share = (image - prior_part) / seen if seen > 0 else 1.0
    error = size * span.add_error(first)
    found = span.solve()
    if found.theta[0] > 0:
        if error > SPREAD:
            span.add_error(first + 1)
        elif found.tail > TAIL * found.lower:
            span.add_residual(found)
        found = span.solve()
    return _curvature(span, found, gradient, error, share)


def _draw(
    posterior: hp.GaussianLRPosterior, gradient: dl.GenericVector, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float]:
    """w = Σ ±u_j ξ_j/√(1+λ_j), Ĥw, and wᵀ(Ĥ - R)w.

    Each u_j is taken with the sign in which it has a component along the gradient: that of an eigenvector is arbitrary,
    and another one on another partition of the mesh.
    """
    d = np.maximum(posterior.d, 0.0)
    coefficients = rng.standard_normal(len(d)) / np.sqrt(1 + d)
    w, dual = posterior.mean.copy(), posterior.mean.copy()
    w.zero()
    for coefficient, u in zip(coefficients, (posterior.U[j] for j in range(len(d))), strict=True):
        w.axpy(float(np.copysign(coefficient, coefficient * gradient.inner(u))), u)
    posterior.Hlr.mult(w, dual)
    return owned_values(w).copy(), owned_values(dual).copy(), float((d * coefficients**2).sum())


@dataclass(frozen=True, eq=False)
class _Solved:
    """Ritz values, ascending; coefficients of the step; the two terms of gᵀH⁻¹g, the second one without θ."""

    theta: np.ndarray
    coefficients: np.ndarray
    lower: float
    tail: float


class _Span:
    """Directions v of unit length in Ĥ, as owned values, with Ĥv, Hv and Ĥ⁻¹Hv."""

    def __init__(self, hessian: hp.ReducedHessian, metric, gradient: dl.GenericVector):
        self._hessian, self._metric = hessian, metric
        self._x, self._y = gradient.copy(), gradient.copy()
        self._comm = gradient.mpi_comm()
        self.gradient = owned_values(gradient).copy()
        self.smooth_gradient = self._smooth(self.gradient)  # Ĥ⁻¹g
        self.directions: list[np.ndarray] = []
        self.duals: list[np.ndarray] = []
        self.images: list[np.ndarray] = []
        self.smooth_images: list[np.ndarray] = []

    def inner(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return sum_over_ranks(a.T @ b, self._comm)

    def _length(self, v: np.ndarray, dual: np.ndarray) -> float:
        return float(np.sqrt(max(float(self.inner(v, dual)), 0.0)))

    def _smooth(self, dual: np.ndarray) -> np.ndarray:
        set_owned_values(self._x, dual)
        self._metric.solve(self._y, self._x)
        return owned_values(self._y).copy()

    def add(self, v: np.ndarray, dual: np.ndarray) -> float:
        """Ask about v, whose Ĥv is `dual`; its length in Ĥ, and nothing is asked where that is 0."""
        size = self._length(v, dual)
        if size > 0:
            set_owned_values(self._x, v / size)
            self._hessian.mult(self._x, self._y)
            image = owned_values(self._y).copy()
            if not np.isfinite(float(self.inner(image, image))):
                raise SolveError("a product with the PDE's Hessian is not finite (NaN or infinity).")
            self.directions.append(v / size)
            self.duals.append(dual / size)
            self.images.append(image)
            self.smooth_images.append(self._smooth(image))
        return size

    def add_error(self, j: int) -> float:
        """Ask about Ĥ⁻¹(H - Ĥ)v_j; its length."""
        v, dual = self.smooth_images[j] - self.directions[j], self.images[j] - self.duals[j]
        size = self._length(v, dual)
        return self.add(v, dual) if size > SMALLEST else size

    def add_residual(self, found: _Solved) -> None:
        """Ask about Ĥ⁻¹r, as conjugate gradients would."""
        self.add(*self._residual(found.coefficients))

    def _residual(self, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ĥ⁻¹r and r = g + HV a."""
        return (
            self.smooth_gradient + np.column_stack(self.smooth_images) @ coefficients,
            self.gradient + np.column_stack(self.images) @ coefficients,
        )

    def step(self, coefficients: np.ndarray) -> np.ndarray:
        return np.column_stack(self.directions) @ coefficients

    def solve(self) -> _Solved:
        """Rayleigh, Ritz and Galerkin in the span."""
        V, duals, images = (np.column_stack(part) for part in (self.directions, self.duals, self.images))
        lengths, Q = np.linalg.eigh(self.inner(V, duals))
        kept = lengths > SMALLEST * lengths[-1]
        Q = Q[:, kept] / np.sqrt(lengths[kept])
        projected = Q.T @ self.inner(V, images) @ Q
        theta, P = np.linalg.eigh(0.5 * (projected + projected.T))
        b = P.T @ (Q.T @ self.inner(V, self.gradient))
        inverse = np.divide(1.0, theta, out=np.zeros_like(theta), where=theta > 0)
        coefficients = -Q @ (P @ (inverse * b))
        tail = max(float(self.inner(*self._residual(coefficients))), 0.0)
        return _Solved(theta, coefficients, float((inverse * b**2).sum()), tail)


def _curvature(span: _Span, found: _Solved, gradient: dl.GenericVector, error: float, share: float) -> Curvature:
    step, lowest = gradient.copy(), float(found.theta[0])
    if lowest > 0:
        set_owned_values(step, span.step(found.coefficients))
        squared = found.lower + found.tail / min(lowest, 1.0)
    else:
        set_owned_values(step, -span.smooth_gradient)
        squared = max(float(span.inner(span.smooth_gradient, span.gradient)), 0.0)
    return Curvature(step, float(np.sqrt(squared)), lowest, error, share)
