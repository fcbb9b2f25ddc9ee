"""The dataset on disk: a Zarr group that explains itself and opens without dolfin.

Zarr was chosen because ranks write their own chunks at the same time without a parallel HDF5
(which clashes with dolfin's), chunks carry checksums, and xarray opens it as it is.
One chunk holds one sample of one array; a sample counts once its status is written, last.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from hippylib_dino.errors import DatasetError, InputError
from hippylib_dino.reduction.basis import Basis

FORMAT = "hippylib_dino dataset"
FORMAT_VERSION = 1
PENDING, DONE, FAILED = 0, 1, 2
SPLITS = ("train", "validation", "test")
SAMPLE_ARRAYS = ("x", "y", "reduced_jacobian", "observable", "observable_energy", "jacobian_energy")
FULL_ARRAYS = ("m", "jacobian")
BASIS_ARRAYS = ("decoder", "encoder", "shift", "eigenvalues")


@dataclass(frozen=True)
class Samples:
    """Some samples of a dataset, in memory; sample axis first.

    Attributes
    ----------
    index : (n,)
        Sample numbers in the dataset.
    x : (n, rM)
        Latent parameters, N(0, I) under the prior.
    y : (n, rQ)
        Latent observables, in noise standard deviations.
    reduced_jacobian : (n, rQ, rM)
    observable : (n, dQ)
        q, in the observable's units.
    observable_energy : (n,)
        ‖q‖² in the noise-precision norm.
    jacobian_energy : (n,)
        ‖Γ^-½ J R^-½‖²_HS = tr(Γ⁻¹ J R⁻¹ Jᵀ) of the full Jacobian.
    """

    index: np.ndarray
    x: np.ndarray
    y: np.ndarray
    reduced_jacobian: np.ndarray
    observable: np.ndarray
    observable_energy: np.ndarray
    jacobian_energy: np.ndarray

    def __len__(self) -> int:
        return len(self.index)


class Dataset:
    """Reduced samples (x, y, J_r), bases and provenance of a generated dataset.

    Open one with `Dataset.open`; `hd.generate` makes it.

    Examples
    --------
    ::

        dataset = hd.Dataset.open("data/confusion")
        train = dataset.split("train", 256)      # Samples: x (256, rM), y (256, rQ), ...
        dataset.verify()
    """

    def __init__(self, group: zarr.Group, path: Path):
        self._group = group
        self.path = path
        self.attributes = dict(group.attrs)

    @classmethod
    def open(cls, path: str | Path) -> Dataset:
        """Open a dataset for reading.

        Raises
        ------
        DatasetError
            If there is none at `path`, its metadata is damaged, or its format is newer than this package.
        """
        path = Path(path)
        if not path.is_dir():
            raise DatasetError(f"path: no dataset directory at {str(path)!r}; run hd.generate(model, path, ...) first.")
        try:
            group = zarr.open_group(path, mode="r")
            attributes = dict(group.attrs)
            if attributes.get("format") == FORMAT:
                [attributes[key] for key in ("format_version", "plan", "fingerprint", "has_bases")]
        except (FileNotFoundError, KeyError, ValueError, json.JSONDecodeError) as error:
            raise DatasetError(
                f"path: {str(path)!r} holds no readable dataset (its zarr.json is missing or damaged: {error}). "
                "Restore it from a backup or generate again into an empty directory."
            ) from error
        if attributes.get("format") != FORMAT:
            raise DatasetError(f"path: {str(path)!r} is a Zarr group, but not a {FORMAT}.")
        if attributes["format_version"] > FORMAT_VERSION:
            raise DatasetError(
                f"path: {str(path)!r} has format version {attributes['format_version']}, this package reads up to "
                f"{FORMAT_VERSION}; upgrade hippylib_dino."
            )
        return cls(group, path)

    # ---- samples -------------------------------------------------------------------------

    def _array(self, name: str) -> zarr.Array:
        return self._group[name]

    def _read(self, name: str, index: np.ndarray) -> np.ndarray:
        """Rows `index` of an array; damaged or missing chunks are an error that names sample and array."""
        try:
            array = self._array(name)
            values = array.oindex[index] if len(index) else array[:0]
        except Exception as error:  # zarr raises whatever its codec raises: checksum, zstd, OS errors
            raise DatasetError(self._damage(name, index, error)) from error
        if np.issubdtype(values.dtype, np.floating):
            finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
            if not finite.all():
                raise DatasetError(
                    f"{self.path}: sample {index[~finite][0]} of array {name!r} is missing or not finite although it "
                    "counts as done. Restore the file, or delete the dataset and generate again."
                )
        return values

    def _damage(self, name: str, index: np.ndarray, error: Exception) -> str:
        for i in index:
            try:
                self._array(name)[int(i)]
            except Exception as first:  # noqa: BLE001  as above
                return (
                    f"{self.path}: sample {int(i)} of array {name!r} is damaged ({first}). "
                    "Restore the file, or delete the dataset and generate again."
                )
        return f"{self.path}: array {name!r} could not be read: {error}"

    @property
    def status(self) -> np.ndarray:
        """(N,): 0 pending, 1 done, 2 failed."""
        try:
            return self._array("status")[:]
        except Exception as error:  # as in _read
            raise DatasetError(
                f"{self.path}: the array 'status' is damaged ({error}). Restore it from a backup."
            ) from error

    @property
    def has_bases(self) -> bool:
        """Whether the first pass has ended with both bases."""
        return bool(self.attributes["has_bases"])

    @property
    def noise_covariance(self) -> np.ndarray:
        """Γ at the time of generation: (), (dQ,) or (dQ, dQ)."""
        return self._whole("bases/noise_covariance")

    @property
    def complete(self) -> bool:
        """Whether every sample is done or has failed for good."""
        return bool((self.status != PENDING).all())

    def _done(self) -> np.ndarray:
        return np.flatnonzero(self.status == DONE)

    @property
    def x(self) -> np.ndarray:
        """Latent parameters of all samples that are done, (N, rM)."""
        return self._read("x", self._done())

    @property
    def y(self) -> np.ndarray:
        """Latent observables of all samples that are done, (N, rQ)."""
        return self._read("y", self._done())

    @property
    def reduced_jacobian(self) -> np.ndarray:
        """Reduced Jacobians of all samples that are done, (N, rQ, rM)."""
        return self._read("reduced_jacobian", self._done())

    def split(self, part: str, n: int | None = None) -> Samples:
        """Samples of "train", "validation" or "test", which are ranges of the index.

        Parameters
        ----------
        part : str
        n : int, optional
            The first `n` of them; default all.

        Raises
        ------
        InputError
            If `part` is unknown or holds fewer than `n` finished samples.
        """
        if part not in SPLITS:
            raise InputError(f"part: expected one of {SPLITS}, got {part!r}.")
        first = 0
        for name in SPLITS:
            last = first + self.attributes["plan"][f"n_{name}"]
            if name == part:
                break
            first = last
        done = self._done()
        index = done[(done >= first) & (done < last)]
        if n is not None:
            if not 1 <= n <= len(index):
                raise InputError(
                    f"n: the {part} split of {self.path} holds {len(index)} finished samples, got {n}. "
                    "Generate more, or ask for fewer."
                )
            index = index[:n]
        return Samples(index, **{name: self._read(name, index) for name in SAMPLE_ARRAYS})

    def full(self, name: str, index: np.ndarray) -> np.ndarray:
        """Full parameters "m" (n, dM) or Jacobians "jacobian" (n, dQ, dM), canonical dof order.

        Raises
        ------
        InputError
            If the dataset was generated without ``store_full=True``.
        """
        if name not in self._group:
            raise InputError(f"name: {self.path} has no array {name!r}; generate with store_full=True to keep it.")
        return self._read(name, np.asarray(index))

    # ---- bases and provenance ------------------------------------------------------------

    def _basis(self, name: str) -> Basis:
        if not self.has_bases:
            raise DatasetError(
                f"{self.path}: the {name} basis is not computed yet; finish hd.generate(..., resume=True)."
            )
        arrays = {key: self._whole(f"bases/{name}/{key}") for key in BASIS_ARRAYS}
        attributes = self._group[f"bases/{name}"].attrs
        return Basis(**arrays, kind=attributes["kind"], inner_product=attributes["inner_product"])

    def _whole(self, name: str) -> np.ndarray:
        """An array that is one chunk; damage is an error that names it."""
        try:
            values = self._array(name)[...]
        except Exception as error:  # as in _read
            raise DatasetError(
                f"{self.path}: the array {name!r} is damaged ({error!r}). Restore it from a backup."
            ) from error
        if not np.isfinite(values).all():
            raise DatasetError(f"{self.path}: the array {name!r} is missing or damaged. Restore it from a backup.")
        return values

    @property
    def input_basis(self) -> Basis:
        """Ψ and RΨ, rows in canonical dof order."""
        return self._basis("input")

    @property
    def output_basis(self) -> Basis:
        """Φ and Γ⁻¹Φ."""
        return self._basis("output")

    @property
    def fingerprint(self) -> dict:
        """Of the problem that generated it; see `hippylib_dino.modeling.fingerprint`."""
        return self.attributes["fingerprint"]

    @property
    def failures(self) -> list[dict]:
        """Failed samples: index, seed and reason."""
        return [json.loads(f.read_text()) for f in sorted((self.path / "failures").glob("sample-*.json"))]

    def verify(self) -> int:
        """Read everything once; checksums and completeness.

        Returns
        -------
        int
            Number of good samples.

        Raises
        ------
        DatasetError
            Naming the first damaged array and sample.
        """
        for name in ("input", "output"):
            self._basis(name)
        self._whole("bases/noise_covariance")
        if not self.complete and "basis_samples" not in self._group:
            raise DatasetError(
                f"{self.path}: sample {int(np.argmin(self.status))} of array 'status' is missing, since the run had "
                "finished. Solve again what is missing with hd.generate(..., resume=True)."
            )
        done = self._done()
        for name in (*SAMPLE_ARRAYS, *(FULL_ARRAYS if self.attributes["plan"]["store_full"] else ())):
            for i in done:
                self._read(name, np.array([i]))
        return len(done)

    def __repr__(self) -> str:
        plan, status = self.attributes["plan"], self.status
        return (
            f"Dataset({str(self.path)!r}: {(status == DONE).sum()} of {len(status)} samples done, "
            f"{(status == FAILED).sum()} failed, ranks {plan['input_rank']} x {plan['output_rank']})"
        )


def create_array(group: zarr.Group, name: str, shape: tuple[int, ...], dims: tuple[str, ...], dtype="f8") -> zarr.Array:
    """A checksummed array of which one sample is one chunk; unwritten floats read as NaN."""
    return group.create_array(
        name,
        shape=shape,
        chunks=(1, *shape[1:]),
        dtype=dtype,
        compressors=[ZstdCodec(level=1), Crc32cCodec()],
        fill_value=0 if dtype == "u1" else np.nan,
        dimension_names=dims,
        overwrite=True,
    )


def create_whole_array(group: zarr.Group, name: str, values: np.ndarray) -> None:
    """A checksummed array in one chunk."""
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=values.shape,
        dtype="f8",
        compressors=[ZstdCodec(level=1), Crc32cCodec()],
        fill_value=np.nan,
    )
    array[...] = values


def write_basis(group: zarr.Group, name: str, basis: Basis) -> None:
    """Store a basis under ``bases/name``."""
    target = group.create_group(f"bases/{name}", overwrite=True)
    for key in BASIS_ARRAYS:
        create_whole_array(target, key, getattr(basis, key))
    target.attrs.update({"kind": basis.kind, "inner_product": basis.inner_product})
