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
    """Let one process at a time compile a form into dolfin's cache: ranks of a run, and runs beside each other.

    dolfin guards its cache only among the ranks of one mesh.  Ranks that each have a mesh of
    their own compile the same form at the same moment, and the losers die or hang.  The guard is
    a lock on a file of the form's own in the cache, so that it also holds between nodes on a shared file system,
    and that different forms are compiled at the same time.
    """
    import dijitso
    from dijitso.cache import lookup_lib

    if dijitso.jit.__name__ == "guarded_jit":
        return
    unguarded = dijitso.jit

    def guarded_jit(jitable, name, params, *args, **kwargs):
        cache = dijitso.validate_params(params)["cache"]
        if lookup_lib(name, cache) is not None:
            return unguarded(jitable, name, params, *args, **kwargs)
        # a form compiles its elements while it holds its own lock; elements compile no forms: nobody waits in a ring
        with _locked(os.path.join(cache["cache_dir"], "locks"), name):
            return unguarded(jitable, name, params, *args, **kwargs)

    dijitso.jit = guarded_jit


@contextlib.contextmanager
def _locked(directory: str, name: str) -> Iterator[None]:
    """Hold an exclusive lock on a file of this name."""
    os.makedirs(directory, exist_ok=True)
    file = os.open(os.path.join(directory, name), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)  # releases the lock
