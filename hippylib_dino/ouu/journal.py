"""What an optimiser asked and was told, on disk: a run that was killed goes on as if it had not been."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from hippylib_dino.errors import InputError
from hippylib_dino.files import open_own, write_file

MAGIC = b"hippylib_dino optimization 2\n"
AGAIN = 1e-6  # relative difference of a recomputed answer that rounding on other ranks explains
CHECK = 16  # bytes behind each record, which all before it enter
_Record = tuple[np.ndarray, np.ndarray]


class Journal:
    """Questions and answers of a deterministic algorithm, in order, appended to a file.

    A second run of the same algorithm asks the same, and is answered from the file without computing, until it is
    where the first one ended.  Each record has a digest of itself and all before it: from the first one on that a kill
    cut short, or that was altered, the file is dropped with a warning and computed again.  The last answer is computed
    anew and compared: another problem does not go unnoticed.

    Parameters
    ----------
    path : str or Path, optional
        Without, nothing is kept.
    resume : bool
        Whether to go on with a file that exists.
    settings : dict
        What tells this algorithm from others, in plain values.
    writes : bool
        Whether this rank writes; all read.

    Raises
    ------
    InputError
        If the file exists and `resume` is False, or it is no journal, or one of other settings, or a link.
    """

    def __init__(self, path: str | Path | None, *, resume: bool, settings: dict, writes: bool = True):
        self._path = None if path is None else Path(path)
        self._header = MAGIC + json.dumps(settings, sort_keys=True).encode() + b"\n"
        self._check = _digest(b"", self._header)  # of the last record
        self._writes = writes
        self._known: list[_Record] = []
        self._next = 0
        if self._path is None or not self._path.exists():
            return
        if not resume:
            raise InputError(f"path: {str(path)!r} exists; pass resume=True to go on with it, or choose another name.")
        content = self._path.read_bytes()
        if content and not content.startswith(self._header):
            raise InputError(
                f"path: {str(path)!r} holds no iterates of this problem, or of another method, risk, start or bounds, "
                "or its first lines are damaged. Choose another name."
            )
        kept = min(len(self._header), len(content))
        for record, check, end in _records(content, len(self._header), self._check):
            self._known.append(record)
            self._check, kept = check, end
        if kept < len(content):
            warnings.warn(
                f"path: {str(path)!r} ends in a record that was cut short or altered; the {len(self._known)} before it "
                "are kept, what came after is computed again.",
                stacklevel=2,
            )
            if writes:  # in another file, since other ranks may be reading this one
                write_file(self._path, lambda stream: stream.write(content[:kept]))

    @property
    def replays(self) -> bool:
        """Whether the next answer is in the file."""
        return self._next < len(self._known)

    @property
    def upcoming(self) -> np.ndarray | None:
        """The next question in the file; None where there is none."""
        return self._known[self._next][0] if self.replays else None

    def ask(self, question: np.ndarray, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """The answer (k,) to a question (n,): from the file where it is there, else computed and appended.

        Raises
        ------
        InputError
            If the file has another question here, or another answer to its last one.
        """
        if self.replays:
            asked, answer = self._known[self._next]
            self._next += 1
            same = asked.shape == question.shape and np.allclose(asked, question, rtol=1e-9, atol=1e-12)
            if same and not self.replays:
                anew = compute()
                same = np.array_equal(anew, answer, equal_nan=True) or (
                    anew.shape == answer.shape and np.linalg.norm(anew - answer) <= AGAIN * np.linalg.norm(answer)
                )
            if not same:
                raise InputError(
                    f"path: {str(self._path)!r} holds iterates of another problem: it has other values. Choose another "
                    "name, or pass the ensemble that they were computed with."
                )
            return answer.copy()
        answer = compute()
        if self._path is not None and self._writes:
            self._append(self._path, question, answer)
        return answer

    def _append(self, path: Path, question: np.ndarray, answer: np.ndarray) -> None:
        record = struct.pack("<qq", len(question), len(answer))
        record += question.astype("<f8").tobytes() + answer.astype("<f8").tobytes()
        with open(open_own(path, os.O_WRONLY | os.O_APPEND), "ab", buffering=0) as file:
            before, check = os.fstat(file.fileno()).st_size, _digest(self._check, record)
            left = (b"" if before else self._header) + record + check
            try:
                while left:
                    left = left[file.write(left) :]
            except OSError:  # a full disk: what was there stays, and no piece of a record behind it
                file.truncate(before)
                raise
            self._check = check


def _digest(before: bytes, record: bytes) -> bytes:
    return hashlib.blake2b(before + record, digest_size=CHECK).digest()


def _records(content: bytes, first: int, check: bytes) -> Iterator[tuple[_Record, bytes, int]]:
    """Whole records of a file's content from byte `first` on, each with its digest and where it ends."""
    while first + 16 <= len(content):
        n, k = struct.unpack_from("<qq", content, first)
        last = first + 16 + 8 * (n + k)
        if n < 0 or k < 0 or last + CHECK > len(content):
            return
        check = _digest(check, content[first:last])
        if content[last : last + CHECK] != check:
            return
        numbers = np.frombuffer(content, "<f8", n + k, first + 16)
        yield (numbers[:n], numbers[n:]), check, last + CHECK
        first = last + CHECK
