"""A quantity of interest at common samples of the parameter by the PDE, the samples shared over MPI ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import dolfin as dl
import numpy as np
from hippylib import ADJOINT, STATE

from hippylib_dino.data.agreement import Found, Probe, check_agreement, check_problem, of_arguments, of_fingerprint
from hippylib_dino.data.streams import draw_parameter
from hippylib_dino.data.together import Ranks
from hippylib_dino.errors import InputError, SolveError
from hippylib_dino.modeling.control_forms import CONTROL
from hippylib_dino.modeling.control_problem import ControlProblem
from hippylib_dino.modeling.fingerprint import fingerprint
from hippylib_dino.modeling.jacobian_model import JacobianModel
from hippylib_dino.modeling.problem_watch import ProblemWatch
from hippylib_dino.modeling.quantities import FormQuantity
from hippylib_dino.modeling.spaces import DofOrder, owned_values, set_owned_values
from hippylib_dino.ouu.ensembles import Ensemble, checked_control
from hippylib_dino.random_streams import Purpose, seed_of
from hippylib_dino.reduction.basis import Basis


class PDEEnsemble(Ensemble):
    """Q(m_i, z) by the PDE: a forward solve a sample, an adjoint one for a gradient, two incremental for a Hessian.

    Groups of ranks that share a mesh take the samples in turn; every rank gets all results.  States at the last control
    are kept: a gradient after a value solves no forward problem again, and solves at the next control start from them.

    Parameters
    ----------
    model : JacobianModel
        Of an `hd.ControlProblem`; its mesh on ``hd.sample_communicator()``.
    quantity : FormQuantity
    parameters : sequence of n arrays (dM,)
        Samples m_i, canonical dof order, the same on every rank.

    Raises
    ------
    InputError
        If the model has no control, or the samples have another shape.

    Attributes
    ----------
    n_solves : dict
        Forward, adjoint and incremental solves of all ranks so far.

    Examples
    --------
    ::

        ensemble = hd.ouu.PDEEnsemble.draw(model, hd.ouu.tracking(pde.Vh, target), n=256, seed=1)
        x = ensemble.latent(dino.input_basis)          # the same samples for the surrogate
    """

    def __init__(self, model: JacobianModel, quantity: FormQuantity, parameters: Sequence[np.ndarray]):
        order = _order(model)
        check_problem(Ranks(model.prior.Vh.mesh().mpi_comm()), lambda: of_fingerprint(fingerprint(model)))
        if len(parameters) == 0 or any(np.shape(m) != (order.dim,) for m in parameters):
            shapes = sorted({np.shape(m) for m in parameters})
            raise InputError(f"parameters: expected samples of shape ({order.dim},), at least one, got {shapes}.")
        take, samples = (lambda i: order.from_array(np.asarray(parameters[i], dtype=float))), Probe.of(parameters)
        self._start(model, quantity, len(parameters), take, {"parameters": samples})

    @classmethod
    def draw(cls, model: JacobianModel, quantity: FormQuantity, n: int, *, seed: int) -> PDEEnsemble:
        """At n samples of the prior, of this seed's own: no dataset has them among its samples."""
        _order(model)
        own = seed_of(Purpose.PDE_ENSEMBLE, seed)
        ensemble = cls.__new__(cls)
        take = lambda i: owned_values(draw_parameter(model.prior, own, i))  # noqa: E731  beside that of __init__
        ensemble._start(model, quantity, n, take, of_arguments(n=n, seed=seed))
        return ensemble

    def _start(
        self, model: JacobianModel, quantity: FormQuantity, n: int, take: Callable[[int], np.ndarray], samples: Found
    ) -> None:
        if n < 1:
            raise InputError(f"n: expected at least one sample, got {n}.")
        self.model, self.form, self.n = model, quantity, n
        self._problem: ControlProblem = model.problem
        self._ranks = ranks = Ranks(model.prior.Vh.mesh().mpi_comm())
        self.is_first, self.n_control = ranks.is_first, self._problem.control_order.dim
        group, n_groups = ranks.world.rank // ranks.group.size, ranks.world.size // ranks.group.size
        self._mine = range(group, n, n_groups)
        check_problem(ranks, lambda: {**self._found(), **samples})
        self._parameters = {i: take(i) for i in self._mine}
        self._states: dict[int, np.ndarray] = {}
        self._at: np.ndarray | None = None  # the control of these states
        self._watch = ProblemWatch(self._problem)
        self._before = dict(self._problem.n_calls)

    def _found(self) -> Found:
        """What must be the same on all ranks: the problem, and the quantity at the prior mean and reference control."""
        mean, z = self.model.prior.mean, self._problem.reference
        with self._problem.at(z):
            u = self.model.solveState(mean)
        point = [u, mean, None, z]
        return {
            **of_fingerprint(fingerprint(self.model)),
            "state at the prior mean": Probe.of(u.norm("l2"), scale=1e-8),
            "quantity at the prior mean": Probe.of(self.form.cost(point), scale=1e-8, tolerance=1e-4),
        }

    @property
    def n_solves(self) -> dict[str, int]:
        """Of all ranks: "forward", "adjoint", "incremental_forward", "incremental_adjoint"."""
        mine = {k: v - self._before[k] for k, v in self._problem.n_calls.items()} if self._ranks.writes else {}
        every = self._ranks.world.allgather(mine)
        return {k: sum(counts.get(k, 0) for counts in every) for k in self._before}

    def latent(self, basis: Basis) -> np.ndarray:
        """Latent parameters (n, rM) of the samples, in an input basis."""
        basis, order = basis.parameter_part(), DofOrder(self.model.prior.Vh)
        encoder, shift = order.from_array(basis.encoder), order.from_array(basis.shift)
        out = np.zeros((self.n, basis.rank))
        for i, m in self._parameters.items():
            out[i] = encoder.T @ (m - shift)
        return self._sum(out, of_all=True)

    def quantity(self, z: np.ndarray) -> np.ndarray:
        q = np.zeros(self.n)

        def evaluate(i: int, x: list) -> None:
            q[i] = self.form.cost(x)

        self._each(z, evaluate)
        return self._sum(q)

    def quantity_and_jacobian(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        q, rows = np.zeros(self.n), np.zeros((self.n, self.n_control))

        def evaluate(i: int, x: list) -> None:
            q[i] = self.form.cost(x)
            self._solve_adjoint(x)
            out, own = self._problem.generate_control(), self._problem.generate_control()
            self._problem.evalGradientControl(x, out)
            self.form.grad(CONTROL, x, own)
            out.axpy(1.0, own)
            rows[i] = self._problem.control_to_array(out)

        self._each(z, evaluate)
        return self._sum(q), self._sum(rows)

    def hessian_actions(self, z: np.ndarray, direction: np.ndarray) -> np.ndarray:
        along = self._problem.control_from_array(checked_control(direction, self.n_control, "direction"))
        rows = np.zeros((self.n, self.n_control))

        def evaluate(i: int, x: list) -> None:
            self._solve_adjoint(x)
            rows[i] = self._problem.control_to_array(self._hessian_action(x, along))

        self._each(z, evaluate)
        return self._sum(rows)

    def of_first(self, numbers: np.ndarray) -> np.ndarray:
        return self._ranks.world.bcast(numbers)

    # ---- one sample ----------------------------------------------------------------------

    def _solve_adjoint(self, x: list) -> None:
        """p of the Lagrangian Q + r."""
        rhs = self._problem.generate_state()
        self.form.grad(STATE, x, rhs)
        rhs *= -1.0
        self._problem.solveAdj(x[ADJOINT], x, rhs)

    def _hessian_action(self, x: list, dz: dl.GenericVector) -> dl.GenericVector:
        """Second derivative of the reduced quantity along `dz`, by a forward and an adjoint incremental solve."""
        problem = self._problem
        problem.setLinearizationPoint(x, False)
        self.form.setLinearizationPoint(x)
        du, dp, rhs = (problem.generate_state() for _ in range(3))
        problem.apply_ij(ADJOINT, CONTROL, dz, rhs)
        rhs *= -1.0
        problem.solveIncremental(du, rhs, False)
        rhs.zero()
        for of in (problem, self.form):
            for j, moved in ((STATE, du), (CONTROL, dz)):
                term = problem.generate_state()
                of.apply_ij(STATE, j, moved, term)
                rhs.axpy(-1.0, term)
        problem.solveIncremental(dp, rhs, True)
        out = problem.generate_control()
        problem.apply_ij(CONTROL, ADJOINT, dp, out)
        for of in (problem, self.form):
            for j, moved in ((STATE, du), (CONTROL, dz)):
                term = problem.generate_control()
                of.apply_ij(CONTROL, j, moved, term)
                out.axpy(1.0, term)
        return out

    # ---- all samples ---------------------------------------------------------------------

    def _each(self, z: np.ndarray, evaluate: Callable[[int, list], None]) -> None:
        """Call ``evaluate(i, [u, m, p, z])`` for this group's samples; what one rank raises, all raise."""
        z = checked_control(z, self.n_control)
        if self._ranks.world.size > 1:
            check_agreement(self._ranks, {"z": Probe.of(z)})
        changed = self._watch.has_changed()
        known = self._at is not None and np.array_equal(self._at, z) and not changed
        control = self._problem.control_from_array(z)

        def work() -> None:
            self._at = None  # until all states are there
            with self._problem.at(control):
                for i in self._mine:
                    m, u = self.model.problem.generate_parameter(), self._problem.generate_state()
                    set_owned_values(m, self._parameters[i])
                    if i in self._states:
                        set_owned_values(u, self._states[i])
                    if not known:
                        u = self._solve(i, m, u if i in self._states else None)
                        self._states[i] = owned_values(u)
                    evaluate(i, [u, m, self._problem.generate_state(), control])
            self._at = z.copy()

        self._ranks.together(work)

    def _solve(self, i: int, m: dl.GenericVector, guess: dl.GenericVector | None) -> dl.GenericVector:
        try:
            return self.model.solveState(m, guess)
        except SolveError as error:
            if guess is not None:  # far from the last control the model's own guess is the better one
                return self._solve(i, m, None)
            raise SolveError(f"sample {i} of the ensemble: {error}") from error

    def _sum(self, mine: np.ndarray, of_all: bool = False) -> np.ndarray:
        """The arrays of all groups together; of one rank of each, or pieces of all ranks."""
        return self._ranks.world.allreduce(mine if of_all or self._ranks.writes else np.zeros_like(mine))


def _order(model: JacobianModel) -> DofOrder:
    if not isinstance(model.problem, ControlProblem):
        raise InputError(f"model: expected one of an hd.ControlProblem, got one of {type(model.problem).__name__}.")
    return DofOrder(model.prior.Vh)
