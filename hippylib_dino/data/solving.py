"""One sample of the forward map: drawn, solved, linearised; taken from another dataset, or tried a second way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import dolfin as dl
import hippylib as hp
import numpy as np

from hippylib_dino.data.dataset import DONE, Dataset
from hippylib_dino.data.streams import draw_parameter
from hippylib_dino.errors import DatasetError, InputError, SolveError
from hippylib_dino.modeling.fingerprint import check_fingerprint, fingerprint
from hippylib_dino.modeling.jacobian import Jacobian
from hippylib_dino.modeling.jacobian_model import JacobianModel
from hippylib_dino.modeling.spaces import DofOrder, owned_values, set_owned_values
from hippylib_dino.random_streams import CONTROLS, stream

UNKNOWN = -1.0
SMALLEST_STEP = 1 / 32  # of the continuation, as a share of the way from the prior mean


@dataclass
class SolvedControl:
    """The control of a sample.

    Attributes
    ----------
    z : (dZ,)
        All of it.
    jacobian : Jacobian or (dZ, dQ) array
        J_z alive, or the rows J_zᵀ, all of them.
    """

    z: np.ndarray
    jacobian: Jacobian | np.ndarray


@dataclass
class Solved:
    """A sample of the map, in this rank's rows.

    Attributes
    ----------
    m : (n_owned,)
        Primal parameter.
    q : (n_local,)
        Local piece of the observable; see `DataSpace`.
    jacobian : Jacobian or (n_owned, dQ) array
        J alive, or the rows Jᵀ.
    u : dolfin vector, optional
        The state.
    seconds, iterations : float
        Of the solve; -1 where not known.
    rescue : str, optional
        Why the first solve failed, where a retry succeeded.
    control : SolvedControl, optional
    """

    m: np.ndarray
    q: np.ndarray
    jacobian: Jacobian | np.ndarray
    u: dl.GenericVector | None = None
    seconds: float = UNKNOWN
    iterations: float = UNKNOWN
    rescue: str | None = None
    control: SolvedControl | None = None


class SampleSolver:
    """Sample (seed, index) of a model's map.

    Parameters
    ----------
    model : JacobianModel
    seed : int
    retry : "continuation" or JacobianModel, optional
        Second way for a solve that failed.
    reuse : Dataset, optional
        With full samples, which are not solved again.

    Raises
    ------
    InputError, DatasetError
        If `retry` or `reuse` is not one of these.
    """

    def __init__(
        self, model: JacobianModel, seed: int, *, retry: str | JacobianModel | None = None, reuse: Dataset | None = None
    ):
        self.model, self.seed, self.reuse = model, seed, reuse
        self.order = DofOrder(model.prior.Vh)
        self.guess: Callable[[dl.GenericVector], dl.GenericVector] | None = None
        if not (retry is None or retry == "continuation" or isinstance(retry, JacobianModel)):
            raise InputError(
                f'retry: expected "continuation", a JacobianModel with a more robust solver, or None, got {retry!r}.'
            )
        if retry == "continuation" and (model.time_dependent or model.problem.is_fwd_linear):
            raise InputError(
                "retry: continuation moves a nonlinear solve along; the forward problem is linear or time-dependent. "
                "Pass a JacobianModel with another solver."
            )
        self._second_model = retry if isinstance(retry, JacobianModel) else None
        self.retry = "another solver" if self._second_model else retry
        self._reused: set[int] = set()
        self._given: Dataset | None = None
        if reuse is not None:
            if not reuse.plan.store_full or reuse.plan.seed != seed:
                raise DatasetError(
                    f"reuse: expected a dataset of seed {seed} with full Jacobians (store_full=True), got {reuse!r} "
                    f"of seed {reuse.plan.seed}, store_full={reuse.plan.store_full}. Without full Jacobians only "
                    "smaller ranks can be had, by dataset.truncate(input_rank, output_rank)."
                )
            self._reused = set(np.flatnonzero(reuse.status == DONE).tolist()) - set(reuse.given)

    def may_retry(self, tried: str | None) -> bool:
        """Whether this second way is new to a sample on which `tried` failed."""
        return self._second_model is not None or tried != self.retry

    def check(self, mark: dict) -> None:
        """Raise `FingerprintError` unless `reuse` and the second model belong to the problem of fingerprint `mark`."""
        if self.reuse is not None:
            check_fingerprint(self.reuse.fingerprint, mark, f"reuse: {self.reuse.path}")
        if self._second_model is not None:
            check_fingerprint(fingerprint(self._second_model), fingerprint(self.model), "retry: this model")

    def take_given(self, dataset: Dataset) -> None:
        """Take the parameters of a dataset's given samples from it."""
        self._given = dataset
        self._reused -= set(dataset.given)

    def draw(self, index: int) -> dl.GenericVector:
        """The parameter of a sample, drawn or given."""
        if self._given is not None and index in self._given.given:
            return self.vector(self.order.from_array(self._given.given_parameter(index)))
        return draw_parameter(self.model.prior, self.seed, index)

    def draw_control(self, index: int) -> np.ndarray | None:
        """The control of a sample, (dZ,); None where controls are not drawn."""
        controls = self.model.control_distribution
        return None if controls is None else controls.draw(stream((self.seed, CONTROLS), index))

    def solve(self, index: int) -> Solved:
        """A sample with its Jacobian.

        Raises
        ------
        SolveError
            If the forward solve, its retry, or the linearisation fails.
        """
        if index in self._reused and self.reuse is not None:
            m, q, J = (self.reuse.full(name, np.array([index]))[0] for name in ("m", "observable", "jacobian"))
            return Solved(self.order.from_array(m), q, self.order.from_array(J.T))
        solved = self.solve_state(index)
        solved.jacobian = self.model.linearize_at(solved.u, self.vector(solved.m))
        if solved.control is not None:
            solved.control.jacobian = self.model.control_jacobian()
        return solved

    def solve_state(self, index: int) -> Solved:
        """A sample without its Jacobian."""
        m, z = self.draw(index), self.draw_control(index)
        rescue = None
        if z is not None:
            self.model.problem.control = z
        try:
            u = self.model.solveState(m, None if self.guess is None else self.guess(m))
        except SolveError as error:
            if self.retry is None:
                raise
            rescue = str(error)
            if z is not None and self._second_model:
                self._second_model.problem.control = z
            u = self._second_model.solveState(m) if self._second_model else self._continue(m)
        report = getattr(self.model.problem, "report", None)
        iterations = UNKNOWN if report is None or rescue is not None else report.iterations
        q = self.model.observe_local(u)
        control = None if z is None else SolvedControl(z, np.empty(0))
        return Solved(owned_values(m), q, np.empty(0), u, iterations=float(iterations), rescue=rescue, control=control)

    def linearize(
        self, m: np.ndarray, u: np.ndarray, z: np.ndarray | None = None
    ) -> tuple[np.ndarray, Jacobian, Jacobian | None]:
        """Local piece of the observable, J and J_z at owned rows of a parameter and its state, and at a control."""
        state = self.model.generate_vector(hp.STATE)
        set_owned_values(state, u)
        if z is not None:
            self.model.problem.control = z
        J = self.model.linearize_at(state, self.vector(m))
        return self.model.observe_local(state), J, None if z is None else self.model.control_jacobian()

    def vector(self, values: np.ndarray) -> dl.GenericVector:
        """A parameter vector of owned values."""
        m = self.model.generate_vector(hp.PARAMETER)
        set_owned_values(m, values)
        return m

    def _continue(self, m: dl.GenericVector) -> dl.GenericVector:
        """The state at m by steps from the prior mean, halved where a solve fails; a control moves along."""
        u, reached, step = self._solve_between(m, 0.0), 0.0, 0.5
        while reached < 1.0:
            try:
                u = self._solve_between(m, reached + step, u)
            except SolveError as error:
                if step / 2 < SMALLEST_STEP:
                    raise SolveError(f"{error} Continuation from the prior mean stopped at {reached:.0%}.") from error
                step /= 2
                continue
            reached += step
            step = min(2 * step, 1.0 - reached)
        return u

    def _solve_between(
        self, m: dl.GenericVector, share: float, guess: dl.GenericVector | None = None
    ) -> dl.GenericVector:
        """The state at a share of the way from the prior mean to m, and from the reference control to the control."""
        problem, mean = self.model.problem, self.model.prior.mean
        if self.model.control_distribution is None:
            return self.model.solveState(_between(mean, m, share), guess)
        with problem.at(_between(problem.reference, problem.control, share)):
            return self.model.solveState(_between(mean, m, share), guess)


def _between(start: dl.GenericVector, end: dl.GenericVector, share: float) -> dl.GenericVector:
    here = start.copy()
    here *= 1.0 - share
    here.axpy(share, end)
    return here
