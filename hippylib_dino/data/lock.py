"""One writer at a time in a dataset's directory."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
import warnings
from pathlib import Path

from hippylib_dino.errors import DatasetError
from hippylib_dino.files import open_own

NAME = ".lock"


class DirectoryLock:
    """An exclusive lock on a directory, given up by the operating system when its process ends, however it ends.

    Parameters
    ----------
    directory : Path
        Exists.

    Raises
    ------
    DatasetError
        If another run holds it; the message says which.
    InputError
        If a link or a folder is where its file belongs.
    """

    def __init__(self, directory: Path):
        self._file = directory / NAME
        while True:
            self._descriptor = open_own(self._file, os.O_RDWR)
            try:
                self._take()
            except BlockingIOError as error:
                holder = self._file.read_text(errors="replace").strip() or "another process"
                os.close(self._descriptor)
                raise DatasetError(
                    f"path: another run writes to {str(directory)!r} ({holder}). "
                    "Wait for it, end it, or choose another directory."
                ) from error
            except OSError as error:
                warnings.warn(
                    f"{directory}: this file system has no locks ({error}); nothing keeps two runs apart.",
                    stacklevel=2,
                )
            if self._still_there():
                break
            os.close(self._descriptor)  # the run that held it has just removed the file
        mine = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        try:
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, json.dumps(mine).encode())
        except OSError:  # a full disk
            self.release()
            raise

    def _take(self) -> None:
        """Try for a moment: `holder` takes the lock for an instant to see whether it is free."""
        for attempt in range(5):
            try:
                return fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if attempt == 4:
                    raise
                time.sleep(0.05)

    def _still_there(self) -> bool:
        try:
            return os.fstat(self._descriptor).st_ino == self._file.stat().st_ino
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Remove the file, then let go of it."""
        self._file.unlink(missing_ok=True)
        os.close(self._descriptor)


def holder(directory: Path) -> str | None:
    """Who writes to `directory` now, or None; seen from the same host, or through a file system with shared locks."""
    if (directory / NAME).is_symlink():  # none of ours
        return None
    try:
        with open(directory / NAME) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except OSError:
        return (directory / NAME).read_text(errors="replace").strip()
    return None
