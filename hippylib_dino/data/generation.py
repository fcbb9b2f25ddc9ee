"""Generation of training data under MPI: bases first, then reduced Jacobians."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import hippylib as hp
import numpy as np
import zarr
from tqdm import tqdm

from hippylib_dino.arguments import truth_value, whole_number
from hippylib_dino.control import ControlDistribution
from hippylib_dino.data.agreement import Probe, check_agreement, check_model, of_arguments
from hippylib_dino.data.bases import build_control_basis, build_input_basis, build_output_basis
from hippylib_dino.data.dataset import Dataset
from hippylib_dino.data.derivative import DERIVATIVE_CHECK, check_derivative, check_derivative_once
from hippylib_dino.data.directory import DatasetDirectory, Dims, FailureLog, RunLog, create_rows, make_latent_arrays
from hippylib_dino.data.guessing import Guess, Guesses, check_initial_guess
from hippylib_dino.data.handout import Handout
from hippylib_dino.data.layout import DONE, FAILED, PENDING, SCRATCH
from hippylib_dino.data.plan import Plan
from hippylib_dino.data.projection import Projector, linearized_covariance, owned_rows, whole_rows
from hippylib_dino.data.sensors import check_sensors
from hippylib_dino.data.solving import SampleSolver, Solved, SolvedControl
from hippylib_dino.data.storing import SampleWriter, update_attributes, write_basis
from hippylib_dino.data.together import Ranks
from hippylib_dino.errors import DatasetError, GenerationError, InputError, RankError, SolveError
from hippylib_dino.modeling.communicators import serialize_compilation
from hippylib_dino.modeling.fingerprint import fingerprint
from hippylib_dino.modeling.jacobian import Jacobian, StateJacobian
from hippylib_dino.modeling.jacobian_model import JacobianModel
from hippylib_dino.modeling.spaces import DofOrder, owned_values
from hippylib_dino.reduction.ranks import Rank, checked_rank

# where the problem and the samples give so many; fewer otherwise
DEFAULT_INPUT_RANK, DEFAULT_OUTPUT_RANK = 100, 50


def generate(
    model: JacobianModel,
    path: str | Path,
    *,
    n_samples: int,
    n_validation: int | None = None,
    n_test: int | None = None,
    n_basis_samples: int | None = None,
    input_rank: Rank | None = None,
    output_rank: Rank | None = None,
    control_rank: Rank | None = None,
    input_basis: str = "derivative",
    output_basis: str = "derivative",
    seed: int = 0,
    resume: bool = False,
    repair: bool = False,
    reuse: Dataset | None = None,
    store_full: bool = False,
    store_parameters: bool = False,
    initial_guess: str | Guess = "auto",
    retry: str | JacobianModel | None = None,
    max_failures: int = 10,
    progress: bool = True,
) -> Dataset:
    """Draw parameters (and controls), solve, and store reduced values and Jacobians, also under `mpirun`.

    The first pass keeps the full Jacobians of `n_basis_samples` training samples on disk until the
    bases are built from them; the second projects those and solves the remaining samples.
    Groups of ranks that share a mesh get samples one at a time, first come first served.

    Parameters
    ----------
    model : JacobianModel
        Its mesh on ``hd.sample_communicator()``.  With a distribution of controls, each sample has a control of its
        own, and the dataset both reduced Jacobians side by side.
    path : str or Path
        Directory of the dataset.
    n_samples : int
        Training samples.  More than a resumed dataset was planned with are appended to it.
    n_validation, n_test : int, optional
        Held-out samples beyond those; default n_samples/8 and n_samples/4, at least 1.
    n_basis_samples : int, optional
        Of the training samples, for the bases; default the first 128 of them, or what a resumed dataset has.  Where the
        observable is the whole state all of them make the output basis, and the first 128 the others.
    input_rank, output_rank : int or float
        rM and rQ: an int, or as a float in (0, 1) the share of the total energy of the basis that the rank is to
        hold at least, see `Basis.energy`.  Default 100 and 50 or as many as the problem and the samples give, all
        observables with ``output_basis="identity"``, or what a resumed dataset has.
    control_rank : int or float, optional
        rZ of derivative-informed controls, in the same way; default all controls, whitened by their distribution.
    input_basis : "derivative" or "kle"
        Of the parameter.
    output_basis : "derivative", "pod" or "identity"
        "identity" keeps all observables, whitened by the noise.  Where the observable is the whole state, "pod".
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
    store_parameters : bool
        Keep full parameters alone, which a network on full dimensions is trained on.
    initial_guess : str or callable
        Of the forward solves of a nonlinear problem: "mean", "linearized", "nearest", "regression", a callable from a
        parameter vector to a state vector, or "auto", which takes the one that needed least work on some of the
        basis samples; see `hippylib_dino.modeling.initial_guess`.  The first pass starts from the model's own; where
        controls are drawn, "auto" is the model's own throughout, and "nearest" and "regression" are not there.
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
    n_samples, seed = whole_number("n_samples", n_samples, 1), whole_number("seed", seed, 0)
    max_failures = whole_number("max_failures", max_failures, 0)
    n_validation, n_test, n_basis_samples = (
        value if value is None else whole_number(name, value, least)
        for name, value, least in (
            ("n_validation", n_validation, 0),
            ("n_test", n_test, 0),
            ("n_basis_samples", n_basis_samples, 1),
        )
    )
    resume, repair, progress = (
        truth_value(name, value) for name, value in (("resume", resume), ("repair", repair), ("progress", progress))
    )
    store_full, store_parameters = (
        truth_value("store_full", store_full),
        truth_value("store_parameters", store_parameters),
    )
    if repair and not resume:
        raise InputError("repair: repairs a dataset that is there, so pass resume=True with it.")
    check_initial_guess(initial_guess)
    serialize_compilation()
    path, ranks = Path(path), Ranks(model.prior.Vh.mesh().mpi_comm(), "resume=True continues it.")
    asked_for = of_arguments(
        path=str(path), n_samples=n_samples, n_validation=n_validation, n_test=n_test, n_basis_samples=n_basis_samples,
        input_rank=input_rank, output_rank=output_rank, control_rank=control_rank, input_basis=input_basis,
        output_basis=output_basis, seed=seed, resume=resume, repair=repair, reuse=reuse and str(reuse.path),
        store_full=store_full, store_parameters=store_parameters, max_failures=max_failures,
        initial_guess=initial_guess if isinstance(initial_guess, str) else "a callable",
        retry=retry if isinstance(retry, str | None) else "another model",
    )  # fmt: skip
    check_agreement(ranks, asked_for)
    there = resume and ranks.on_first((path / "zarr.json").exists)
    stored, based = ranks.on_first(lambda: _stored(path)) if there else (None, False)
    by_default = {name for name, rank in (("input", input_rank), ("output", output_rank)) if rank is None}
    asked = (
        _rank("input", input_rank, DEFAULT_INPUT_RANK, stored if based else None),
        _rank("output", output_rank, _default_output_rank(output_basis, model), stored if based else None),
        _control_rank(control_rank, model),
    )
    shares = [rank if isinstance(rank, float) else None for rank in asked]
    by_hand = [0 if isinstance(rank, float) else rank for rank in asked]
    plan = Plan(
        n_train=n_samples,
        n_validation=_default(n_validation, n_samples // 8, stored and stored.n_validation),
        n_test=_default(n_test, n_samples // 4, stored and stored.n_test),
        n_basis_samples=n_basis_samples or (stored.n_basis_samples if stored else min(128, n_samples)),
        input_rank=by_hand[0],
        output_rank=by_hand[1],
        input_basis=input_basis,
        output_basis=output_basis,
        seed=seed,
        store_full=store_full,
        store_parameters=store_parameters,
        input_energy=shares[0],
        output_energy=shares[1],
        control_basis=_control_basis(control_rank, model),
        control_rank=by_hand[2],
        control_energy=shares[2],
    )
    solver = SampleSolver(model, seed, retry=retry, reuse=reuse)
    run = _Run(
        model, path, plan, ranks, solver, by_default=by_default, max_failures=max_failures, progress=progress
    )  # fmt: skip
    run.check_guess(initial_guess)
    if not there:
        ranks.together(lambda: check_sensors(model, warn=ranks.is_first))
    control = None if model.control_distribution is None else model.problem.control
    try:
        run.open(resume, repair)
        if not run.finished():
            run.keep_derivative_check()
            run.first_pass()
            run.second_pass(initial_guess)
    finally:
        run.close()
        if control is not None:  # the samples had their own
            model.problem.control = control
    return Dataset.open(path)


def append(
    model: JacobianModel,
    dataset: Dataset,
    parameters: np.ndarray,
    origins: Sequence[str],
    *,
    progress: bool = True,
) -> Dataset:
    """Solve given parameters and add them to a dataset as training samples, also under `mpirun`.

    Validation and test samples stay draws of the prior.  Nothing that is there is written to.  A call that was
    interrupted is finished by the same call, or by ``hd.generate(..., resume=True)`` with the numbers of the dataset: a
    batch that is there already, with equal parameters and origins, is not added again.  The solves start from the
    model's own initial guess.  The Jacobian of a model that this process has not checked yet is checked first, as
    `generate` does.

    Parameters
    ----------
    model : JacobianModel
        Of the dataset's problem.
    dataset : Dataset
        With its bases; a truncated view comes back truncated.
    parameters : (k, dM)
        In canonical dof order, see `hippylib_dino.modeling.DofOrder`; the same on every rank.
    origins : sequence of k str
        Where each comes from, in words.
    progress : bool

    Returns
    -------
    Dataset
        A new view; ``given`` tells the numbers and origins of all samples that were added.  Solves that failed are in
        ``failures``.

    Raises
    ------
    InputError
        For parameters of another shape or that are not finite, another number of origins, a model with a control, or
        one whose Jacobian is not the derivative of its observable.
    DatasetError
        If there are no bases yet, the noise is another one, or another run writes to the dataset.
    FingerprintError
        If it belongs to another problem.

    Examples
    --------
    ::

        order = hd.modeling.DofOrder(model.prior.Vh)
        m = order.to_array(hd.modeling.owned_values(solution[hp.PARAMETER]))
        dataset = hd.data.append(model, dataset, m[None], ["MAP point of the data of May"])
    """
    serialize_compilation()
    ranks = Ranks(model.prior.Vh.mesh().mpi_comm(), "the same call continues it.")
    check_model(ranks, model)
    parameters, named = ranks.together(lambda: _checked_given(model, parameters, origins))
    given = of_arguments(dataset=str(dataset.path), origins=named)
    check_agreement(ranks, {**given, "parameters": Probe.of(parameters)})
    plan = ranks.on_first(lambda: Dataset.open(dataset.path)).plan
    if not dataset.has_bases:
        raise DatasetError(f"dataset: {dataset.path} has no bases yet; finish hd.generate(..., resume=True) first.")
    never = plan.n_total + len(parameters)  # failures end no enrichment
    run = _Run(model, dataset.path, plan, ranks, SampleSolver(model, plan.seed), max_failures=never, progress=progress)
    try:
        run.open(resume=True, repair=False)
        run.derivative_check = check_derivative_once(model, plan.seed, ranks)  # before anything is planned
        run.add_given(parameters, named)
        if not run.finished():
            run.keep_derivative_check()
            run.second_pass(None)
    finally:
        run.close()
    return dataset.reopened()


def _checked_given(
    model: JacobianModel, parameters: np.ndarray, origins: Sequence[str]
) -> tuple[np.ndarray, list[str]]:
    if model.control_distribution is not None:
        raise InputError(
            "model: has a control, which parameters alone do not fix. Add samples by hd.generate(..., resume=True)."
        )
    parameters, dim = np.asarray(parameters, dtype=float), model.prior.mean.size()
    if parameters.ndim != 2 or parameters.shape[1] != dim or len(parameters) == 0:
        raise InputError(
            f"parameters: expected shape (k, {dim}), one parameter a row in canonical dof order, got "
            f"{parameters.shape}. Add an axis to a single one: m[None]."
        )
    bad = np.count_nonzero(~np.isfinite(parameters).all(axis=1))
    if bad:
        raise InputError(f"parameters: {bad} of {len(parameters)} have values that are not finite; leave them out.")
    if isinstance(origins, str) or len(origins) != len(parameters):
        raise InputError(
            f"origins: expected a list of {len(parameters)} strings, one for each parameter, got {origins!r}."
        )
    return parameters, [str(origin) for origin in origins]


def _default(given: int | None, share: int, stored: int | None) -> int:
    """Held-out samples: what is asked for, or a share of the training samples, not less than there are."""
    return max(1, share, stored or 0) if given is None else given


def _stored(path: Path) -> tuple[Plan, bool]:
    """The plan of the dataset that is there, and whether its bases are."""
    dataset = Dataset.open(path)
    return dataset.plan, dataset.has_bases


def _rank(basis: str, asked: Rank | None, default: int, stored: Plan | None) -> Rank:
    """What is asked for, what the bases that are there have, or the default."""
    if asked is not None:
        return checked_rank(f"{basis}_rank", asked)
    return default if stored is None else stored.asked(basis)


def _default_output_rank(output_basis: str, model: JacobianModel) -> int:
    return model.data_space.dim if output_basis == "identity" else DEFAULT_OUTPUT_RANK


def _control_basis(control_rank: Rank | None, model: JacobianModel) -> str:
    if model.control_distribution is None:
        return "none"
    return "whitened" if control_rank is None else "derivative"


def _control_rank(asked: Rank | None, model: JacobianModel) -> Rank:
    """What is asked for, or all controls; 0 without a control."""
    controls = model.control_distribution
    if controls is None:
        if asked is not None:
            raise InputError(
                f"control_rank: the model draws no controls, got {asked}; pass control=... to hd.JacobianModel."
            )
        return 0
    if asked is None:
        return controls.dim
    rank = checked_rank("control_rank", asked)
    if rank > controls.dim:
        raise RankError(f"control_rank: expected 1 .. {controls.dim}, the number of controls, got {rank}.")
    return rank


class _Run:
    """One run of `generate`: the directory and the two passes."""

    def __init__(
        self,
        model: JacobianModel,
        path: Path,
        plan: Plan,
        ranks: Ranks,
        solver: SampleSolver,
        *,
        by_default: Collection[str] = (),
        max_failures: int,
        progress: bool,
    ):
        self.model, self.path, self.ranks, self.solver = model, path, ranks, solver
        self.by_default, self.max_failures, self.progress = by_default, max_failures, progress
        self.data = model.data_space
        self.order, self.state_order = DofOrder(model.prior.Vh), DofOrder(model.problem.Vh[hp.STATE])
        dims = (self.order.dim, self.data.dim, model.whole_state)
        self.plan = plan = plan.lowered(by_default, *dims)
        plan.check(*dims)
        if model.whole_state and (plan.output_basis != "pod" or plan.store_full):
            raise InputError(
                'output_basis, store_full: a whole state is compressed by output_basis="pod", and its full Jacobians '
                f"are not stored; got output_basis={plan.output_basis!r}, store_full={plan.store_full}."
            )
        self.controls = model.control_distribution
        if self.controls is not None and (plan.store_full or solver.reuse is not None):
            raise InputError(
                "store_full, reuse: full Jacobians are not stored where controls are drawn; pass store_parameters=True "
                "for the parameters alone."
            )
        self.can_guess = not (model.time_dependent or model.problem.is_fwd_linear)
        # to start other solves from; a whole state is kept anyway
        self.keeps_states = self.can_guess and not (model.whole_state or self.controls is not None)
        self.directory: DatasetDirectory | None = None
        self.derivative_check: dict | None = None

    def check_guess(self, initial_guess: str | Guess) -> None:
        """Raise `InputError` for a guess that this problem's solves do not take."""
        if initial_guess != "auto" and not self.can_guess:
            raise InputError(
                "initial_guess: the forward problem is linear or time-dependent and takes none, "
                f'got {initial_guess!r}; leave it at "auto".'
            )
        if self.controls is not None and initial_guess in ("nearest", "regression"):
            raise InputError(
                f'initial_guess: expected "auto", "mean", "linearized" or a callable where controls are drawn, got '
                f"{initial_guess!r}, which compares parameters alone."
            )

    # ---- the directory -------------------------------------------------------------------

    def open(self, resume: bool, repair: bool) -> None:
        """Create the dataset, or check that the one that is there may be continued."""
        self.ranks.together(self._lock)
        self.ranks.together(self._identify)
        check_model(self.ranks, self.model)
        if self.ranks.on_first(lambda: self.directory is not None and not self.directory.exists()):
            self.derivative_check = check_derivative(self.model, self.plan.seed, self.ranks)  # before anything is there
        self.ranks.together(lambda: self._create_or_check(resume, repair))
        self.ranks.together(self._reopen)
        self.failure_log = FailureLog(self.path, self.plan.seed)
        about = {"ranks": self.ranks.world.size, "ranks_per_sample": self.ranks.group.size}
        self.run_log = RunLog(self.path, about) if self.ranks.is_first else None

    def _lock(self) -> None:
        if self.ranks.is_first:
            self.directory = DatasetDirectory(self.path)

    def _identify(self) -> None:
        """The fingerprint of the problem, and whether what the user brought along belongs to it."""
        self.mark = fingerprint(self.model)
        # what the PDE answers at one point tells another PDE on the same spaces apart
        if self.controls is not None:
            self.mark["control"] = self.controls.get_config()
            self.model.problem.control = self.controls.draw(np.random.default_rng(0))  # at the mean, states may vanish
        q = self.model.evalObservable(self.model.prior.mean)
        self.mark["forward map"] = {"observable at the prior mean": q[:: max(1, len(q) // 64)].tolist()}
        self.solver.check(self.mark)

    def _create_or_check(self, resume: bool, repair: bool) -> None:
        if self.directory is None:
            return
        weights, mark = self.data.value, self.mark
        if not self.directory.exists():
            state = self.state_order.dim if self.keeps_states else 0
            control = 0 if self.controls is None else self.controls.dim
            dims = Dims(self.order.dim, self.data.dim, state, self.model.whole_state, control)
            self.directory.create(self.plan, mark, weights, dims, weights_are_noise=self.model.weights_are_noise)
            return
        self.directory.check(self.plan, mark, weights, resume)
        if repair:
            self.directory.repair()
        if self.solver.retry is not None:
            failed = Dataset.open(self.path).failures
            self.directory.forget([f["index"] for f in failed if self.solver.may_retry(f.get("retried"))])

    def _reopen(self) -> None:
        """See what another rank wrote to the metadata."""
        self.root = zarr.open_group(self.path, mode="r+")
        self.plan = Plan.from_attributes(dict(self.root.attrs["plan"]))
        self.solver.take_given(Dataset(self.root, self.path))

    def keep_derivative_check(self) -> None:
        """Check the Jacobian, if that was not done before the dataset was made, and note the result in it."""
        found = self.derivative_check
        if found is None:
            found = check_derivative(self.model, self.plan.seed, self.ranks)
        self.ranks.on_first(lambda: update_attributes(self.root, **{DERIVATIVE_CHECK: found}))

    def add_given(self, parameters: np.ndarray, origins: list[str]) -> None:
        """Plan samples with given parameters."""
        self.ranks.together(lambda: None if self.directory is None else self.directory.add_given(parameters, origins))
        self.ranks.together(self._reopen)

    def close(self) -> None:
        """Give the directory free."""
        if self.directory is not None:
            self.directory.release()
            self.directory = None

    def finished(self) -> bool:
        """Whether nothing is left to do."""
        todo, _ = self._todo(self.root["status"])
        return len(todo) == 0 and self.root.attrs["finished"] == self.plan.n_total and SCRATCH not in self.root

    def _todo(self, status: zarr.Array) -> tuple[np.ndarray, int]:
        """Samples that are pending, and how many have failed, the same on every rank."""

        def read() -> tuple[np.ndarray, int]:
            try:
                values = status[: self.plan.n_total]
            except Exception as error:  # zarr raises whatever its codec raises
                raise DatasetError(
                    f"{self.path}: the array {status.name!r} is damaged ({error}). Resume with repair=True."
                ) from error
            return np.flatnonzero(values == PENDING), int((values == FAILED).sum())

        return self.ranks.on_first(read)

    # ---- samples in hand -----------------------------------------------------------------

    def _hand_out(self, label: str, status: zarr.Array, solve: Callable[[int], None]) -> None:
        """Solve what is pending; failures are recorded, errors reach all ranks."""
        todo, before = self._todo(status)
        most = self.max_failures - before
        handout = Handout(self.ranks.world, self.ranks.group, todo, label, self.progress, max_failures=most)
        if self.run_log is not None:
            self.run_log.count(label, 0)

        def work() -> None:
            for index in handout:
                solved = self._attempt(index, solve)
                if self.ranks.writes:
                    status[index] = DONE if solved else FAILED
                    handout.done(failed=not solved)
                if self.run_log is not None:
                    handout.refresh()
                    self.run_log.count(label, handout.finished)

        try:
            self.ranks.together(work, handout)
        finally:
            handout.close()
        total = before + handout.failures
        if self.run_log is not None:
            self.run_log.count(label, handout.finished, now=True)
        if total > self.max_failures:
            raise GenerationError(
                f"{total} solves failed, more than max_failures={self.max_failures}; see the reasons in "
                f"{self.path / 'failures'}. Check the forward solver, or resume with retry=... or with a larger "
                "max_failures."
            )

    def _attempt(self, index: int, solve: Callable[[int], None]) -> bool:
        try:
            solve(index)
        except SolveError as error:
            parameter = self.order.to_array(owned_values(self.solver.draw(index)))
            if self.ranks.writes:
                control = self.solver.draw_control(index)
                self.failure_log.record(index, str(error), parameter, self.solver.retry, control=control)
            return False
        return True

    def _note(self, index: int, solved: Solved) -> None:
        """What is said of a sample that is solved now: that a retry did it, or no longer that it failed."""
        if not self.ranks.writes:
            return
        if solved.rescue is not None and self.solver.retry is not None:
            self.failure_log.rescued(index, solved.rescue, self.solver.retry)
        else:
            self.failure_log.solved(index)

    # ---- first pass: the bases -----------------------------------------------------------

    def first_pass(self) -> None:
        """States and Jacobians of the basis samples, then the bases."""
        if self.root.attrs["has_bases"]:
            return
        self.scratch_writer = SampleWriter(self.root[SCRATCH])
        self._hand_out("bases", self.root[SCRATCH]["status"], self._solve_basis_sample)
        self.ranks.on_first_group(self._build_output_basis)
        self.ranks.together(self._reopen)  # whose rank may be news
        if self.model.whole_state and (self.plan.input_basis == "derivative" or self.controls is not None):
            self.ranks.on_first_group(self._create_rows)
            self.ranks.together(self._prepare_rows)
            self._hand_out("sensitivities", self.root[SCRATCH]["rows_status"], self._solve_rows)
        controls = self.controls
        if controls is not None:
            self.ranks.on_first_group(lambda: self._build_control_basis(controls))
            self.ranks.together(self._reopen)
        self.ranks.on_first_group(self._build_input_basis)

    def _prepare_rows(self) -> None:
        self._reopen()
        self.scratch_writer = SampleWriter(self.root[SCRATCH])
        self._output = Dataset(self.root, self.path).stored_basis("output")

    def _solve_basis_sample(self, index: int) -> None:
        whole_state, start = self.model.whole_state, time.perf_counter()
        solved = self.solver.solve_state(index) if whole_state else self.solver.solve(index)
        rows = None if whole_state else owned_rows(solved)
        seconds = time.perf_counter() - start
        record = {"m": self.order.to_array(solved.m), "observable": self.data.whole(solved.q)}
        if solved.u is not None and self.keeps_states:
            record["state"] = self.state_order.to_array(owned_values(solved.u))
        if rows is not None:
            record["covariance"] = linearized_covariance(self.model.prior, rows)
            record["jacobian"] = self.order.to_array(rows).T
        if solved.control is not None:
            record["control"] = solved.control.z
            if rows is not None:
                record["control_jacobian"] = whole_rows(solved.control.jacobian, self.model).T
        record["work"] = np.array([seconds, solved.iterations])
        if self.ranks.writes:
            self.scratch_writer.write(index, record)
        self._note(index, solved)

    def _basis_samples(self, status: str = "status") -> np.ndarray:
        done = np.flatnonzero(self.root[SCRATCH][status][:] == DONE)
        if len(done) == 0:
            raise GenerationError(f"every basis sample failed; see the reasons in {self.path / 'failures'}.")
        return done

    def _build_output_basis(self) -> None:
        at_most = "output" in self.by_default
        basis = build_output_basis(self.model, self.plan, self.root[SCRATCH], self._basis_samples(), at_most=at_most)
        if self.ranks.writes:
            write_basis(self.root, "output", basis)
            update_attributes(self.root, plan=replace(self.plan, output_rank=basis.rank).to_attributes())

    def _create_rows(self) -> None:
        if self.ranks.writes:
            create_rows(self.root[SCRATCH], self.plan, self.order.dim)

    def _solve_rows(self, index: int) -> None:
        """(Φ⁺)ᵀ J of a basis sample whose state is known, by rQ adjoint solves."""
        scratch = self.root[SCRATCH]
        if scratch["status"][index] == FAILED:
            raise SolveError("failed in the first pass")
        m, u = self.order.from_array(scratch["m"][index]), self.data.local(scratch["observable"][index])
        z = scratch["control"][index] if self.controls is not None else None
        _, jacobian, by_control = (cast(StateJacobian, found) for found in self.solver.linearize(m, u, z))
        adjoints = jacobian.adjoints(self.data.local(self._output.encoder))
        rows = jacobian.pull_adjoints(adjoints)
        record = {
            "rows": self.order.to_array(rows).T,
            "rows_energy": np.trace(linearized_covariance(self.model.prior, rows)),
        }
        if by_control is not None:
            record["control_rows"] = self.model.problem.control_order.to_array(by_control.pull_adjoints(adjoints)).T
        if self.ranks.writes:
            self.scratch_writer.write(index, record)

    def _build_control_basis(self, controls: ControlDistribution) -> None:
        done = self._basis_samples("rows_status" if self.model.whole_state else "status")
        basis = build_control_basis(self.model, controls, self.plan, self.root[SCRATCH], done)
        if self.ranks.writes:
            write_basis(self.root, "control", basis)
            update_attributes(self.root, plan=replace(self.plan, control_rank=basis.rank).to_attributes())

    def _build_input_basis(self) -> None:
        plan = self.plan
        rows = self.model.whole_state and plan.input_basis == "derivative"
        done = self._basis_samples("rows_status" if rows else "status")
        if self.progress and self.ranks.writes:
            tqdm.write(f"computing the {plan.input_basis} input basis, rank {plan.asked('input')}, {len(done)} samples")
        at_most = "input" in self.by_default
        basis = build_input_basis(self.model, plan, self.root[SCRATCH], done, at_most=at_most)
        if self.ranks.writes:
            write_basis(self.root, "input", basis)
            plan = replace(plan, input_rank=basis.rank)
            make_latent_arrays(self.root, plan)
            update_attributes(self.root, plan=plan.to_attributes(), has_bases=True)

    # ---- second pass: all samples --------------------------------------------------------

    def second_pass(self, initial_guess: str | Guess | None) -> None:
        """Reduced samples of all splits; without a guess the solves start from the model's own."""
        self.ranks.together(self._prepare_projection)
        if initial_guess is not None:
            self._start_from(initial_guess)
        self._hand_out("samples", self.root["status"], self._solve_sample)
        self.ranks.together(lambda: None if self.directory is None else self.directory.finish())

    def _prepare_projection(self) -> None:
        self._reopen()
        self.writer = SampleWriter(self.root)
        dataset, plan = Dataset(self.root, self.path), self.plan
        self.projector = Projector(
            self.model,
            dataset.input_basis,
            dataset.output_basis,
            seed=plan.seed,
            store_full=plan.store_full,
            store_parameters=plan.store_parameters,
        )

    def _start_from(self, initial_guess: str | Guess) -> None:
        """Give the solver its guess: the one that the user names, the model's own, or the best by counted work."""
        if callable(initial_guess):
            self.solver.guess = initial_guess
        elif self.can_guess and not (initial_guess == "auto" and self._takes_own_guess()):
            self.ranks.together(self._collect_guesses)
            name = self._chosen() if initial_guess == "auto" else initial_guess
            self.ranks.together(lambda: self._make_guess(name))

    def _takes_own_guess(self) -> bool:
        return self.model.initial_guess is not None or self.controls is not None

    def _collect_guesses(self) -> None:
        self.guesses = Guesses(self.model, self.projector, self.root)

    def _make_guess(self, name: str | None) -> None:
        self.solver.guess = None if name is None else self.guesses.make(name)

    def _chosen(self) -> str | None:
        """What this dataset's first run chose, or the choice now; every rank learns it from the first one."""
        stored = self.ranks.on_first(lambda: self.root.attrs.get("initial_guess"))
        if stored is None and self.guesses.can_choose:
            chosen: list[dict] = []
            self.ranks.on_first_group(lambda: chosen.append(self.guesses.choose()))
            stored = self.ranks.world.bcast(chosen[0] if chosen else None)

            def keep() -> None:
                update_attributes(self.root, initial_guess=stored)

            self.ranks.on_first(keep)
        return None if stored is None else stored["chosen"]

    def _kept(self, index: int) -> Solved | None:
        """What the first pass stored of this sample, in this rank's rows; None if that is not there or damaged.

        Raises
        ------
        SolveError
            If it failed then, and there is no second way.
        """
        if index >= self.plan.n_basis_samples or SCRATCH not in self.root:
            return None
        scratch = self.root[SCRATCH]
        status = scratch["status"][index]
        if status == FAILED and self.solver.retry is None:
            raise SolveError("failed in the first pass")
        if status != DONE:
            return None
        try:
            m, q, work = scratch["m"][index], scratch["observable"][index], scratch["work"][index]
            rows = None if self.model.whole_state else scratch["jacobian"][index].T
            z = None if self.controls is None else scratch["control"][index]
            by_control = None if z is None or rows is None else scratch["control_jacobian"][index].T
        except Exception:  # noqa: BLE001  zarr raises whatever its codec raises; solved again
            return None
        m, q = self.order.from_array(m), self.data.local(q)
        jacobian: Jacobian | np.ndarray
        if rows is None:
            q, jacobian, by_control = self.solver.linearize(m, q, z)
        else:
            jacobian = self.order.from_array(rows)
        control = None if z is None or by_control is None else SolvedControl(z, by_control)
        return Solved(m, q, jacobian, seconds=work[0], iterations=work[1], control=control)

    def _solve_sample(self, index: int) -> None:
        start = time.perf_counter()
        kept = self._kept(index)
        solved = self.solver.solve(index) if kept is None else kept
        record = self.projector.record(solved)
        spent = time.perf_counter() - start + (0.0 if kept is None else kept.seconds)
        record["work"] = np.array([spent, solved.iterations])
        if self.ranks.writes:
            self.writer.write(index, record)
        if kept is None:  # what is said of the first pass's solve stays
            self._note(index, solved)
