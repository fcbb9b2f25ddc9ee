"""Risk of an ensemble plus penalties, as a function of the control."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hippylib_dino.errors import InputError, SolveError
from hippylib_dino.ouu.ensembles import Ensemble, checked_control
from hippylib_dino.ouu.penalties import Penalty
from hippylib_dino.ouu.risk import JointExpansion, RiskMeasure, checked_weights, without_auxiliary


class Objective:
    """R(q(z)) + Σ P(z); or, jointly, r(q(z), t) + Σ P(z), with the auxiliary variables t (k,) of the measure.

    The minimum of r over t is R, so that both have the same optimum.  Without t its minimiser is found anew at each z,
    which costs nothing beside q, and L-BFGS-B gets nearer to the optimum of a CVaR in as many iterations: r curves in
    t on the scale of the smoothing, far more than in z.

    Parameters
    ----------
    ensemble : Ensemble
        q(z), by the surrogate or by the PDE.
    risk : RiskMeasure
    penalties : sequence of Penalty
    weights : (n,), optional
        Of the samples; default 1/n.
    joint : bool
        Whether t are variables: one for CVaR, none for the other measures here.

    Raises
    ------
    InputError
        If the weights are none, or a penalty is not one of controls (dZ,).

    Attributes
    ----------
    n_variables : int
        dZ, or dZ + k of a joint one.

    Examples
    --------
    ::

        objective = hd.ouu.Objective(ensemble, hd.ouu.CVaR(beta=0.95), [hd.ouu.L2Penalty(1e-3)])
        result = hd.ouu.minimize(objective, np.zeros(49), bounds=(-4, 4))
    """

    def __init__(
        self,
        ensemble: Ensemble,
        risk: RiskMeasure,
        penalties: Sequence[Penalty] = (),
        weights: np.ndarray | None = None,
        joint: bool = False,
    ):
        self.ensemble, self.risk, self.penalties = ensemble, risk, tuple(penalties)
        self.weights = checked_weights(weights, ensemble.n)
        self.n_auxiliary = risk.n_auxiliary if joint else 0
        self.n_variables = ensemble.n_control + self.n_auxiliary
        self._last: tuple[np.ndarray, np.ndarray, np.ndarray, JointExpansion] | None = None
        zero = np.zeros(ensemble.n_control)
        for penalty in self.penalties:
            try:
                shape = np.shape(penalty.value_and_gradient(zero)[1])
            except ValueError as error:
                raise InputError(
                    f"penalties: {type(penalty).__name__} takes no {len(zero)} controls: {error}"
                ) from error
            if shape != zero.shape:
                raise InputError(
                    f"penalties: expected gradients of shape {zero.shape}, got {shape} of {type(penalty).__name__}."
                )

    def split(self, variables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """z (dZ,) and t (k,) of the variables; t is empty unless they are joint.

        Raises
        ------
        InputError
            If the variables have another shape, or are not finite.
        """
        variables = checked_control(variables, self.n_variables, "variables")
        return variables[: self.ensemble.n_control], variables[self.ensemble.n_control :]

    def start(self, z: np.ndarray) -> np.ndarray:
        """z (dZ,), or (z, t) with the minimising t at z."""
        z = checked_control(z, self.ensemble.n_control)
        t = np.empty(0)
        if self.n_auxiliary:
            t = self.risk.auxiliary(finite_quantity(self.ensemble.quantity(z)), self.weights)
        return np.concatenate([z, t])

    def _expanded(self, q: np.ndarray, t: np.ndarray) -> JointExpansion:
        if self.n_auxiliary:
            return self.risk.expand_jointly(q, t, self.weights)
        return without_auxiliary(self.risk.expand(q, self.weights))

    def _linearized(self, variables: np.ndarray) -> tuple[np.ndarray, JointExpansion]:
        """J (n, dZ) and the risk's expansion; kept for Hessian actions at the same point, one after the other."""
        if self._last is None or not np.array_equal(self._last[0], variables):
            z, t = self.split(variables)
            q, jacobian = self.ensemble.quantity_and_jacobian(z)
            self._last = variables.copy(), finite_quantity(q), jacobian, self._expanded(q, t)
        return self._last[2:]

    def smoothing(self, variables: np.ndarray) -> tuple[float | None, str]:
        """Width that the risk is smoothed with, in units of Q, and why it is too large, "" where it is not.

        Without a new evaluation of Q where the last one was at the same variables.
        """
        z, _ = self.split(variables)
        if self._last is not None and np.array_equal(self._last[0], variables):
            q = self._last[1]
        else:
            q = finite_quantity(self.ensemble.quantity(z))
        return self.risk.smoothing(q, self.weights), self.risk.smoothing_complaint(q, self.weights)

    def value_and_gradient(self, variables: np.ndarray) -> tuple[float, np.ndarray]:
        """The objective and its gradient (n_variables,).

        Raises
        ------
        SolveError
            If the quantity of interest is not finite.
        """
        z, _ = self.split(variables)
        jacobian, at = self._linearized(variables)
        value, gradient = at.value, at.gradient @ jacobian
        for penalty in self.penalties:
            more, slope = penalty.value_and_gradient(z)
            value, gradient = value + more, gradient + slope
        return value, np.concatenate([gradient, at.auxiliary_gradient])

    def penalty(self, z: np.ndarray) -> float:
        """Σ P(z), what the objective has beside the risk."""
        return sum(penalty.value_and_gradient(z)[0] for penalty in self.penalties)

    def hessian_action(self, variables: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """∇² of the objective times a direction (n_variables,).

        By the chain rule Jᵀ∇²r (Jv) + Σ_i ∂r/∂q_i ∇²q_i v, with J = ∂q/∂z.

        Raises
        ------
        SolveError
            If the quantity of interest is not finite.
        """
        z, _ = self.split(variables)
        v, s = self.split(direction)
        jacobian, at = self._linearized(variables)
        bent, bent_t = at.hessian(jacobian @ v, s)
        action = bent @ jacobian + at.gradient @ self.ensemble.hessian_actions(z, v)
        for penalty in self.penalties:
            action = action + penalty.hessian_action(z, v)
        return np.concatenate([action, bent_t])


def finite_quantity(q: np.ndarray) -> np.ndarray:
    """q (n,); `SolveError` unless all of it is finite."""
    bad = np.count_nonzero(~np.isfinite(q))
    if bad:
        raise SolveError(
            f"ensemble: the quantity of interest is not finite at {bad} of {len(q)} samples. Bound the control closer "
            "to the range that the surrogate was trained on."
        )
    return q
