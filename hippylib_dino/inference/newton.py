"""MAP points of many data sets at once, in whitened latent coordinates.

Every data set minimises ½‖Lᵀf(x) - b‖² + ½‖x‖², with W = L Lᵀ the noise precision in the output basis, the same for all
data sets or, where they are of different sensors, one for each.  In these
coordinates the prior precision is the identity, so that the Euclidean norm of a gradient is the norm in which
hIPPYlib's solvers stop.

1. Gauss-Newton with a trust region in the form of Levenberg and Marquardt: the step solves (μI + JᵀJ + I) s = -g, and μ
   is the multiplier of the trust region's constraint.  With K = μ + 1 the Woodbury identity leaves an rQ × rQ system.
2. From a gradient small enough on, full Newton: conjugate gradients on products with the Hessian (Steihaug's stop at
   negative curvature), preconditioned by the last Gauss-Newton Hessian, so that no Jacobian is formed again.

All is in double precision but the sweeps of Jacobians, which only make steps, as long as their rounding is small.

References
----------
Nielsen, "Damping parameter in Marquardt's method", IMM-REP-1999-05, section 4 (update of μ).
Nocedal, Wright, "Numerical Optimization", 2nd ed., algorithms 7.1 and 7.2 (Newton-CG), equation 7.3 (forcing term).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg.blas import dsyrk, dtrsm
from scipy.linalg.lapack import dpotrf

from hippylib_dino.network.latent_map import LatentMap, Linearization

ARMIJO = 1e-4
NEWTON_FROM = 1e-2  # gradient relative to the start, from which on full Newton is the faster
SINGLE_UP_TO = 1e5  # sum of the eigenvalues of the misfit's Gauss-Newton Hessian
ROUNDING = 1e-13  # of the cost: differences below it decide nothing
STALLED = 30  # halvings of a Newton step, or dampings of a Gauss-Newton step, until a data set is given up


@dataclass
class LatentSolutions:
    """MAP points of a batch of data sets.

    Attributes
    ----------
    x : (n, rM)
        Latent MAP points.
    cost : (n,)
        ½‖d - F̂‖²_{Γ⁻¹} + ½‖x‖², as hIPPYlib counts it.
    gradient_norm : (n,)
        Its gradient's norm, relative to that at the prior mean.
    iterations : (n,)
        Steps taken, Gauss-Newton and Newton together.
    converged : (n,)
        Whether `gradient_norm` is at most the tolerance, or as small as rounding lets it be: the step that was left
        changed the cost by less than its rounding, and the gradient no more.
    """

    x: np.ndarray
    cost: np.ndarray
    gradient_norm: np.ndarray
    iterations: np.ndarray
    converged: np.ndarray


class _Points:
    """Cost, gradient and Hessian of some data sets at their points."""

    def __init__(self, f: LatentMap, L: np.ndarray, b: np.ndarray, x: np.ndarray):
        self.x, self._L = x, L
        self._at: Linearization = f.linearize(x)
        value = self._at.value
        self._residual = (value @ L if L.ndim == 2 else (value[:, None] @ L)[:, 0]) - b
        # a network may give values that are not finite far from its training data: no step goes there
        with np.errstate(over="ignore", invalid="ignore"):
            cost = 0.5 * ((self._residual**2).sum(axis=-1) + (x**2).sum(axis=-1))
        self.cost = np.where(np.isfinite(cost), cost, np.inf)

    def gradient(self) -> np.ndarray:
        return self.x + self._at.vjp(self._dual())

    def _dual(self) -> np.ndarray:
        """L(Lᵀf - b), the gradient of the misfit in the output basis, (n, rQ)."""
        return self._residual @ self._L.T if self._L.ndim == 2 else (self._L @ self._residual[..., None])[..., 0]

    def hessian(self) -> Callable[[np.ndarray], np.ndarray]:
        """v (n, rM) to Hv."""
        misfit = self._at.hessian(self._dual(), self._L @ self._L.swapaxes(-1, -2))
        return lambda v: v + misfit(v)


def _jacobian(f: LatentMap, L: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Lᵀ∂f (n, k, rM), in single precision where its rounding, times ‖Lᵀ∂f‖², is small against the prior."""
    rows = np.broadcast_to(L.swapaxes(-1, -2), (len(x), *L.shape[:-3:-1]))
    at = f.linearize_roughly(x)
    J = at.pull(rows.astype(at.value.dtype))
    if J.dtype == np.float32 and not (J**2).sum(axis=(1, 2)).max() < SINGLE_UP_TO:
        return f.linearize(x).pull(rows)
    return J.astype(float)


class _GaussNewtonInverse:
    """(K I + JᵀJ)⁻¹ = (I - PᵀP)/K with P = C⁻¹J and CCᵀ = K I + JJᵀ, as small as J has rows (Woodbury)."""

    def __init__(self, J: np.ndarray, shift: np.ndarray):
        self._shift, self._P = shift[:, None], np.empty_like(J)
        for Jk, k, P in zip(J, shift, self._P, strict=True):  # SciPy's BLAS is much faster than NumPy's, see there
            gram = dsyrk(1.0, Jk.T, trans=1, lower=1)
            gram.flat[:: len(gram) + 1] += k
            # its rows in memory are the columns of Fortran's: P = C⁻¹J as Pᵀ = JᵀC⁻ᵀ
            P[:] = dtrsm(1.0, dpotrf(gram, lower=1)[0], Jk.T, side=1, lower=1, trans_a=1).T

    def at(self, k: np.ndarray) -> _GaussNewtonInverse:
        """Those of some data sets."""
        part = object.__new__(_GaussNewtonInverse)
        part._shift, part._P = self._shift[k], self._P[k]
        return part

    def __call__(self, v: np.ndarray) -> np.ndarray:
        seen = np.matmul(self._P, v[..., None])
        return (v - np.matmul(self._P.swapaxes(1, 2), seen)[..., 0]) / self._shift


def solve(
    f: LatentMap,
    L: np.ndarray,
    b: np.ndarray,
    start: np.ndarray,
    *,
    rel_tolerance: float,
    max_iter: int,
    scale: np.ndarray | None = None,
) -> LatentSolutions:
    """Minimise ½‖Lᵀf(x) - b‖² + ½‖x‖² for each row of `b`.

    Parameters
    ----------
    f : LatentMap
    L : (rQ, k) or (n, rQ, k)
    b : (n, k)
    start : (n, rM)
    rel_tolerance : float
        Of the gradient's norm, relative to that at x = 0.
    max_iter : int
        Steps of both kinds together.
    scale : (n,), optional
        The gradient's norm at x = 0, where it is known.
    """
    if scale is None:
        value, jacobian = f.value_and_jacobian(np.zeros(f.input_rank))
        residual = value @ L - b
        scale = np.linalg.norm((residual[:, None] @ (L.swapaxes(-1, -2) @ jacobian))[:, 0], axis=1)
    scale = np.maximum(scale, np.finfo(float).tiny)
    state = _State(start.copy(), np.zeros(len(b), dtype=int), scale, np.zeros(len(b), dtype=bool))
    J = _gauss_newton(f, L, b, state, max(rel_tolerance, NEWTON_FROM), max_iter)
    _newton(f, L, b, state, J, rel_tolerance, max_iter)
    points = _Points(f, L, b, state.x)
    norm = np.linalg.norm(points.gradient(), axis=1) / scale
    return LatentSolutions(state.x, points.cost, norm, state.iterations, (norm <= rel_tolerance) | state.at_floor)


def _of(L: np.ndarray, k: np.ndarray) -> np.ndarray:
    """L of the data sets `k`."""
    return L if L.ndim == 2 else L[k]


@dataclass
class _State:
    x: np.ndarray
    iterations: np.ndarray
    scale: np.ndarray  # norm of the gradient at the prior mean
    at_floor: np.ndarray  # where rounding allows no smaller gradient

    def far(self, gradient: np.ndarray, tolerance: float) -> np.ndarray:
        """False also where the gradient is not finite: no step is to be had from there."""
        return np.linalg.norm(gradient, axis=1) > tolerance * self.scale


def _gauss_newton(
    f: LatentMap, L: np.ndarray, b: np.ndarray, state: _State, tolerance: float, max_iter: int
) -> np.ndarray:
    """Step until the gradient is below `tolerance`; return the last Jacobians, (n, k, rM)."""
    points = _Points(f, L, b, state.x)
    cost, gradient, J = points.cost, points.gradient(), _jacobian(f, L, state.x)
    damping, growth = np.zeros(len(b)), np.full(len(b), 2.0)
    # a first damping, should one be needed: a fraction of the Hessian's mean eigenvalue
    least = 1e-3 * np.maximum((J**2).sum(axis=(1, 2)) / J.shape[1], 1.0)
    refused = np.zeros(len(b), dtype=int)
    while True:
        k = np.flatnonzero(state.far(gradient, tolerance) & (state.iterations < max_iter) & (refused < STALLED))
        if len(k) == 0:
            return J
        step = _GaussNewtonInverse(J[k], 1.0 + damping[k])(-gradient[k])
        predicted = 0.5 * ((damping[k, None] * step - gradient[k]) * step).sum(axis=1)
        trial = _Points(f, _of(L, k), b[k], state.x[k] + step)
        ratio = (cost[k] - trial.cost + ROUNDING * np.abs(cost[k])) / predicted
        good = (predicted > 0) & (ratio > ARMIJO)
        damping[k] = np.where(
            good,
            damping[k] * np.maximum(1 / 3, 1 - (2 * np.clip(ratio, 0, 1) - 1) ** 3),
            np.maximum(damping[k], least[k]) * growth[k],
        )
        growth[k] = np.where(good, 2.0, 2.0 * growth[k])
        refused[k] = np.where(good, 0, refused[k] + 1)
        state.iterations[k] += good
        state.x[k[good]], cost[k[good]] = trial.x[good], trial.cost[good]
        gradient[k[good]] = trial.gradient()[good]
        new = k[good][state.far(gradient, tolerance)[k[good]]]
        if len(new):
            J[new] = _jacobian(f, _of(L, new), state.x[new])


def _newton(
    f: LatentMap, L: np.ndarray, b: np.ndarray, state: _State, J: np.ndarray, tolerance: float, max_iter: int
) -> None:
    """Newton-CG steps, preconditioned by I + JᵀJ, until the gradient is below `tolerance`."""
    active = np.arange(len(b))
    inverse, last, left = None, np.full(len(b), np.inf), np.full(len(b), np.inf)
    while True:
        points = _Points(f, _of(L, active), b[active], state.x[active])
        gradient = points.gradient()
        norm = np.linalg.norm(gradient, axis=1) / state.scale[active]
        state.at_floor[active] = (left[active] <= ROUNDING * points.cost) & (norm > 0.5 * last[active])
        going = (norm > tolerance) & (state.iterations[active] < max_iter) & ~state.at_floor[active]
        if not going.any():
            return
        if not going.all():
            active = active[going]
            continue
        inverse = inverse or _GaussNewtonInverse(J, np.ones(len(b)))
        step = _conjugate_gradients(points.hessian(), inverse.at(active), gradient, np.minimum(0.1, norm))
        slope = (gradient * step).sum(axis=1)
        last[active], left[active] = norm, -slope
        moved = _backtrack(f, _of(L, active), b[active], points, step, slope)
        state.x[active] = np.where(moved[:, None] > 0, points.x + moved[:, None] * step, points.x)
        state.iterations[active] += 1
        active = active[moved > 0]
        if len(active) == 0:
            return


def _backtrack(
    f: LatentMap, L: np.ndarray, b: np.ndarray, points: _Points, step: np.ndarray, slope: np.ndarray
) -> np.ndarray:
    """Armijo's step lengths (n,); 0 where none was found."""
    length, found = np.ones(len(b)), np.zeros(len(b), dtype=bool)
    allowed = points.cost + ROUNDING * np.abs(points.cost)
    for _ in range(STALLED):
        k = np.flatnonzero(~found)
        trial = _Points(f, _of(L, k), b[k], points.x[k] + length[k, None] * step[k])
        found[k] = trial.cost <= allowed[k] + ARMIJO * length[k] * slope[k]
        length[~found] *= 0.5
        if found.all():
            break
    return np.where(found, length, 0.0)


def _conjugate_gradients(action, inverse, gradient: np.ndarray, forcing: np.ndarray) -> np.ndarray:
    """H s = -g to ‖residual‖ ≤ forcing ‖g‖ for each row, by preconditioned conjugate gradients in lockstep."""
    step, residual = np.zeros_like(gradient), -gradient
    target = forcing * np.linalg.norm(gradient, axis=1)
    z = inverse(residual)
    direction, rz = z, (residual * z).sum(axis=1)
    going = np.ones(len(gradient), dtype=bool)
    for iteration in range(gradient.shape[1]):
        image = action(direction)
        curvature = (direction * image).sum(axis=1)
        if iteration == 0:  # of negative curvature at once, the preconditioned gradient is the step
            step = np.where((curvature <= 0)[:, None], direction, step)
        going &= curvature > 0
        length = np.where(going, rz / np.where(going, curvature, 1.0), 0.0)
        step = step + length[:, None] * direction
        residual = residual - length[:, None] * image
        going &= np.linalg.norm(residual, axis=1) > target
        if not going.any():
            break
        z = inverse(residual)
        new = (residual * z).sum(axis=1)
        direction = z + (new / rz)[:, None] * direction
        rz = new
    return step
