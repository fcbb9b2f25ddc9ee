"""The directory of a dataset while it is written: made, checked, extended, repaired, cleaned."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
import uuid
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import numpy as np
import zarr

from hippylib_dino.data.dataset import Dataset
from hippylib_dino.data.integrity import (
    CONTENT,
    DIGESTS,
    IDENTITY,
    METADATA,
    array_digest,
    read_document,
    write_document,
)
from hippylib_dino.data.layout import (
    FORMAT,
    FORMAT_VERSION,
    FULL_ARRAYS,
    LATENT_ARRAYS,
    PENDING,
    ROWS,
    SAMPLE_ARRAYS,
    SCRATCH,
    WORK,
)
from hippylib_dino.data.lock import NAME as LOCK_NAME
from hippylib_dino.data.lock import DirectoryLock
from hippylib_dino.data.plan import BASIS_CHOICES, GIVEN, Plan
from hippylib_dino.data.storing import (
    create_array,
    create_group,
    create_whole_array,
    create_written_array,
    resize,
    update_attributes,
)
from hippylib_dino.errors import DatasetError
from hippylib_dino.files import write_file
from hippylib_dino.modeling.fingerprint import check_fingerprint

PARTIAL, REMOVING = ".partial", ".removing"
Row = tuple[tuple[str, int], ...]  # of an array with a row for each sample: dimensions by name
MOST_ROWS = 128  # samples whose rows (Φ⁺)ᵀ J make the input basis of a whole state: each is as large as rQ states
# what `create` puts into a directory, besides its zarr.json
LAYOUT = (*SAMPLE_ARRAYS, *FULL_ARRAYS, "work", "status", SCRATCH, "bases", "failures", "runs")


@dataclass(frozen=True)
class Dims:
    """Sizes that the layout of a dataset follows.

    Parameters
    ----------
    parameter, observable : int
        dM, dQ.
    state : int
        dU, if the states of the basis samples are kept to start other solves from; else 0.
    whole_state : bool
        Whether the observable is the state: then neither it nor full Jacobians are kept.
    control : int
        dZ, 0 without a control.
    """

    parameter: int
    observable: int
    state: int
    whole_state: bool
    control: int = 0


class DatasetDirectory:
    """Directory of one run; its methods are for one process, the first of the run.

    Parameters
    ----------
    path : Path

    Raises
    ------
    DatasetError
        If `path` is a file, holds something else, or another run writes to it.
    """

    def __init__(self, path: Path):
        self.path = path
        if path.is_file():
            raise DatasetError(f"path: {str(path)!r} is a file; choose a directory.")
        if not (path / LOCK_NAME).exists():
            self._refuse_what_is_not_ours()  # before anything in it is touched
        self._refuse_links()
        path.mkdir(parents=True, exist_ok=True)
        self._lock = DirectoryLock(path)
        try:
            self._refuse_what_is_not_ours()
            self._clean()
        except BaseException:
            self._lock.release()
            raise

    def exists(self) -> bool:
        """Whether a dataset is there; its metadata arrive last."""
        return (self.path / METADATA).exists()

    def _refuse_what_is_not_ours(self) -> None:
        if self.exists() or not self.path.exists():
            return
        ours = {LOCK_NAME, PARTIAL, *(LAYOUT if (self.path / PARTIAL).exists() else ())}
        if any(entry.name not in ours for entry in self.path.iterdir()):
            lost = " If it held one, restore its zarr.json." if (self.path / "bases").exists() else ""
            raise DatasetError(
                f"path: {str(self.path)!r} is not empty and holds no dataset; choose another directory.{lost}"
            )

    def _refuse_links(self) -> None:
        """A link at one of our names would lead what is written, or removed, somewhere else."""
        for name in (LOCK_NAME, PARTIAL, REMOVING):
            if (self.path / name).is_symlink():
                raise DatasetError(
                    f"path: {str(self.path / name)!r} is a symbolic link, which a run would write through. Replace it "
                    "by what it links to, or choose another directory."
                )

    def _clean(self) -> None:
        """Remove what a run that was killed left; the mark of an unfinished creation goes last."""
        for leftover in () if self.exists() else LAYOUT:
            shutil.rmtree(self.path / leftover, ignore_errors=True)
        for leftover in (PARTIAL, REMOVING):
            shutil.rmtree(self.path / leftover, ignore_errors=True)

    def release(self) -> None:
        """Let other runs write; a directory that stayed empty goes."""
        self._lock.release()
        with contextlib.suppress(OSError):  # not empty, as it should be
            self.path.rmdir()

    # ---- a new dataset -------------------------------------------------------------------

    def create(self, plan: Plan, mark: dict, weights: np.ndarray, dims: Dims, *, weights_are_noise: bool) -> None:
        """Make the whole tree in a corner, then move it into place: a killed run leaves nothing half made."""
        try:
            self._make(
                self.path / PARTIAL, plan.with_segments(), mark, weights, dims, weights_are_noise=weights_are_noise
            )
            entries = sorted((self.path / PARTIAL).iterdir(), key=lambda entry: entry.name == METADATA)
            for entry in entries:
                os.replace(entry, self.path / entry.name)
            (self.path / PARTIAL).rmdir()
        except Exception:  # a full disk, for one
            self._clean()
            raise

    def _make(
        self, path: Path, plan: Plan, mark: dict, weights: np.ndarray, dims: Dims, *, weights_are_noise: bool
    ) -> None:
        identity = uuid.uuid4().hex
        root = zarr.open_group(path, mode="w", attributes={IDENTITY: identity})
        make_latent_arrays(root, plan)
        arrays = _sample_arrays(plan, dims)
        for name, dimensions in arrays.items():
            shape = tuple(size for _, size in dimensions)
            create_array(root, name, (plan.n_total, *shape), ("sample", *(what for what, _ in dimensions)))
        digests = [*LATENT_ARRAYS, *arrays]
        _create_work(root, plan.n_total, digests)
        _create_scratch(root, identity, plan, dims)
        for name in ("bases", "failures", "runs"):
            create_group(root, name)
        create_whole_array(root, "bases/noise_covariance", weights)
        versions = {name: metadata.version(name) for name in ("hippylib", "numpy", "zarr", "mpi4py")}
        attributes = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "plan": plan.to_attributes(),
            "observable": "state" if dims.whole_state else "data",
            "weights_are_noise": weights_are_noise,
            "has_bases": False,
            "finished": 0,
            "fingerprint": mark,
            "versions": {**versions, "python": sys.version.split()[0]},
            "work": list(WORK),
            DIGESTS: digests,
        }
        update_attributes(root, **attributes)

    # ---- a dataset that is there ---------------------------------------------------------

    def check(self, plan: Plan, mark: dict, weights: np.ndarray, resume: bool) -> None:
        """Refuse what is not the same problem; append what `plan` asks for beyond what was planned.

        Raises
        ------
        FingerprintError
            For another problem.
        DatasetError
            Without `resume`, or for other weights or another plan.
        """
        what = f"the dataset in {str(self.path)!r}"
        found = Dataset.open(self.path)
        found.check_metadata()
        check_fingerprint(found.fingerprint, mark, f"path: {what}")
        if not resume:
            raise DatasetError(
                f"path: {str(self.path)!r} holds a dataset of this problem already; pass resume=True to continue "
                "it, or choose another directory."
            )
        stored = found.weight_covariance
        if stored.shape != weights.shape or not np.allclose(stored, weights, rtol=1e-8, atol=0):
            raise DatasetError(
                f"path: {what} was begun with another noise covariance, and bases and norms "
                f"are weighted by it: the largest entry was {stored.max():.6g}, is {weights.max():.6g}. "
                "Resume with the same noise, or choose another directory."
            )
        self._adopt(found, plan, what)
        for partial in self.path.rglob("*.partial"):  # chunks that a killed run was writing
            partial.unlink(missing_ok=True)

    def _adopt(self, found: Dataset, plan: Plan, what: str) -> None:
        """Let the stored plan become `plan`, where nothing that is there must change."""
        stored = found.plan
        root = zarr.open_group(self.path, mode="r+")
        if not found.has_bases:
            kept = replace(stored, **{name: getattr(plan, name) for name in BASIS_CHOICES})
            if kept != stored:
                update_attributes(root, plan=kept.to_attributes())
                stored = kept
            make_latent_arrays(root, stored)
        wanted = plan.appended_to(stored, what)
        self._extend(root, wanted)

    def _extend(self, root: zarr.Group, wanted: Plan) -> None:
        """Make room for the samples of a plan, then let it be the dataset's."""
        for name in Dataset(root, self.path).sample_arrays:
            if root[name].shape[0] < wanted.n_total:
                resize(root, name, wanted.n_total)
        if wanted != Plan.from_attributes(dict(zarr.open_group(self.path, mode="r").attrs["plan"])):
            update_attributes(root, plan=wanted.to_attributes())

    def add_given(self, parameters: np.ndarray, origins: list[str]) -> None:
        """Plan training samples with given parameters (k, dM); a batch that is there already is not added again.

        Nothing that is there is written to: the parameters get a folder of their own, and the plan comes last.
        """
        found = Dataset.open(self.path)
        for batch in found.plan.given:
            known = [found.given[i] for i in batch]
            if known == origins and np.array_equal([found.given_parameter(i) for i in batch], parameters):
                return
        root = zarr.open_group(self.path, mode="r+")
        if GIVEN not in root:
            create_group(root, GIVEN)
        folder = f"{GIVEN}/{found.plan.n_total:08d}"
        create_group(root, folder, {"origins": origins})
        create_written_array(root, f"{folder}/m", parameters, ("sample", "parameter"), (1, parameters.shape[1]))
        self._extend(root, found.plan.with_given(len(parameters)))

    def forget(self, index: list[int]) -> None:
        """Let samples count as pending again, in both passes."""
        root = zarr.open_group(self.path, mode="r+")
        for i in index:
            root["status"][i] = PENDING
        if SCRATCH in root:
            self._forget_basis_samples(root, [i for i in index if i < root[SCRATCH]["status"].shape[0]])

    def repair(self) -> None:
        """Let samples that cannot be read, or are not what was written, count as pending again.

        Raises
        ------
        DatasetError
            If anything is damaged that no solve brings back; then nothing is changed.
        """
        found = Dataset.open(self.path)
        samples = list(found.damaged()) if found.has_bases else []
        basis_samples = found.damaged_basis_samples()
        self.forget(samples)
        self._forget_basis_samples(zarr.open_group(self.path, mode="r+"), basis_samples)

    def _forget_basis_samples(self, root: zarr.Group, index: list[int]) -> None:
        """With bases, a sample that the first pass stored is solved again in the second one, if it is needed."""
        if not index:
            return
        for i in index:
            root[SCRATCH]["status"][i] = PENDING
        if not root.attrs["has_bases"] and "rows_status" in root[SCRATCH]:
            root[SCRATCH]["rows_status"][:] = PENDING  # rows in coordinates of a POD that these samples change

    def finish(self) -> None:
        """Nothing is pending: remove what the first pass kept, and remember that all was there."""
        if (self.path / SCRATCH).exists():
            os.replace(self.path / SCRATCH, self.path / REMOVING)
        root = zarr.open_group(self.path, mode="r+")
        update_attributes(root, finished=Plan.from_attributes(dict(root.attrs["plan"])).n_total)
        shutil.rmtree(self.path / REMOVING, ignore_errors=True)  # else at the next run


def make_latent_arrays(root: zarr.Group, plan: Plan) -> None:
    """The arrays whose shapes follow the ranks, once these are known, where they are not there in these ranks."""
    outputs, controlled = plan.output_rank, plan.control_basis != "none"
    if not (plan.input_rank and outputs) or (controlled and not plan.control_rank):
        return
    inputs = plan.input_rank + plan.control_rank
    shapes = {
        "x": ((inputs,), ("latent_parameter",)),
        "y": ((outputs,), ("latent_observable",)),
        "reduced_jacobian": ((outputs, inputs), ("latent_observable", "latent_parameter")),
    }
    for name, (shape, dimensions) in shapes.items():
        if name not in root or root[name].shape[1:] != shape:
            create_array(root, name, (plan.n_total, *shape), ("sample", *dimensions))


def _sample_arrays(plan: Plan, dims: Dims) -> dict[str, Row]:
    """Names of arrays with a row for each sample, whose shapes do not follow the ranks: named dimensions of a row."""
    arrays: dict[str, Row] = {"observable_energy": (), "jacobian_energy": ()}
    if dims.control:
        arrays |= {"control": (("control", dims.control),), "control_jacobian_energy": ()}
    if dims.whole_state:
        arrays["observable_residual"] = ()
    else:
        arrays["observable"] = (("observable_index", dims.observable),)
    if plan.store_full or plan.store_parameters:
        arrays["m"] = (("parameter", dims.parameter),)
    if plan.store_full:
        arrays["jacobian"] = (("observable", dims.observable), ("parameter", dims.parameter))
    return arrays


def _create_work(group: zarr.Group, n: int, digests: list[str]) -> None:
    """What samples cost, with the digests of their arrays in the same file; and their status."""
    create_array(group, "work", (n, len(WORK) + len(digests) + 1), ("sample", "work"))
    create_array(group, "status", (n,), ("sample",), dtype="u1")


def _create_scratch(root: zarr.Group, identity: str, plan: Plan, dims: Dims) -> None:
    """What the first pass keeps until there are bases."""
    n = plan.n_basis_samples
    arrays: dict[str, Row] = {
        "m": (("parameter", dims.parameter),),
        "observable": (("observable_index", dims.observable),),
    }
    if dims.state:
        arrays["state"] = (("state", dims.state),)
    if dims.control:
        arrays["control"] = (("control", dims.control),)
        if not dims.whole_state:
            arrays["control_jacobian"] = (("observable", dims.observable), ("control", dims.control))
    if not dims.whole_state:
        arrays["covariance"] = (("row", dims.observable), ("column", dims.observable))
        arrays["jacobian"] = (("observable", dims.observable), ("parameter", dims.parameter))
    digests = [*arrays, *(ROWS if dims.whole_state else ())]
    create_group(root, SCRATCH, {IDENTITY: identity, DIGESTS: digests})
    scratch = root[SCRATCH]
    for name, dimensions in arrays.items():
        shape = tuple(size for _, size in dimensions)
        create_array(scratch, name, (n, *shape), ("sample", *(what for what, _ in dimensions)))
    _create_work(scratch, n, digests)


def create_rows(scratch: zarr.Group, plan: Plan, n_parameters: int) -> None:
    """Place for the rows (Φ⁺)ᵀ J of a whole state's Jacobian and their energy, if it is not there in this rank."""
    shape = (min(plan.n_basis_samples, MOST_ROWS), plan.output_rank, n_parameters)
    if "rows_energy" not in scratch or scratch["rows"].shape != shape:
        create_array(scratch, "rows", shape, ("sample", "latent_observable", "parameter"))
        create_array(scratch, "rows_energy", shape[:1], ("sample",))
        if "control" in scratch:
            n_controls = scratch["control"].shape[1]
            create_array(scratch, "control_rows", (*shape[:2], n_controls), ("sample", "latent_observable", "control"))
        create_array(scratch, "rows_status", shape[:1], ("sample",), dtype="u1")


class FailureLog:
    """Failed solves as files: a JSON with index, seed and reason, and the parameter for a replay.

    Parameters
    ----------
    path : Path
        The dataset.
    seed : int
    """

    def __init__(self, path: Path, seed: int):
        self._path, self._seed = path, seed
        self._identity = Dataset.open(path).identity

    def record(
        self, index: int, reason: str, parameter: np.ndarray, retry: str | None, *, control: np.ndarray | None = None
    ) -> None:
        """Add a failed sample; of one that is there already, what is said first of its solve stays.

        Parameters
        ----------
        index : int
        reason : str
        parameter : (dM,) array
            Canonical dof order.
        retry : str, optional
            What was tried a second time, in vain.
        control : (dZ,) array, optional
        """
        known = self._known(index) or {"index": index, "seed": self._seed, "reason": reason}
        if retry is not None:
            known["retried"] = retry
        if control is not None:
            known["control"] = control.tolist()
        file = self._path / _failure(index, "npy")
        write_file(file, lambda stream: np.save(stream, parameter))
        self._write(index, known)

    def _known(self, index: int) -> dict | None:
        """What is said of a sample that is being solved anew; None if nothing is, or if it is damaged."""
        place = _failure(index, "json")
        if not (self._path / place).exists():
            return None
        try:
            return read_document(self._path / place, self._identity, place)
        except DatasetError:
            return None

    def _write(self, index: int, content: dict) -> None:
        parameter = self._path / _failure(index, "npy")
        if self._identity is not None and parameter.exists():
            content[CONTENT] = array_digest(self._identity, _failure(index, "npy"), np.load(parameter))
        place = _failure(index, "json")
        write_document(self._path / place, content, self._identity, place)

    def solved(self, index: int) -> None:
        """A sample is solved after all: what was said of its failure goes, unless a retry solved it."""
        file = self._path / _failure(index, "json")
        if file.exists() and "solved by" not in (self._known(index) or {}):
            file.unlink()
            (self._path / _failure(index, "npy")).unlink(missing_ok=True)

    def rescued(self, index: int, reason: str, retry: str) -> None:
        """A sample that failed and was solved by `retry`."""
        self._write(index, {"index": index, "seed": self._seed, "reason": reason, "solved by": retry})


def _failure(index: int, kind: str) -> str:
    """Place of what is kept of a failed sample, "json" or "npy"."""
    return f"failures/sample-{index:08d}.{kind}"


class RunLog:
    """What `info` tells of a run's speed: a JSON file that is written again every few seconds.

    Parameters
    ----------
    path : Path
        The dataset.
    about : dict
        Ranks and so on.
    """

    INTERVAL = 5.0

    def __init__(self, path: Path, about: dict):
        self._path, self._identity = path, Dataset.open(path).identity
        self._place = f"runs/{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.json"
        self._content: dict = {"started": time.strftime("%Y-%m-%d %H:%M:%S"), **about}
        self._begun: dict[str, float] = {}
        self._written = 0.0

    def count(self, label: str, n: int, *, now: bool = False) -> None:
        """So many samples were finished in this run's pass `label`, which begins with the first call."""
        began = self._begun.setdefault(label, time.time())
        self._content[label] = {"solved": n, "seconds": round(time.time() - began, 3)}
        if now or time.time() - self._written > self.INTERVAL:
            self._written = time.time()
            with contextlib.suppress(OSError):  # statistics end no run
                write_document(self._path / self._place, self._content, self._identity, self._place)
