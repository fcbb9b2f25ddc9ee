"""The dataset on disk: a Zarr group that explains itself and opens without dolfin.

Zarr was chosen because ranks write their own chunks at the same time without a parallel HDF5
(which clashes with dolfin's), chunks carry checksums, and xarray opens it as it is.
One chunk holds one sample of one array; a sample counts once its status is written, last.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import zarr

from hippylib_dino.control import ControlDistribution, control_from_config
from hippylib_dino.data import verification
from hippylib_dino.data.integrity import (
    CONTENT,
    DIGEST,
    DIGESTS,
    IDENTITY,
    METADATA,
    array_digest,
    read_document,
)
from hippylib_dino.data.layout import (
    BASIS_ARRAYS,
    DONE,
    FAILED,
    FORMAT,
    FORMAT_VERSION,
    FULL_ARRAYS,
    PENDING,
    SAMPLE_ARRAYS,
    SCRATCH,
)
from hippylib_dino.data.plan import GIVEN, SPLITS, Plan
from hippylib_dino.data.verification import REPAIR
from hippylib_dino.errors import DatasetError, InputError, MisfitError
from hippylib_dino.files import array_of
from hippylib_dino.noise import NoiseCovariance
from hippylib_dino.reduction.basis import Basis, joint_basis
from hippylib_dino.reduction.ranks import Rank, rank_within

_FAILURE_REMEDY = "Restore it; with hd.generate(..., resume=True, repair=True) a sample that failed is tried again."
_ATTRIBUTES = ("format_version", "plan", "fingerprint", "has_bases", "finished", "observable", "work", "versions")


@dataclass(frozen=True)
class Samples:
    """Some samples of a dataset, in memory; sample axis first.

    Attributes
    ----------
    index : (n,)
        Sample numbers in the dataset.
    x : (n, rM)
        Latent parameters, N(0, I) under the prior.  With a control (n, rM + rZ): latent parameters, then latent
        controls of zero mean and covariance I.
    y : (n, rQ)
        Latent observables, in noise standard deviations.
    observable_energy : (n,)
        ‖q‖² in the noise-precision norm.
    jacobian_energy : (n,)
        ‖Γ^-½ J R^-½‖²_HS = tr(Γ⁻¹ J R⁻¹ Jᵀ) of the full Jacobian.  Exact with ``store_full=True``; else its
        part outside the input basis is an estimate, from the same prior draws for all samples.
    reduced_jacobian : (n, rQ, rM)
        Empty if it was not asked for.  With a control (n, rQ, rM + rZ), columns as in `x`.
    observable : (n, dQ), optional
        q, in the observable's units; None where it is the whole state.
    observable_residual : (n,), optional
        ‖q - q̄ - Φy‖² in the noise-precision norm, what the output basis cuts off; `Dataset.split` always gives it.
    control_rank : int
        rZ, the last columns of `x`; 0 without a control.
    control : (n, dZ), optional
        z, in the control's units.
    control_jacobian_energy : (n,), optional
        tr(Γ⁻¹ J_z C J_zᵀ), C the covariance of the controls: the control's part of `jacobian_energy`.
    """

    index: np.ndarray
    x: np.ndarray
    y: np.ndarray
    observable_energy: np.ndarray
    jacobian_energy: np.ndarray
    reduced_jacobian: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0)))
    observable: np.ndarray | None = None
    observable_residual: np.ndarray | None = None
    control_rank: int = 0
    control: np.ndarray | None = None
    control_jacobian_energy: np.ndarray | None = None

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
        self._ranks: tuple[int, int] | None = None  # of a truncated view
        self._status: np.ndarray | None = None  # once nothing is pending

    @classmethod
    def open(cls, path: str | Path) -> Dataset:
        """Open a dataset for reading.

        Raises
        ------
        DatasetError
            If there is none at `path`, its metadata is damaged or altered, its splits do not share its samples out
            exactly, or its format is newer than this package.
        """
        path = Path(path)
        if not path.is_dir():
            raise DatasetError(f"path: no dataset directory at {str(path)!r}; run hd.generate(model, path, ...) first.")
        _check_root(path)
        try:
            group = zarr.open_group(path, mode="r")
        except Exception as error:  # zarr raises whatever its parsers raise
            raise _unreadable(path, error) from error
        return cls(group, path)

    @property
    def identity(self) -> str | None:
        """What enters the digests of this dataset; None of one that an earlier version made, which has no digests."""
        return self.attributes.get(IDENTITY)

    # ---- samples -------------------------------------------------------------------------

    def _array(self, name: str) -> zarr.Array:
        return self._group[name]

    @property
    def plan(self) -> Plan:
        """What the dataset is to hold, and which samples belong to which split."""
        plan = Plan.from_attributes(self.attributes["plan"])
        if self._ranks is None:
            return plan
        return replace(plan, input_rank=self._ranks[0], output_rank=self._ranks[1])

    @property
    def sample_arrays(self) -> tuple[str, ...]:
        """Names of the arrays that have a row for each sample."""
        return tuple(name for name in (*SAMPLE_ARRAYS, *FULL_ARRAYS, "work", "status") if name in self._group)

    def _checked_arrays(self) -> tuple[str, ...]:
        """The arrays that every finished sample must have whole; a lost one is an error when it is read."""
        state = self.attributes["observable"] == "state"
        without = {"observable"} if state else {"observable_residual"}
        if self.control is None:
            without |= {"control", "control_jacobian_energy"}
        kept = {"m": self.plan.store_full or self.plan.store_parameters, "jacobian": self.plan.store_full}
        full = tuple(name for name in FULL_ARRAYS if kept[name])
        return (*(name for name in SAMPLE_ARRAYS if name not in without), *full)

    def _read(self, name: str, index: np.ndarray) -> np.ndarray:
        """Rows `index` of an array, in the ranks of this view."""
        values = self._rows(name, index)
        return values if self._ranks is None else self._truncated(name, values, index)

    def _rows(self, name: str, index: np.ndarray) -> np.ndarray:
        """Rows `index` of an array; damaged or missing chunks are an error that names sample and array."""
        if name not in self._group and not self.has_bases:  # its shape is not known yet
            raise DatasetError(
                f"{self.path}: there are no bases yet, so no {name!r}; finish hd.generate(..., resume=True)."
            )
        try:
            array = self._array(name)
            values = array.oindex[index] if len(index) else array[:0]
        except Exception as error:  # zarr raises whatever its codec raises: checksum, zstd, OS errors
            raise DatasetError(self._damage(name, index, error)) from error
        finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
        if not finite.all():
            raise DatasetError(
                f"{self.path}: sample {index[~finite][0]} of array {name!r} is missing or not finite although it "
                f"counts as done. {REPAIR}"
            )
        return values

    def _truncated(self, name: str, values: np.ndarray, index: np.ndarray) -> np.ndarray:
        inputs, outputs = self._ranks or (0, 0)
        if name == "observable_residual":  # what the cut coordinates held joins what the basis had left
            return values + (Dataset(self._group, self.path)._read("y", index)[:, outputs:] ** 2).sum(axis=1)
        if name == "y":
            return values[:, :outputs]
        if name in ("x", "reduced_jacobian"):  # the last columns are the control's
            columns = np.delete(values, np.s_[inputs : values.shape[-1] - self.plan.control_rank], axis=-1)
            return columns if name == "x" else columns[:, :outputs]
        return values

    def truncate(self, input_rank: Rank, output_rank: Rank) -> Dataset:
        """The same samples in the leading vectors of the bases: a view, nothing is written.

        Bases are ordered by their eigenvalues, so these are the bases of the smaller ranks.

        Parameters
        ----------
        input_rank, output_rank : int or float
            rM and rQ, or the shares of the bases' total energy that they are to hold at least.  A control's rank
            stays.

        Raises
        ------
        InputError
            If a rank is neither, or a share is asked of a basis whose total energy is not known.
        RankError
            If what is stored does not hold a rank or a share, or an identity is to be cut.
        """
        view = Dataset(self._group, self.path)
        view._ranks = (
            rank_within(self.basis("input"), input_rank, name="input_rank", where=str(self.path)),
            rank_within(self.output_basis, output_rank, name="output_rank", where=str(self.path)),
        )
        return view

    def reopened(self) -> Dataset:
        """What is on disk now, in the ranks of this view."""
        fresh = Dataset.open(self.path)
        fresh._ranks = self._ranks
        return fresh

    def _damage(self, name: str, index: np.ndarray, error: Exception) -> str:
        for i in index:
            try:
                self._array(name)[int(i)]
            except Exception as first:  # noqa: BLE001  as above
                return f"{self.path}: sample {int(i)} of array {name!r} is damaged ({first}). {REPAIR}"
        return f"{self.path}: array {name!r} could not be read: {error}"

    @property
    def status(self) -> np.ndarray:
        """(N,): 0 pending, 1 done, 2 failed."""
        n = self.plan.n_total
        if self._status is None or len(self._status) != n:
            try:
                status = self._array("status")[:n]
            except Exception as error:
                raise DatasetError(f"{self.path}: the array 'status' is damaged ({error}). {REPAIR}") from error
            if self.attributes["finished"] != n:  # may still change
                return status
            self._status = status  # a chunk a sample: slow to read
        return self._status.copy()

    @property
    def has_bases(self) -> bool:
        """Whether the first pass has ended with both bases."""
        return bool(self.attributes["has_bases"])

    @property
    def basis_names(self) -> tuple[str, ...]:
        """Of the bases that it has, or is to have."""
        return ("input", "output") if self.control is None else ("input", "output", "control")

    @property
    def weight_covariance(self) -> np.ndarray:
        """In whose standard deviations observables are counted, Γ where the noise is Gaussian: (), (dQ,) or (dQ, dQ).

        Of a whole state the factor () of its mass matrix.
        """
        return self._whole("bases/noise_covariance")

    @property
    def noise_covariance(self) -> np.ndarray:
        """Γ of the Gaussian noise at the time of generation, (), (dQ,) or (dQ, dQ); of whole states their weights.

        Raises
        ------
        MisfitError
            If the misfit's noise was not Gaussian, or its weights were others.
        """
        if not self.attributes.get("weights_are_noise", True):  # older datasets do not say
            raise MisfitError(
                f"noise_covariance: the dataset in {str(self.path)!r} was generated with a misfit whose noise is not "
                "Gaussian with the covariance that weighs the observables, dataset.weight_covariance. Pass the "
                "covariance of the noise that you mean."
            )
        return self.weight_covariance

    @property
    def complete(self) -> bool:
        """Whether every sample is done or has failed for good."""
        return bool((self.status != PENDING).all())

    @property
    def basis_samples_finished(self) -> int:
        """Samples that the first pass has finished, while there are no bases."""
        return int((self._group[SCRATCH]["status"][:] != PENDING).sum()) if SCRATCH in self._group else 0

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

    def split(self, part: str, n: int | None = None, *, jacobians: bool = True) -> Samples:
        """Samples of "train", "validation" or "test".

        Parameters
        ----------
        part : str
        n : int, optional
            The first `n` of them; default all.  Samples that were appended later come last.
        jacobians : bool
            Whether to read the reduced Jacobians, by far the largest array.

        Raises
        ------
        InputError
            If `part` is unknown or holds fewer than `n` finished samples.
        """
        index = self.members(part)
        if n is not None:
            if not 1 <= n <= len(index):
                raise InputError(
                    f"n: the {part} split of {self.path} holds {len(index)} finished samples, got {n}. "
                    "Generate more, or ask for fewer."
                )
            index = index[:n]
        left = FULL_ARRAYS if jacobians else (*FULL_ARRAYS, "reduced_jacobian")
        names = [name for name in self._checked_arrays() if name not in left]
        arrays = {name: self._read(name, index) for name in names}
        if "observable" in arrays:  # of whole states it is stored
            arrays["observable_residual"] = self._residuals(arrays["observable"], arrays["y"])
        return Samples(index, **arrays, control_rank=self.plan.control_rank)

    def _residuals(self, q: np.ndarray, y: np.ndarray) -> np.ndarray:
        """‖q - q̄ - Φy‖² in the noise-precision norm, (n,)."""
        rest = q - self.output_basis.decode(y)
        return (NoiseCovariance(self.weight_covariance, q.shape[1]).whiten(rest.T) ** 2).sum(axis=0)

    def members(self, part: str) -> np.ndarray:
        """Numbers of the finished samples of a split, (n,); given samples are training samples.

        Raises
        ------
        InputError
            If `part` is unknown.
        """
        if part not in SPLITS:
            raise InputError(f"part: expected one of {SPLITS}, got {part!r}.")
        members = np.zeros(self.plan.n_total, dtype=bool)
        for name, first, count in self.plan.segments:
            members[first : first + count] |= name == part or (name == GIVEN and part == "train")
        return np.flatnonzero(members & (self.status == DONE))

    @cached_property
    def given(self) -> dict[int, str]:
        """Training samples that are no draws of the prior: number to where the parameter came from."""
        try:
            return {
                number: origin
                for batch in self.plan.given
                for number, origin in zip(batch, self._given(batch).attrs["origins"], strict=True)
            }
        except (KeyError, ValueError) as error:
            raise DatasetError(
                f"{self.path}: the folder 'given' is damaged ({error!r}). Restore it from a backup."
            ) from error

    def _given(self, batch: range) -> zarr.Group:
        return self._group[f"{GIVEN}/{batch.start:08d}"]

    def given_parameter(self, index: int) -> np.ndarray:
        """The parameter (dM,) that was given for a sample, canonical dof order.

        Raises
        ------
        InputError
            If sample `index` is a draw of the prior.
        DatasetError
            If it is damaged.
        """
        batch = next((b for b in self.plan.given if index in b), None)
        if batch is None:
            raise InputError(
                f"index: sample {index} of {self.path} is a draw of the prior; given are {self.plan.given}."
            )
        try:
            values = self._given(batch)["m"][index - batch.start]
        except Exception as error:  # as in _read
            raise DatasetError(
                f"{self.path}: the given parameter of sample {index} is damaged ({error!r}). Restore it from a backup."
            ) from error
        if not np.isfinite(values).all():
            raise DatasetError(
                f"{self.path}: the given parameter of sample {index} is missing. Restore it from a backup."
            )
        return values

    def jacobians(self, index: np.ndarray) -> np.ndarray:
        """Reduced Jacobians of some samples, (n, rQ, rM), for those that do not fit in memory together."""
        return self._read("reduced_jacobian", np.asarray(index))

    def full(self, name: str, index: np.ndarray) -> np.ndarray:
        """Full parameters "m" (n, dM) or Jacobians "jacobian" (n, dQ, dM), canonical dof order.

        Raises
        ------
        InputError
            If the dataset was generated without ``store_full=True`` (or, for "m", ``store_parameters=True``).
        """
        if name not in self._group:
            raise InputError(
                f"name: {self.path} has no array {name!r}; generate with store_full=True to keep it, or the parameters "
                "alone with store_parameters=True."
            )
        return self._read(name, np.asarray(index))

    @property
    def work(self) -> dict[str, np.ndarray]:
        """What each finished sample cost: "seconds" (N,) and "newton_iterations" (N,), -1 where not known."""
        values = self._read("work", self._done())
        return {name: values[:, column] for column, name in enumerate(self.attributes["work"])}

    # ---- bases and provenance ------------------------------------------------------------

    def basis(self, name: str) -> Basis:
        """The "input" basis, of the parameter alone, the "output" or the "control" basis.

        Raises
        ------
        DatasetError
            If it is not computed yet, or damaged.
        """
        if not self.has_bases:
            raise DatasetError(
                f"{self.path}: the {name} basis is not computed yet; finish hd.generate(..., resume=True)."
            )
        return self.stored_basis(name)

    def stored_basis(self, name: str) -> Basis:
        """A basis that is on disk, though the other may not be yet."""
        arrays = {key: self._whole(f"bases/{name}/{key}") for key in BASIS_ARRAYS}
        attributes = read_document(self.path / f"bases/{name}" / METADATA, self.identity, f"bases/{name}")["attributes"]
        if self._ranks is not None:
            ranks = {"input": self._ranks[0], "output": self._ranks[1]}
            arrays.update({key: arrays[key][:, : ranks.get(name)] for key in ("decoder", "encoder")})
        total = attributes.get("total_energy")
        if total is None and name == "output":  # of which the whole spectrum is stored
            total = float(arrays["eigenvalues"].sum())
        return Basis(
            **arrays,
            kind=attributes["kind"],
            inner_product=attributes["inner_product"],
            total_energy=total,
            parameter_block=None,
        )

    def _whole(self, name: str) -> np.ndarray:
        """An array that is one chunk; damage is an error that names it."""
        try:
            array = self._array(name)
            values = array[...]
        except Exception as error:  # as in _read
            raise DatasetError(
                f"{self.path}: the array {name!r} is damaged ({error!r}). Restore it from a backup."
            ) from error
        if not np.isfinite(values).all():
            raise DatasetError(f"{self.path}: the array {name!r} is missing or damaged. Restore it from a backup.")
        if self.identity and array.attrs.get(CONTENT) != array_digest(self.identity, name, values):
            raise DatasetError(
                f"{self.path}: the array {name!r} is not what was written: it is another dataset's, or of another "
                "place. Restore it from a backup."
            )
        return values

    @property
    def input_basis(self) -> Basis:
        """Ψ and RΨ, rows in canonical dof order; with a control of pairs (m, z), see `joint_basis`."""
        parameter = self.basis("input")
        return parameter if self.control is None else joint_basis(parameter, self.basis("control"))

    @property
    def output_basis(self) -> Basis:
        """Φ and Γ⁻¹Φ."""
        return self.basis("output")

    @property
    def control(self) -> ControlDistribution | None:
        """Distribution of the controls; None without a control."""
        stored = self.fingerprint.get("control")
        return None if stored is None else control_from_config(stored)

    @property
    def fingerprint(self) -> dict:
        """Of the problem that generated it; see `hippylib_dino.modeling.fingerprint`."""
        return self.attributes["fingerprint"]

    def failure_records(self) -> list[dict]:
        """What is said of samples whose solve failed, also of those that a retry solved.

        Raises
        ------
        DatasetError
            If a file that says it is damaged.
        """
        return [self._failure(name) for name in self._files("failures", "sample-")]

    def failure(self, index: int) -> dict | None:
        """What is said of the failed solve of a sample; None if nothing is.

        Raises
        ------
        DatasetError
            If the file that says it is damaged.
        """
        name = f"sample-{index:08d}.json"
        return self._failure(name) if (self.path / "failures" / name).exists() else None

    def _files(self, folder: str, prefix: str) -> list[str]:
        try:
            names = os.listdir(self.path / folder)
        except OSError as error:
            raise DatasetError(
                f"{self.path}: the folder {folder!r} is damaged ({error}). Restore it from a backup."
            ) from error
        ours = [name for name in names if name.startswith(prefix) and name.endswith(".json")]
        return sorted(name for name in ours if name != METADATA)

    def _failure(self, name: str) -> dict:
        place = f"failures/{name}"
        record = read_document(self.path / place, self.identity, place, remedy=_FAILURE_REMEDY)
        index = record.get("index")
        if not isinstance(index, int) or name != f"sample-{index:08d}.json" or "reason" not in record:
            raise DatasetError(f"{self.path}: {place} is damaged: it does not tell of that sample. {_FAILURE_REMEDY}")
        return record

    @property
    def failures(self) -> list[dict]:
        """Samples without a solution: "index", "seed", "reason", and "retried" where a second way failed as well."""
        unsolved, status = [r for r in self.failure_records() if "solved by" not in r], self.status
        return [_said(r) for r in unsolved if r["index"] < len(status) and status[r["index"]] != DONE]

    @property
    def rescued(self) -> list[dict]:
        """Samples whose first solve failed and a retry did not: "index", "seed", "reason", "solved by"."""
        return [_said(record) for record in self.failure_records() if "solved by" in record]

    def failed_parameter(self, index: int) -> np.ndarray:
        """Parameter (dM,) of a failed sample, canonical dof order, to replay the solve.

        Raises
        ------
        InputError
            If sample `index` has not failed.
        DatasetError
            If the parameter, or what is said of the failure, is damaged.
        """
        place = f"failures/sample-{index:08d}.npy"
        file, record = self.path / place, self.failure(index)
        if record is None:
            failed = [record["index"] for record in self.failures]
            raise InputError(f"index: sample {index} of {self.path} has not failed; failed are {failed}.")
        try:
            values = array_of(file.read_bytes())
        except (OSError, ValueError) as error:
            raise DatasetError(f"{file} is missing or damaged ({error}). {_FAILURE_REMEDY}") from error
        if self.identity and record.get(CONTENT) != array_digest(self.identity, place, values):
            raise DatasetError(f"{file} is not what was written. {_FAILURE_REMEDY}")
        return values

    @property
    def runs(self) -> list[dict]:
        """The runs that wrote this dataset: start, ranks, samples solved, seconds.

        Raises
        ------
        DatasetError
            If a file that tells of one is damaged.
        """
        remedy = "It only tells how fast a run was: remove it."
        names = self._files("runs", "")
        return [read_document(self.path / "runs" / n, self.identity, f"runs/{n}", remedy=remedy) for n in names]

    # ---- integrity -----------------------------------------------------------------------

    def check_metadata(self) -> None:
        """Raise `DatasetError`, naming the file, unless the metadata of all arrays and groups are what was written."""
        verification.check_documents(self)

    def damaged(self) -> dict[int, str]:
        """Samples that cannot be read whole or are not what was written, with the reason; reads everything once.

        ``hd.generate(..., resume=True, repair=True)`` solves these again, and only these.

        Raises
        ------
        DatasetError
            If metadata are damaged, or a basis, which no sample can be projected on again, or a parameter that was
            given.
        """
        self.check_metadata()
        return verification.damaged_samples(self)

    def damaged_basis_samples(self) -> list[int]:
        """Basis samples that the first pass stored and that cannot be read whole any more, or are not what was."""
        return verification.damaged_basis_samples(self)

    def verify(self) -> int:
        """Read everything once: checksums, completeness, and that all is what this dataset wrote, in its place.

        Warns where the dataset was made by an earlier version, which kept no digests: then a sample is compared with
        what else is stored of it, and what was exchanged as a whole passes.

        Returns
        -------
        int
            Number of good samples.

        Raises
        ------
        DatasetError
            Naming the first damaged array and sample, and how many are damaged.
        """
        found = self.damaged()
        if found:
            first = next(iter(found.values()))
            others = f" In all {len(found)} samples are damaged: {sorted(found)}." if len(found) > 1 else ""
            raise DatasetError(first + others)
        lost = self.damaged_basis_samples()
        if lost:
            raise DatasetError(
                f"{self.path}: samples {lost} of {SCRATCH!r}, which the bases need, are damaged. {REPAIR}"
            )
        verification.check_records(self)
        if self.identity is None:
            warnings.warn(verification.WITHOUT_DIGESTS.format(self.path), stacklevel=2)
        return len(self._done())

    def __repr__(self) -> str:
        plan, status = self.plan, self.status
        return (
            f"Dataset({str(self.path)!r}: {(status == DONE).sum()} of {len(status)} samples done, "
            f"{(status == FAILED).sum()} failed, ranks {plan.input_rank} x {plan.output_rank})"
        )


def _unreadable(path: Path, reason: object) -> DatasetError:
    return DatasetError(
        f"path: {str(path)!r} holds no readable dataset (its zarr.json is missing or damaged: {reason}). "
        "Restore it from a backup or generate again into an empty directory."
    )


def _check_root(path: Path) -> None:
    """Raise `DatasetError` unless the attributes at `path` are those of a dataset, as they were written."""
    try:
        document = read_document(path / METADATA, None, "")
    except DatasetError as error:
        raise _unreadable(path, error) from error
    attributes = document.get("attributes")
    if not isinstance(attributes, dict):
        raise _unreadable(path, "it has no attributes")
    if attributes.get("format") != FORMAT:
        raise DatasetError(f"path: {str(path)!r} is a Zarr group, but not a {FORMAT}.")
    version = attributes.get("format_version")
    if isinstance(version, int) and version != FORMAT_VERSION:
        remedy = "upgrade hippylib_dino" if version > FORMAT_VERSION else "generate again with this one"
        raise DatasetError(
            f"path: {str(path)!r} has format version {version}, this package reads {FORMAT_VERSION}; {remedy}."
        )
    if any(key in attributes for key in (IDENTITY, DIGEST, DIGESTS)):
        read_document(path / METADATA, str(attributes.get(IDENTITY)), "")
    lost = [key for key in _ATTRIBUTES if key not in attributes]
    if lost:
        raise _unreadable(path, f"it lacks {lost}")
    try:
        Plan.from_attributes(attributes["plan"])
    except DatasetError as error:
        raise _unreadable(path, error) from error


def _said(record: dict) -> dict:
    """A record without its digests."""
    return {name: value for name, value in record.items() if name not in (DIGEST, CONTENT)}
