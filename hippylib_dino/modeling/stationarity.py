"""Whether a point is as stationary as the rounding of the cost lets a line search find."""

from __future__ import annotations

import hippylib as hp

# Of the cost.  A line search by Armijo's rule is lost where the decrease that is left, about ½ gᵀH⁻¹g, is some 1e-15 of
# the cost; what is measured here, ½ gᵀR⁻¹g, is larger by up to the eigenvalues of the misfit's Hessian.
FLOOR = 1e-10


def decrease_left(model: hp.Model, x: list) -> float:
    """½ gᵀR⁻¹g, which bounds the decrease of the cost that a Newton step from `x` may still bring.

    Twice its root bounds the distance to the MAP point in posterior standard deviations, to second order and where the
    misfit's Hessian is positive semidefinite (of Gauss-Newton it always is), since then H ≥ R.

    Parameters
    ----------
    model : hp.Model
    x : [u, m, p]
        With u = u(m); the adjoint is solved for anew and p is left as it is.

    References
    ----------
    Newton decrement: Boyd, Vandenberghe, "Convex Optimization", section 9.5.1.
    """
    point = [x[hp.STATE], x[hp.PARAMETER], model.generate_vector(hp.ADJOINT)]
    model.solveAdj(point[hp.ADJOINT], point)
    gradient, riesz = model.generate_vector(hp.PARAMETER), model.generate_vector(hp.PARAMETER)
    model.evalGradientParameter(point, gradient)
    model.Rsolver().solve(riesz, gradient)
    return 0.5 * gradient.inner(riesz)


def stopped_by_rounding(model: hp.Model, x: list) -> bool:
    """Whether no Newton step from `x` can change the cost by more than 1e-10 of it.

    hIPPYlib's line search then compares rounding errors, and `hp.ReducedSpaceNewtonCG` may end with ``converged`` False
    and "Maximum number of backtracking reached" at a point that is as good as any: whether it does depends on the
    processor.  Ask this before calling such an end a failure.

    Parameters
    ----------
    model : hp.Model
    x : [u, m, p]
        What the solver returned.

    Examples
    --------
    ::

        x = solver.solve([None, prior.mean.copy(), None])
        done = solver.converged or hd.modeling.stopped_by_rounding(surrogate, x)
    """
    cost = model.cost(x)[0]
    return bool(decrease_left(model, x) <= FLOOR * abs(cost))  # False for NaN
