"""From the surrogate's optimal control to the PDE's, by few evaluations of the PDE."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from hippylib_dino.errors import InputError
from hippylib_dino.ouu.ensembles import Ensemble, checked_control
from hippylib_dino.ouu.journal import Journal
from hippylib_dino.ouu.minimization import (
    Iterate,
    OptimalControl,
    check_within,
    checked_bounds,
    minimize,
    projected_norm,
)
from hippylib_dino.ouu.objective import Objective

INNER_ITERATIONS = 200  # of the surrogate, for each evaluation of the PDE
GOOD, POOR = 0.75, 0.25  # of the decrease that was expected: the region grows, or shrinks
GROWTH, SHRINKAGE = 2.0, 0.25
AT_BORDER = 0.99  # of the region's radius: a step of this size is one that the region holds back


class CorrectedEnsemble(Ensemble):
    """A surrogate that at one control has the values and gradients of another ensemble, sample by sample.

    q̂_i(z) + q_i(z₀) - q̂_i(z₀) + (∇q_i(z₀) - ∇q̂_i(z₀))ᵀ(z - z₀), with the surrogate q̂ and the samples q of the PDE.

    Parameters
    ----------
    surrogate : Ensemble
        q̂.
    z : (dZ,)
        z₀.
    q : (n,)
    jacobian : (n, dZ)
        q and ∇q at z₀.
    """

    def __init__(self, surrogate: Ensemble, z: np.ndarray, q: np.ndarray, jacobian: np.ndarray):
        self._surrogate, self._z = surrogate, z
        self.n, self.n_control = surrogate.n, surrogate.n_control
        there, slope = surrogate.quantity_and_jacobian(z)
        self._shift, self._slope = q - there, jacobian - slope

    def quantity(self, z: np.ndarray) -> np.ndarray:
        return self._surrogate.quantity(z) + self._shift + self._slope @ (z - self._z)

    def quantity_and_jacobian(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        q, jacobian = self._surrogate.quantity_and_jacobian(z)
        return q + self._shift + self._slope @ (z - self._z), jacobian + self._slope

    def hessian_actions(self, z: np.ndarray, direction: np.ndarray) -> np.ndarray:
        return self._surrogate.hessian_actions(z, direction)


def polish(
    objective: Objective,
    surrogate: Ensemble,
    start: np.ndarray,
    *,
    bounds: tuple[float | np.ndarray, float | np.ndarray] | None = None,
    max_evaluations: int = 5,
    tolerance: float = 1e-4,
    path: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> OptimalControl:
    """Minimise an objective of the PDE with few of its evaluations, the surrogate doing the rest.

    Each evaluation of the PDE corrects the surrogate (`CorrectedEnsemble`), whose optimum within a trust region is the
    next control, accepted if the PDE says it is better.  The correction makes value and gradient of the objective the
    PDE's own, so that the controls converge to the PDE's optimum however poor the surrogate is; they do so fast where
    its curvature is right.

    Parameters
    ----------
    objective : Objective
        With the PDE's ensemble.
    surrogate : Ensemble
        At the same samples: ``SurrogateEnsemble.of_dino(dino, quantity, pde_ensemble.latent(dino.input_basis))``.
    start : (dZ,)
        Within the bounds; usually the surrogate's optimum.
    bounds : pair of float or (dZ,), optional
        Lower and upper.
    max_evaluations : int
        Of the PDE, each a forward and an adjoint solve a sample; the one at the start among them.
    tolerance : float
        Ends when the corrected surrogate expects less decrease than this, relative to the objective.
    path : str or Path, optional
        File that each evaluation of the PDE is appended to.
    resume : bool
        Go on with a file that is there.
    progress : bool

    Returns
    -------
    OptimalControl
        Its counts and history are those of the PDE's evaluations; `converged` where no more decrease is expected.

    Raises
    ------
    InputError
        For a surrogate of other samples or controls, a joint objective, bounds that no control meets, a start outside
        of them, or a file of another problem.
    SolveError
        If the quantity of interest is not finite, or a PDE solve failed.  The file keeps what was evaluated.

    References
    ----------
    Alexandrov, Lewis, Gumbert, Green, Newman, J. Aircraft 38 (2001), for trust regions of models that are corrected
    to first order.

    Examples
    --------
    ::

        pde = hd.ouu.Objective(samples, risk, penalties)                   # samples: a PDEEnsemble
        exact = hd.ouu.polish(pde, ensemble, result.z, bounds=(-4, 4))     # ensemble: the surrogate's
    """
    pde = objective.ensemble
    if (surrogate.n, surrogate.n_control) != (pde.n, pde.n_control):
        raise InputError(
            f"surrogate: expected {pde.n} samples and {pde.n_control} controls, as the objective has, got "
            f"{surrogate.n} and {surrogate.n_control}. Build it at the same samples (PDEEnsemble.latent)."
        )
    if objective.n_auxiliary:
        raise InputError("objective: expected one of the control alone, got a joint one. Leave joint=True out.")
    if max_evaluations < 1:
        raise InputError(f"max_evaluations: expected at least 1, got {max_evaluations}.")
    if not tolerance > 0:
        raise InputError(f"tolerance: expected a number > 0, got {tolerance}.")
    low, high = checked_bounds(bounds, pde.n_control)
    z = checked_control(start, pde.n_control, "start")
    check_within(z, low, high)
    settings = {"method": "polish", "risk": repr(objective.risk), "n": pde.n, "n_control": pde.n_control}
    journal = Journal(path, resume=resume, settings=settings, writes=pde.is_first)
    begun, n_evaluations = time.perf_counter(), 0

    def corrected(z: np.ndarray) -> Objective:
        """The objective of the surrogate that the PDE corrected at z."""
        nonlocal n_evaluations

        def compute() -> np.ndarray:
            q, jacobian = pde.quantity_and_jacobian(z)
            return np.concatenate([q, jacobian.ravel()])

        answer = journal.ask(z, compute)
        n_evaluations += 1
        q, jacobian = answer[: pde.n], answer[pde.n :].reshape(pde.n, pde.n_control)
        ensemble = CorrectedEnsemble(surrogate, z, q, jacobian)
        return Objective(ensemble, objective.risk, objective.penalties, objective.weights)

    def iterate(z: np.ndarray, model: Objective) -> Iterate:
        value, gradient = model.value_and_gradient(z)
        value, norm = pde.of_first(np.array([value, projected_norm(z, gradient, low, high)]))
        return Iterate(z, float(value), float(norm), n_evaluations, time.perf_counter() - begun)

    radius, converged, message = np.inf, False, "max_evaluations were used"
    with tqdm(desc="polish by the PDE", unit="evaluation", disable=not (progress and pde.is_first)) as bar:
        model = corrected(z)
        history = [iterate(z, model)]
        while True:
            bar.update()
            bar.set_postfix(objective=f"{history[-1].value:.6g}", gradient=f"{history[-1].gradient_norm:.2g}")
            here, value = history[-1].z, history[-1].value
            region = np.maximum(low, here - radius), np.minimum(high, here + radius)
            found = minimize(model, here, bounds=region, max_iterations=INNER_ITERATIONS, progress=False)
            *moved, expected = pde.of_first(np.append(found.z, value - found.value))
            tried = np.array(moved)
            step = float(np.abs(tried - here).max())
            if expected <= tolerance * abs(value):
                converged = step < AT_BORDER * radius
                message = "less decrease is expected than the tolerance"
                message += "" if converged else ", as corrections hold in a small region alone"
                break
            if n_evaluations >= max_evaluations:
                break
            at_tried = corrected(tried)
            new = iterate(tried, at_tried)
            gain = (value - new.value) / expected
            if gain < POOR:
                radius = SHRINKAGE * step
            elif gain > GOOD and step >= AT_BORDER * radius:
                radius *= GROWTH
            if gain > 0:
                model = at_tried
                history.append(new)
    last = history[-1]
    penalties = sum(penalty.value_and_gradient(last.z)[0] for penalty in objective.penalties)
    return replace(
        found,
        z=last.z.copy(),
        value=last.value,
        risk=last.value - penalties,
        gradient_norm=last.gradient_norm,
        converged=converged,
        message=message,
        n_iterations=len(history) - 1,
        n_evaluations=n_evaluations,
        n_hessian_actions=0,
        seconds=time.perf_counter() - begun,
        history=history,
        outside=pde.outside(last.z),
    )
