"""Samples handed out to groups of ranks, first come first served, with one progress bar for all.

Newton iterations differ from sample to sample, so a fixed share would leave ranks idle at the end.
Rank 0 keeps the counters and answers the others by messages, which every network carries; one-sided operations are
not to be had on all (Open MPI 4.1 has none over TCP).  No rank is lost to a manager: a small thread answers while
rank 0 solves, where MPI allows calls from threads, else rank 0 answers between its samples.  Either may be late by as
much as a call of dolfin or PETSc, or a whole solve, in which Python stands still.  So a group asks for its next sample
when it begins one, as long as there are many, and finds the answer when it is done.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Iterator

import numpy as np
from mpi4py import MPI
from tqdm import tqdm

# what a rank tells rank 0: it asks for a sample, has one finished, has one failed, stops all, has nothing more to say
_NEXT, _DONE, _FAILED, _STOP, _BYE = range(5)
_PAUSE = 0.002  # seconds between two looks of the thread


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
    max_failures : int, optional
        More failed samples stop all groups.

    Attributes
    ----------
    failures, finished : int
        Failed samples, and all that are finished, of all groups: on rank 0 so far, on every rank once closed.
    """

    def __init__(
        self,
        world: MPI.Intracomm,
        group: MPI.Comm,
        indices: np.ndarray,
        label: str,
        show: bool = True,
        max_failures: int | None = None,
    ):
        self.group, self.indices, self.max_failures = group, indices, max_failures
        self.failures, self.finished = 0, 0
        self._comm = world.Dup()  # what is said here meets no other message
        self._n_groups = world.size // group.size
        self._taken, self._stopped, self._present = 0, False, world.size - 1
        self._answer, self._asked = np.empty(2, dtype=np.int64), MPI.REQUEST_NULL
        self._lock = threading.Lock()  # rank 0's own work and its thread change the counters
        self._thread: threading.Thread | None = None
        if world.rank == 0 and world.size > 1 and MPI.Query_thread() == MPI.THREAD_MULTIPLE:
            self._thread = threading.Thread(target=self._answer_in_thread, daemon=True)
            self._thread.start()
        self._bar = tqdm(
            total=len(indices), desc=label, unit="sample", disable=not show or world.rank != 0, mininterval=0.5
        )

    def __iter__(self) -> Iterator[int]:
        while True:
            position = self.group.bcast(self._next() if self.group.rank == 0 else None)
            if position >= len(self.indices):
                return
            yield int(self.indices[position])

    def done(self, failed: bool) -> None:
        """One more sample is finished; the group's first rank says so."""
        said = _FAILED if failed else _DONE
        if self._comm.rank == 0:
            self._note(said)
            return
        self._tell(said)
        if failed:  # one too many ends this group at once, also where it has asked ahead
            stopped = np.empty(2, dtype=np.int64)
            self._comm.Recv(stopped, source=0, tag=_FAILED)
            self._stopped = bool(stopped[0])

    def stop(self) -> None:
        """Nobody gets another sample, but for one that a group has asked for ahead."""
        if self._comm.rank == 0:
            self._note(_STOP)
        else:
            self._tell(_STOP)

    def refresh(self) -> None:
        """Let the bar show what all groups have done."""
        self._answer_all()
        if not self._bar.disable:
            self._bar.update(self.finished - self._bar.n)

    def close(self) -> None:
        """Agree on the counters; collective."""
        if self._comm.rank != 0:
            self._asked.Wait()  # nobody takes the sample that it may bring: all were stopped
            self._tell(_BYE)
        elif self._thread is not None:
            self._thread.join()
        else:
            self._answer_until_all_left()
        self.failures, self.finished = self._comm.bcast((self.failures, self.finished))
        self.refresh()
        self._bar.close()
        self._comm.Free()

    # ---- a group asks ----------------------------------------------------------------------

    def _next(self) -> int:
        """Position of this group's next sample; the number of samples if there is none."""
        if self._comm.rank == 0:
            self._answer_all()
            return self._take()[0]
        if self._stopped:
            return len(self.indices)
        if self._asked == MPI.REQUEST_NULL:
            self._ask()
        self._asked.Wait()
        position, many_left = (int(value) for value in self._answer)
        if many_left:
            self._ask()
        return position

    def _ask(self) -> None:
        self._asked = self._comm.Irecv(self._answer, source=0, tag=_NEXT)
        self._tell(_NEXT)

    def _tell(self, said: int) -> None:
        self._comm.Send(np.empty(0, dtype=np.int64), dest=0, tag=said)

    # ---- rank 0 answers --------------------------------------------------------------------

    def _take(self) -> tuple[int, bool]:
        """Position of the next sample, and whether there are more than groups."""
        with self._lock:
            n = len(self.indices)
            if self._stopped or self._taken == n:
                return n, False
            self._taken += 1
            return self._taken - 1, n - self._taken > self._n_groups

    def _note(self, said: int) -> None:
        with self._lock:
            self.finished += said in (_DONE, _FAILED)
            self.failures += said == _FAILED
            self._present -= said == _BYE
            too_many = self.max_failures is not None and self.failures > self.max_failures
            self._stopped = self._stopped or said == _STOP or too_many

    def _answer_all(self) -> None:
        """What was asked until now, where no thread does it."""
        if self._comm.rank == 0 and self._thread is None:
            while self._answer_one():
                pass

    def _answer_one(self) -> bool:
        """Answer one message; False if there is none."""
        status = MPI.Status()
        if not self._comm.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG, status):
            return False
        source, said = status.Get_source(), status.Get_tag()
        self._comm.Recv(np.empty(0, dtype=np.int64), source=source, tag=said)
        self._note(said)
        if said in (_NEXT, _FAILED):
            answer = self._take() if said == _NEXT else (self._stopped, False)
            self._comm.Send(np.array(answer, dtype=np.int64), dest=source, tag=said)
        return True

    def _answer_until_all_left(self) -> None:
        while self._present:
            if not self._answer_one():
                time.sleep(_PAUSE)

    def _answer_in_thread(self) -> None:
        try:
            self._answer_until_all_left()
        except BaseException:  # noqa: BLE001  the others would wait for ever
            traceback.print_exc()
            self._comm.Abort(1)
