"""The observables of a time-dependent problem: stacked over the observation times of an `hp.MisfitTD`."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import dolfin as dl
import hippylib as hp
import numpy as np
import scipy.linalg as sla
from mpi4py import MPI
from petsc4py import PETSc

from hippylib_dino.errors import MisfitError
from hippylib_dino.modeling.observation import NoiseCovariance, noise_covariance, observation_operator
from hippylib_dino.modeling.spaces import dense_matrix, gather, owned_values


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

    @property
    def noise_covariance(self) -> NoiseCovariance:
        """Γ as the misfits state it now: block diagonal, independent from time to time.

        Raises
        ------
        MisfitError
            If a member's is missing, or not positive.
        """
        blocks = []
        for k, member in enumerate(_members(self.misfit)):
            with _naming(k):
                blocks.append(noise_covariance(member))
        values = [block.value for block in blocks]
        if any(value.ndim == 2 for value in values):
            return NoiseCovariance(sla.block_diag(*(block.to_dense() for block in blocks)), self.size(0))
        if all(value.ndim == 0 for value in values) and len({float(value) for value in values}) == 1:
            return NoiseCovariance(values[0], self.size(0))
        spread = [np.broadcast_to(block.value, (block.dim,)) for block in blocks]
        return NoiseCovariance(np.concatenate(spread), self.size(0))

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


def dense_product(matrix: PETSc.Mat, block: PETSc.Mat, transposed: bool = False) -> np.ndarray:
    """A sparse matrix, or its transpose, times a dense one: the owned rows, (n_owned, c)."""
    result = matrix.transposeMatMult(block) if transposed else matrix.matMult(block)
    values = result.getDenseArray().copy()
    result.destroy()
    return values
