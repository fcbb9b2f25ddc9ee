"""Kernels for `hp.MCMC` in latent coordinates: delayed acceptance by surrogate and PDE, and the PDE alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import dolfin as dl
import numpy as np

from hippylib_dino.errors import InputError, SolveError
from hippylib_dino.mcmc.laplace import LatentLaplace
from hippylib_dino.mcmc.potentials import LatentCoordinates, PDEPotential, SurrogatePotential, check_gaussian
from hippylib_dino.mcmc.proposals import Derivatives, Evaluation, LatentPoint, Proposal
from hippylib_dino.modeling.jacobian_model import JacobianModel
from hippylib_dino.random_streams import Purpose, generator
from hippylib_dino.reduction.basis import Basis
from hippylib_dino.surrogate.model import SurrogateModel

LENGTHS = tuple(2.0**k for k in range(-11, 3))  # steps that tuning tries
FRESH = 4.0  # the step of pCN that forgets where it was
ELSEWHERE = "Choose another start, for instance the prior mean or a MAP point."


@dataclass
class Counts:
    """What a kernel did since its last restart.

    Attributes
    ----------
    steps : int
        Calls of `sample`.
    tested : int
        Proposals that the PDE was asked about.
    accepted : int
    solve_failures : int
        Proposals rejected because the PDE could not be solved there.
    surrogate_steps, surrogate_accepted : int
        Of delayed acceptance: proposals of the surrogate's own chain, and those that it took.
    surrogate_failures : int
        Proposals rejected because the network gave values that are not finite.
    """

    steps: int = 0
    tested: int = 0
    accepted: int = 0
    solve_failures: int = 0
    surrogate_steps: int = 0
    surrogate_accepted: int = 0
    surrogate_failures: int = 0


class LatentKernel(ABC):
    """What the kernels of this module share; an `hp.MCMC` kernel.

    Step k of a chain takes its random numbers from the stream (seed, k), so that a chain depends on its seed alone:
    neither on other chains, nor on the partition of the mesh or the number of ranks.

    Parameters
    ----------
    model : JacobianModel
        The PDE, whose posterior is sampled.
    basis : Basis
        Input basis of the latent coordinates.
    proposal : Proposal
    complement_step : float
        Length of the pCN move of the prior's complement of the basis; 4, the default, draws it afresh.
    seed : int or sequence of int

    Attributes
    ----------
    coordinates : LatentCoordinates
    counts : Counts
    """

    def __init__(
        self,
        model: JacobianModel,
        basis: Basis,
        proposal: Proposal,
        *,
        complement_step: float = FRESH,
        seed: int | Sequence[int] = 0,
    ):
        if not isinstance(model, JacobianModel):
            raise InputError(
                f"model: expected an hd.JacobianModel, got {type(model).__name__}. "
                "Use hd.JacobianModel.from_model(model)."
            )
        if not isinstance(proposal, Proposal):
            raise InputError(
                f"proposal: expected a proposal such as hd.mcmc.Geometric(step=1.0), got {type(proposal).__name__}."
            )
        if not (np.isfinite(complement_step) and complement_step > 0):
            raise InputError(f"complement_step: expected a length > 0, got {complement_step}.")
        self.model, self.proposal, self.complement_step = model, proposal, float(complement_step)
        self.coordinates = LatentCoordinates(model.prior, basis)
        self._pde = PDEPotential(model, self.coordinates)
        self.restart(seed)

    def restart(self, seed: int | Sequence[int]) -> None:
        """Begin a chain of this seed: the next step is its first, and the counts are zero."""
        self.seed = seed
        self.counts = Counts()
        self._next = 0

    def consume_random(self) -> None:
        """Pass over the random numbers of one step."""
        self._next += 1

    def derivativeInfo(self) -> int:
        """0: samples carry no adjoint and no gradient."""
        return 0

    @abstractmethod
    def name(self) -> str:
        """What the kernel is, for tables and files."""

    @abstractmethod
    def init_sample(self, s) -> None:
        """Solve the PDE at ``s.m``, where a chain starts: sets ``s.u``, ``s.cost``, and ``s.latent``.

        Raises
        ------
        SolveError
            If the PDE or the surrogate has no finite answer there.
        """

    @abstractmethod
    def sample(self, current, proposed) -> int:
        """One step: 1 if `current` moved, which it then did to `proposed`, else 0."""

    def _stream(self) -> np.random.Generator:
        """The random numbers of this step."""
        rng = generator(Purpose.CHAIN, self.seed, self._next)
        self._next += 1
        self.counts.steps += 1
        return rng

    def _move(self, current, end: np.ndarray, rng: np.random.Generator) -> dl.Vector:
        rho = (4.0 - self.complement_step) / (4.0 + self.complement_step)
        return self.coordinates.move(current.m, current.latent.x, end, rho, rng)

    def _start(self, s, derivatives: Derivatives) -> Evaluation:
        """The PDE at the start of a chain."""
        self.proposal.prepare(self.coordinates)
        try:
            s.u, evaluation = self._pde.evaluate(s.m, derivatives)
        except SolveError as error:
            raise SolveError(f"the chain cannot start where the PDE fails: {error} {ELSEWHERE}") from error
        s.cost = evaluation.potential
        return evaluation

    def _decide(self, log_ratio: float, current, proposed, rng: np.random.Generator) -> int:
        """Metropolis and Hastings."""
        if not np.log(rng.random()) < log_ratio:
            return 0
        current.assign(proposed)
        current.latent = proposed.latent
        self.counts.accepted += 1
        return 1


class DelayedAcceptance(LatentKernel):
    """Proposals by the surrogate, accepted by the PDE: the chain samples the PDE's posterior, whatever the surrogate.

    A step runs a chain of `subchain` steps for the surrogate's own posterior in latent coordinates.  If that moved
    from x to x*, the prior's complement moves by pCN, the PDE is solved at m*, and m* is taken with probability

        min(1, exp(Φ(m) - Φ(m*) - Φ_s(x) + Φ_s(x*))).

    The surrogate's chain is reversible with respect to exp(-Φ_s) N(0, I), any number of steps of it, and so is its
    part that moved at least once; the move of the complement is so with respect to the prior.  Hence the ratio above
    is that of Metropolis and Hastings.  It is one PDE solve a step, none if all of the surrogate's proposals were
    rejected.  The better the surrogate, the closer to independent and always accepted are the proposals of a long
    `subchain`, and the effective samples of a solve to one.

    Parameters
    ----------
    model : JacobianModel
        The PDE.
    surrogate : SurrogateModel
    proposal : Proposal
        Of the surrogate's chain.
    subchain : int
        Steps of the surrogate's chain between two questions to the PDE.
    complement_step, seed
        As in `LatentKernel`.

    Raises
    ------
    InputError
        If the model is no JacobianModel, the noise not Gaussian, or the DINO's input basis not orthonormal in the
        model's prior precision.

    References
    ----------
    Christen, Fox, "Markov chain Monte Carlo using an approximation", J. Comput. Graph. Stat. 14 (2005), for delayed
    acceptance; Liu, "Monte Carlo Strategies in Scientific Computing", for the surrogate transition.

    Examples
    --------
    ::

        kernel = hd.mcmc.DelayedAcceptance(model, surrogate, hd.mcmc.Geometric(step=2.0), subchain=10)
        kernel.tune()
        chains = hd.mcmc.run_chains(kernel, warm_up=1000)
    """

    def __init__(
        self,
        model: JacobianModel,
        surrogate: SurrogateModel,
        proposal: Proposal,
        *,
        subchain: int = 1,
        complement_step: float = FRESH,
        seed: int | Sequence[int] = 0,
    ):
        if not isinstance(surrogate, SurrogateModel):
            raise InputError(f"surrogate: expected an hd.SurrogateModel, got {type(surrogate).__name__}.")
        if subchain < 1:
            raise InputError(f"subchain: expected at least 1 step of the surrogate, got {subchain}.")
        check_gaussian(surrogate.misfit, "surrogate")
        super().__init__(model, surrogate.dino.input_basis, proposal, complement_step=complement_step, seed=seed)
        self.surrogate, self.subchain = surrogate, int(subchain)

    def name(self) -> str:
        return f"delayed-acceptance {type(self.proposal).__name__}, subchain {self.subchain}"

    def init_sample(self, s) -> None:
        self._start(s, "none")
        self._potential = SurrogatePotential(self.surrogate)
        s.latent = self._surrogate_start(self.coordinates.encode(s.m))

    def sample(self, current, proposed) -> int:
        rng = self._stream()
        proposed.latent = self._wander(current.latent, self.subchain, rng)
        if proposed.latent is current.latent:
            return 0
        self.counts.tested += 1
        proposed.m = self._move(current, proposed.latent.x, rng)
        try:
            proposed.u, evaluation = self._pde.evaluate(proposed.m, "none")
        except SolveError:
            self.counts.solve_failures += 1
            return 0
        proposed.cost = evaluation.potential
        return self._decide(self._log_ratio(current, proposed), current, proposed, rng)

    def _log_ratio(self, current, proposed) -> float:
        """Second stage: what the surrogate's chain does not know of the PDE."""
        return current.cost - proposed.cost - current.latent.potential + proposed.latent.potential

    def warm_start(self, m: dl.GenericVector, n_steps: int = 1000) -> dl.Vector:
        """Where the surrogate's own chain is after `n_steps` from `m`, with a fresh complement; no PDE solve.

        A start from which the chain needs little burn-in.
        """
        start, rng = self._surrogate_alone(m, 1)
        end = self._wander(start, n_steps, rng)
        return self.coordinates.move(m, start.x, end.x, 0.0, rng)

    def laplace(self) -> LatentLaplace:
        """The surrogate's Laplace approximation with data and noise as they are now; no PDE solve.

        Raises
        ------
        SolveError
            If the surrogate has no finite answer.
        """
        try:
            return LatentLaplace(SurrogatePotential(self.surrogate))
        except SolveError as error:
            raise SolveError(f"the chain cannot start where the surrogate fails: {error} {ELSEWHERE}") from error

    def parameter(self, law: LatentLaplace, rng: np.random.Generator) -> dl.Vector:
        """A draw of `law` in latent coordinates, of the prior in their complement."""
        x = law.draw(rng)
        return self.coordinates.move(self.model.prior.mean, np.zeros_like(x), x, 0.0, rng)

    def tune(self, m: dl.GenericVector | None = None, acceptance: float = 0.2, n_steps: int = 500) -> float:
        """Set the step of the proposal by the surrogate's own chain from `m`, without a PDE solve.

        `m` is by default a draw of the surrogate's Laplace approximation: where the chain will be.  Farther out, at the
        prior mean for instance, other steps are accepted than where the posterior has its mass.

        The step becomes the longest of h = 2⁻¹¹, 2⁻¹⁰, ..., 4, `n_steps` of each in this order, of which the surrogate
        accepts the share `acceptance`; the shortest if it does so of none.

        Returns
        -------
        float
            h, the new ``proposal.step``.

        Raises
        ------
        InputError
            If `acceptance` is no share.
        SolveError
            If the surrogate has no finite answer at `m`.
        """
        if not 0.0 < acceptance < 1.0:
            raise InputError(f"acceptance: expected a share between 0 and 1, got {acceptance}.")
        if m is None:
            m = self.parameter(self.laplace(), generator(Purpose.TUNING_START, self.seed))
        point, rng = self._surrogate_alone(m, 2)
        kept, best = self.counts, LENGTHS[0]
        for h in LENGTHS:
            self.proposal.step, self.counts = h, Counts()
            point = self._wander(point, n_steps, rng)
            if self.counts.surrogate_accepted >= acceptance * n_steps:
                best = h
        self.counts, self.proposal.step = kept, best
        return best

    def _surrogate_alone(self, m: dl.GenericVector, purpose: int) -> tuple[LatentPoint, np.random.Generator]:
        """Start of a chain of the surrogate alone, with random numbers that no step of the kernel uses."""
        self.proposal.prepare(self.coordinates)
        self._potential = SurrogatePotential(self.surrogate)
        rng = generator(Purpose.SURROGATE_CHAIN, self.seed, purpose)
        return self._surrogate_start(self.coordinates.encode(m)), rng

    def _surrogate_start(self, x: np.ndarray) -> LatentPoint:
        try:
            return self._surrogate_point(x)
        except SolveError as error:
            raise SolveError(f"the chain cannot start where the surrogate fails: {error} {ELSEWHERE}") from error

    def _surrogate_point(self, x: np.ndarray) -> LatentPoint:
        evaluation = self._potential.evaluate(x, self.proposal.derivatives)
        if not evaluation.is_finite():
            raise SolveError(f"the network gave values that are not finite at |x| = {np.linalg.norm(x):.3g}.")
        return self.proposal.point(x, evaluation)

    def _wander(self, point: LatentPoint, n_steps: int, rng: np.random.Generator) -> LatentPoint:
        """The surrogate's chain; the same object if all proposals were rejected."""
        for _ in range(n_steps):
            self.counts.surrogate_steps += 1
            x = self.proposal.draw(point, rng)
            threshold = np.log(rng.random())
            try:
                candidate = self._surrogate_point(x)
            except SolveError:
                self.counts.surrogate_failures += 1
                continue
            if threshold < self.proposal.log_ratio(point, candidate):
                point = candidate
                self.counts.surrogate_accepted += 1
        return point


class PDEKernel(LatentKernel):
    """The PDE alone, in the same latent coordinates: mMALA, MALA, pCN with the PDE's own derivatives.

    Gradient and Gauss-Newton metric act on the latent coordinates; the prior's complement moves by pCN.  One forward
    solve a step, and with derivatives one reduced Jacobian, min(dQ, rM) solves with its factorization.

    Parameters
    ----------
    model : JacobianModel
    basis : Basis
        Input basis of a dataset or DINO.
    proposal : Proposal
    complement_step, seed
        As in `LatentKernel`.

    References
    ----------
    Cui, Law, Marzouk, "Dimension-independent likelihood-informed MCMC", J. Comput. Phys. 304 (2016).
    """

    def __init__(self, model: JacobianModel, basis: Basis, proposal: Proposal, **options):
        super().__init__(model, basis, proposal, **options)
        if proposal.derivatives != "none":
            check_gaussian(model.misfit, "model")

    def name(self) -> str:
        return f"PDE {type(self.proposal).__name__}"

    def init_sample(self, s) -> None:
        evaluation = self._start(s, self.proposal.derivatives)
        s.latent = self.proposal.point(self.coordinates.encode(s.m), evaluation)

    def sample(self, current, proposed) -> int:
        rng = self._stream()
        x = self.proposal.draw(current.latent, rng)
        proposed.m = self._move(current, x, rng)
        self.counts.tested += 1
        try:
            proposed.u, evaluation = self._pde.evaluate(proposed.m, self.proposal.derivatives)
            proposed.latent = self.proposal.point(x, evaluation)
        except SolveError:
            self.counts.solve_failures += 1
            return 0
        proposed.cost = evaluation.potential
        return self._decide(self.proposal.log_ratio(current.latent, proposed.latent), current, proposed, rng)
