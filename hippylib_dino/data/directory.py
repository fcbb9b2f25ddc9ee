"""The directory of a dataset while it is written: made, checked, extended, repaired, cleaned."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import numpy as np
import zarr

from hippylib_dino.data.dataset import (
    FORMAT,
    FORMAT_VERSION,
    FULL_ARRAYS,
    PENDING,
    SAMPLE_ARRAYS,
    SCRATCH,
    Dataset,
    create_array,
    create_whole_array,
    write_file,
)
from hippylib_dino.data.lock import NAME as LOCK_NAME
from hippylib_dino.data.lock import DirectoryLock
from hippylib_dino.data.plan import BASIS_CHOICES, GIVEN, Plan
from hippylib_dino.errors import DatasetError
from hippylib_dino.modeling.fingerprint import check_fingerprint

PARTIAL, REMOVING = ".partial", ".removing"
MOST_ROWS = 128  # samples whose rows (Φ⁺)ᵀ J make the input basis of a whole state: each is as large as rQ states
WORK = ("seconds", "newton_iterations")
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
        return (self.path / "zarr.json").exists()

    def _refuse_what_is_not_ours(self) -> None:
        if self.exists() or not self.path.exists():
            return
        ours = {LOCK_NAME, PARTIAL, *(LAYOUT if (self.path / PARTIAL).exists() else ())}
        if any(entry.name not in ours for entry in self.path.iterdir()):
            raise DatasetError(f"path: {str(self.path)!r} is not empty and holds no dataset; choose another directory.")

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
        plan = plan.with_segments()
        root = zarr.open_group(self.path / PARTIAL, mode="w")
        make_latent_arrays(root, plan)
        n = plan.n_total
        for name in ("observable_energy", "jacobian_energy"):
            create_array(root, name, (n,), ("sample",))
        if dims.control:
            create_array(root, "control", (n, dims.control), ("sample", "control"))
            create_array(root, "control_jacobian_energy", (n,), ("sample",))
        create_array(root, "work", (n, len(WORK)), ("sample", "work"))
        create_array(root, "status", (n,), ("sample",), dtype="u1")
        if dims.whole_state:
            create_array(root, "observable_residual", (n,), ("sample",))
        else:
            create_array(root, "observable", (n, dims.observable), ("sample", "observable_index"))
        if plan.store_full or plan.store_parameters:
            create_array(root, "m", (n, dims.parameter), ("sample", "parameter"))
        if plan.store_full:
            create_array(root, "jacobian", (n, dims.observable, dims.parameter), ("sample", "observable", "parameter"))
        _create_scratch(root.create_group(SCRATCH), plan, dims)
        create_whole_array(root.create_group("bases"), "noise_covariance", weights)
        root.create_group("failures")
        root.create_group("runs")
        versions = {name: metadata.version(name) for name in ("hippylib", "numpy", "zarr", "mpi4py")}
        root.attrs.update(
            {
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
            }
        )
        entries = sorted((self.path / PARTIAL).iterdir(), key=lambda entry: entry.name == "zarr.json")
        for entry in entries:
            os.replace(entry, self.path / entry.name)
        (self.path / PARTIAL).rmdir()

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
                root.attrs["plan"] = kept.to_attributes()
                stored = kept
            make_latent_arrays(root, stored)
        wanted = plan.appended_to(stored, what)
        self._extend(root, wanted)

    def _extend(self, root: zarr.Group, wanted: Plan) -> None:
        """Make room for the samples of a plan, then let it be the dataset's."""
        for name in Dataset(root, self.path).sample_arrays:
            if root[name].shape[0] < wanted.n_total:
                root[name].resize((wanted.n_total, *root[name].shape[1:]))
        if wanted != Plan.from_attributes(dict(root.attrs["plan"])):
            root.attrs["plan"] = wanted.to_attributes()

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
        batch = root.require_group(GIVEN).create_group(f"{found.plan.n_total:08d}", overwrite=True)
        create_array(batch, "m", parameters.shape, ("sample", "parameter"))
        for i, parameter in enumerate(parameters):
            batch["m"][i] = parameter
        batch.attrs["origins"] = origins
        self._extend(root, found.plan.with_given(len(parameters)))

    def forget(self, index: list[int]) -> None:
        """Let samples count as pending again, in both passes."""
        root = zarr.open_group(self.path, mode="r+")
        for i in index:
            root["status"][i] = PENDING
        if SCRATCH in root:
            self._forget_basis_samples(root, [i for i in index if i < root[SCRATCH]["status"].shape[0]])

    def repair(self) -> None:
        """Let samples that cannot be read count as pending again."""
        found = Dataset.open(self.path)
        if found.has_bases:
            self.forget(list(found.damaged()))
        self._forget_basis_samples(zarr.open_group(self.path, mode="r+"), found.damaged_basis_samples())

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
        root.attrs["finished"] = Plan.from_attributes(dict(root.attrs["plan"])).n_total
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


def _create_scratch(scratch: zarr.Group, plan: Plan, dims: Dims) -> None:
    """What the first pass keeps until there are bases."""
    n = plan.n_basis_samples
    create_array(scratch, "m", (n, dims.parameter), ("sample", "parameter"))
    create_array(scratch, "observable", (n, dims.observable), ("sample", "observable_index"))
    create_array(scratch, "work", (n, len(WORK)), ("sample", "work"))
    if dims.state:
        create_array(scratch, "state", (n, dims.state), ("sample", "state"))
    create_array(scratch, "status", (n,), ("sample",), dtype="u1")
    if dims.control:
        create_array(scratch, "control", (n, dims.control), ("sample", "control"))
        if not dims.whole_state:
            create_array(
                scratch, "control_jacobian", (n, dims.observable, dims.control), ("sample", "observable", "control")
            )
    if not dims.whole_state:
        create_array(scratch, "covariance", (n, dims.observable, dims.observable), ("sample", "row", "column"))
        create_array(scratch, "jacobian", (n, dims.observable, dims.parameter), ("sample", "observable", "parameter"))


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
        self._folder, self._seed = path / "failures", seed

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
        file = self._folder / f"sample-{index:08d}.json"
        known = (
            json.loads(file.read_text()) if file.exists() else {"index": index, "seed": self._seed, "reason": reason}
        )
        if retry is not None:
            known["retried"] = retry
        if control is not None:
            known["control"] = control.tolist()
        write_file(self._folder / f"sample-{index:08d}.npy", lambda stream: np.save(stream, parameter))
        write_file(file, lambda stream: stream.write(json.dumps(known).encode()))

    def solved(self, index: int) -> None:
        """A sample is solved after all: what was said of its failure goes, unless a retry solved it."""
        file = self._folder / f"sample-{index:08d}.json"
        if file.exists() and "solved by" not in json.loads(file.read_text()):
            file.unlink()
            (self._folder / f"sample-{index:08d}.npy").unlink(missing_ok=True)

    def rescued(self, index: int, reason: str, retry: str) -> None:
        """A sample that failed and was solved by `retry`."""
        content = {"index": index, "seed": self._seed, "reason": reason, "solved by": retry}
        write_file(self._folder / f"sample-{index:08d}.json", lambda stream: stream.write(json.dumps(content).encode()))


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
        self._file = path / "runs" / f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.json"
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
                write_file(self._file, lambda stream: stream.write(json.dumps(self._content).encode()))
