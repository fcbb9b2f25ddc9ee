"""Generation of training data under MPI: bases first, then reduced Jacobians."""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import numpy as np
import zarr
from mpi4py import MPI
from tqdm import tqdm

from hippylib_dino.data.dataset import (
    DONE,
    FAILED,
    FORMAT,
    FORMAT_VERSION,
    PENDING,
    Dataset,
    create_array,
    create_whole_array,
    write_basis,
)
from hippylib_dino.data.plan import BASIS_CHOICES, Plan
from hippylib_dino.data.progress import SharedProgress
from hippylib_dino.data.streams import draw_parameter
from hippylib_dino.errors import DatasetError, DinoError, GenerationError, InputError, SolveError
from hippylib_dino.modeling.communicators import serialize_compilation
from hippylib_dino.modeling.fingerprint import check_fingerprint, fingerprint
from hippylib_dino.modeling.jacobian_model import JacobianModel
from hippylib_dino.modeling.spaces import DofOrder, map_block, owned_values, sum_over_ranks
from hippylib_dino.reduction.basis import Basis
from hippylib_dino.reduction.input import derivative_input_basis, kle_input_basis
from hippylib_dino.reduction.output import derivative_output_basis, pod_output_basis


def generate(
    model: JacobianModel,
    path: str | Path,
    *,
    n_samples: int,
    n_validation: int | None = None,
    n_test: int | None = None,
    n_basis_samples: int | None = None,
    input_rank: int = 100,
    output_rank: int = 50,
    input_basis: str = "derivative",
    output_basis: str = "derivative",
    seed: int = 0,
    resume: bool = False,
    store_full: bool = False,
    max_failures: int = 10,
    progress: bool = True,
) -> Dataset:
    """Draw parameters, solve, and store reduced values and Jacobians, also under `mpirun`.

    The first pass keeps the full Jacobians of `n_basis_samples` training samples on disk until the
    bases are built from them; the second projects those and solves the remaining samples.
    Every group of ranks that shares a mesh takes every n-th sample.

    Parameters
    ----------
    model : JacobianModel
        Its mesh on ``hd.sample_communicator()``.
    path : str or Path
        Directory of the dataset.
    n_samples : int
        Training samples.
    n_validation, n_test : int, optional
        Held-out samples beyond those; default n_samples/8 and n_samples/4, at least 1.
    n_basis_samples : int, optional
        Of the training samples, for the bases; default the first 128 of them.
    input_rank, output_rank : int
        rM and rQ.
    input_basis : "derivative" or "kle"
    output_basis : "derivative" or "pod"
    seed : int
        Sample i depends on (seed, i) and on the partition of the mesh, not on the number of groups.
    resume : bool
        Continue the dataset that is at `path`, if there is one.
    store_full : bool
        Keep full parameters m (dM,) and Jacobians J (dQ, dM) as well.
    max_failures : int
        More failed solves end the run.
    progress : bool
        Show progress bars on rank 0.

    Returns
    -------
    Dataset

    Raises
    ------
    InputError, RankError, MisfitError
        For arguments that cannot be.
    DatasetError
        If `path` holds something else, or a dataset and `resume` is False.
    FingerprintError
        If `path` holds another problem's dataset.
    GenerationError
        If more than `max_failures` solves failed, or a rank raised.
    """
    plan = Plan(
        n_train=n_samples,
        n_validation=max(1, n_samples // 8) if n_validation is None else n_validation,
        n_test=max(1, n_samples // 4) if n_test is None else n_test,
        n_basis_samples=min(128, n_samples) if n_basis_samples is None else n_basis_samples,
        input_rank=input_rank,
        output_rank=output_rank,
        input_basis=input_basis,
        output_basis=output_basis,
        seed=seed,
        store_full=store_full,
    )
    serialize_compilation()
    generator = _Generator(model, Path(path), plan, max_failures, progress)
    generator.prepare(resume)
    if not generator.finished():
        generator.first_pass()
        generator.second_pass()
    return Dataset.open(path)


class _Generator:
    """One run of `generate`: the ranks, the files, the two passes."""

    def __init__(self, model: JacobianModel, path: Path, plan: Plan, max_failures: int, progress: bool):
        self.model, self.path, self.plan = model, path, plan
        self.max_failures, self.progress = max_failures, progress
        self.noise = model.noise_covariance
        plan.check(model.prior.mean.size(), self.noise.dim)
        self.order = DofOrder(model.prior.Vh)
        self.mesh_comm = self.order.comm
        self.world = MPI.COMM_WORLD
        if self.world.size % self.mesh_comm.size:
            raise InputError(
                f"model: its mesh lives on {self.mesh_comm.size} ranks, which do not divide the {self.world.size} of "
                "this run; build it on hd.sample_communicator(ranks_per_sample)."
            )
        self.n_groups = self.world.size // self.mesh_comm.size
        self.group = self.world.rank // self.mesh_comm.size
        self.writes = self.mesh_comm.rank == 0

    # ---- the directory -------------------------------------------------------------------

    def prepare(self, resume: bool) -> None:
        """Create the dataset, or check that the one that is there may be continued."""
        mark = fingerprint(self.model)
        # what the PDE answers at one point tells another PDE on the same spaces apart
        mark["forward map"] = {
            "observable at the prior mean": self.model.evalObservable(self.model.prior.mean).tolist()
        }
        self._everywhere(lambda: self._create_or_check(mark, resume) if self.world.rank == 0 else None)
        self.root = zarr.open_group(self.path, mode="r+")

    def _beside(self, suffix: str) -> Path:
        """A sibling of the dataset's directory, for what is being made or removed."""
        return self.path.with_name(self.path.name + suffix)

    def _create_or_check(self, mark: dict, resume: bool) -> None:
        shutil.rmtree(self._beside(".removing"), ignore_errors=True)  # left by a run that was killed
        if self.path.is_file():
            raise DatasetError(f"path: {str(self.path)!r} is a file; choose a directory.")
        if not self.path.exists() or not any(self.path.iterdir()):
            self._create(mark)
            return
        if not (self.path / "zarr.json").exists():
            raise DatasetError(f"path: {str(self.path)!r} is not empty and holds no dataset; choose another directory.")
        found = Dataset.open(self.path)
        check_fingerprint(found.fingerprint, mark, f"path: the dataset in {str(self.path)!r}")
        if not resume:
            raise DatasetError(
                f"path: {str(self.path)!r} holds a dataset of this problem already; pass resume=True to continue "
                "it, or choose another directory."
            )
        self._check_noise(found)
        self._check_plan(found)

    def _check_noise(self, found: Dataset) -> None:
        stored = found.noise_covariance
        if stored.shape != self.noise.value.shape or not np.allclose(stored, self.noise.value, rtol=1e-8, atol=0):
            raise DatasetError(
                f"path: the dataset in {str(self.path)!r} was begun with another noise covariance, and bases and norms "
                f"are weighted by it: the largest entry was {stored.max():.6g}, is {self.noise.value.max():.6g}. "
                "Resume with the same noise, or choose another directory."
            )

    def _check_plan(self, found: Dataset) -> None:
        """Refuse other numbers; but ranks and bases may change while no basis is computed."""
        stored, wanted = found.attributes["plan"], asdict(self.plan)
        different = [key for key, value in wanted.items() if stored.get(key) != value]
        if different and set(different) <= set(BASIS_CHOICES) and not found.has_bases:
            root = zarr.open_group(self.path, mode="r+")
            self._create_latent_arrays(root)
            root.attrs["plan"] = wanted
        elif different:
            changes = "; ".join(f"{key} was {stored.get(key)}, is {wanted[key]}" for key in different)
            raise DatasetError(
                f"path: the dataset in {str(self.path)!r} was planned otherwise: {changes}. "
                "Resume with the same numbers, or choose another directory."
            )

    def _create_latent_arrays(self, root: zarr.Group) -> None:
        """The arrays whose shapes follow the ranks."""
        n, inputs, outputs = self.plan.n_total, self.plan.input_rank, self.plan.output_rank
        create_array(root, "x", (n, inputs), ("sample", "latent_parameter"))
        create_array(root, "y", (n, outputs), ("sample", "latent_observable"))
        create_array(
            root, "reduced_jacobian", (n, outputs, inputs), ("sample", "latent_observable", "latent_parameter")
        )

    def _create(self, mark: dict) -> None:
        """Make the whole tree beside `path`, then move it there: a killed run leaves nothing half made."""
        plan, dim, n_observables = self.plan, self.order.dim, self.noise.dim
        partial = self._beside(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        root = zarr.open_group(partial, mode="w")
        n = plan.n_total
        self._create_latent_arrays(root)
        create_array(root, "observable", (n, n_observables), ("sample", "observable_index"))
        create_array(root, "observable_energy", (n,), ("sample",))
        create_array(root, "jacobian_energy", (n,), ("sample",))
        create_array(root, "status", (n,), ("sample",), dtype="u1")
        if plan.store_full:
            create_array(root, "m", (n, dim), ("sample", "parameter"))
            create_array(root, "jacobian", (n, n_observables, dim), ("sample", "observable_index", "parameter"))
        scratch = root.create_group("basis_samples")
        b = plan.n_basis_samples
        create_array(scratch, "m", (b, dim), ("sample", "parameter"))
        create_array(scratch, "observable", (b, n_observables), ("sample", "observable_index"))
        create_array(
            scratch,
            "covariance",
            (b, n_observables, n_observables),
            ("sample", "observable_index", "observable_index_2"),
        )
        create_array(scratch, "jacobian", (b, n_observables, dim), ("sample", "observable_index", "parameter"))
        create_array(scratch, "status", (b,), ("sample",), dtype="u1")
        create_whole_array(root.create_group("bases"), "noise_covariance", self.noise.value)
        root.create_group("failures")
        versions = {name: metadata.version(name) for name in ("hippylib", "numpy", "zarr", "mpi4py")}
        root.attrs.update(
            {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "plan": asdict(plan),
                "has_bases": False,
                "fingerprint": mark,
                "versions": {**versions, "python": sys.version.split()[0]},
            }
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial, self.path)

    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return bool((self.root["status"][:] != PENDING).all()) and "basis_samples" not in self.root

    # ---- the passes ----------------------------------------------------------------------

    def first_pass(self) -> None:
        """Full Jacobians of the basis samples, then the bases."""
        if not self.root.attrs["has_bases"]:
            scratch = self.root["basis_samples"]
            self._run("bases", scratch["status"], self._solve_basis_sample)
            self._everywhere(lambda: self._build_bases(scratch) if self.group == 0 else None)

    def second_pass(self) -> None:
        """Reduced samples of all splits."""
        self.root = zarr.open_group(self.path, mode="r+")  # with what rank 0 wrote
        self.input, self.output = (Dataset(self.root, self.path)._basis(name) for name in ("input", "output"))
        self._encoder = self.order.from_array(self.input.encoder)
        self._decoder = self.order.from_array(self.input.decoder)
        self._shift = self.order.from_array(self.input.shift)
        self._run("samples", self.root["status"], self._solve_sample)
        self._everywhere(self._remove_scratch)

    def _remove_scratch(self) -> None:
        """Move, then delete, so that a killed run leaves the dataset complete or as it was."""
        if self.world.rank == 0 and "basis_samples" in self.root:
            os.replace(self.path / "basis_samples", self._beside(".removing"))
            shutil.rmtree(self._beside(".removing"))

    def _run(self, label: str, status: zarr.Array, solve: Callable[[int], None]) -> None:
        """Every group solves its share of the pending samples; failures are recorded, errors reach all ranks."""
        pending = np.flatnonzero(self.world.bcast(status[:] if self.world.rank == 0 else None) == PENDING)
        mine = pending[self.group :: self.n_groups]
        bar = SharedProgress(self.world, len(pending), label, self.progress)

        def work() -> None:
            failures = 0
            for index in mine:
                try:
                    solve(int(index))
                    outcome = DONE
                except SolveError as error:
                    outcome = FAILED
                    failures += 1
                    self._record_failure(int(index), error)
                if self.writes:
                    status[int(index)] = outcome
                    bar.step()
                if failures > self.max_failures:
                    break

        self._everywhere(work, before_meeting=bar.finish)
        total_failures = int((status[:] == FAILED).sum())
        if total_failures > self.max_failures:
            raise GenerationError(
                f"{total_failures} solves failed, more than max_failures={self.max_failures}; see the reasons in "
                f"{self.path / 'failures'}. Check the forward solver, or allow more and resume."
            )

    def _record_failure(self, index: int, error: SolveError) -> None:
        file = self.path / "failures" / f"sample-{index:08d}.json"
        if self.writes and not file.exists():  # the first pass's reason is the one that tells
            file.write_text(json.dumps({"index": index, "seed": self.plan.seed, "reason": str(error)}))

    def _everywhere(self, work: Callable[[], None], before_meeting: Callable[[], None] = lambda: None) -> None:
        """Run `work` on every rank, then meet; an error on one rank is an error on all, none hangs."""
        error: Exception | None = None
        try:
            work()
        except Exception as caught:  # noqa: BLE001  raised again below, on every rank
            error = caught
        except BaseException:
            if self.world.size > 1:  # an interrupt of one rank must not leave the others waiting
                traceback.print_exc()
                self.world.Abort(1)
            raise
        before_meeting()
        told = error if error is None or isinstance(error, DinoError) else GenerationError(_account(self.world, error))
        first = next((e for e in self.world.allgather(told) if e is not None), None)
        if error is not None:
            raise error
        if first is not None:
            raise first

    # ---- one sample ----------------------------------------------------------------------

    def _solve(self, index: int):
        """m, q (dQ,), Jᵀ (n_owned, dQ) and the linearised covariance J R⁻¹ Jᵀ (dQ, dQ)."""
        prior = self.model.prior
        m = draw_parameter(prior, self.plan.seed, index)
        q, jacobian = self.model.linearize(m)
        rows = jacobian.owned_rows()
        riesz = map_block(prior.Rsolver.solve, prior.mean, prior.mean, rows)
        return owned_values(m), q, rows, self._sum(rows.T @ riesz)

    def _sum(self, local: np.ndarray) -> np.ndarray:
        return sum_over_ranks(local, self.mesh_comm)

    def _solve_basis_sample(self, index: int) -> None:
        m, q, rows, covariance = self._solve(index)
        full_m, full_rows = self.order.to_array(m), self.order.to_array(rows)
        if self.writes:
            scratch = self.root["basis_samples"]
            scratch["m"][index] = full_m
            scratch["observable"][index] = q
            scratch["covariance"][index] = covariance
            scratch["jacobian"][index] = full_rows.T

    def _build_bases(self, scratch: zarr.Group) -> None:
        plan = self.plan
        done = np.flatnonzero(scratch["status"][:] == DONE)
        if len(done) == 0:
            raise GenerationError(f"every basis sample failed; see the reasons in {self.path / 'failures'}.")
        if self.progress and self.writes:
            tqdm.write(f"computing bases of rank {plan.input_rank} and {plan.output_rank} from {len(done)} samples")

        def jacobians() -> Iterator[np.ndarray]:
            for i in done:
                yield self.order.from_array(scratch["jacobian"][int(i)].T)

        if plan.input_basis == "derivative":
            basis = derivative_input_basis(
                self.model.prior, jacobians, self.noise, rank=plan.input_rank, n_samples=len(done), seed=plan.seed
            )
        else:
            basis = kle_input_basis(self.model.prior, rank=plan.input_rank, seed=plan.seed)
        observables = scratch["observable"].oindex[done]
        output = self._output_basis(observables, lambda: scratch["covariance"].oindex[done])
        if self.writes:
            write_basis(self.root, "input", basis)
            write_basis(self.root, "output", output)
            self.root.attrs["has_bases"] = True

    def _output_basis(self, observables: np.ndarray, covariances: Callable[[], np.ndarray]) -> Basis:
        if self.plan.output_basis == "derivative":
            return derivative_output_basis(observables, covariances(), self.noise, rank=self.plan.output_rank)
        return pod_output_basis(observables, self.noise, rank=self.plan.output_rank)

    def _kept(self, index: int):
        """What the first pass stored of this sample, in this rank's rows."""
        scratch = self.root["basis_samples"]
        if scratch["status"][index] == FAILED:
            raise SolveError("failed in the first pass")
        return (
            self.order.from_array(scratch["m"][index]),
            scratch["observable"][index],
            self.order.from_array(scratch["jacobian"][index].T),
            scratch["covariance"][index],
        )

    def _solve_sample(self, index: int) -> None:
        kept = index < self.plan.n_basis_samples and "basis_samples" in self.root
        m, q, rows, covariance = self._kept(index) if kept else self._solve(index)
        x = self._sum(self._encoder.T @ (m - self._shift))
        reduced = self.output.encoder.T @ self._sum(rows.T @ self._decoder)
        full = (self.order.to_array(m), self.order.to_array(rows)) if self.plan.store_full else None
        if not self.writes:
            return
        self.root["x"][index] = x
        self.root["y"][index] = self.output.encode(q)
        self.root["reduced_jacobian"][index] = reduced
        self.root["observable"][index] = q
        self.root["observable_energy"][index] = q @ self.noise.solve(q)
        self.root["jacobian_energy"][index] = np.trace(self.noise.solve(covariance))
        if full is not None:
            self.root["m"][index], self.root["jacobian"][index] = full[0], full[1].T


def _account(comm: MPI.Comm, error: Exception) -> str:
    """What the other ranks are told of an error that is not one of this package."""
    return f"rank {comm.rank} of {comm.size} raised {error!r}."
