"""Keras, imported with a clear error where an HDF5 library clashes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hippylib_dino.errors import LibraryError

try:
    import h5py  # noqa: F401  Keras and TensorFlow import it, and fail less clearly
except (ImportError, ValueError, AttributeError) as error:
    raise LibraryError(
        f"h5py: cannot be imported ({error}). "
        + (
            "dolfin is loaded, and the h5py wheel brings an HDF5 library of its own that clashes with dolfin's. "
            "Remove the wheel and use the h5py built on the same HDF5: `pip uninstall h5py`, then "
            "`apt install python3-h5py-mpi` (Debian, Ubuntu) or your distribution's package."
            if "dolfin" in sys.modules
            else "Keras needs it: install h5py (next to dolfin: your distribution's package, not the wheel)."
        )
    ) from error

try:
    import keras
except ModuleNotFoundError as error:
    raise LibraryError(
        f"keras: cannot be imported, {error.name!r} is missing. Install a backend: `pip install 'hippylib_dino[cpu]'`, "
        "`[gpu]`, or any that Keras runs on, named in KERAS_BACKEND."
    ) from error
except (ImportError, ValueError) as error:  # a backend that is broken, or that Keras does not know
    raise LibraryError(
        f"keras: cannot be imported ({error}). Name a backend that works in KERAS_BACKEND: tensorflow or jax."
    ) from error

__all__ = ["keras", "single_precision"]


@contextmanager
def single_precision() -> Iterator[None]:
    """Keras's global dtype, which its optimizers and metrics ask for, is float32 within, then what the user set."""
    users = keras.config.floatx()
    keras.config.set_floatx("float32")
    try:
        yield
    finally:
        keras.config.set_floatx(users)
