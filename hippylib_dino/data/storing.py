"""Groups, arrays, samples and attributes of a dataset, as they are written: each with its digest.

The metadata of an array or group is one file, which arrives whole; see `hippylib_dino.data.integrity` for the digests.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from hippylib_dino.data.integrity import (
    CONTENT,
    DIGESTS,
    IDENTITY,
    METADATA,
    array_digest,
    row_digest,
    write_document,
)
from hippylib_dino.data.layout import BASIS_ARRAYS, WORK
from hippylib_dino.errors import DatasetError
from hippylib_dino.reduction.basis import Basis


def folder_of(group: zarr.Group) -> Path:
    """The directory of a group on disk."""
    return Path(group.store.root) / group.path


def place_of(group: zarr.Group, name: str) -> str:
    """Where a member of a group is in its dataset."""
    return f"{group.path}/{name}".strip("/")


def create_group(group: zarr.Group, name: str, attributes: dict | None = None) -> None:
    """An empty group in a dataset, in the place of what is there."""
    document = {"attributes": dict(attributes or {}), "zarr_format": 3, "node_type": "group"}
    _create(group, name, document)


def create_array(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    dims: tuple[str, ...] | None,
    dtype: str = "f8",
    *,
    chunks: tuple[int, ...] | None = None,
    attributes: dict | None = None,
) -> None:
    """A checksummed array in the place of what is there; unwritten floats read as NaN.

    One sample is one chunk, where `chunks` says nothing else.
    """
    array = zarr.create_array(
        MemoryStore(),
        shape=shape,
        chunks=(1, *shape[1:]) if chunks is None else chunks,
        dtype=dtype,
        compressors=[ZstdCodec(level=1), Crc32cCodec()],
        fill_value=0 if dtype == "u1" else np.nan,
        dimension_names=dims,
        attributes=dict(attributes or {}),
    )
    content = array.metadata.to_buffer_dict(default_buffer_prototype())[METADATA].to_bytes()
    _create(group, name, json.loads(content))


def _create(group: zarr.Group, name: str, document: dict) -> None:
    folder = folder_of(group) / name
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    write_document(folder / METADATA, document, group.attrs.get(IDENTITY), place_of(group, name))


def create_written_array(
    group: zarr.Group, name: str, values: np.ndarray, dims: tuple[str, ...] | None, chunks: tuple[int, ...]
) -> None:
    """A checksummed array with its values, which stay."""
    identity = group.attrs.get(IDENTITY)
    known = {} if identity is None else {CONTENT: array_digest(identity, place_of(group, name), values)}
    create_array(group, name, values.shape, dims, chunks=chunks, attributes=known)
    group[name][...] = values


def create_whole_array(group: zarr.Group, name: str, values: np.ndarray) -> None:
    """A checksummed array in one chunk."""
    create_written_array(group, name, values, None, values.shape)


def write_basis(group: zarr.Group, name: str, basis: Basis) -> None:
    """Store a basis under ``bases/name`` of a dataset."""
    about = {"kind": basis.kind, "inner_product": basis.inner_product, "total_energy": basis.total_energy}
    create_group(group, f"bases/{name}", about)
    for key in BASIS_ARRAYS:
        create_whole_array(group, f"bases/{name}/{key}", getattr(basis, key))


def update_attributes(group: zarr.Group, **changes: object) -> None:
    """Change attributes of a dataset on disk, all at once; who holds the group open opens it again to see them."""
    _rewrite(group, "", lambda document: document["attributes"].update(changes))


def resize(group: zarr.Group, name: str, n: int) -> None:
    """Let an array have n rows."""
    _rewrite(group, name, lambda document: document["shape"].__setitem__(0, n))


def _rewrite(group: zarr.Group, name: str, change: Callable[[dict], object]) -> None:
    file = folder_of(group) / name / METADATA
    document = json.loads(file.read_text())
    change(document)
    identity = document["attributes"].get(IDENTITY) if name == "" else group.attrs.get(IDENTITY)
    write_document(file, document, identity, place_of(group, name))


class SampleWriter:
    """Writes samples into the arrays of a group, which are looked up once.

    Parameters
    ----------
    group : zarr.Group
    """

    def __init__(self, group: zarr.Group):
        self._group = group
        self._arrays: dict[str, zarr.Array] = {}
        self._identity, self._digests = group.attrs.get(IDENTITY), group.attrs.get(DIGESTS, [])

    def write(self, index: int, record: dict[str, np.ndarray]) -> None:
        """Store arrays of one sample; its status is written by whoever calls, after this."""
        if self._identity is not None:
            record = {**record, "work": self._with_digests(index, record)}
        for name, values in record.items():
            array = self._array(name)
            if np.shape(values) != array.shape[1:]:  # Zarr would cut it off
                raise DatasetError(f"array {name!r}: expected shape {array.shape[1:]}, got {np.shape(values)}.")
            array[index] = values

    def _array(self, name: str) -> zarr.Array:
        if name not in self._arrays:
            self._arrays[name] = self._group[name]
        return self._arrays[name]

    def _with_digests(self, index: int, record: dict[str, np.ndarray]) -> np.ndarray:
        """The row of "work": of a new sample, or of one to which arrays are added."""
        if "work" in record:
            row = np.full(len(WORK) + len(self._digests) + 1, np.nan)
            row[: len(WORK)] = record["work"]
        else:
            row = self._array("work")[index]
        for column, name in enumerate(self._digests, start=len(WORK)):
            if name in record:
                row[column] = row_digest(self._identity, place_of(self._group, name), index, record[name])
        row[-1] = row_digest(self._identity, place_of(self._group, "work"), index, row[:-1])
        return row
