"""Taylor tests of maps and reduced costs, as numbers."""

from __future__ import annotations

import dolfin as dl
import hippylib as hp
import numpy as np

from hippylib_dino.modeling.observable_map import ParameterToObservable

STEPS = 2.0 ** -np.arange(3, 9)


def rate(remainders: np.ndarray, steps: np.ndarray = STEPS) -> float:
    """Order of decay of `remainders` with the step: slope of the log-log fit.

    Examples
    --------
    >>> round(rate(STEPS**2), 6)
    2.0
    """
    return float(np.polyfit(np.log(steps), np.log(remainders), 1)[0])


def _moved(m: dl.GenericVector, step: float, direction: dl.GenericVector) -> dl.GenericVector:
    out = m.copy()
    out.axpy(step, direction)
    return out


def observable_rates(
    model: ParameterToObservable,
    m: dl.GenericVector,
    direction: dl.GenericVector,
    steps: np.ndarray = STEPS,
    scale: float = 1.0,
) -> tuple[float, float]:
    """Rates of ‖F(m + hv) - F(m)‖ and ‖F(m + hv) - F(m) - h J v‖; 1 and 2 where F is not affine.

    Parameters
    ----------
    model : PDE or surrogate
    m, direction : dolfin vectors
    steps : (n,)
    scale : float
        Multiplies J v; a negative control sets it off one and must see the second rate fall to 1.
    """
    base, slope = model.evalObservable(m), scale * model.jvp(m, direction)
    change = np.array([model.evalObservable(_moved(m, h, direction)) - base for h in steps])
    return (
        rate(np.linalg.norm(change, axis=1), steps),
        rate(np.linalg.norm(change - steps[:, None] * slope, axis=1), steps),
    )


def cost_rates(
    model: hp.Model, m: dl.GenericVector, direction: dl.GenericVector, steps: np.ndarray = STEPS, scale: float = 1.0
) -> tuple[float, float, float]:
    """Rates of the remainders of the misfit as a function of m: without derivatives, with gradient, with Hessian.

    They are 1, 2 and 3 where the misfit's third derivative is not zero.

    Parameters
    ----------
    model : hp.Model
    m, direction : dolfin vectors
    steps : (n,)
    scale : float
        Multiplies gradient and Hessian; see `observable_rates`.
    """

    def misfit(point: dl.GenericVector) -> float:
        x = [model.generate_vector(hp.STATE), point, None]
        model.solveFwd(x[hp.STATE], x)
        return model.cost(x)[2]

    x = [model.generate_vector(hp.STATE), m, model.generate_vector(hp.ADJOINT)]
    model.solveFwd(x[hp.STATE], x)
    model.solveAdj(x[hp.ADJOINT], x)
    gradient, action = model.generate_vector(hp.PARAMETER), model.generate_vector(hp.PARAMETER)
    model.evalGradientParameter(x, gradient, misfit_only=True)
    model.setPointForHessianEvaluations(x, gauss_newton_approx=False)
    hp.ReducedHessian(model, misfit_only=True).mult(direction, action)
    slope, curvature = scale * gradient.inner(direction), scale * action.inner(direction)
    base = misfit(m)
    change = np.array([misfit(_moved(m, h, direction)) for h in steps]) - base
    remainders = change, change - steps * slope, change - steps * slope - 0.5 * steps**2 * curvature
    first, second, third = (rate(np.abs(r), steps) for r in remainders)
    return first, second, third
