"""One progress bar for all ranks, drawn by rank 0."""

from __future__ import annotations

from mpi4py import MPI
from tqdm import tqdm

_TAG = 771


class SharedProgress:
    """Counts finished samples over the ranks of a communicator, without a barrier.

    Ranks send a message a sample; rank 0 collects them between its own samples and, in `finish`,
    until all are in.

    Parameters
    ----------
    comm : MPI.Comm
    total : int
        Samples over all ranks.
    label : str
    show : bool
        False draws nothing; the messages go all the same.
    """

    def __init__(self, comm: MPI.Comm, total: int, label: str, show: bool = True):
        self.comm, self._running = comm, comm.size - 1
        self._sent: list[MPI.Request] = []
        self._bar = tqdm(total=total, desc=label, unit="sample", disable=not show or comm.rank != 0, mininterval=0.5)

    def step(self) -> None:
        """One more sample is done on this rank."""
        if self.comm.rank != 0:
            self._sent = [request for request in self._sent if not request.Test()]
            self._sent.append(self.comm.isend(False, dest=0, tag=_TAG))
            return
        self._bar.update()
        while self.comm.iprobe(tag=_TAG):
            self._receive()

    def finish(self) -> None:
        """Wait until every rank has called it; rank 0 shows what the others still do."""
        if self.comm.rank != 0:
            MPI.Request.waitall(self._sent)
            self.comm.send(True, dest=0, tag=_TAG)
        else:
            while self._running:
                self._receive()
        self._bar.close()

    def _receive(self) -> None:
        """Take one message of another rank: a sample more, or that it has finished."""
        if self.comm.recv(tag=_TAG):
            self._running -= 1
        else:
            self._bar.update()
