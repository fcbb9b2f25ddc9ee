"""What ties a dataset or a trained DINO to the problem it was made for.

The fingerprint covers mesh, spaces, prior and observation operator, not data or noise, which
scripts change.  It is a dictionary of strings (compared exactly) and of probe values (compared to
a relative tolerance), so that it does not depend on partition, solver tolerance or rounding.
"""

from __future__ import annotations

import itertools

import dolfin as dl
import hippylib as hp
import numpy as np

from hippylib_dino.fingerprints import TOLERANCE as TOLERANCE  # and beside what makes fingerprints, what compares them
from hippylib_dino.fingerprints import check_fingerprint as check_fingerprint
from hippylib_dino.modeling.observation import observation_operator
from hippylib_dino.modeling.spaces import DofOrder, gather, owned_values, set_owned_values
from hippylib_dino.noise import WHOLE_STATE


def _probes(order: DofOrder) -> np.ndarray:
    """(n_owned, 3): smooth deterministic fields on the owned degrees of freedom."""
    points = order.coordinates[order.owned]
    low, high = order.coordinates[:, 1:].min(axis=0), order.coordinates[:, 1:].max(axis=0)
    scale = np.maximum(high - low, 1e-300)
    waves = np.array([[1.0, 1.3, 0.7], [2.1, -3.2, 2.9], [-5.3, 4.1, 3.7]])[:, : points.shape[1] - 1]
    return np.cos((points[:, 1:] - low) / scale @ waves.T + 0.5 * points[:, :1] + np.array([0.1, 0.7, 1.9]))


def _space(order: DofOrder, space) -> dict:
    """Element, size and geometry of a space."""
    c = order.coordinates
    return {
        "element": str(space.ufl_element()),
        "dimension": str(space.dim()),
        "geometry": [float(v) for v in (np.abs(c).sum(), (c**2).sum(), np.cos(3.0 * c).sum())],
    }


def prior_fingerprint(prior) -> dict:
    """Parameter space (mesh, element), precision R and mean of the prior."""
    space = prior.Vh
    order = DofOrder(space)
    probes = _probes(order)
    mean = owned_values(prior.mean)
    x, Rx = prior.mean.copy(), prior.mean.copy()
    precision = []
    for j in range(probes.shape[1]):
        set_owned_values(x, probes[:, j])
        prior.R.mult(x, Rx)
        precision += list(order.comm.allreduce(probes.T @ owned_values(Rx)))
    moments = order.comm.allreduce(np.append(probes.T @ mean, mean @ mean))
    return {
        "parameter space": _space(order, space),
        "prior": {"precision": [float(v) for v in precision], "mean": [float(v) for v in moments]},
    }


def operator_fingerprint(misfit: hp.Misfit) -> dict:
    """Size, row norms and, on one rank, columns of the observation operators, with their times; needs no state space.

    The columns follow dolfin's numbering of the state, so they are compared only between serial meshes.
    """
    times = isinstance(misfit, hp.MisfitTD)
    operators = [observation_operator(member) for member in (misfit.misfits if times else [misfit])]
    comm = operators[0].mpi_comm()
    rows = [_rows(B) for B in operators]
    fields = {
        "size": f"{sum(B.size(0) for B in operators)} x {operators[0].size(1)}",
        "norms": _moments(np.concatenate([gather(norms, comm) for norms, _ in rows])),
    }
    if comm.size == 1:
        fields["columns"] = _moments(np.concatenate([columns for _, columns in rows]))
    found = {"observation rows": fields}
    return {**found, "observation operator": {"times": [float(t) for t in misfit.sim_times]}} if times else found


def _rows(B) -> tuple[np.ndarray, np.ndarray]:
    """Norms of the rows that this rank owns, and sums of their entries weighted by the column."""
    starts, columns, entries = dl.as_backend_type(B).mat().getValuesCSR()
    squares = np.add.reduceat(np.append(entries**2, 0.0), starts[:-1]) if len(starts) > 1 else np.zeros(0)
    weighted = entries * np.cos(0.37 * columns)
    return (
        np.sqrt(np.where(np.diff(starts) > 0, squares, 0.0)),
        np.array([weighted[a:b].sum() for a, b in itertools.pairwise(starts)]),
    )


def _moments(values: np.ndarray) -> list[float]:
    """Three weighted sums of an array, whatever its length."""
    return [float(v @ values) for v in np.cos(np.outer([0.0, 0.7, 1.9], np.arange(len(values))))]


def observation_fingerprint(misfit: hp.Misfit, state_space) -> dict:
    """State space (mesh, element) and observation operator, or the mass matrix in which the whole state is observed."""
    if isinstance(misfit, hp.ContinuousStateObservation):
        return _mass_fingerprint(misfit, state_space)
    if isinstance(misfit, hp.MisfitTD):
        return _times_fingerprint(misfit, state_space)
    B = observation_operator(misfit)
    order = DofOrder(state_space)
    probes = _probes(order)
    u, q = dl.Function(state_space).vector(), dl.Vector(B.mpi_comm())
    B.init_vector(q, 0)
    values = []
    for j in range(probes.shape[1]):
        set_owned_values(u, probes[:, j])
        B.mult(u, q)
        everything = gather(owned_values(q), q.mpi_comm())
        values += _moments(everything)
    return {
        "state space": _space(order, state_space),
        "observation operator": {"values": values},
        **operator_fingerprint(misfit),
    }


def _times_fingerprint(misfit: hp.MisfitTD, state_space) -> dict:
    members = [observation_fingerprint(member, state_space) for member in misfit.misfits]
    values = [value for member in members for value in member["observation operator"]["values"]]
    rows = operator_fingerprint(misfit)
    rows["observation operator"]["values"] = values
    return {"state space": members[0]["state space"], **rows}


def state_fingerprint(space) -> dict:
    """State space: mesh and element."""
    return {"state space": _space(DofOrder(space), space)}


def _mass_fingerprint(misfit: hp.ContinuousStateObservation, state_space) -> dict:
    order = DofOrder(state_space)
    probes = _probes(order)
    u, Wu = misfit.d.copy(), misfit.d.copy()
    values: list[float] = []
    for j in range(probes.shape[1]):
        set_owned_values(u, probes[:, j])
        misfit.W.mult(u, Wu)
        values += list(order.comm.allreduce(probes.T @ owned_values(Wu)))
    return {"state space": _space(order, state_space), WHOLE_STATE: {"values": values}}


def fingerprint(model: hp.Model) -> dict:
    """Fingerprint of a PDE model: prior and observation."""
    return {**prior_fingerprint(model.prior), **observation_fingerprint(model.misfit, model.problem.Vh[hp.STATE])}
