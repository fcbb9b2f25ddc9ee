"""Files that are written whole or not at all, and never through a link."""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hippylib_dino.errors import InputError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; what is there at the end takes its place, after an error nothing is left.

    Raises
    ------
    InputError
        If that name is a link, which a write would follow to a file of somebody else, or `path` a folder or a device.
    """
    if path.exists() and not path.is_file():  # a device would be gone for the whole machine
        raise _foreign(path)
    partial = path.with_name(path.name + ".partial")
    _refuse_link(partial)
    partial.unlink(missing_ok=True)  # what a killed run left
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file beside, then move it into place: whoever reads sees the old one or the new one."""
    with replacing(path) as partial, open(partial, "xb") as stream:
        write(stream)


def open_own(path: Path, flags: int) -> int:
    """Descriptor of a file of our own at a name that everybody knows, made if it is not there.

    Parameters
    ----------
    path : Path
    flags : int
        As of `os.open`, beyond those that make the file.

    Raises
    ------
    InputError
        If something else is there: a link, symbolic or hard, a folder, a device.
    """
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise _foreign(path) from error
        raise
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(descriptor)
        raise _foreign(path)
    return descriptor


def array_of(content: bytes) -> np.ndarray:
    """The array of numbers in a .npy file's content, which must have just the length that its header tells.

    Raises
    ------
    ValueError
        If it is none: nothing is unpickled, and no memory taken that the content does not fill.
    """
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("a .npy array of another version")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.kind not in "fiub":
        raise ValueError(f"an array of {dtype}, not of numbers")
    if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
        raise ValueError(f"an array whose header tells of shape {shape}, which its content has not")
    values = np.frombuffer(content, dtype, offset=stream.tell()).copy()
    return values.reshape(shape, order="F" if fortran_order else "C")


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise _foreign(path)


def _foreign(path: Path) -> InputError:
    return InputError(
        f"path: expected a plain file of this package's own at {str(path)!r}, or none; it is a link, a folder or a "
        "device, and writing there would change something else. Remove it, or choose another place."
    )
