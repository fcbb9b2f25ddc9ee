"""Observables that can teach nothing, or nothing of their own, named before a run."""

from __future__ import annotations

import itertools
import warnings
from collections import defaultdict

import dolfin as dl
import hippylib as hp
import numpy as np

from hippylib_dino.data.streams import draw_parameter
from hippylib_dino.errors import MisfitError, SolveError
from hippylib_dino.modeling.adjoint import zero_where_fixed
from hippylib_dino.modeling.jacobian_model import JacobianModel
from hippylib_dino.modeling.observation import members_of
from hippylib_dino.modeling.spaces import set_owned_values, sum_over_ranks
from hippylib_dino.random_streams import Purpose, seed_of

ROUNDING = 1e-12  # of a row's entries, and of its Jacobian, relative to the largest
NAMED = 20  # observables in a message


class SensorWarning(UserWarning):
    """Some observables are blind, fixed, insensitive or twins of others."""


def check_sensors(model: JacobianModel, *, warn: bool = True) -> None:
    """Name observables B u that do not see the state, are fixed, do not depend on the parameter, or come twice.

    Sensors outside the mesh have rows of zeros in B, coincident ones equal rows; one on a Dirichlet boundary reads what
    is prescribed.  The Jacobian at the prior mean tells which observables do not depend on the parameter, as at the
    initial time; where it has rows of zeros, that at a draw from the prior is asked too, since an even map has it at 0.

    Parameters
    ----------
    model : JacobianModel
    warn : bool
        Whether this rank warns; all ranks of the mesh are to call.

    Raises
    ------
    MisfitError
        If no observable depends on the parameter: nothing could be learned.

    Warns
    -----
    SensorWarning
        Naming the observables, by their number in the data, that are of no use or alike.
    """
    if model.whole_state:
        return
    blind, fixed, twins = _by_operator(model)
    silent = _without_derivative(model) - blind - fixed
    useless = blind | fixed | silent
    findings = [
        f"{_named(numbers)} {what}"
        for numbers, what in (
            (blind, "see nothing of the state (rows of zeros in B): their points are outside the mesh"),
            (fixed, "read what a Dirichlet condition prescribes: their points are on its boundary"),
            (silent, "do not depend on the parameter"),
        )
        if numbers
    ]
    n = model.data_space.dim
    if len(useless) == n:
        raise MisfitError(
            f"misfit: none of its {n} observables depends on the parameter, so that nothing can be learned: "
            f"{'; '.join(findings)}. Check the points of the sensors against the mesh and its boundary, and that the "
            "form has the parameter in it. In small units hIPPYlib's own Newton stops at once, at an absolute "
            "residual of 1e-10; hd.AcceleratedVariationalProblem does not."
        )
    alike = [group for group in twins if not group <= useless]
    findings += [f"{_named(group)} are equal (the same row of B, the same point twice)" for group in alike]
    if findings and warn:
        warnings.warn(
            f"misfit: {'; '.join(findings)}. They are kept; leave them out of B if that was not meant.",
            SensorWarning,
            stacklevel=3,
        )


def _named(numbers: set[int]) -> str:
    some = ", ".join(map(str, sorted(numbers)[:NAMED]))
    return f"observables {some}{', ...' if len(numbers) > NAMED else ''} ({len(numbers)})"


def _by_operator(model: JacobianModel) -> tuple[set[int], set[int], list[set[int]]]:
    """Observables with an empty row of B, those that see fixed degrees of freedom alone, groups of equal ones."""
    free = _free(model)
    blind, fixed, alike = set(), set(), defaultdict(set)
    start = 0
    for k, member in enumerate(members_of(model.misfit)):
        for number, (key, size, size_on_free) in enumerate(_rows(member.B, free), start):
            if size == 0.0:
                blind.add(number)
            elif size_on_free <= ROUNDING * size:
                fixed.add(number)
            else:
                alike[k, key].add(number)
        start += member.B.size(0)
    return blind, fixed, [group for group in alike.values() if len(group) > 1]


def _free(model: JacobianModel) -> dl.GenericVector:
    """1 for degrees of freedom of the state that no condition fixes, else 0."""
    free = dl.Function(model.problem.Vh[hp.STATE]).vector()
    set_owned_values(free, np.ones(free.local_size()))
    conditions = "adj_bc" if model.time_dependent else "bc0"
    zero_where_fixed(free, getattr(model.problem, conditions, None) or [])
    return free


def _rows(B, free: dl.GenericVector) -> list[tuple]:
    """Of all rows of B, on every rank: a key that equal rows share, the largest entry, and that on `free` ones."""
    matrix = dl.as_backend_type(B).mat()
    starts, columns, entries = matrix.getValuesCSR()
    on_free = dl.as_backend_type(B).copy()
    on_free.mat().diagonalScale(R=dl.as_backend_type(free).vec())
    kept = np.abs(on_free.mat().getValuesCSR()[2])
    rows = []
    for a, b in itertools.pairwise(starts):
        size = float(np.abs(entries[a:b]).max(initial=0.0))
        seen = np.abs(entries[a:b]) > ROUNDING * size
        key = tuple(zip(columns[a:b][seen].tolist(), np.round(entries[a:b][seen], 10).tolist(), strict=True))
        rows.append((key, size, float(kept[a:b].max(initial=0.0))))
    return [row for part in B.mpi_comm().allgather(rows) for row in part]


def _without_derivative(model: JacobianModel) -> set[int]:
    """Observables whose derivative is zero at the prior mean and at a draw; none where the PDE cannot be solved."""
    silent = set(range(model.data_space.dim))
    try:
        for m in (model.prior.mean, draw_parameter(model.prior, seed_of(Purpose.SENSOR_CHECK), 0)):
            sizes = _derivatives(model, m)
            silent &= set(np.flatnonzero(sizes <= ROUNDING * sizes.max()).tolist())
            if not silent:
                break
    except SolveError:  # which the run itself reports
        return set()
    return silent


def _derivatives(model: JacobianModel, m: dl.GenericVector) -> np.ndarray:
    """Norms of the rows of the Jacobian, relative to those of B; with those in the control, where there is one."""
    jacobians = [model.jacobian(m)]
    if model.control_distribution is not None:
        jacobians.append(model.control_jacobian())
    squares = sum(sum_over_ranks((J.owned_rows() ** 2).sum(axis=0), m.mpi_comm()) for J in jacobians)
    rows = np.concatenate(
        [[size for _, size, _ in _rows(member.B, _free(model))] for member in members_of(model.misfit)]
    )
    return np.sqrt(np.divide(squares, rows**2, out=np.zeros(len(rows)), where=rows > 0))
