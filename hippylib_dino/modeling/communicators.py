"""Communicators for sample-parallel runs, and safe form compilation under `mpirun`."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from mpi4py import MPI

from hippylib_dino.errors import InputError


def sample_communicator(ranks_per_sample: int | None = 1) -> MPI.Comm:
    """The communicator to build the mesh on: the group of ranks that solves one sample.

    This is the one line that `mpirun` asks of a script; without `mpirun` it changes nothing.
    It also makes form compilation safe while several groups share one compile cache.

    Parameters
    ----------
    ranks_per_sample : int or None
        Ranks that share one mesh; must divide the number of ranks.  None: all of them.

    Raises
    ------
    InputError
        If the world cannot be divided so.

    Examples
    --------
    >>> sample_communicator().size
    1
    """
    world = MPI.COMM_WORLD
    ranks_per_sample = world.size if ranks_per_sample is None else ranks_per_sample
    if ranks_per_sample < 1 or world.size % ranks_per_sample:
        raise InputError(
            f"ranks_per_sample: expected a divisor of the {world.size} ranks of this run, got {ranks_per_sample}."
        )
    serialize_compilation()
    if ranks_per_sample == 1:
        return MPI.COMM_SELF
    return world if ranks_per_sample == world.size else world.Split(world.rank // ranks_per_sample, world.rank)


def serialize_compilation() -> None:
    """Let one process at a time write dolfin's compile cache: ranks of a run, and runs beside each other.

    dolfin guards its cache only among the ranks of one mesh.  Ranks that each have a mesh of
    their own compile the same form at the same moment, and the losers die or hang.  The guard is
    a file lock beside the cache, so that it also holds between nodes on a shared file system.
    """
    import dijitso
    from dijitso.cache import lookup_lib

    if dijitso.jit.__name__ == "guarded_jit":
        return
    unguarded = dijitso.jit
    guard = _FileLock()

    def guarded_jit(jitable, name, params, *args, **kwargs):
        cache = dijitso.validate_params(params)["cache"]
        if lookup_lib(name, cache) is not None:
            return unguarded(jitable, name, params, *args, **kwargs)
        with guard.held(cache["cache_dir"]):
            return unguarded(jitable, name, params, *args, **kwargs)

    dijitso.jit = guarded_jit


class _FileLock:
    """An exclusive lock on a file, re-entrant within the process: forms compile their elements."""

    def __init__(self):
        self._depth = 0

    @contextlib.contextmanager
    def held(self, directory: str) -> Iterator[None]:
        if self._depth == 0:
            os.makedirs(directory, exist_ok=True)
            self._file = open(os.path.join(directory, "hippylib_dino.lock"), "w")  # noqa: SIM115  closed below
            fcntl.flock(self._file, fcntl.LOCK_EX)
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._file.close()  # releases the lock
