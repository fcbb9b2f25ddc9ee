"""From the surrogate's MAP point to the PDE's."""

from __future__ import annotations

import contextlib
import functools
from typing import NamedTuple

import dolfin as dl
import hippylib as hp
import numpy as np
from hippylib.utils.warnings import ModelConvergenceError

from hippylib_dino.errors import InputError, SolveError
from hippylib_dino.modeling.jacobian_model import JacobianModel
from hippylib_dino.surrogate.metric import latent_posterior, parameter_to_judge
from hippylib_dino.surrogate.model import SurrogateModel

MAX_CG = 100
C_ARMIJO, MAX_BACKTRACKING = 1e-4, 10  # hIPPYlib's
ROUNDING = 1e-11  # of the cost, by what a forward solve leaves of its residual
KEPT_STEPS, KEPT_DIRECTIONS = 5, 20  # of conjugate gradients, for the preconditioner of the next steps


class _Forcing(NamedTuple):
    """Relative tolerance of the first linear systems, and how many Newton steps take the Gauss-Newton Hessian."""

    coarse: float
    gauss_newton: int


# with a preconditioner that is nearly the inverse a digit costs one or two linearised solves, less than another step;
# at the MAP points of poor surrogates the PDE's full Hessian is not positive definite
WARM = _Forcing(0.03, 2)
COLD = _Forcing(0.5, 5)  # hIPPYlib's


class Refinement(list):
    """The PDE's MAP point [u, m, p], as hIPPYlib takes it, with the record of how it was found.

    Attributes
    ----------
    converged : bool
        Whether `gradient_norm` is at most `tolerance`, or as small as the rounding of the cost lets it be.
    reason : str
        Why it ended.
    start : str
        "surrogate", or "prior mean" where the PDE could not be solved at the surrogate's point, or costs more there.
    gradient_norm, tolerance : float
        √(gᵀ M⁻¹ g), hIPPYlib's norm.
    cost : float
        Of the PDE, misfit and regularization.
    newton_iterations, cg_iterations : int
    n_forward, n_adjoint, n_linearized : int
        PDE solves; the linearised ones, forward and adjoint, are those of Hessian actions.
    """

    def __init__(self, point: list):
        super().__init__(point)
        self.converged, self.reason, self.start = False, "", "surrogate"
        self.gradient_norm = self.tolerance = self.cost = float("nan")
        self.newton_iterations = self.cg_iterations = 0
        self.n_forward = self.n_adjoint = self.n_linearized = 0


def refine(
    surrogate: SurrogateModel,
    model: JacobianModel,
    x,
    *,
    rel_tolerance: float = 1e-6,
    abs_tolerance: float = 1e-12,
    max_iter: int = 50,
) -> Refinement:
    """The PDE's own MAP point, by inexact Newton-CG from the surrogate's.

    Its conjugate gradients are preconditioned by the surrogate's Laplace covariance at `x`, R⁻¹ - U Λ(I + Λ)⁻¹ Uᵀ, in
    place of the prior's R⁻¹, and by the PDE's own curvature along the directions of former Newton steps.  Gradient,
    Hessian, line search and stopping test are the PDE's: a wrong surrogate makes this slower, not wrong.  Where its
    point or its covariance are of no use this ends as a cold Newton-CG.

    Parameters
    ----------
    surrogate : SurrogateModel
    model : JacobianModel
        The PDE's, with the same misfit and prior.
    x : [u, m, p] or dolfin vector
        What a solver returned for the surrogate; only m, (dM,), primal, is used, and left as it is.
    rel_tolerance : float
        Of the gradient relative to that of the PDE at the *prior mean*, as a cold start from there has it.  It costs
        one PDE solve and one adjoint, which 0 saves.
    abs_tolerance : float
        Of the gradient, in hIPPYlib's norm √(gᵀ M⁻¹ g); the larger of both tolerances counts.
    max_iter : int
        Newton steps with the surrogate's preconditioner, and as many with the prior if these did not converge.

    Returns
    -------
    Refinement
        [u, m, p]; check ``converged``.

    Raises
    ------
    InputError, VectorError, FingerprintError
        As `certify` does.
    SolveError
        If the PDE cannot be solved at the prior mean where it is needed.

    References
    ----------
    Inexact Newton-CG with Steihaug's and Eisenstat-Walker's tests: Villa, Petra, Ghattas, "hIPPYlib", ACM Trans. Math.
    Softw. 47 (2021).  Preconditioner from former steps: Morales, Nocedal, SIAM J. Optim. 10 (2000) 1079-1096.

    Examples
    --------
    ::

        exact = hd.refine(surrogate, model, solution)
        print(exact.converged, exact.newton_iterations, exact.n_linearized)
        posterior = hd.laplace(model, exact)
    """
    if not (0 <= rel_tolerance < 1 and abs_tolerance >= 0 and rel_tolerance + abs_tolerance > 0):
        raise InputError(
            f"rel_tolerance, abs_tolerance: expected 0 <= rel_tolerance < 1 and abs_tolerance >= 0, not both 0, got "
            f"{rel_tolerance} and {abs_tolerance}."
        )
    m = parameter_to_judge(surrogate, model, x)
    before = model.n_fwd_solve, model.n_adj_solve, model.n_inc_solve
    out = _start(model, m, rel_tolerance, abs_tolerance)
    attempts = [(model.prior.Rsolver, COLD)]
    if out.start == "surrogate":
        with contextlib.suppress(ModelConvergenceError):  # the network's answer is not finite here
            attempts.insert(0, (latent_posterior(surrogate, m).Hlr, WARM))
    for covariance, forcing in attempts:
        _newton(out, model, covariance, forcing, max_iter)
        if out.converged:
            break
    counts = model.n_fwd_solve, model.n_adj_solve, model.n_inc_solve
    out.n_forward, out.n_adjoint, out.n_linearized = (a - b for a, b in zip(counts, before, strict=True))
    return out


def _start(model: JacobianModel, m: dl.GenericVector, rel_tolerance: float, abs_tolerance: float) -> Refinement:
    """The surrogate's point or the prior mean, with the tolerance."""
    tolerance, mean, cost_at_mean = abs_tolerance, None, float("inf")
    if rel_tolerance > 0:
        mean = _solved(model, model.prior.mean)
        cost_at_mean = model.cost(mean)[0]
        model.solveAdj(mean[hp.ADJOINT], mean)
        norm = model.evalGradientParameter(mean, model.generate_vector(hp.PARAMETER))
        tolerance = max(abs_tolerance, rel_tolerance * norm)
    try:
        point = _solved(model, m)
        useful = model.cost(point)[0] <= cost_at_mean  # False for NaN
    except SolveError:
        useful = False
    out = Refinement(point if useful else mean or _solved(model, model.prior.mean))
    out.start = "surrogate" if useful else "prior mean"
    out.tolerance = tolerance
    return out


def _solved(model: JacobianModel, m: dl.GenericVector) -> list:
    return [model.solveState(m), m.copy(), model.generate_vector(hp.ADJOINT)]


def _newton(out: Refinement, model: JacobianModel, covariance, forcing: _Forcing, max_iter: int) -> None:
    """Go on with Newton-CG where `out` stands, and add to its record."""
    gradient, step = model.generate_vector(hp.PARAMETER), model.generate_vector(hp.PARAMETER)
    out.cost, first = model.cost(out)[0], 0.0
    last, left = float("inf"), float("inf")  # norm of the last gradient, and what the last step was to decrease
    former: list[list] = []
    for steps in range(max_iter + 1):
        model.solveAdj(out[hp.ADJOINT], out)
        gauss_newton = steps < forcing.gauss_newton
        out.gradient_norm = model.evalGradientParameter(out, gradient)
        small = out.gradient_norm <= out.tolerance
        at_floor = left <= ROUNDING * abs(out.cost) and out.gradient_norm > 0.5 * last
        out.converged = small or at_floor
        if out.converged or steps == max_iter:
            break
        first = first or out.gradient_norm
        model.setPointForHessianEvaluations(out, gauss_newton_approx=gauss_newton)
        hessian = _RecordingHessian(model)
        preconditioner = functools.reduce(_Updated, former[-KEPT_STEPS:], covariance)
        solver = hp.CGSolverSteihaug(hp.CGSolverSteihaug_ParameterList(), comm=gradient.mpi_comm())
        solver.set_operator(hessian)
        solver.set_preconditioner(preconditioner)
        solver.parameters["rel_tolerance"] = min(forcing.coarse, (out.gradient_norm / first) ** 0.5)
        solver.parameters["max_iter"], solver.parameters["print_level"] = MAX_CG, -1
        solver.solve(step, -gradient)
        former.append(hessian.pairs)
        out.newton_iterations += 1
        out.cg_iterations += hessian.ncalls
        last, left = out.gradient_norm, -gradient.inner(step)
        if not _line_search(out, model, step, -left):
            out.reason = "the line search found no descent"
            return
    if small:
        out.reason = "the gradient is small enough"
    elif at_floor:
        out.reason = "steps change the cost by less than its rounding, and the gradient no more"
    else:
        out.reason = f"{max_iter} Newton steps were taken"


def _line_search(out: Refinement, model: JacobianModel, step: dl.GenericVector, slope: float) -> bool:
    """Move `out` along `step` by the first of 1, 1/2, 1/4, ... that decreases the cost by Armijo's rule."""
    u, m, _ = out
    for alpha in 0.5 ** np.arange(MAX_BACKTRACKING):
        there, state = m.copy(), u.copy()
        there.axpy(float(alpha), step)
        try:
            model.solveFwd(state, [u.copy(), there, None])
            cost = model.cost([state, there, None])[0]
        except (RuntimeError, ModelConvergenceError):  # dolfin raises a bare RuntimeError
            continue
        if cost <= out.cost + C_ARMIJO * alpha * slope + ROUNDING * abs(out.cost):
            out[hp.STATE], out[hp.PARAMETER], out.cost = state, there, cost
            return True
    return False


class _RecordingHessian(hp.ReducedHessian):
    """Keeps the first directions of positive curvature that it is applied to, as (s, Hs, sᵀHs)."""

    def __init__(self, model: hp.Model):
        super().__init__(model)
        self.pairs: list[tuple[dl.GenericVector, dl.GenericVector, float]] = []

    def mult(self, x: dl.GenericVector, y: dl.GenericVector) -> None:
        super().mult(x, y)
        curvature = x.inner(y)
        if curvature > 0 and len(self.pairs) < KEPT_DIRECTIONS:
            self.pairs.append((x.copy(), y.copy(), curvature))


class _Updated:
    """The BFGS update of a preconditioner P with conjugate directions S and their images HS, D = SᵀHS diagonal.

    (I - S D⁻¹ (HS)ᵀ) P (I - HS D⁻¹ Sᵀ) + S D⁻¹ Sᵀ, positive definite as P is.
    """

    def __init__(self, inner, pairs: list):
        self._inner, self._pairs = inner, pairs

    def solve(self, z: dl.GenericVector, r: dl.GenericVector) -> None:
        """z = P r."""
        along = [s.inner(r) / curvature for s, _, curvature in self._pairs]
        rest = r.copy()
        for coefficient, (_, image, _) in zip(along, self._pairs, strict=True):
            rest.axpy(-coefficient, image)
        self._inner.solve(z, rest)
        back = [image.inner(z) / curvature for _, image, curvature in self._pairs]
        for a, b, (s, _, _) in zip(along, back, self._pairs, strict=True):
            z.axpy(a - b, s)
