"""The observables of a time-dependent problem: stacked over the observation times of an `hp.MisfitTD`."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from functools import partial

import dolfin as dl
import hippylib as hp
import numpy as np
import scipy.linalg as sla
from mpi4py import MPI
from petsc4py import PETSc

from hippylib_dino.errors import MisfitError
from hippylib_dino.modeling.observation import Identity, ObservableMisfit, observation_operator
from hippylib_dino.modeling.spaces import (
    dense_matrix,
    dense_product,
    destroy_with,
    gather,
    owned_values,
    set_owned_values,
)
from hippylib_dino.noise import NoiseCovariance


class TimeObservation:
    """The observables of all observation times in one vector: rows of B_k u(t_k), in the order of the misfits.

    Parameters
    ----------
    misfit : hp.MisfitTD
        Its members have a linear observation operator ``B`` each.
    problem : hp.TimeDependentPDEVariationalProblem

    Raises
    ------
    MisfitError
        If a member has no observation operator, a time is not one of the problem's or is used twice,
        or there is not one time for each member.

    Attributes
    ----------
    steps : list of int
        n_k, the index of each observation time in ``problem.times``.
    rows : list of slice
        Where each member's observables are in q.
    """

    def __init__(self, misfit: hp.MisfitTD, problem: hp.TimeDependentPDEVariationalProblem):
        members = _members(misfit)
        self.misfit = misfit
        self.steps = [_step(t, problem.times, f"sim_times[{k}]") for k, t in enumerate(misfit.sim_times)]
        if len(set(self.steps)) < len(self.steps):
            raise MisfitError(
                f"sim_times: expected distinct times, got {np.asarray(misfit.sim_times).tolist()}. hIPPYlib's gradient "
                "keeps only the last misfit of a time; put all rows of one time into one operator B."
            )
        operators = []
        for k, member in enumerate(members):
            with _naming(k):
                operators.append(observation_operator(member))
        self._operators = [dl.as_backend_type(B).mat() for B in operators]
        destroy_with(self, operators[0].mpi_comm(), *self._operators)
        self._data = [member.d for member in members]
        ends = np.cumsum([0, *(B.size(0) for B in operators)])
        self.rows = [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]
        self._like = dl.Vector(operators[0].mpi_comm(), int(ends[-1]))

    def size(self, dim: int) -> int:
        """dQ for ``dim=0``; for ``dim=1`` the size of the state at one time."""
        return self._like.size() if dim == 0 else self._operators[0].getSize()[1]

    def mpi_comm(self) -> MPI.Comm:
        return self._like.mpi_comm()

    def init_vector(self, x: dl.GenericVector, dim: int) -> None:
        """Shape `x` for the data (``dim=0``)."""
        if dim != 0:
            raise MisfitError(f"dim: expected 0, data, got {dim}; states are made by problem.generate_state().")
        x.init(self._like.local_range())

    def generate_data(self) -> dl.GenericVector:
        """A zero vector of the layout of the data."""
        return self._like.copy()

    def observe(self, u: hp.TimeDependentVector) -> np.ndarray:
        """q = (B_k u(t_k))_k, shape (dQ,), the same on every rank."""
        q = np.empty(self.size(0))
        for k, n in enumerate(self.steps):
            block = dense_matrix(u.data[n], owned_values(u.data[n])[:, None])
            q[self.rows[k]] = self.observe_block(k, block)[:, 0]
            block.destroy()
        return q

    def observe_block(self, k: int, states: PETSc.Mat) -> np.ndarray:
        """B_k U for states U (dU, c) at the k-th observation time: (rows of B_k, c), on every rank."""
        return gather(dense_product(self._operators[k], states), self.mpi_comm())

    def transpmult_block(self, k: int, weights: np.ndarray) -> np.ndarray:
        """B_kᵀ W for dual weights W (rows of B_k, c), the same on every rank: owned rows (n_owned, c)."""
        B = self._operators[k]
        first, last = B.getOwnershipRange()
        block = dense_matrix(self._data[k], weights[first:last])
        result = dense_product(B, block, transposed=True)
        block.destroy()
        return result


class StackedMisfit(hp.Misfit):
    """An `hp.MisfitTD` that acts on the stacked observable q in place of the trajectory: each B_k becomes the identity.

    Members, data and noise are read from the user's misfit at each call.

    Parameters
    ----------
    misfit : hp.MisfitTD

    Raises
    ------
    MisfitError
        If a member has no observation operator; at each call, while a member's data have another length.

    Attributes
    ----------
    misfit : hp.MisfitTD
    B : Identity
        On q.
    """

    def __init__(self, misfit: hp.MisfitTD):
        self.misfit = misfit
        self._twins: list[ObservableMisfit] = []
        operators = [member.B for member in self._members()]
        ends = np.cumsum([0, *(B.size(0) for B in operators)])
        self._rows = [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]
        self.B = Identity(dl.Vector(operators[0].mpi_comm(), int(ends[-1])))

    def _members(self) -> list[ObservableMisfit]:
        """The members acting on observables; those that a script has put in place of others are noticed."""
        members = _members(self.misfit)
        if [twin.misfit for twin in self._twins] != members:
            twins = []
            for k, member in enumerate(members):
                with _naming(k):
                    twins.append(ObservableMisfit(member))
            self._twins = twins
        return self._twins

    def _split(self, q: dl.GenericVector) -> list[dl.GenericVector]:
        """The members' pieces of q, in the layout of their data."""
        everything = gather(owned_values(q), q.mpi_comm())
        pieces = []
        for member, rows in zip(self._members(), self._rows, strict=True):
            piece = member.B.like.copy()
            first, last = piece.local_range()
            set_owned_values(piece, everything[rows][first:last])
            pieces.append(piece)
        return pieces

    def _collect(self, i: int, parts: list[Callable[[dl.GenericVector], None]], out: dl.GenericVector) -> None:
        """out = what all members write into their piece of q, or the sum of what they write into a parameter vector."""
        results = []
        for k, (member, write) in enumerate(zip(self._members(), parts, strict=True)):
            result = (member.B.like if i == hp.STATE else out).copy()
            result.zero()
            with _naming(k):
                write(result)
            results.append(result)
        if i == hp.STATE:
            everything = np.concatenate([gather(owned_values(r), out.mpi_comm()) for r in results])
            first, last = out.local_range()
            set_owned_values(out, everything[first:last])
        else:
            out.zero()
            for result in results:
                out.axpy(1.0, result)

    def cost(self, x) -> float:
        total = 0.0
        for k, (member, q) in enumerate(zip(self._members(), self._split(x[hp.STATE]), strict=True)):
            with _naming(k):
                total += member.cost([q, x[hp.PARAMETER], None])
        return total

    def grad(self, i, x, out) -> None:
        pieces = zip(self._members(), self._split(x[hp.STATE]), strict=True)
        self._collect(i, [partial(member.grad, i, [q, x[hp.PARAMETER], None]) for member, q in pieces], out)

    def setLinearizationPoint(self, x, gauss_newton_approx=False) -> None:
        for member, q in zip(self._members(), self._split(x[hp.STATE]), strict=True):
            member.setLinearizationPoint([q, x[hp.PARAMETER], None], gauss_newton_approx)

    def apply_ij(self, i, j, dir, out) -> None:
        members = self._members()
        pieces = self._split(dir) if j == hp.STATE else [dir] * len(members)
        self._collect(i, [partial(member.apply_ij, i, j, d) for member, d in zip(members, pieces, strict=True)], out)


def stacked(covariance: Callable[[hp.Misfit], NoiseCovariance], misfit: hp.MisfitTD) -> NoiseCovariance:
    """A covariance of all times, `observation.noise_covariance` or `weight_covariance` of each member: block diagonal.

    Raises
    ------
    MisfitError
        If a member states none, or one that is not positive.
    """
    blocks = []
    for k, member in enumerate(_members(misfit)):
        with _naming(k):
            blocks.append(covariance(member))
    values, dim = [block.value for block in blocks], sum(block.dim for block in blocks)
    if any(value.ndim == 2 for value in values):
        return NoiseCovariance(sla.block_diag(*(block.to_dense() for block in blocks)), dim)
    if all(value.ndim == 0 for value in values) and len({float(value) for value in values}) == 1:
        return NoiseCovariance(values[0], dim)
    return NoiseCovariance(np.concatenate([np.broadcast_to(block.value, (block.dim,)) for block in blocks]), dim)


def _members(misfit: hp.MisfitTD) -> list[hp.Misfit]:
    """The members of a time-dependent misfit, with a time each."""
    if not isinstance(misfit, hp.MisfitTD):
        raise MisfitError(
            f"misfit: expected an hp.MisfitTD for a time-dependent problem, got {type(misfit).__name__}. "
            "Use hp.MisfitTD([hp.DiscreteStateObservation(B), ...], sim_times)."
        )
    if not misfit.misfits or len(misfit.misfits) != len(misfit.sim_times):
        raise MisfitError(
            f"misfit: expected one time for each of at least one misfit, got {len(misfit.misfits)} misfits "
            f"and {len(misfit.sim_times)} sim_times."
        )
    return misfit.misfits


@contextlib.contextmanager
def _naming(k: int) -> Iterator[None]:
    """Say in a `MisfitError` which member it is about."""
    try:
        yield
    except MisfitError as error:
        raise MisfitError(f"misfits[{k}]: {error}") from error


def _step(t: float, times: np.ndarray, name: str) -> int:
    """Index of the time `t`, to the tolerance of `hp.TimeDependentVector`."""
    times = np.asarray(times, dtype=float)
    n = int(np.argmin(np.abs(times - t)))
    if not abs(times[n] - t) < 1e-10:
        raise MisfitError(
            f"{name}: expected one of the times of the problem, {times[0]:g} to {times[-1]:g} in "
            f"{len(times) - 1} steps, got {t:.12g}; the nearest is problem.times[{n}] = {times[n]:.12g}."
        )
    return n
