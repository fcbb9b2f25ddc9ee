"""The criteria with the PDE, to verify the surrogate: hIPPYlib's Newton-CG and `doublePassG` for each design and draw.

The only module of `hippylib_dino.oed` that needs dolfin.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import dolfin as dl
import hippylib as hp
import numpy as np
from hippylib.utils.warnings import ModelConvergenceError
from petsc4py import PETSc
from tqdm import tqdm

from hippylib_dino.data.agreement import Probe, check_agreement, check_model, of_arguments
from hippylib_dino.data.streams import draw_parameter
from hippylib_dino.data.together import Ranks
from hippylib_dino.errors import InputError, SolveError
from hippylib_dino.modeling.jacobian import reason
from hippylib_dino.modeling.jacobian_model import JacobianModel
from hippylib_dino.modeling.spaces import DofOrder, gather, map_block, owned_values, set_owned_values, sum_over_ranks
from hippylib_dino.modeling.stationarity import stopped_by_rounding
from hippylib_dino.oed.experiment import Draws, check_design, check_groups
from hippylib_dino.random_streams import Purpose, generator, seed_of
from hippylib_dino.reduction.basis import Basis
from hippylib_dino.surrogate.posterior import laplace

NAN = float("nan")


class RestrictedMisfit(hp.Misfit):
    """½ (Bu - d)_Sᵀ Γ_SS⁻¹ (Bu - d)_S: the misfit of some of the rows of B.

    Parameters
    ----------
    B : dolfin matrix (dQ x dU)
    rows : (k,) of int
        S.
    precision : (k, k)
        Γ_SS⁻¹, the inverse of the sub-block of the noise covariance.

    Attributes
    ----------
    data : (k,)
        d_S; to be assigned.
    """

    def __init__(self, B, rows: np.ndarray, precision: np.ndarray):
        self.B, self._rows, self._precision = B, rows, precision
        self.data = np.zeros(len(rows))
        self._Bu = dl.Vector(B.mpi_comm())
        B.init_vector(self._Bu, 0)

    def _residual(self, u: dl.GenericVector, data: np.ndarray) -> np.ndarray:
        self.B.mult(u, self._Bu)
        return gather(owned_values(self._Bu), self._Bu.mpi_comm())[self._rows] - data

    def _pull(self, weights: np.ndarray, out: dl.GenericVector) -> None:
        """out = Bᵀ w for weights of the rows."""
        everything = np.zeros(self._Bu.size())
        everything[self._rows] = weights
        first, last = self._Bu.local_range()
        set_owned_values(self._Bu, everything[first:last])
        self.B.transpmult(self._Bu, out)

    def cost(self, x) -> float:
        r = self._residual(x[hp.STATE], self.data)
        return 0.5 * float(r @ self._precision @ r)

    def grad(self, i, x, out) -> None:
        out.zero()
        if i == hp.STATE:
            self._pull(self._precision @ self._residual(x[hp.STATE], self.data), out)

    def setLinearizationPoint(self, x, gauss_newton_approx=False) -> None:
        """The misfit is quadratic: its Hessian does not depend on the point."""

    def apply_ij(self, i, j, dir, out) -> None:
        out.zero()
        if i == hp.STATE and j == hp.STATE:
            self._pull(self._precision @ self._residual(dir, np.zeros(len(self._rows))), out)


@dataclass(frozen=True)
class PDEResult:
    """What the PDE says of designs; NaN for a draw whose MAP point was not found.

    Attributes
    ----------
    designs : list of tuple
    information_gain, log_determinant, trace, goal_variance : (n_designs, n_draws)
        As `InformationGain`, `DLogDet`, `ATrace` in the mass norm, `GoalVariance`.
    seconds : (n_designs, n_draws)
        Of a MAP point and its Laplace approximation, on one group of ranks.
    failures : dict of (design, draw) to str
        Why.
    """

    designs: list[tuple[int, ...]]
    information_gain: np.ndarray
    log_determinant: np.ndarray
    trace: np.ndarray
    goal_variance: np.ndarray
    seconds: np.ndarray
    failures: dict[tuple[tuple[int, ...], int], str]


class PDECriteria:
    """The criteria of any design by MAP points and Laplace approximations with the PDE.

    Under `mpirun` the (design, draw) pairs are shared among the groups of ranks that have a mesh of their own; all
    methods are to be called by all ranks, and give the same on all.

    Parameters
    ----------
    model : JacobianModel
        Whose misfit observes all candidates, at points of the state; steady, or at several times (`hp.MisfitTD`).
    n_draws : int
    seed : int
        Of parameters and noise: a draw depends on (seed, its number) alone.  No dataset has it among its samples.
    groups : sequence of sequences of int, optional
        Observables of each candidate; default one candidate for each observable.
    goals : (n_goals, dM) array, optional
        Of `GoalVariance`, dual vectors in canonical dof order.
    rel_tolerance : float
    max_iter : int
        Of hIPPYlib's Newton-CG.
    max_failed : float
        Largest share of the pairs of an evaluation that may fail.

    Attributes
    ----------
    groups : tuple of int arrays
        Observables of each candidate.

    Raises
    ------
    InputError
        If an argument does not fit, or the observable is a whole state.
    """

    def __init__(
        self,
        model: JacobianModel,
        n_draws: int = 8,
        seed: int = 0,
        *,
        groups: Sequence[Sequence[int]] | None = None,
        goals: np.ndarray | None = None,
        rel_tolerance: float = 1e-6,
        max_iter: int = 100,
        max_failed: float = 0.1,
    ):
        if not isinstance(model, JacobianModel) or model.whole_state:
            raise InputError(
                "model: expected an hd.JacobianModel with pointwise observables, which are the candidate sensors, got "
                f"{'one of the whole state' if isinstance(model, JacobianModel) else type(model).__name__}."
            )
        if n_draws < 1:
            raise InputError(f"n_draws: expected at least 1, got {n_draws}.")
        self._ranks = Ranks(model.prior.mean.mpi_comm())
        check_model(self._ranks, model)
        self.model, self.n_draws, self.seed = model, n_draws, seed
        self._noise = model.noise_covariance
        self.groups = check_groups(groups, self._noise.dim)
        self._tolerance, self._max_iter, self._max_failed = rel_tolerance, max_iter, max_failed
        order = DofOrder(model.prior.Vh)
        if goals is not None and np.shape(goals)[1:] != (order.dim,):
            raise InputError(f"goals: expected shape (n_goals, {order.dim}), got {np.shape(goals)}.")
        self._goals = None if goals is None else np.asarray(order.from_array(np.asarray(goals, dtype=float).T))
        numbers = of_arguments(
            n_draws=n_draws, seed=seed, rel_tolerance=rel_tolerance, max_iter=max_iter, max_failed=max_failed,
            groups=[group.tolist() for group in self.groups],
        )  # fmt: skip
        target = {} if goals is None else {"goals": Probe.of(goals)}
        check_agreement(self._ranks, {**numbers, **target})
        self._known: dict[tuple[tuple[int, ...], int], np.ndarray] = {}
        self._reasons: dict[tuple[tuple[int, ...], int], str] = {}
        self._data = np.empty((0, self._noise.dim))

    @property
    def n_candidates(self) -> int:
        """Number of candidate sensors."""
        return len(self.groups)

    def parameter(self, draw: int) -> dl.Vector:
        """Parameter of a draw; no dataset has it among its samples."""
        return draw_parameter(self.model.prior, seed_of(Purpose.VERDICT, self.seed), draw)

    def noise(self) -> np.ndarray:
        """Noise of all observables in each draw, (n_draws, dQ)."""
        streams = (generator(Purpose.VERDICT_NOISE, self.seed, i) for i in range(self.n_draws))
        return np.array([self._noise.sample(rng) for rng in streams])

    def draws(self, basis: Basis) -> Draws:
        """The same draws for a surrogate with this input basis: encoded parameters, and the noise."""
        prior = self.model.prior
        order = _check_basis(prior, basis)
        encoder, shift = order.from_array(basis.encoder), order.from_array(basis.shift)
        deviations = [owned_values(self.parameter(i)) - shift for i in range(self.n_draws)]
        return Draws(sum_over_ranks(np.array(deviations) @ encoder, order.comm), self.noise())

    def evaluate(self, designs: Iterable[Iterable[int]], *, progress: bool = False) -> PDEResult:
        """Criteria of each design and draw; what was asked before is not solved again.

        Raises
        ------
        InputError
            If a sensor is unknown or comes twice, or a design is empty.
        SolveError
            If more pairs fail than `max_failed` allows, or the PDE cannot be solved at a draw.
        """
        checked = [check_design(design, len(self.groups)) for design in designs]
        if any(not design for design in checked):
            raise InputError("designs: expected at least one sensor in each.")
        check_agreement(self._ranks, of_arguments(designs=checked))
        if not len(self._data):
            self._data = self._observe()
        pairs = [(d, i) for d in dict.fromkeys(checked) for i in range(self.n_draws) if (d, i) not in self._known]
        self._solve(pairs, progress)
        failed = sum((design, i) in self._reasons for design in checked for i in range(self.n_draws))
        if failed > self._max_failed * len(checked) * self.n_draws:
            first = next(why for pair, why in self._reasons.items() if pair[0] in checked)
            raise SolveError(
                f"designs: {failed} of {len(checked) * self.n_draws} MAP points by the PDE were not found, more than "
                f"{self._max_failed:.0%}, max_failed; the first because {first}."
            )
        values = np.array([[self._known[d, i] for i in range(self.n_draws)] for d in checked])
        gain, determinant, trace, goal, seconds = np.moveaxis(values, -1, 0)
        failures = {pair: why for pair, why in self._reasons.items() if pair[0] in checked}
        return PDEResult(checked, gain, determinant, trace, goal, seconds, failures)

    def _share(self, n: int) -> range:
        """Numbers of this group's part of n pieces of work."""
        ranks = self._ranks
        return range(ranks.world.rank // ranks.group.size, n, ranks.world.size // ranks.group.size)

    def _observe(self) -> np.ndarray:
        """F(m_i) + η_i, (n_draws, dQ), on every rank."""
        q = np.zeros((self.n_draws, self._noise.dim))

        def work() -> None:
            for i in self._share(self.n_draws):
                own = self.model.evalObservable(self.parameter(i))
                if self._ranks.writes:
                    q[i] = own

        self._ranks.together(work)
        return self._ranks.world.allreduce(q) + self.noise()

    def _solve(self, pairs: list[tuple[tuple[int, ...], int]], progress: bool) -> None:
        found: dict[tuple[tuple[int, ...], int], np.ndarray] = {}
        reasons: dict[tuple[tuple[int, ...], int], str] = {}

        def work() -> None:
            shown = tqdm(
                self._share(len(pairs)), desc="PDE", unit="pair", disable=not (progress and self._ranks.is_first)
            )
            for number in shown:
                pair = pairs[number]
                try:
                    found[pair] = self._one(*pair)
                except (RuntimeError, ModelConvergenceError) as error:  # SolveError is one; dolfin raises a bare one
                    found[pair], reasons[pair] = np.full(5, NAN), reason(error)

        self._ranks.together(work)
        for values, why in self._ranks.world.allgather((found, reasons) if self._ranks.writes else ({}, {})):
            self._known |= values
            self._reasons |= why

    def _one(self, design: tuple[int, ...], draw: int) -> np.ndarray:
        """Information gain, log-determinant, trace, goal variance, seconds of one pair."""
        begun = time.perf_counter()
        PETSc.garbage_cleanup(self.model.prior.mean.mpi_comm())
        rows = np.concatenate([self.groups[s] for s in design])
        model = self.model.with_misfit(self._misfit(rows, self._data[draw, rows]))
        parameters = hp.ReducedSpaceNewtonCG_ParameterList()
        for key, value in {"rel_tolerance": self._tolerance, "max_iter": self._max_iter, "print_level": -1}.items():
            parameters[key] = value
        if self.model.time_dependent:
            parameters["GN_iter"] = parameters["max_iter"]  # hIPPYlib's full Hessian of these is not right
        solver = hp.ReducedSpaceNewtonCG(model, parameters)
        x = solver.solve([None, model.prior.mean.copy(), None])
        if not (solver.converged or stopped_by_rounding(model, x)):
            raise SolveError(f"Newton-CG: {solver.termination_reasons[solver.reason]}")
        posterior = laplace(model, x, rank=min(len(rows), model.prior.mean.size()))
        share = np.maximum(posterior.d, 0.0) / (1 + np.maximum(posterior.d, 0.0))
        vectors = np.column_stack([owned_values(posterior.U[j]) for j in range(posterior.U.nvec())])
        mean, comm = model.prior.mean, model.prior.mean.mpi_comm()
        weighed = map_block(lambda out, v: model.prior.M.mult(v, out), mean, mean, vectors)
        trace = sum_over_ranks((vectors * weighed).sum(axis=0), comm) @ share
        goal = NAN
        if self._goals is not None:
            goal = float((sum_over_ranks(self._goals.T @ vectors, comm) ** 2 @ share).sum())
        seconds = time.perf_counter() - begun
        determinant = float(np.log1p(np.maximum(posterior.d, 0.0)).sum())
        return np.array([float(posterior.klDistanceFromPrior()), determinant, float(trace), goal, seconds])

    def _misfit(self, rows: np.ndarray, data: np.ndarray) -> hp.Misfit:
        covariance = self._noise.to_dense()
        if not self.model.time_dependent:
            misfit = RestrictedMisfit(self.model.B, rows, np.linalg.inv(covariance[np.ix_(rows, rows)]))
            misfit.data = data
            return misfit
        members = []
        for member, own in zip(self.model.misfit.misfits, self.model.observation.rows, strict=True):
            mine = (rows >= own.start) & (rows < own.stop)
            block = covariance[np.ix_(rows[mine], rows[mine])]
            members.append(RestrictedMisfit(member.B, rows[mine] - own.start, np.linalg.inv(block)))
            members[-1].data = data[mine]
        return hp.MisfitTD(members, self.model.misfit.sim_times)


def mass_gram(prior, basis: Basis) -> np.ndarray:
    """ΨᵀMΨ (rM, rM), with the prior's mass matrix: the `gram` of `ATrace` for the integral of the pointwise variance.

    Raises
    ------
    InputError
        If the basis is of another parameter space.
    """
    order = _check_basis(prior, basis)
    own = np.ascontiguousarray(order.from_array(basis.decoder))
    weighed = map_block(lambda out, v: prior.M.mult(v, out), prior.mean, prior.mean, own)
    gram = sum_over_ranks(own.T @ weighed, order.comm)
    return 0.5 * (gram + gram.T)


def _check_basis(prior, basis: Basis) -> DofOrder:
    order = DofOrder(prior.Vh)
    if basis.dim != order.dim:
        raise InputError(f"basis: expected one of {order.dim} parameters, as the prior has, got {basis.dim}.")
    return order
