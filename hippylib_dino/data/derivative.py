"""The check of the Jacobian with which a run of `generate` starts, and the first `append` of a process."""

from __future__ import annotations

import dataclasses
import warnings
import weakref

import numpy as np
from mpi4py import MPI

from hippylib_dino.data.streams import draw_parameter
from hippylib_dino.data.together import Ranks
from hippylib_dino.errors import DerivativeWarning, InputError, SolveError
from hippylib_dino.modeling.derivative_check import DerivativeError, derivative_errors, remedies
from hippylib_dino.modeling.jacobian_model import JacobianModel
from hippylib_dino.random_streams import Purpose, generator, seed_of

ATTEMPTS = 3  # draws, where solves fail
SLIGHT, GROSS = 1e-4, 0.1  # relative errors of J v that are warned about, and that end the run
DERIVATIVE_CHECK = "derivative_check"  # among a dataset's attributes

_passed: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # model -> what was found


def check_derivative(model: JacobianModel, seed: int, ranks: Ranks) -> dict[str, dict]:
    """Compare J v with central differences at a draw of the prior.

    All groups of ranks compute the same; what the first finds counts.

    Parameters
    ----------
    model : JacobianModel
    seed : int
        Of the dataset; the draws are from a stream of their own.
    ranks : Ranks

    Returns
    -------
    dict
        A `DerivativeError` by variable as a dict, for the dataset's attribute `DERIVATIVE_CHECK`; empty if no solve
        succeeded.

    Raises
    ------
    InputError
        If the relative error exceeds `GROSS`, the differences do by themselves, or nothing changes at all.

    Warns
    -----
    DerivativeWarning
        If it exceeds `SLIGHT`.
    """
    found: dict[str, DerivativeError] = {}
    ranks.together(lambda: found.update(_measured(model, seed)))
    found = ranks.world.bcast(found)
    for name, each in found.items():
        if each.change == 0.0 and each.error == 0.0:
            raise InputError(
                f"model: the observable does not change with the {name}, and neither does its Jacobian see a change, "
                f"along a draw. Nothing was generated. Perhaps {remedies(model)}"
            )
        if max(each.error, each.doubt) > GROSS:
            raise InputError(f"model: {_account(name, each)} Nothing was generated. Perhaps {remedies(model)}")
        if each.error > SLIGHT and ranks.is_first:
            warnings.warn(f"model: {_account(name, each)} Perhaps {remedies(model)}", DerivativeWarning, stacklevel=4)
    record = {name: dataclasses.asdict(each) for name, each in found.items()}
    if record:
        _passed[model] = record
    return record


def check_derivative_once(model: JacobianModel, seed: int, ranks: Ranks) -> dict[str, dict]:
    """What `check_derivative` found of this model in this process, else what it finds now.

    A fingerprint does not tell: with another degree of quadrature the observable is the same, and its Jacobian is not.
    """
    if ranks.world.allreduce(model in _passed, op=MPI.LAND):
        return _passed[model]
    return check_derivative(model, seed, ranks)


def _measured(model: JacobianModel, seed: int) -> dict[str, DerivativeError]:
    """The errors at the first draw at which all solves succeed; empty where none does."""
    controls = model.control_distribution
    for attempt in range(ATTEMPTS):
        own = seed_of(Purpose.DERIVATIVE_CHECK, seed)
        m, direction = (draw_parameter(model.prior, own, 2 * attempt + i) for i in (0, 1))
        direction.axpy(-1.0, model.prior.mean)
        along = None
        if controls is not None:
            streams = (generator(Purpose.DERIVATIVE_CHECK_CONTROL, seed, attempt, i) for i in (0, 1))
            here, there = (controls.draw(rng) for rng in streams)
            model.problem.control, along = here, np.asarray(there) - controls.mean
        try:
            return derivative_errors(model, m, direction, along)
        except SolveError:
            continue  # failures are counted among the samples
    return {}


def _account(name: str, found: DerivativeError) -> str:
    text = (
        f"its Jacobian in the {name} is off by {found.error:.2g}, relative, from the derivative of the observable, by "
        "central differences along a draw of the prior"
    )
    if found.doubt > 0.5 * found.error:
        text += f", which differ among themselves by {found.doubt:.2g}"
    return text + f"; expected at most {SLIGHT:g}."
