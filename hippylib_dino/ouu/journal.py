"""What an optimiser asked and was told, on disk: a run that was killed goes on as if it had not been."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from hippylib_dino.errors import InputError

MAGIC = b"hippylib_dino optimization 1\n"
AGAIN = 1e-6  # relative difference of a recomputed answer that rounding on other ranks explains


class Journal:
    """Questions and answers of a deterministic algorithm, in order, appended to a file.

    A second run of the same algorithm asks the same, and is answered from the file without computing, until it is
    where the first one ended.  A record that a kill cut short is dropped.  The last answer is computed anew and
    compared: another problem does not go unnoticed.

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
        If the file exists and `resume` is False, or it is no journal, or one of other settings.
    """

    def __init__(self, path: str | Path | None, *, resume: bool, settings: dict, writes: bool = True):
        self._path = None if path is None else Path(path)
        self._header = MAGIC + json.dumps(settings, sort_keys=True).encode() + b"\n"
        self._writes = writes
        self._known: list[tuple[np.ndarray, np.ndarray]] = []
        self._next = 0
        if self._path is None or not self._path.exists():
            return
        if not resume:
            raise InputError(f"path: {str(path)!r} exists; pass resume=True to go on with it, or choose another name.")
        content = self._path.read_bytes()
        if content and not content.startswith(self._header):
            raise InputError(
                f"path: {str(path)!r} holds no iterates of this problem, or of another method, risk, start or bounds. "
                "Choose another name."
            )
        self._known = list(_records(content[len(self._header) :]))
        kept = self._header + b"".join(_packed(*record) for record in self._known)
        if writes and len(kept) < len(content):  # a kill left a part of a record; other ranks may be reading
            partial = self._path.with_name(self._path.name + ".partial")
            partial.write_bytes(kept)
            partial.replace(self._path)

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
            fresh = not self._path.exists() or self._path.stat().st_size == 0
            with self._path.open("ab") as file:
                file.write((self._header if fresh else b"") + _packed(question, answer))
        return answer


def _packed(question: np.ndarray, answer: np.ndarray) -> bytes:
    sizes = struct.pack("<qq", len(question), len(answer))
    return sizes + question.astype("<f8").tobytes() + answer.astype("<f8").tobytes()


def _records(content: bytes) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Whole records of a file's content."""
    first = 0
    while first + 16 <= len(content):
        n, k = struct.unpack_from("<qq", content, first)
        last = first + 16 + 8 * (n + k)
        if last > len(content):
            return
        numbers = np.frombuffer(content, "<f8", n + k, first + 16)
        yield numbers[:n], numbers[n:]
        first = last
