"""What the PDE says of a surrogate's MAP point and of its Laplace approximation."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, NamedTuple

import dolfin as dl
import hippylib as hp
import numpy as np
from hippylib.utils.warnings import ModelConvergenceError
from rich.console import Console
from rich.table import Table

from hippylib_dino.errors import InputError, SolveError
from hippylib_dino.modeling.jacobian import reason
from hippylib_dino.modeling.jacobian_model import JacobianModel
from hippylib_dino.modeling.spaces import owned_values, set_owned_values
from hippylib_dino.random_streams import Purpose, generator
from hippylib_dino.surrogate.curvature import ask
from hippylib_dino.surrogate.metric import (
    dual_norm,
    gaussian,
    latent_posterior,
    observed_inner,
    owned_rows,
    parameter_to_judge,
)
from hippylib_dino.surrogate.model import SurrogateModel

NAN = float("nan")
MAX_JACOBIAN_ERROR = 0.5  # beyond it the surrogate's Hessian is no metric to measure a distance with


@dataclass(frozen=True)
class Cost:
    """½‖Bu - d‖²_{Γ⁻¹} and ½‖m - m̄‖²_R, without unit."""

    misfit: float = NAN
    regularization: float = NAN

    @property
    def total(self) -> float:
        """Their sum, the negative log-posterior up to a constant."""
        return self.misfit + self.regularization


@dataclass(frozen=True, eq=False)
class Certificate:
    """The PDE's judgement of a point; what could not be computed is NaN, and `reason` says why.

    Attributes
    ----------
    threshold : float
        Of `relative_distance`.
    n_forward, n_adjoint, n_linearized : int
        PDE solves that this took; the linearised ones share one factorization.
    reason : str
        Why it is not trusted; empty if it is.
    cost, surrogate_cost : Cost
        Of the PDE and of the surrogate, at the point.
    gradient_norm : float
        √(gᵀ R⁻¹ g) of the PDE's gradient g, relative to that of the surrogate at the prior mean, where only the misfit
        has a gradient.  Not hIPPYlib's norm √(gᵀ M⁻¹ g): that of the prior covariance does not depend on the mesh, and
        measures g along a draw from the prior.
    distance : float
        √(gᵀ H⁻¹ g) ≈ ‖m - m_MAP‖_H, the estimated distance to the PDE's MAP point, H the Hessian of the PDE's cost as
        far as it was asked about (`surrogate.curvature`).  In posterior standard deviations:
        |wᵀ(m - m_MAP)| ≤ distance · √(wᵀ H⁻¹ w) for every linear functional w of the parameter.
    largest_direction : float
        The part of `distance` along the one of the surrogate's posterior eigenvectors where it is largest; what is
        outside the input basis counts as one direction.  A mean over many directions does not show it.
    outside_basis : float
        The part of `distance` outside the surrogate's input basis, √(gᵀ(R⁻¹ - ΨΨᵀ)g) or the whole if that is less: what
        the data tell there is not counted.
    informed_directions : float
        n = Σ γλ/(1+γλ), the directions that the data inform, by the surrogate's eigenvalues, less where the PDE sees
        only a share γ of what the surrogate sees; at least 1.
    observable_error : float
        Root mean square of F̂(m) - F(m) over the observables, in noise standard deviations: those of the misfit's own
        curvature at F(m), Γ^½ for Gaussian noise; of whole states the norm ‖F̂(m) - F(m)‖_{Γ⁻¹}.
    jacobian_error : float
        Relative error of the misfit's gradient Ĵᵀ Γ⁻¹ (F(m) - d), in the norm of the prior covariance.
    hessian_error : float
        Root mean square error of the surrogate's Hessian over the informed directions, relative to it, by one draw.
    lowest_curvature : float
        The least curvature of the PDE's cost, relative to the surrogate's, in the directions asked about: 1 of an exact
        surrogate.  Below 1 the surrogate took the posterior for narrower than it is; where it is not positive the point
        is no minimum.
    corrected : dolfin vector, (dM,), or None
        m - H⁻¹ g, where the distance is measured to.  Nearer to the PDE's MAP point where the distance is small; a full
        Newton step at which the PDE has not been asked, it may overshoot where it is large.
    """

    threshold: float
    n_forward: int
    n_adjoint: int
    n_linearized: int
    reason: str
    cost: Cost = Cost()
    surrogate_cost: Cost = Cost()
    gradient_norm: float = NAN
    distance: float = NAN
    largest_direction: float = NAN
    outside_basis: float = NAN
    informed_directions: float = NAN
    observable_error: float = NAN
    jacobian_error: float = NAN
    hessian_error: float = NAN
    lowest_curvature: float = NAN
    corrected: dl.GenericVector | None = None

    @property
    def relative_distance(self) -> float:
        """distance/√n: the root mean square displacement over the informed directions, in posterior deviations."""
        return self.distance / self.informed_directions**0.5

    @property
    def excess_cost(self) -> float:
        """½ distance², by how much the PDE's cost is estimated to be above its minimum."""
        return 0.5 * self.distance**2

    @property
    def trusted(self) -> bool:
        """True if `relative_distance` is at most `threshold` and nothing speaks against the estimate."""
        return not self.reason

    def __str__(self) -> str:
        table = Table(title="What the PDE says of the surrogate's answer", title_justify="left")
        for heading in ("", "PDE", "surrogate"):
            table.add_column(heading, justify="right" if heading else "left")
        for label, name in (("cost", "total"), ("  misfit", "misfit"), ("  regularization", "regularization")):
            table.add_row(label, *(f"{getattr(cost, name):.6g}" for cost in (self.cost, self.surrogate_cost)))
        table.add_section()
        table.add_row("gradient, relative to that at the prior mean", f"{self.gradient_norm:.2e}", "")
        table.add_row("distance to the PDE's MAP, posterior deviations", f"{self.distance:.3g}", "")
        table.add_row(f"  per informed direction ({self.informed_directions:.1f})", f"{self.relative_distance:.3g}", "")
        table.add_row("  along the one of its directions that is largest", f"{self.largest_direction:.3g}", "")
        table.add_row("cost above its minimum, estimated", f"{self.excess_cost:.3g}", "")
        table.add_row("error of an observable, noise deviations", "", f"{self.observable_error:.3g}")
        table.add_row("error of the Jacobian on the residual", "", f"{self.jacobian_error:.2%}")
        table.add_row("error of the Hessian, an informed direction", "", f"{self.hessian_error:.2%}")
        table.add_row("least curvature found, relative to the surrogate's", f"{self.lowest_curvature:.3g}", "")
        verdict = f"trusted: {self.relative_distance:.3g} <= {self.threshold:g}" if self.trusted else "NOT trusted"
        text = io.StringIO()
        Console(file=text, width=100).print(table)
        lines = [text.getvalue().rstrip(), verdict + (f": {self.reason}" if self.reason else "")]
        return "\n".join(
            [*lines, f"PDE solves: {self.n_forward} forward, {self.n_adjoint} adjoint, {self.n_linearized} linearised"]
        )


def certify(
    surrogate: SurrogateModel, model: JacobianModel, x, *, threshold: float = 0.3, seed: int = 0
) -> Certificate:
    """How far a surrogate's MAP point is from the PDE's, by one PDE solve, one adjoint and a few linearised solves.

    A draw from the posterior is displaced from its mean by one standard deviation in each of the n directions that the
    data inform; the surrogate's MAP point, from the PDE's, by distance/√n in root mean square.  With the default
    threshold of 0.3 the surrogate adds at most √(1 + 0.3²) - 1 = 4.4 % to the root mean square error of the estimate.

    The estimate is of first order in the distance.  The PDE is asked for its Hessian in the direction of the step, in
    a random one, and in that of the largest error which this shows: a surrogate of wrong curvature neither hides the
    distance nor passes a saddle.  A point is refused where one of these curvatures is not positive, and where
    `Certificate.jacobian_error` exceeds 0.5.

    Parameters
    ----------
    surrogate : SurrogateModel
    model : JacobianModel
        The PDE's, with the same misfit and prior.
    x : [u, m, p] or dolfin vector
        What a solver returned for the surrogate; only m, (dM,), primal, is used.  Any m will do.
    threshold : float
        Of the verdict, in posterior standard deviations per informed direction.
    seed : int
        Of the random direction.

    Returns
    -------
    Certificate
        Also where the PDE cannot be solved or the network's answer is not finite: not trusted, with the reason.
        ``print(certificate)`` shows all of it.

    Raises
    ------
    InputError, VectorError
        If an argument is of the wrong kind, or surrogate and PDE have different data or noise.
    FingerprintError
        If the surrogate was trained for another problem.

    Notes
    -----
    gᵀ H⁻¹ g is twice the decrease of the cost that a Newton step promises, Boyd, Vandenberghe, Convex Optimization,
    section 9.5.1.  Three or four Hessian products, of two linearised solves each with one factorization, tell H; the
    surrogate's Hessian, by latent algebra exact, is the metric (`surrogate.curvature`, `latent_posterior`).  The first
    solve of a nonlinear PDE may need one more, at the prior mean, for its initial guess; it is counted.

    Examples
    --------
    ::

        solution = hp.ReducedSpaceNewtonCG(surrogate, parameters).solve([None, prior.mean.copy(), None])
        certificate = hd.certify(surrogate, model, solution)
        if not certificate.trusted:
            solution = hd.refine(surrogate, model, solution)
    """
    if not threshold > 0:
        raise InputError(f"threshold: expected > 0, got {threshold}.")
    m = parameter_to_judge(surrogate, model, x)
    before = model.n_fwd_solve, model.n_adj_solve, model.n_inc_solve
    numbers: dict[str, Any] = {}
    reasons = []
    answer = posterior = None
    try:
        answer = _ask_pde(model, m)
        numbers["cost"] = answer.cost
    except (RuntimeError, ModelConvergenceError) as error:  # SolveError is one; dolfin raises a bare RuntimeError
        reasons.append(f"the PDE at this point: {reason(error)}")
    try:
        posterior = _judge_alone(surrogate, m, numbers)
        if answer is not None:
            _compare(surrogate, model, m, answer, numbers)
    except ModelConvergenceError as error:
        reasons.append(f"the surrogate at this point: {reason(error)}")
    if answer is not None and posterior is not None and not reasons:
        try:
            _measure(model, answer, posterior, generator(Purpose.CERTIFICATE, seed), numbers)
            reasons = _objections(numbers, threshold)
        except (RuntimeError, ModelConvergenceError) as error:
            reasons.append(f"the PDE linearised at this point: {reason(error)}")
    after = model.n_fwd_solve, model.n_adj_solve, model.n_inc_solve
    n_forward, n_adjoint, n_linearized = (a - b for a, b in zip(after, before, strict=True))
    return Certificate(threshold, n_forward, n_adjoint, n_linearized, "; ".join(reasons), **numbers)


class _Answer(NamedTuple):
    """What one solve and one adjoint give: the point, this rank's piece of the observable, dual gradients."""

    x: list
    cost: Cost
    observable: np.ndarray
    misfit_gradient: dl.GenericVector
    gradient: dl.GenericVector


def _ask_pde(model: JacobianModel, m: dl.GenericVector) -> _Answer:
    x = [model.solveState(m), m, model.generate_vector(hp.ADJOINT)]
    _, regularization, misfit = model.cost(x)
    model.solveAdj(x[hp.ADJOINT], x)
    misfit_gradient, gradient = model.generate_vector(hp.PARAMETER), model.generate_vector(hp.PARAMETER)
    model.evalGradientParameter(x, misfit_gradient, misfit_only=True)
    model.prior.grad(m, gradient)
    gradient.axpy(1.0, misfit_gradient)
    if not np.isfinite([misfit, gradient.norm("l2")]).all():
        raise SolveError("cost or gradient is not finite (NaN or infinity).")
    return _Answer(x, Cost(misfit, regularization), model.observe_local(x[hp.STATE]), misfit_gradient, gradient)


def _judge_alone(surrogate: SurrogateModel, m: dl.GenericVector, numbers: dict[str, Any]) -> hp.GaussianLRPosterior:
    """Add the numbers of a certificate that need no PDE; the surrogate's Laplace posterior."""
    x = surrogate.generate_vector()
    x[hp.PARAMETER].axpy(1.0, m)
    surrogate.solveFwd(x[hp.STATE], x)
    _, regularization, misfit = surrogate.cost(x)
    numbers["surrogate_cost"] = Cost(misfit, regularization)
    posterior = latent_posterior(surrogate, m)
    numbers["informed_directions"] = _informed(posterior)
    return posterior


def _informed(posterior: hp.GaussianLRPosterior, share: float = 1.0) -> float:
    """n of the eigenvalues λ times a share."""
    informed = share * np.maximum(posterior.d, 0.0)
    return max(float((informed / (1 + informed)).sum()), 1.0)


def _compare(
    surrogate: SurrogateModel, model: JacobianModel, m: dl.GenericVector, answer: _Answer, numbers: dict[str, Any]
) -> None:
    """Add what compares the surrogate's answers with the PDE's."""
    covariance = surrogate.prior.Rsolver
    data = model.data_space
    gap = data.local(surrogate.evalObservable(m)) - answer.observable
    squared = float(observed_inner(surrogate, m, answer.observable, gap[:, None])[0, 0])
    numbers["observable_error"] = float(np.sqrt(max(squared, 0.0) / (1 if model.whole_state else data.dim)))
    start = _misfit_gradient(surrogate, surrogate.prior.mean)
    numbers["gradient_norm"] = _ratio(dual_norm(covariance, answer.gradient), dual_norm(covariance, start))
    difference = _misfit_gradient(surrogate, m, answer.observable)
    difference.axpy(-1.0, answer.misfit_gradient)
    size = dual_norm(covariance, answer.misfit_gradient)
    numbers["jacobian_error"] = _ratio(dual_norm(covariance, difference), size)


def _measure(
    model: JacobianModel,
    answer: _Answer,
    posterior: hp.GaussianLRPosterior,
    rng: np.random.Generator,
    numbers: dict[str, Any],
) -> None:
    """Add the distance, in the PDE's curvature, and what is wrong with the surrogate's."""
    model.setPointForHessianEvaluations(answer.x, gauss_newton_approx=False)
    found = ask(hp.ReducedHessian(model), posterior, answer.gradient, rng)
    numbers["informed_directions"] = _informed(posterior, min(max(found.share, 0.0), 1.0))
    numbers["distance"], numbers["lowest_curvature"] = found.distance, found.lowest
    numbers["hessian_error"] = found.error / _informed(posterior) ** 0.5
    corrected = answer.x[hp.PARAMETER].copy()
    corrected.axpy(1.0, found.step)
    numbers["corrected"] = corrected
    numbers["largest_direction"] = _largest_part(posterior, found.step)
    parts = np.array(posterior.U.dot_v(answer.gradient))
    squared = dual_norm(model.prior.Rsolver, answer.gradient) ** 2 - float(parts @ parts)
    numbers["outside_basis"] = min(float(np.sqrt(max(squared, 0.0))), found.distance)


def _largest_part(posterior: hp.GaussianLRPosterior, step: dl.GenericVector) -> float:
    """The largest coordinate of a step in posterior deviations; what is outside the basis is one of them."""
    dual = step.copy()
    posterior.prior.R.mult(step, dual)
    parts = np.array(posterior.U.dot_v(dual))
    outside = max(step.inner(dual) - float(parts @ parts), 0.0)
    return float(max(np.abs(parts * np.sqrt(1 + np.maximum(posterior.d, 0.0))).max(), np.sqrt(outside)))


def _misfit_gradient(
    surrogate: SurrogateModel, m: dl.GenericVector, observable: np.ndarray | None = None
) -> dl.GenericVector:
    """Ĵᵀ Γ⁻¹ (q - d), with q the surrogate's own observable by default, or this rank's piece of another."""
    x = surrogate.generate_vector()
    x[hp.PARAMETER].axpy(1.0, m)
    surrogate.solveFwd(x[hp.STATE], x)
    if observable is not None:
        set_owned_values(x[hp.STATE], owned_rows(x[hp.STATE], observable))
    surrogate.solveAdj(x[hp.ADJOINT], x)
    gradient = surrogate.generate_vector(hp.PARAMETER)
    surrogate.evalGradientParameter(x, gradient, misfit_only=True)
    return gradient


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else (0.0 if a == 0 else np.inf)


def _objections(numbers: dict[str, Any], threshold: float) -> list[str]:
    """What speaks against a point at which everything could be computed."""
    relative = numbers["distance"] / numbers["informed_directions"] ** 0.5
    out = []
    if not numbers["lowest_curvature"] > 0:
        out.append(
            f"the PDE's cost has a curvature of {numbers['lowest_curvature']:.2g} times the surrogate's along one "
            "direction: the point is no minimum, as a saddle is none, and has no distance to one"
        )
    if not relative <= threshold:
        out.append(f"{relative:.3g} posterior standard deviations per informed direction > {threshold:g}")
    if not numbers["jacobian_error"] <= MAX_JACOBIAN_ERROR:
        out.append(
            f"the surrogate's Jacobian is off by {numbers['jacobian_error']:.0%} where the PDE was asked, "
            f"> {MAX_JACOBIAN_ERROR:.0%}: the distance cannot be estimated"
        )
    return out


@dataclass(frozen=True, eq=False)
class LaplaceCertificate:
    """The surrogate's Laplace approximation, corrected by the PDE in its leading directions.

    Attributes
    ----------
    posterior : hp.GaussianLRPosterior
        The corrected eigenpairs, with the surrogate's in the directions that were not asked about.
    eigenvalues, surrogate_eigenvalues : (k,)
        Of the PDE's Gauss-Newton misfit Hessian in the span of the surrogate's k leading eigenvectors, and the
        surrogate's own, relative to the prior precision, descending.
    n_forward, n_linearized : int
        PDE solves that this took.
    """

    posterior: hp.GaussianLRPosterior
    eigenvalues: np.ndarray
    surrogate_eigenvalues: np.ndarray
    n_forward: int
    n_linearized: int

    @property
    def relative_change(self) -> np.ndarray:
        """(surrogate's - corrected)/corrected eigenvalues, (k,)."""
        return self.surrogate_eigenvalues / self.eigenvalues - 1

    def __str__(self) -> str:
        change = np.abs(self.relative_change)
        ends = f"{self.eigenvalues[0]:.4g} .. {self.eigenvalues[-1]:.4g}"
        return (
            f"{len(change)} leading eigenvalues, {ends}: the surrogate is off by {change.mean():.2%} on average, "
            f"{change.max():.2%} at most; PDE solves: {self.n_forward} forward, {self.n_linearized} linearised"
        )


def certify_laplace(surrogate: SurrogateModel, model: JacobianModel, x, *, k: int = 30) -> LaplaceCertificate:
    """The surrogate's Laplace approximation at `x`, corrected by k linearised PDE solves with one factorization.

    Rayleigh-Ritz: with U = [u_1 .. u_k] the surrogate's leading eigenvectors, R-orthonormal, the eigenpairs of the
    (k x k) matrix (JU)ᵀ Γ⁻¹ (JU) are the best that the span of U can tell of the PDE's Gauss-Newton Hessian.  An
    eigenvalue is a lower bound of the PDE's, off by the square of the angle between its eigenvector and that span.

    Parameters
    ----------
    surrogate : SurrogateModel
    model : JacobianModel
        The PDE's, with the same misfit and prior.
    x : [u, m, p] or dolfin vector
        What a solver returned for the surrogate, or `refine`; only m, (dM,), primal, is used.
    k : int
        Directions to ask about, at most the rank of the surrogate's input basis.

    Raises
    ------
    InputError, VectorError, FingerprintError
        As `certify` does, and for `k` out of range.
    SolveError
        If the PDE cannot be solved or linearised at m.
    hippylib.utils.warnings.ModelConvergenceError
        If the network's answer at m is not finite.

    References
    ----------
    Parlett, The Symmetric Eigenvalue Problem, SIAM 1998, sections 11.4 and 11.7.

    Examples
    --------
    ::

        corrected = hd.certify_laplace(surrogate, model, solution, k=30)
        print(corrected)
        variance = corrected.posterior.pointwise_variance(method="Exact")[0]
    """
    m = parameter_to_judge(surrogate, model, x)
    rank = surrogate.dino.input_basis.rank
    if not 1 <= k <= rank:
        raise InputError(f"k: expected 1 .. {rank}, the rank of the surrogate's input basis, got {k}.")
    before = model.n_fwd_solve
    posterior = latent_posterior(surrogate, m)
    vectors = np.stack([owned_values(posterior.U[j]) for j in range(rank)], axis=1)
    observable, jacobian = model.linearize(m)
    columns = jacobian.mult_local(vectors[:, :k])
    ritz, rotation = np.linalg.eigh(observed_inner(surrogate, m, model.data_space.local(observable), columns))
    ritz, rotation = np.maximum(ritz[::-1], 0.0), rotation[:, ::-1]
    eigenvalues = np.append(ritz, posterior.d[k:])
    vectors[:, :k] = vectors[:, :k] @ rotation
    order = np.argsort(eigenvalues)[::-1]
    corrected = gaussian(model.prior, eigenvalues[order], vectors[:, order], m)
    return LaplaceCertificate(corrected, ritz, posterior.d[:k].copy(), model.n_fwd_solve - before, k)
