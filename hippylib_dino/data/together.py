"""Errors under MPI: whatever one rank raises ends the work on all, and leaves none waiting."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable

from mpi4py import MPI

from hippylib_dino.errors import DinoError, GenerationError

# how long a rank that raised waits for the others of its mesh before it ends the run: they may be in a collective
# operation that it has left, which only an abort ends
PATIENCE = 60.0


def together(
    world: MPI.Comm,
    group: MPI.Comm,
    work: Callable[[], None],
    *,
    on_error: Callable[[], None] = lambda: None,
    while_waiting: Callable[[], None] = lambda: None,
) -> None:
    """Run `work` on every rank, then meet.

    Parameters
    ----------
    world : MPI.Comm
        All ranks.
    group : MPI.Comm
        The ranks that share a mesh.
    work : callable
        May raise on any rank.
    on_error : callable
        Called at once where `work` raised, to stop the others early.
    while_waiting : callable
        Called again and again until all ranks are there.

    Raises
    ------
    Exception
        What `work` raised here; on the other ranks the same error if it is one of this package, else a
        `GenerationError` that tells of it.  An interrupt of one of several ranks ends the run.
    """
    error: Exception | None = None
    try:
        work()
    except Exception as caught:  # noqa: BLE001  raised again below, on every rank
        error = caught
        on_error()
    except BaseException:
        if world.size > 1:  # an interrupt of one rank must not leave the others waiting
            traceback.print_exc()
            _abort(world)
        raise
    _meet(world, while_waiting, error if group.size > 1 else None)
    told = error if error is None or isinstance(error, DinoError) else GenerationError(_account(world, error))
    first = next((e for e in world.allgather(told) if e is not None), None)
    if error is not None:
        raise error
    if first is not None:
        raise first


def _meet(world: MPI.Comm, while_waiting: Callable[[], None], error: Exception | None) -> None:
    """Wait for all ranks; with an error, not for ever."""
    everyone = world.Ibarrier()
    deadline = time.monotonic() + PATIENCE
    while not everyone.Test():
        while_waiting()
        if error is not None and time.monotonic() > deadline:
            traceback.print_exception(error)
            sys.stderr.write(f"{_account(world, error)} The others of its mesh wait for it: the run ends.\n")
            _abort(world)
        time.sleep(0.005)


def _abort(world: MPI.Comm) -> None:
    sys.stderr.write("hippylib_dino: run ended; resume=True continues it.\n")
    sys.stderr.flush()
    world.Abort(1)


def _account(comm: MPI.Comm, error: Exception) -> str:
    """What the other ranks are told of an error that is not one of this package."""
    return f"rank {comm.rank} of {comm.size} raised {error!r}."
