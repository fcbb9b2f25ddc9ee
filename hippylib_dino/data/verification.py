"""Whether a dataset on disk is whole, and what was written: its documents, samples, and what they say of each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import zarr

from hippylib_dino.data.integrity import DIGESTS, IDENTITY, METADATA, read_document, row_digest, what
from hippylib_dino.data.layout import BASIS_ARRAYS, DONE, FAILED, LATENT_ARRAYS, PENDING, ROWS, SCRATCH, WORK
from hippylib_dino.data.plan import GIVEN
from hippylib_dino.errors import DatasetError
from hippylib_dino.noise import NoiseCovariance

if TYPE_CHECKING:
    from hippylib_dino.data.dataset import Dataset

AGREEMENT = 1e-6  # relative; between what is stored of a sample twice
WITHOUT_DIGESTS = (
    "{}: was made by an earlier version, which kept no digests. Checked were checksums, splits, and what is stored of "
    "a sample twice; not checked could be whether the metadata, the noise, the bases, the norms and the work were "
    "altered or exchanged with those of another dataset. Generate again to have that."
)
_RESTORE = "Restore it from a backup, or generate again into another directory."
REPAIR = "Restore the file, or solve such samples again with hd.generate(..., resume=True, repair=True)."


# ---- documents -------------------------------------------------------------------------------


def check_documents(dataset: Dataset) -> None:
    """Raise `DatasetError`, naming the file, unless each array and group has the metadata that it was written with."""
    for place in sorted({*_expected(dataset), *_documents(dataset.path)}):
        read_document(dataset.path / place / METADATA, dataset.identity, place)
        try:
            found = zarr.open(dataset.path / place, mode="r")
        except Exception as error:  # zarr raises whatever its parsers raise
            raise DatasetError(f"{dataset.path}: {what(place)} is damaged ({error!r}). {_RESTORE}") from error
        if place == "work" and dataset.identity is None and found.shape[1:] != (len(WORK),):
            raise DatasetError(
                f"{dataset.path}: the dataset is damaged (its zarr.json is not the one of its samples, which have "
                f"digests). {_RESTORE}"
            )


def _documents(path: Path, place: str = "") -> Iterator[str]:
    """Places of all arrays and groups that are there."""
    for entry in os.scandir(path / place):
        inside = f"{place}/{entry.name}".strip("/")
        if not entry.name.startswith(".") and (path / inside / METADATA).exists():
            yield inside
            yield from _documents(path, inside)


def _expected(dataset: Dataset) -> Iterator[str]:
    """Places of the arrays and groups that must be there."""
    yield from ("", "status", "work", "bases", "bases/noise_covariance", "failures", "runs")
    yield from (n for n in dataset._checked_arrays() if dataset.has_bases or n not in LATENT_ARRAYS)
    for name in dataset.basis_names if dataset.has_bases else ():
        yield from (f"bases/{name}", *(f"bases/{name}/{key}" for key in BASIS_ARRAYS))
    for batch in dataset.plan.given:
        yield from (GIVEN, f"{GIVEN}/{batch.start:08d}", f"{GIVEN}/{batch.start:08d}/m")
    if not dataset.has_bases or (dataset.path / SCRATCH).exists():
        scratch = read_document(dataset.path / SCRATCH / METADATA, dataset.identity, SCRATCH).get("attributes", {})
        kept = {"status", "work", "m", "observable", *scratch.get(DIGESTS, ())} - set(ROWS)  # which come later
        yield from (SCRATCH, *(f"{SCRATCH}/{name}" for name in kept))


def check_records(dataset: Dataset) -> None:
    """Raise `DatasetError` unless what is said of failures and runs is what was written."""
    beyond = [record["index"] for record in dataset.failure_records() if record["index"] >= dataset.plan.n_total]
    if beyond:
        raise DatasetError(f"{dataset.path}: the folder 'failures' tells of samples {beyond}, which there are not.")
    for record in dataset.runs:
        if "started" not in record:
            raise DatasetError(f"{dataset.path}: a file in the folder 'runs' tells of no run: {record}. Remove it.")


# ---- samples ---------------------------------------------------------------------------------


def damaged_samples(dataset: Dataset) -> dict[int, str]:
    """Numbers of samples that are not whole or not what was written, with the reason.

    Raises
    ------
    DatasetError
        If a basis, the noise or a given parameter is damaged, which no solve brings back.
    """
    dataset = type(dataset)(dataset._group, dataset.path)  # of a truncated view, all that is stored
    twice = _StoredTwice(dataset)
    for i in dataset.given:
        dataset.given_parameter(i)
    for batch in dataset.plan.given if dataset.identity else ():
        dataset._whole(f"{GIVEN}/{batch.start:08d}/m")
    found: dict[int, str] = {}
    for i in range(dataset.plan.n_total):
        try:
            _check_sample(dataset, i, twice)
        except DatasetError as error:
            found[i] = str(error)
    return found


def _check_sample(dataset: Dataset, index: int, twice: _StoredTwice) -> None:
    where = f"{dataset.path}: sample {index} of array"
    try:
        status = int(dataset._array("status")[index])
    except Exception as error:  # zarr raises whatever its codec raises
        raise DatasetError(f"{where} 'status' is damaged ({error}). {REPAIR}") from error
    if status == PENDING and index < dataset.attributes["finished"]:
        raise DatasetError(f"{where} 'status' is missing, which was there once. {REPAIR}")
    if status == FAILED:
        record = dataset.failure(index)
        if record is None or "solved by" in record:
            raise DatasetError(
                f"{where} 'status' says that it failed, and no file in {str(dataset.path / 'failures')!r} why. {REPAIR}"
            )
        dataset.failed_parameter(index)
    elif status == DONE:
        names = (*dataset._checked_arrays(), "work")
        values = {name: dataset._rows(name, np.array([index]))[0] for name in names}
        if dataset.identity is not None:
            altered = _altered(dataset.identity, "", index, values, dataset.attributes[DIGESTS])
            if altered is not None:
                raise DatasetError(
                    f"{where} {altered!r} is damaged: not what was written, but altered, or another sample's or "
                    f"dataset's. {REPAIR}"
                )
        twice.check(index, values)
    elif status != PENDING:
        raise DatasetError(f"{where} 'status' is damaged: {status}. {REPAIR}")


def _altered(identity: str, group: str, index: int, values: dict[str, np.ndarray], names: list[str]) -> str | None:
    """The first of the arrays `names` whose row has not the digest that "work" keeps of it; None if all have."""
    row = values["work"]
    known = dict(zip((*names, "work"), row[len(WORK) :], strict=True))
    for name in ("work", *(name for name in names if name in values)):
        content = row[:-1] if name == "work" else values[name]
        if known[name] != row_digest(identity, f"{group}/{name}".strip("/"), index, content):
            return name
    return None


class _StoredTwice:
    """What is stored of a sample in two ways must agree: latent and full, norms and what they are of.

    Parameters
    ----------
    dataset : Dataset
        With its bases.
    """

    def __init__(self, dataset: Dataset):
        self._path = dataset.path
        self._input, self._output = dataset.basis("input"), dataset.basis("output")
        self._control = None if dataset.control is None else dataset.basis("control")
        self._noise: NoiseCovariance | None = None
        covariance = dataset._whole("bases/noise_covariance")
        if dataset.attributes["observable"] == "data":
            self._noise = NoiseCovariance.of(covariance, self._output.dim)

    def check(self, index: int, values: dict[str, np.ndarray]) -> None:
        """Raise `DatasetError` that names the array of a sample which does not agree with another."""
        x, rank = values["x"], self._input.rank
        pairs: list[tuple[str, np.ndarray, np.ndarray, str]] = []
        if "m" in values:
            pairs.append(("x", x[:rank], self._input.encode(values["m"]), "m"))
        if self._control is not None:
            pairs.append(("x", x[rank:], self._control.encode(values["control"]), "control"))
        if self._noise is not None:
            q = values["observable"]
            pairs.append(("y", values["y"], self._output.encode(q), "observable"))
            pairs.append(("observable_energy", values["observable_energy"], q @ self._noise.solve(q), "observable"))
        if "jacobian" in values:
            reduced = self._output.encoder.T @ values["jacobian"] @ self._input.decoder
            pairs.append(("reduced_jacobian", values["reduced_jacobian"], reduced, "jacobian"))
        for name, stored, again, source in pairs:
            if np.abs(stored - again).max() > AGREEMENT * (1.0 + np.abs(again).max()):
                raise DatasetError(
                    f"{self._path}: sample {index} of array {name!r} is damaged: it does not follow from {source!r}. "
                    f"{REPAIR}"
                )


def damaged_basis_samples(dataset: Dataset) -> list[int]:
    """Basis samples of the first pass that are not whole, or not what was written."""
    if SCRATCH not in dataset._group:
        return []
    scratch = dataset._group[SCRATCH]
    return [i for i in range(dataset.plan.n_basis_samples) if not _whole_basis_sample(dataset, scratch, i)]


def _whole_basis_sample(dataset: Dataset, scratch: zarr.Group, index: int) -> bool:
    names = ("m", "control", "observable", "covariance", "jacobian", "control_jacobian", "work")
    try:
        status = scratch["status"][index]
        if status == FAILED:  # solved later, or with a reason
            return dataset.failure(index) is not None or dataset._array("status")[index] == DONE
        if status != DONE:
            return status == PENDING
        values = {name: scratch[name][index] for name in names if name in scratch}
        digested = scratch.attrs.get(DIGESTS)
        if "rows" in scratch and index < scratch["rows"].shape[0] and scratch["rows_status"][index] == DONE:
            values |= {name: scratch[name][index] for name in ROWS if name in scratch}
        if not all(np.isfinite(array).all() for name, array in values.items() if name != "work"):
            return False
        return digested is None or _altered(scratch.attrs[IDENTITY], SCRATCH, index, values, digested) is None
    except Exception:  # noqa: BLE001  zarr raises whatever its codec raises
        return False
