"""Generation of training data under MPI: bases first, then reduced Jacobians."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hippylib as hp
import numpy as np
import zarr
from mpi4py import MPI
from tqdm import tqdm

from hippylib_dino.data.dataset import DONE, FAILED, PENDING, SCRATCH, Dataset, SampleWriter, write_basis
from hippylib_dino.data.directory import DatasetDirectory, Dims, FailureLog, RunLog, create_rows
from hippylib_dino.data.guessing import Guess, Guesses, check_initial_guess
from hippylib_dino.data.handout import Handout
from hippylib_dino.data.plan import Plan
from hippylib_dino.data.projection import Projector, linearized_covariance, owned_rows
from hippylib_dino.data.solving import SampleSolver, Solved
from hippylib_dino.data.together import together
from hippylib_dino.errors import GenerationError, InputError, SolveError
from hippylib_dino.modeling.communicators import serialize_compilation
from hippylib_dino.modeling.fingerprint import fingerprint
from hippylib_dino.modeling.jacobian_model import JacobianModel
from hippylib_dino.modeling.observation import NoiseCovariance
from hippylib_dino.modeling.spaces import DofOrder, owned_values
from hippylib_dino.reduction.input import derivative_input_basis, kle_input_basis
from hippylib_dino.reduction.output import derivative_output_basis, pod_output_basis, pod_state_basis


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
    repair: bool = False,
    reuse: Dataset | None = None,
    store_full: bool = False,
    initial_guess: str | Guess = "auto",
    retry: str | JacobianModel | None = None,
    max_failures: int = 10,
    progress: bool = True,
) -> Dataset:
    """Draw parameters, solve, and store reduced values and Jacobians, also under `mpirun`.

    The first pass keeps the full Jacobians of `n_basis_samples` training samples on disk until the
    bases are built from them; the second projects those and solves the remaining samples.
    Groups of ranks that share a mesh get samples one at a time, first come first served.

    Parameters
    ----------
    model : JacobianModel
        Its mesh on ``hd.sample_communicator()``.
    path : str or Path
        Directory of the dataset.
    n_samples : int
        Training samples.  More than a resumed dataset was planned with are appended to it.
    n_validation, n_test : int, optional
        Held-out samples beyond those; default n_samples/8 and n_samples/4, at least 1.
    n_basis_samples : int, optional
        Of the training samples, for the bases; default the first 128 of them, or what a resumed dataset has.
    input_rank, output_rank : int
        rM and rQ.
    input_basis : "derivative" or "kle"
    output_basis : "derivative" or "pod"
        Where the observable is the whole state, "pod".
    seed : int
        Sample i depends on (seed, i) alone, whatever the number of ranks.
    resume : bool
        Continue the dataset that is at `path`, if there is one.
    repair : bool
        With `resume`: read everything, and solve again the samples that are damaged, and only these.
    reuse : Dataset, optional
        A dataset of this problem and seed with ``store_full=True``, here or elsewhere: the samples that it holds are
        projected from it, not solved again.  For wider bases, other ranks, other bases.
    store_full : bool
        Keep full parameters m (dM,) and Jacobians J (dQ, dM) as well.
    initial_guess : str or callable
        Of the forward solves of a nonlinear problem: "mean", "linearized", "nearest", "regression", a callable from a
        parameter vector to a state vector, or "auto", which takes the one that needed least work on some of the
        basis samples; see `hippylib_dino.modeling.initial_guess`.  The first pass starts from the model's own.
    retry : "continuation" or JacobianModel, optional
        What is tried for a sample whose solve failed: the same solver in steps from the prior mean to the parameter,
        or a model of the same problem with a more robust solver.
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
        If `path` holds something else, or a dataset and `resume` is False, or another run writes to it.
    FingerprintError
        If `path` or `reuse` holds another problem's dataset.
    GenerationError
        If more than `max_failures` solves failed, or a rank raised.
    """
    path = Path(path)
    stored = Dataset.open(path).plan if resume and (path / "zarr.json").exists() else None
    if n_basis_samples is None:
        n_basis_samples = min(128, n_samples) if stored is None else stored.n_basis_samples
    plan = Plan(
        n_train=n_samples,
        n_validation=max(1, n_samples // 8) if n_validation is None else n_validation,
        n_test=max(1, n_samples // 4) if n_test is None else n_test,
        n_basis_samples=n_basis_samples,
        input_rank=input_rank,
        output_rank=output_rank,
        input_basis=input_basis,
        output_basis=output_basis,
        seed=seed,
        store_full=store_full,
    )
    if repair and not resume:
        raise InputError("repair: repairs a dataset that is there, so pass resume=True with it.")
    check_initial_guess(initial_guess)
    serialize_compilation()
    run = _Run(model, path, plan, max_failures=max_failures, progress=progress)
    run.solver = SampleSolver(model, plan.seed, retry=retry, reuse=reuse)
    run.initial_guess = initial_guess
    try:
        run.open(resume, repair)
        if not run.finished():
            run.first_pass()
            run.second_pass()
    finally:
        run.close()
    return Dataset.open(path)


class _Run:
    """One run of `generate`: the ranks, the directory, the two passes."""

    solver: SampleSolver
    initial_guess: str | Guess

    def __init__(self, model: JacobianModel, path: Path, plan: Plan, *, max_failures: int, progress: bool):
        self.model, self.path, self.plan = model, path, plan
        self.max_failures, self.progress = max_failures, progress
        self.data = model.data_space
        self.order, self.state_order = DofOrder(model.prior.Vh), DofOrder(model.problem.Vh[hp.STATE])
        plan.check(self.order.dim, self.data.dim)
        if model.whole_state and (plan.output_basis != "pod" or plan.store_full):
            raise InputError(
                'output_basis, store_full: a whole state is compressed by output_basis="pod", and its full Jacobians '
                f"are not stored; got output_basis={plan.output_basis!r}, store_full={plan.store_full}."
            )
        self.mesh_comm = self.order.comm
        self.world = MPI.COMM_WORLD
        if self.world.size % self.mesh_comm.size:
            raise InputError(
                f"model: its mesh lives on {self.mesh_comm.size} ranks, which do not divide the {self.world.size} of "
                "this run; build it on hd.sample_communicator(ranks_per_sample)."
            )
        # to start other solves from; a linear problem needs no start, a whole state is kept anyway
        self.keeps_states = not (model.whole_state or model.time_dependent or model.problem.is_fwd_linear)
        self.group = self.world.rank // self.mesh_comm.size
        self.writes = self.mesh_comm.rank == 0
        self.directory: DatasetDirectory | None = None

    # ---- the directory -------------------------------------------------------------------

    def open(self, resume: bool, repair: bool) -> None:
        """Create the dataset, or check that the one that is there may be continued."""
        self._together(self._lock)
        self._together(self._identify)
        self._together(lambda: self._create_or_check(resume, repair))
        self.root = zarr.open_group(self.path, mode="r+")
        self.plan = Plan.from_attributes(dict(self.root.attrs["plan"]))
        self.failure_log = FailureLog(self.path, self.plan.seed)
        about = {"ranks": self.world.size, "ranks_per_sample": self.mesh_comm.size}
        self.run_log = RunLog(self.path, about) if self.world.rank == 0 else None

    def _lock(self) -> None:
        if self.world.rank == 0:
            self.directory = DatasetDirectory(self.path)

    def _identify(self) -> None:
        """The fingerprint of the problem, and whether what the user brought along belongs to it."""
        self.mark = fingerprint(self.model)
        # what the PDE answers at one point tells another PDE on the same spaces apart
        q = self.model.evalObservable(self.model.prior.mean)
        self.mark["forward map"] = {"observable at the prior mean": q[:: max(1, len(q) // 64)].tolist()}
        self.solver.check(self.mark)

    def _create_or_check(self, resume: bool, repair: bool) -> None:
        if self.directory is None:
            return
        noise, mark = self.data.value, self.mark
        if not self.directory.exists():
            state = self.state_order.dim if self.keeps_states else 0
            dims = Dims(self.order.dim, self.data.dim, state, self.model.whole_state)
            self.directory.create(self.plan, mark, noise, dims)
            return
        self.directory.check(self.plan, mark, noise, resume)
        found = Dataset.open(self.path)
        if repair and found.has_bases:
            self.directory.forget(list(found.damaged()))
        if self.solver.retry is not None:
            self.directory.forget([f["index"] for f in found.failures if f.get("retried") != self.solver.retry])

    def close(self) -> None:
        """Give the directory free."""
        if self.directory is not None:
            self.directory.release()
            self.directory = None

    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return len(self._pending(self.root["status"])) == 0 and self.root.attrs["finished"] == self.plan.n_total

    def _pending(self, status: zarr.Array) -> np.ndarray:
        """Samples that are neither done nor failed, the same on every rank."""
        found: list[np.ndarray] = []

        def read() -> None:
            if self.world.rank == 0:
                found.append(np.flatnonzero(status[: self.plan.n_total] == PENDING))

        self._together(read)
        return self.world.bcast(found[0] if found else None)

    # ---- ranks ---------------------------------------------------------------------------

    def _together(self, work: Callable[[], None], handout: Handout | None = None) -> None:
        if handout is None:
            together(self.world, self.mesh_comm, work)
        else:
            together(self.world, self.mesh_comm, work, on_error=handout.stop, while_waiting=handout.refresh)

    def _hand_out(self, label: str, status: zarr.Array, solve: Callable[[int], None]) -> None:
        """Solve what is pending; failures are recorded, errors reach all ranks."""
        todo = self._pending(status)
        before = int(self.world.bcast((status[:] == FAILED).sum() if self.world.rank == 0 else None))
        handout = Handout(self.world, self.mesh_comm, todo, label, self.progress)
        if self.run_log is not None:
            self.run_log.count(label, 0)

        def work() -> None:
            for index in handout:
                solved = self._attempt(index, solve)
                if self.writes:
                    status[index] = DONE if solved else FAILED
                    handout.done(failed=not solved)
                    if before + handout.failures > self.max_failures:
                        handout.stop()
                if self.run_log is not None:
                    handout.refresh()
                    self.run_log.count(label, handout.finished)

        try:
            self._together(work, handout)
            total, finished = before + handout.failures, handout.finished
        finally:
            handout.close()
        if self.run_log is not None:
            self.run_log.count(label, finished, now=True)
        if total > self.max_failures:
            raise GenerationError(
                f"{total} solves failed, more than max_failures={self.max_failures}; see the reasons in "
                f"{self.path / 'failures'}. Check the forward solver, pass retry=..., or allow more and resume."
            )

    def _attempt(self, index: int, solve: Callable[[int], None]) -> bool:
        try:
            solve(index)
        except SolveError as error:
            parameter = self.order.to_array(owned_values(self.solver.draw(index)))
            if self.writes:
                self.failure_log.record(index, str(error), parameter, self.solver.retry)
            return False
        return True

    def _note_rescue(self, index: int, solved: Solved) -> None:
        if solved.rescue is not None and self.writes and self.solver.retry is not None:
            self.failure_log.rescued(index, solved.rescue, self.solver.retry)

    # ---- first pass: the bases -----------------------------------------------------------

    def first_pass(self) -> None:
        """States and Jacobians of the basis samples, then the bases."""
        if self.root.attrs["has_bases"]:
            return
        self.scratch_writer = SampleWriter(self.root[SCRATCH])
        self._hand_out("bases", self.root[SCRATCH]["status"], self._solve_basis_sample)
        if self.model.whole_state:
            self._together(lambda: self._first_group(self._build_state_basis))
            if self.plan.input_basis == "derivative":
                self._together(lambda: self._first_group(self._create_rows))
                self._reopen()
                self.scratch_writer = SampleWriter(self.root[SCRATCH])
                self._output = Dataset(self.root, self.path).stored_basis("output")
                self._hand_out("sensitivities", self.root[SCRATCH]["rows_status"], self._solve_rows)
        else:
            self._together(lambda: self._first_group(self._build_output_basis))
        self._together(lambda: self._first_group(self._build_input_basis))

    def _first_group(self, work: Callable[[], None]) -> None:
        if self.group == 0:
            work()

    def _reopen(self) -> None:
        """See what another rank wrote to the metadata."""
        self.root = zarr.open_group(self.path, mode="r+")

    def _solve_basis_sample(self, index: int) -> None:
        whole_state = self.model.whole_state
        solved = self.solver.solve_state(index) if whole_state else self.solver.solve(index)
        record = {"m": self.order.to_array(solved.m), "observable": self.data.whole(solved.q)}
        record["work"] = np.array([solved.seconds, solved.iterations])
        if solved.u is not None and self.keeps_states:
            record["state"] = self.state_order.to_array(owned_values(solved.u))
        if not whole_state:
            rows = owned_rows(solved)
            record["covariance"] = linearized_covariance(self.model.prior, rows)
            record["jacobian"] = self.order.to_array(rows).T
        if self.writes:
            self.scratch_writer.write(index, record)
        self._note_rescue(index, solved)

    def _basis_samples(self, status: str = "status") -> np.ndarray:
        done = np.flatnonzero(self.root[SCRATCH][status][:] == DONE)
        if len(done) == 0:
            raise GenerationError(f"every basis sample failed; see the reasons in {self.path / 'failures'}.")
        return done

    def _build_output_basis(self) -> None:
        scratch, done, rank = self.root[SCRATCH], self._basis_samples(), self.plan.output_rank
        observables = scratch["observable"].oindex[done]
        if self.plan.output_basis == "pod":
            basis = pod_output_basis(observables, self.model.noise_covariance, rank=rank)
        else:
            covariance = sum(scratch["covariance"][int(i)] for i in done) / len(done)
            noise = self.model.noise_covariance
            basis = derivative_output_basis(observables.mean(axis=0), covariance, noise, rank=rank)
        if self.writes:
            write_basis(self.root, "output", basis)

    def _build_state_basis(self) -> None:
        done = self._basis_samples()
        states = self.root[SCRATCH]["observable"]

        def snapshots(block: np.ndarray) -> np.ndarray:
            return np.column_stack([self.data.local(states[int(i)]) for i in done[block]])

        basis = pod_state_basis(snapshots, self.data, n_samples=len(done), rank=self.plan.output_rank)
        if self.writes:
            write_basis(self.root, "output", basis)

    def _create_rows(self) -> None:
        if self.writes:
            create_rows(self.root[SCRATCH], self.plan, self.order.dim)

    def _solve_rows(self, index: int) -> None:
        """(Φ⁺)ᵀ J of a basis sample whose state is known, by rQ adjoint solves."""
        scratch = self.root[SCRATCH]
        if scratch["status"][index] == FAILED:
            raise SolveError("failed in the first pass")
        m, u = self.order.from_array(scratch["m"][index]), self.data.local(scratch["observable"][index])
        _, jacobian = self.solver.linearize(m, u)
        rows = jacobian.transpmult_local(self.data.local(self._output.encoder))
        full = self.order.to_array(rows).T
        if self.writes:
            self.scratch_writer.write(index, {"rows": full})

    def _build_input_basis(self) -> None:
        plan, scratch, prior = self.plan, self.root[SCRATCH], self.model.prior
        if plan.input_basis == "kle":
            basis = kle_input_basis(prior, rank=plan.input_rank, seed=plan.seed)
        else:
            if self.model.whole_state:  # rows (Φ⁺)ᵀ J, of latent observables whose noise covariance is the identity
                name, status, noise = "rows", "rows_status", NoiseCovariance(1.0, plan.output_rank)
            else:
                name, status, noise = "jacobian", "status", self.model.noise_covariance
            done = self._basis_samples(status)
            if self.progress and self.writes:
                tqdm.write(f"computing the input basis of rank {plan.input_rank} from {len(done)} samples")

            def jacobians() -> Iterator[np.ndarray]:
                for i in done:
                    yield self.order.from_array(scratch[name][int(i)].T)

            basis = derivative_input_basis(
                prior, jacobians, noise, rank=plan.input_rank, n_samples=len(done), seed=plan.seed
            )
        if self.writes:
            write_basis(self.root, "input", basis)
            self.root.attrs["has_bases"] = True

    # ---- second pass: all samples --------------------------------------------------------

    def second_pass(self) -> None:
        """Reduced samples of all splits."""
        self._together(self._prepare_projection)
        self._hand_out("samples", self.root["status"], self._solve_sample)
        self._together(lambda: None if self.directory is None else self.directory.finish())

    def _prepare_projection(self) -> None:
        self._reopen()
        self.writer = SampleWriter(self.root)
        dataset, plan = Dataset(self.root, self.path), self.plan
        self.projector = Projector(
            self.model, dataset.input_basis, dataset.output_basis, seed=plan.seed, store_full=plan.store_full
        )
        if self.keeps_states and callable(self.initial_guess):
            self.solver.guess = self.initial_guess
        elif self.keeps_states and self.model.initial_guess is None:
            self._set_guess(Guesses(self.model, self.projector, self.root))

    def _set_guess(self, guesses: Guesses) -> None:
        """The guess that the user names, or that was chosen by this dataset's first run."""
        name: str | None = str(self.initial_guess)
        if name == "auto":
            stored = self.root.attrs.get("initial_guess")
            if stored is None and guesses.can_choose:
                stored = guesses.choose()
                if self.directory is not None:
                    self.root.attrs["initial_guess"] = stored
            name = None if stored is None else stored["chosen"]
        self.solver.guess = None if name is None else guesses.make(name)

    def _kept(self, index: int) -> Solved:
        """What the first pass stored of this sample, in this rank's rows."""
        scratch = self.root[SCRATCH]
        if scratch["status"][index] == FAILED:
            if self.solver.retry is not None:
                return self.solver.solve(index)
            raise SolveError("failed in the first pass")
        m = self.order.from_array(scratch["m"][index])
        q = self.data.local(scratch["observable"][index])
        seconds, iterations = scratch["work"][index]
        if self.model.whole_state:
            start = time.perf_counter()
            q, jacobian = self.solver.linearize(m, q)
            return Solved(m, q, jacobian, seconds=seconds + time.perf_counter() - start, iterations=iterations)
        rows = self.order.from_array(scratch["jacobian"][index].T)
        return Solved(m, q, rows, seconds=seconds, iterations=iterations)

    def _solve_sample(self, index: int) -> None:
        kept = index < self.plan.n_basis_samples and SCRATCH in self.root
        solved = self._kept(index) if kept else self.solver.solve(index)
        record = self.projector.record(solved)
        if self.writes:
            self.writer.write(index, record)
        self._note_rescue(index, solved)
