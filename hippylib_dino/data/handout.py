"""Samples handed out to groups of ranks, first come first served, with one progress bar for all.

Newton iterations differ from sample to sample, so a fixed share would leave ranks idle at the end.
The counters live in the memory of rank 0 and are changed by atomic one-sided operations, without a manager
process.  Within a node, and over networks with remote atomics, they do not wait for rank 0; over others they
may, until its solve in hand ends.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from mpi4py import MPI
from tqdm import tqdm

_NEXT, _DONE, _FAILED, _STOP = range(4)


class Handout:
    """Iterating gives this group's next index, until none is left or someone called `stop`.

    Creating and closing it is collective over `world`.

    Parameters
    ----------
    world : MPI.Comm
        All ranks.
    group : MPI.Comm
        The ranks that solve one sample; all of them get the same index.
    indices : (n,) array of int
        The same on every rank.
    label : str
        Of the progress bar, which rank 0 draws.
    show : bool
        False draws nothing.
    """

    def __init__(self, world: MPI.Intracomm, group: MPI.Comm, indices: np.ndarray, label: str, show: bool = True):
        self.group, self.indices = group, indices
        size = MPI.INT64_T.Get_size()
        self._window = MPI.Win.Allocate(4 * size if world.rank == 0 else 0, size, comm=world)
        if world.rank == 0:
            self._window.Lock(0)
            self._window.Put([np.zeros(4, dtype=np.int64), MPI.INT64_T], 0)
            self._window.Unlock(0)
        world.Barrier()
        self._bar = tqdm(
            total=len(indices), desc=label, unit="sample", disable=not show or world.rank != 0, mininterval=0.5
        )

    def _add(self, counter: int, amount: int) -> int:
        """Add to a counter of rank 0 and return what it was."""
        before = np.empty(1, dtype=np.int64)
        change = np.array([amount], dtype=np.int64)
        self._window.Lock(0, MPI.LOCK_SHARED)
        self._window.Fetch_and_op([change, MPI.INT64_T], [before, MPI.INT64_T], 0, counter, MPI.SUM)
        self._window.Unlock(0)
        return int(before[0])

    def __iter__(self) -> Iterator[int]:
        while True:
            position = len(self.indices)
            if self.group.rank == 0 and not self._add(_STOP, 0):
                position = self._add(_NEXT, 1)
            position = self.group.bcast(position)
            if position >= len(self.indices):
                return
            yield int(self.indices[position])

    def done(self, failed: bool) -> None:
        """One more sample is finished; the group's first rank says so."""
        self._add(_FAILED if failed else _DONE, 1)

    def stop(self) -> None:
        """Nobody gets another sample."""
        self._add(_STOP, 1)

    @property
    def failures(self) -> int:
        """Failed samples of all groups so far."""
        return self._add(_FAILED, 0)

    @property
    def finished(self) -> int:
        """Samples of all groups so far, failed ones included."""
        return self._add(_DONE, 0) + self._add(_FAILED, 0)

    def refresh(self) -> None:
        """Let the bar show what all groups have done."""
        if not self._bar.disable:
            self._bar.update(self.finished - self._bar.n)

    def close(self) -> None:
        """Free the counters; collective."""
        self.refresh()
        self._bar.close()
        self._window.Free()
