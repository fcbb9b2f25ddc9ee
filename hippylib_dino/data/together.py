"""The ranks of a run acting together: what one rank raises ends the work on all, and leaves none waiting."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from functools import cache
from typing import Any

import dolfin as dl
from mpi4py import MPI

from hippylib_dino.data.handout import Handout
from hippylib_dino.errors import DinoError, GenerationError, InputError

# how long a rank that raised waits for the others of its mesh before it ends the run: they may be in a collective
# operation that it has left, which only an abort ends
PATIENCE = 60.0


@cache
def vector_on_world() -> dl.Vector:
    """A vector on the communicator of all ranks that lives as long as the process; the first call is collective.

    hIPPYlib makes vectors there, whatever the mesh lives on (`hp.TimeDependentVector`, `doublePassG`).  The first one
    has PETSc duplicate the communicator, and once the last one is gone the next does so again: a collective
    operation, which a rank that solves on its own would enter while the others wait elsewhere.
    """
    return dl.Vector(MPI.COMM_WORLD)


class Ranks:
    """All ranks of the run, in groups that share a mesh; making it is collective.

    Parameters
    ----------
    mesh_comm : MPI.Comm
        The group of this rank.
    after_abort : str
        How to go on after a run that had to be ended, for the message.

    Raises
    ------
    InputError
        If the groups are not of one size, or not consecutive ranks.

    Attributes
    ----------
    world, group : MPI.Comm
    is_first : bool
        Whether this rank is the first of all.
    in_first_group : bool
    writes : bool
        Whether it is the first of its group, which stores samples.
    """

    def __init__(self, mesh_comm: MPI.Comm, after_abort: str = "start it again."):
        self.world, self.group, self._after_abort = MPI.COMM_WORLD, mesh_comm, after_abort
        number = self.world.rank // mesh_comm.size
        consecutive = mesh_comm.allgather(number) == [number] * mesh_comm.size
        if self.world.size % mesh_comm.size or not consecutive:
            raise InputError(
                f"model: its mesh lives on {mesh_comm.size} ranks, which are not one of several equal groups of the "
                f"{self.world.size} ranks of this run; build it on hd.sample_communicator(ranks_per_sample)."
            )
        self._meeting = mesh_comm.Dup()  # operations that a failed rank left open on the mesh's own do not reach it
        self.is_first = self.world.rank == 0
        self.in_first_group = number == 0
        self.writes = mesh_comm.rank == 0
        vector_on_world()

    def together(self, work: Callable[[], Any], handout: Handout | None = None) -> Any:
        """Run `work` on every rank, then meet; what it returns here.

        Parameters
        ----------
        work : callable
            May raise on any rank.
        handout : Handout, optional
            What the work takes samples from: an error stops it, so that the others end early.

        Raises
        ------
        Exception
            What `work` raised here; on the other ranks the same error if it is one of this package, else a
            `GenerationError` that tells of it.  An interrupt of one of several ranks ends the run.
        """
        error: Exception | None = None
        found = None
        try:
            try:
                found = work()
            except Exception as caught:  # noqa: BLE001  raised again below, on every rank
                error = caught
                if handout is not None:
                    handout.stop()
            self._meet(error, handout)
            told = error if error is None or isinstance(error, DinoError) else GenerationError(self._account(error))
            first = next((e for e in self.world.allgather(told) if e is not None), None)
        except BaseException:
            if self.world.size > 1:  # an interrupt of one rank must not leave the others waiting
                traceback.print_exc()
                self._abort()
            raise
        if error is not None:
            raise error
        if first is not None:
            raise first
        return found

    def on_first(self, work: Callable[[], Any]) -> Any:
        """What `work` returns on the first of all ranks, on every rank."""
        return self.world.bcast(self.together(lambda: work() if self.is_first else None))

    def on_first_group(self, work: Callable[[], None]) -> None:
        """Run `work` on the ranks of the first group, while the others wait."""
        self.together(lambda: work() if self.in_first_group else None)

    def _meet(self, error: Exception | None, handout: Handout | None) -> None:
        """Wait for all ranks; with an error, for those of the same mesh not for ever."""
        mine, everyone = self._meeting.Ibarrier(), self.world.Ibarrier()
        deadline = time.monotonic() + PATIENCE
        mesh_is_here = False
        while not everyone.Test():
            mesh_is_here = mesh_is_here or mine.Test()
            if handout is not None:
                handout.refresh()
            if error is not None and not mesh_is_here and time.monotonic() > deadline:
                traceback.print_exception(error)
                sys.stderr.write(f"{self._account(error)} The others of its mesh wait for it: the run ends.\n")
                self._abort()
            time.sleep(0.005)
        if not mesh_is_here:
            mine.Wait()

    def _abort(self) -> None:
        sys.stderr.write(f"hippylib_dino: run ended; {self._after_abort}\n")
        sys.stderr.flush()
        self.world.Abort(1)

    def _account(self, error: Exception) -> str:
        """What the other ranks are told of an error that is not one of this package."""
        return f"rank {self.world.rank} of {self.world.size} raised {error!r}."
