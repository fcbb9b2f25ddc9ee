"""What a command reads, and whether it may write where it is told to: asked before its work, not after it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hippylib_dino.data.dataset import Dataset
from hippylib_dino.data.integrity import METADATA
from hippylib_dino.errors import DatasetError, DinoError, InputError, ModelFileError, RankError
from hippylib_dino.network.dino import DINO, check_bases


@contextlib.contextmanager
def named(**labels: str) -> Iterator[None]:
    """Let an error of the package say an argument by its name on the command line, which `labels` give."""
    try:
        yield
    except DinoError as error:
        argument, colon, rest = str(error).partition(":")
        if colon and argument in labels:
            raise type(error)(f"{labels[argument]}:{rest}") from error
        raise


def open_dataset(path: Path, argument: str = "DATASET") -> Dataset:
    """The dataset at `path`.

    Raises
    ------
    DatasetError
        If there is none, or it is damaged.
    """
    if not os.path.isdir(path):  # which raises for no name
        there = "is a file" if os.path.isfile(path) else "is not there"
        raise DatasetError(
            f"{argument}: expected a dataset directory, as hippylib-dino generate makes it; {str(path)!r} {there}."
        )
    with _reading(argument, path, DatasetError):
        return Dataset.open(path)


def load_dino(path: Path, argument: str = "MODEL_FILE") -> DINO:
    """The DINO in the file `path`.

    Raises
    ------
    ModelFileError
        If there is none, or it is damaged.
    """
    if not os.path.isfile(path):
        there = "is a folder" if os.path.isdir(path) else "is not there"
        raise ModelFileError(
            f"{argument}: expected the file of a DINO, as hippylib-dino train writes it; {str(path)!r} {there}."
        )
    with _reading(argument, path, ModelFileError):
        return DINO.load(path)


def load_pair(model_file: Path, path: Path) -> tuple[DINO, Dataset]:
    """A DINO, and the dataset in the ranks that it was trained in; a learned encoder has no rank of a dataset.

    Raises
    ------
    InputError
        If the dataset is of another problem or of other bases than the DINO.
    """
    dino, dataset = load_dino(model_file), open_dataset(path)
    if not dataset.has_bases:
        raise DatasetError(
            f"DATASET: {str(path)!r} has no bases yet; finish it by hippylib-dino generate with --resume."
        )
    learned = dino.input_basis.kind == "learned"
    rank = dataset.plan.input_rank if learned else dino.input_basis.parameter_part().rank
    try:
        view = dataset.truncate(rank, dino.output_basis.rank)
    except RankError as error:
        raise InputError(
            f"DATASET: {str(path)!r} has not the bases that this DINO was trained in ({error}). Take the dataset that "
            "it was trained on."
        ) from error
    with named(dataset="DATASET", dino="MODEL_FILE"):
        check_bases(dino, view)
    return dino, view


def check_file(argument: str, path: Path, overwrite: bool, suffixes: tuple[str, ...] = ()) -> None:
    """Ask whether the file `path` may be written.

    Raises
    ------
    InputError
        If it is there and not to be replaced, has another suffix than one of `suffixes`, or cannot be written.
    """
    if suffixes and path.suffix not in suffixes:
        raise InputError(f"{argument}: expected a name that ends in {' or '.join(suffixes)}, got {str(path)!r}.")
    with _telling(argument, path):
        if path.exists() and not path.is_file():
            what = "a folder" if path.is_dir() else "no plain file"
            raise InputError(f"{argument}: expected the name of a file, {str(path)!r} is {what}; choose another name.")
        if path.exists() and not overwrite:
            raise InputError(
                f"{argument}: {str(path)!r} exists; pass --overwrite to replace it, or choose another name."
            )
        if not path.parent.exists():
            raise InputError(
                f"{argument}: the folder of {str(path)!r} is not there; make it first, mkdir -p {str(path.parent)!r}."
            )
        _try_folder(path.parent)


def check_folder(argument: str, path: Path, *, empty: bool = False) -> None:
    """Ask whether files may be written to the folder `path`, which may still have to be made, and is no dataset.

    Raises
    ------
    InputError
        If it is a file or a dataset, cannot be written to, or holds something where it is to be `empty`.
    """
    with _telling(argument, path):
        if path.exists() and not path.is_dir():
            raise InputError(f"{argument}: expected a folder, {str(path)!r} is a file; choose another name.")
        if (path / METADATA).exists():
            raise InputError(f"{argument}: {str(path)!r} is a dataset; choose another folder.")
        if empty and path.is_dir() and any(path.iterdir()):
            raise InputError(
                f"{argument} folder: {str(path)!r} is not empty; pass overwrite=True to write there all the same, or "
                "choose another name."
            )
        _try_folder(next(place for place in (path, *path.absolute().parents) if place.exists()))


def check_apart(file: Path, folders: dict[str, Path | None]) -> None:
    """Raise `InputError` for a folder, by its argument, at or below the place of the file OUTPUT."""
    for argument, folder in folders.items():
        if folder is not None and file.absolute() in (folder.absolute(), *folder.absolute().parents):
            raise InputError(f"{argument}: {str(folder)!r} is the place of the file OUTPUT; choose another folder.")


def _try_folder(folder: Path) -> None:
    """Make a file and remove it: permissions alone tell nothing of read-only disks, nor of the superuser."""
    with tempfile.TemporaryFile(dir=folder):
        pass


@contextlib.contextmanager
def _reading(argument: str, path: Path, kind: type[DinoError]) -> Iterator[None]:
    try:
        with named(path=argument):
            yield
    except OSError as error:
        raise kind(f"{argument}: {str(path)!r} cannot be read ({error.strerror}).") from error


@contextlib.contextmanager
def _telling(argument: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{argument}: {str(path)!r} cannot be written ({error.strerror}); choose another place, or make that one "
            "writable."
        ) from error
