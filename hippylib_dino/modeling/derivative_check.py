"""One comparison of a Jacobian with differences of the observable, at the price of a few solves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import dolfin as dl
import hippylib as hp
import numpy as np

from hippylib_dino.modeling.data_space import DataSpace
from hippylib_dino.modeling.form_splitting import expanded
from hippylib_dino.modeling.jacobian import Jacobian
from hippylib_dino.modeling.jacobian_model import JacobianModel
from hippylib_dino.modeling.quadrature import highest_degree
from hippylib_dino.modeling.spaces import owned_values, set_owned_values
from hippylib_dino.modeling.variational_problem import AcceleratedVariationalProblem

STEPS = 1e-3, 1e-2  # of a draw's deviation from the mean; the second where solves are too inexact for the first
CLOSE = 1e-5  # relative error of J v from which on the second step is tried
FAINT = 1e-6  # of the observable: differences below this, relative, may be rounding


@dataclasses.dataclass(frozen=True)
class DerivativeError:
    """How far J v is from central differences, relative, in the norm of the noise precision.

    Attributes
    ----------
    error : float
        With the better of the steps; at most 2.
    doubt : float
        How far the differences of the two steps are from each other: what inexact solves, or a third derivative,
        make of them; 0 where one step was enough.
    change : float
        ‖J v‖ in that norm: by how many standard deviations of the noise the observable changes along v.
    """

    error: float
    doubt: float
    change: float


def derivative_errors(
    model: JacobianModel, m: dl.GenericVector, direction: dl.GenericVector, along: np.ndarray | None = None
) -> dict[str, DerivativeError]:
    """Errors of J v, and of J_z w of a model with a control, against (F(· + h) - F(· - h)) / 2h.

    It takes one linearisation and two solves a variable; four where they do not agree to `CLOSE`.

    Parameters
    ----------
    model : JacobianModel
        Of a steady or time-dependent problem, with any observable.
    m, direction : dolfin vectors
        A parameter, and v, primal, of the size of a draw's deviation from the mean.
    along : (dZ,), optional
        w, a direction of the control; the point is the control that the problem has.

    Returns
    -------
    dict
        ``"parameter"``, and ``"control"`` where `along` is given.

    Raises
    ------
    SolveError
        If a solve fails.

    Examples
    --------
    ::

        m, v = (hd.data.draw_parameter(prior, seed=0, index=i) for i in (0, 1))
        v.axpy(-1.0, prior.mean)
        print(hd.modeling.derivative_errors(model, m, v)["parameter"].error)
    """
    jacobian = model.linearize_at(model.solveState(m), m)
    slopes = {"parameter": _times(jacobian, owned_values(direction))}
    if along is not None:
        step = owned_values(model.problem.control_from_array(along))
        slopes["control"] = _times(model.control_jacobian(), step)

    def in_parameter(h: float) -> np.ndarray:
        moved = m.copy()
        moved.axpy(h, direction)
        return model.observe_local(model.solveState(moved))

    def in_control(h: float) -> np.ndarray:
        moved = model.problem.control
        set_owned_values(moved, owned_values(moved) + h * step)
        with model.problem.at(moved):
            return model.observe_local(model.solveState(m))

    maps = {"parameter": in_parameter, "control": in_control}
    return {name: _compare(maps[name], slope, model.data_space) for name, slope in slopes.items()}


def _times(jacobian: Jacobian, direction: np.ndarray) -> np.ndarray:
    return jacobian.mult_local(direction[:, None])[:, 0]


def _compare(values: Callable[[float], np.ndarray], slope: np.ndarray, space: DataSpace) -> DerivativeError:
    def norm(local: np.ndarray) -> float:
        return math.sqrt(max(float(space.inner(local, local)), 0.0))

    def apart(a: np.ndarray, b: np.ndarray) -> float:
        scale = max(norm(a), norm(b), FAINT * size)
        return norm(a - b) / scale if scale > 0.0 else 0.0

    differences: list[np.ndarray] = []
    errors: list[float] = []
    for h in STEPS:
        up, down = values(h), values(-h)
        size = norm(up)
        differences.append((up - down) / (2 * h))
        errors.append(apart(differences[-1], slope))
        if errors[0] <= CLOSE:
            return DerivativeError(errors[0], 0.0, norm(slope))
    return DerivativeError(min(errors), apart(*differences), norm(slope))


def remedies(model: JacobianModel) -> str:
    """What may be wrong with the Jacobian of a model, in words, as far as its problem tells."""
    problem, found = model.problem, []
    accelerated = isinstance(problem, AcceleratedVariationalProblem)
    if isinstance(problem, hp.PDEVariationalProblem) and not accelerated:
        u, m = (dl.Function(problem.Vh[i]) for i in (hp.STATE, hp.PARAMETER))
        residual = problem.varf_handler(u, m, dl.TestFunction(problem.Vh[hp.ADJOINT]))
        solved = highest_degree(residual)
        derived = highest_degree(expanded(residual, m, dl.TrialFunction(problem.Vh[hp.PARAMETER])))
        if derived > solved:
            found.append(
                f"UFL integrates the form with degree {solved} and its derivative with {derived}: give all integrals "
                f'one, dl.dx(metadata={{"quadrature_degree": {solved}}}), or take hd.AcceleratedVariationalProblem, '
                "which does"
            )
        if not problem.is_fwd_linear:
            found.append(
                "hIPPYlib's Newton stops at an absolute residual of 1e-10, before it starts on a mesh in small units: "
                "take other units, or hd.AcceleratedVariationalProblem, whose tolerance is relative"
            )
    if model.time_dependent and not problem.is_fwd_linear:
        found.append(
            "dolfin's Newton stops at an absolute residual of 1e-10, which may be early: set "
            'problem.parameters["newton_solver"]["absolute_tolerance"]'
        )
    found.append(
        "the problem may have no unique state (a Neumann problem without a constraint), solves may be too inexact for "
        "their tolerance, or the form may depend on u or m in a way that UFL does not see"
    )
    return "; ".join(found) + ". hd.modeling.observable_rates(model, m, direction) tells the rates, which are 1 and 2."
