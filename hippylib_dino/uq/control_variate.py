"""The surrogate as control variate for statistics of a quantity of interest of the PDE."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import hippylib as hp
import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from hippylib_dino.data.agreement import Found, Probe, check_model, check_problem, describe, of_arguments, of_weights
from hippylib_dino.data.dataset import Dataset
from hippylib_dino.data.handout import Handout
from hippylib_dino.data.layout import DONE
from hippylib_dino.data.together import Ranks
from hippylib_dino.errors import InputError, SolveError
from hippylib_dino.intervals import shown
from hippylib_dino.modeling.communicators import serialize_compilation
from hippylib_dino.modeling.fingerprint import check_fingerprint, operator_fingerprint, prior_fingerprint
from hippylib_dino.modeling.jacobian_model import JacobianModel
from hippylib_dino.network.dino import DINO, check_bases
from hippylib_dino.random_streams import Purpose, generator, seed_of
from hippylib_dino.surrogate.model import SurrogateModel
from hippylib_dino.uq.estimators import (
    FEWEST,
    FEWEST_WITH_WEIGHT,
    Estimate,
    Exceedance,
    Mean,
    Statistic,
    Variance,
    estimate,
    fewest_pairs,
)
from hippylib_dino.uq.law import GaussianLaw

QoI = Callable[[np.ndarray], np.ndarray]
CHUNK, CHUNK_ENTRIES = 2048, 4_000_000  # surrogate samples at once, and the entries that their observables may have
RATIO, MOST = 1000, 1_000_000  # surrogate samples for a PDE sample, where the number is left open, and at most


@dataclass(frozen=True)
class ControlVariate:
    """What `control_variate` found.

    Attributes
    ----------
    estimates : dict of Estimate
        By the name of the statistic: "mean", "variance", "P(Q > 0.3)".
    pde, paired : (n,)
        The quantity of interest by PDE and by surrogate at the same parameters.
    cheap : (N,)
        By the surrogate at other parameters.
    failures : list of dict
        PDE solves that failed: "index", "seed", "reason".  They are left out, so that the law is the given one on the
        condition that its PDE is solved.
    n_held_out : int
        How many of the pairs were taken from a dataset.
    pde_seconds, surrogate_seconds : float
        Of one sample: median, and mean over the batches.
    statistics : dict of Statistic
    weight : float, optional
        If it was given.
    confidence : float
        Level of the intervals.
    """

    estimates: dict[str, Estimate]
    pde: np.ndarray
    paired: np.ndarray
    cheap: np.ndarray
    failures: list[dict]
    n_held_out: int
    pde_seconds: float
    surrogate_seconds: float
    statistics: dict[str, Statistic]
    weight: float | None
    confidence: float

    def __getitem__(self, name: str) -> Estimate:
        return self.estimates[name]

    @property
    def cost_ratio(self) -> float:
        """Seconds of a PDE sample over those of a surrogate sample."""
        return self.pde_seconds / self.surrogate_seconds

    def convergence(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Standard errors had fewer PDE solves been paid.

        Parameters
        ----------
        name : str
            Of the statistic.

        Returns
        -------
        counts, error, plain : (k,)
            First PDE samples taken; standard error with the control variate and without.

        Raises
        ------
        InputError
            If the statistic was not asked for.
        """
        if name not in self.statistics:
            raise InputError(f"statistic: expected one of {list(self.statistics)}, got {name!r}.")
        fewest = fewest_pairs(self.weight, self.confidence)
        counts = np.unique(np.geomspace(fewest, len(self.pde), 12).round().astype(int))
        found = [
            estimate(self.statistics[name], self.pde[:n], self.paired[:n], self.cheap, weight=self.weight)
            for n in counts
        ]
        return counts, np.array([e.standard_error for e in found]), np.array([e.plain_error for e in found])

    def table(self) -> Table:
        """One screen: estimates with intervals, what the surrogate saved, what plain Monte Carlo and it alone say."""
        lost = f", {len(self.failures)} failed and are left out" if self.failures else ""
        table = Table(
            title=f"{len(self.pde)} PDE samples, {self.n_held_out} of them held out from a dataset{lost}, "
            f"{self.pde_seconds:.2g} s each; {len(self.cheap)} of the surrogate, {self.surrogate_seconds:.2g} s each"
        )
        level = f"{self.confidence:.0%}"
        headings = ["statistic", "estimate", "standard error", f"{level} interval", "weight", "correlation"]
        headings += ["variance reduction", "PDE alone", "surrogate alone (biased)"]
        for heading in headings:
            table.add_column(heading, justify="left" if heading == "statistic" else "right")
        for name, e in self.estimates.items():
            table.add_row(
                name,
                f"{e.value:.5g}",
                f"{e.standard_error:.2g}",
                shown(e.interval, e.reason).replace("[", r"\["),
                f"{e.weight:.4f}",
                f"{e.correlation:.5f}",
                f"{e.variance_reduction(self.cost_ratio):.3g}",
                f"{e.plain:.5g} ± {e.plain_error:.2g}",
                f"{e.surrogate:.5g}",
            )
        return table

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=200)
        console.print(self.table())
        return console.file.getvalue()  # type: ignore[attr-defined]  # the StringIO above


def control_variate(
    qoi: QoI,
    model: JacobianModel,
    surrogate: SurrogateModel,
    *,
    n_pde: int | None = None,
    n_surrogate: int | None = None,
    statistics: Sequence[str | tuple[str, float]] = ("mean", "variance"),
    dataset: Dataset | None = None,
    posterior: hp.GaussianLRPosterior | None = None,
    weight: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    max_failures: int = 10,
    progress: bool = True,
) -> ControlVariate:
    """Statistics of Q(m) = qoi(F(m)) under the PDE F, from few PDE solves and many surrogate evaluations.

    The estimates are unbiased whatever the surrogate is; a bad one only saves less.  Under `mpirun` the groups of
    ranks share the samples, and every rank returns the same result, which does not depend on their number.

    Parameters
    ----------
    qoi : callable
        From observables (n, dQ) to values (n,).
    model : JacobianModel
        The PDE.
    surrogate : SurrogateModel
        Of the same problem.
    n_pde : int, optional
        Paired samples; default all held-out ones of `dataset`.  Those beyond these are solved now.
    n_surrogate : int, optional
        Evaluations of the surrogate, pairs included; default 1000 for each pair, at most a million.
    statistics : sequence of "mean", "variance", ("exceedance", q0)
    dataset : Dataset, optional
        With the bases of the surrogate: its test samples are PDE solves that are paid already, and that the surrogate
        has not seen.
    posterior : hp.GaussianLRPosterior, optional
        Law of m, as `hd.laplace` returns it; default the prior.
    weight : float, optional
        Of the control variate, instead of the optimal one.
    confidence : float
        Level of the intervals.
    seed : int
        Its streams are none that `hd.generate` draws samples from.
    max_failures : int
        More failed solves are an error.
    progress : bool

    Returns
    -------
    ControlVariate

    Raises
    ------
    InputError
        For arguments that cannot be, or a quantity of interest that is not finite, or not of shape (n,).
    FingerprintError
        If the surrogate is not one of this model.
    SolveError
        If more than `max_failures` PDE solves failed.

    Examples
    --------
    ::

        result = hd.uq.control_variate(lambda q: q.max(axis=1), model, surrogate, n_pde=100,
                                       statistics=("mean", "variance", ("exceedance", 0.5)))
        print(result)
        result["mean"].interval
    """
    asked = [_statistic(entry) for entry in statistics]
    fewest = fewest_pairs(weight, confidence)
    dino = surrogate.dino
    ranks = Ranks(model.prior.Vh.mesh().mpi_comm())
    check_model(ranks, model)
    here = {**prior_fingerprint(model.prior), **operator_fingerprint(model.misfit)}
    ranks.together(lambda: check_fingerprint(dino.fingerprint, here, "surrogate: its DINO"))
    values, x, seconds, failures = _held_out(qoi, dino, dataset, posterior)
    n_pde, n_surrogate = _numbers(n_pde, n_surrogate, len(values), fewest)
    values, x, seconds = values[:n_pde], x[:n_pde], seconds[:n_pde]
    n_held_out = len(values)
    serialize_compilation()
    law = GaussianLaw(model.prior, dino.input_basis, posterior)
    numbers = of_arguments(
        n_pde=n_pde, n_held_out=n_held_out, n_surrogate=n_surrogate, statistics=[s.name for s in asked], seed=seed,
        max_failures=max_failures,
    )  # fmt: skip
    check_problem(ranks, lambda: {**_found(qoi, model, dino, law), **numbers})
    if n_pde > n_held_out:
        solver = _Pairs(qoi, model, law, ranks, seed=seed, max_failures=max_failures, progress=progress)
        solved = solver.solve(n_pde - n_held_out)
        values, x, seconds = (np.concatenate(pair) for pair in zip((values, x, seconds), solved, strict=True))
        failures += solver.failures
    cheap, cheap_seconds = _evaluate(qoi, dino, law, ranks, n_surrogate - n_pde, seed=seed, progress=progress)
    paired = _checked(qoi, dino.output_basis.decode(dino.latent_map.value(x)), "surrogate")
    estimates = [estimate(s, values, paired, cheap, weight=weight, confidence=confidence) for s in asked]
    return ControlVariate(
        estimates={e.statistic: e for e in estimates},
        pde=values,
        paired=paired,
        cheap=cheap,
        failures=failures,
        n_held_out=n_held_out,
        pde_seconds=float(np.median(seconds)),
        surrogate_seconds=cheap_seconds,
        statistics={statistic.name: statistic for statistic in asked},
        weight=weight,
        confidence=confidence,
    )


def optimal_allocation(correlation: float, cost_ratio: float, budget: float) -> tuple[int, int]:
    """How many PDE and surrogate samples estimate a statistic best within a budget.

    The variance of (1) in `estimate` is σ²/n (1 - ρ² (1 - n/m)) with m surrogate evaluations, pairs included.  Under
    n w + m = budget, in units of a surrogate evaluation, its minimum is at

        m/n = sqrt(w ρ²/(1 - ρ²)),                                                                              (3)

    where it is (sqrt(1 - ρ²) + sqrt(ρ²/w))² of that of plain Monte Carlo, as long as m/n > 1.

    Parameters
    ----------
    correlation : float
        ρ of the terms of the statistic, `Estimate.correlation` of a pilot.
    cost_ratio : float
        w, cost of a PDE sample over that of a surrogate sample.
    budget : float
        In PDE samples.

    Returns
    -------
    n_pde, n_surrogate : int
        For `control_variate`.  Where the surrogate does not pay, n_surrogate = n_pde: plain Monte Carlo.

    Raises
    ------
    InputError
        For a correlation beyond 1, or a cost ratio or budget that is not positive.

    References
    ----------
    Peherstorfer, Willcox, Gunzburger, SIAM J. Sci. Comput. 38 (2016) A3163-A3194, for two models.
    """
    if not -1 <= correlation <= 1:
        raise InputError(f"correlation: expected a number in [-1, 1], got {correlation}.")
    if not (0 < cost_ratio < math.inf and 1 <= budget < math.inf):
        raise InputError(
            f"cost_ratio, budget: expected a positive ratio and a budget of at least 1 PDE sample, got {cost_ratio} "
            f"and {budget}."
        )
    squared = min(correlation**2, 1 - 1e-12)  # of a perfect surrogate a few PDE samples are still wanted
    ratio = math.sqrt(cost_ratio * squared / (1 - squared))
    if ratio <= 1 or (math.sqrt(1 - squared) + math.sqrt(squared / cost_ratio)) ** 2 >= 1:
        return int(budget), int(budget)
    n_pde = max(1, int(budget / (1 + ratio / cost_ratio)))
    return n_pde, max(n_pde, int(min(ratio * n_pde, (budget - n_pde) * cost_ratio)))


def _statistic(entry: str | tuple[str, float]) -> Statistic:
    if entry == "mean":
        return Mean()
    if entry == "variance":
        return Variance()
    if isinstance(entry, tuple) and len(entry) == 2 and entry[0] == "exceedance":
        return Exceedance(entry[1])
    raise InputError(f'statistics: expected "mean", "variance" or ("exceedance", q0), got {entry!r}.')


def _numbers(n_pde: int | None, n_surrogate: int | None, n_held_out: int, fewest: int) -> tuple[int, int]:
    """How many pairs, and evaluations of the surrogate."""
    if n_pde is None:
        n_pde = n_held_out
    if n_pde < fewest:
        raise InputError(
            f"n_pde: expected at least {fewest} PDE samples, got {n_pde}; {FEWEST} to estimate a weight, "
            f"{FEWEST_WITH_WEIGHT} with a given one. Solve more, or pass a dataset with more held-out samples."
        )
    if n_surrogate is None:
        n_surrogate = max(min(RATIO * n_pde, MOST), 2 * n_pde)
    if n_surrogate < n_pde + 2:
        raise InputError(
            f"n_surrogate: counts the n_pde = {n_pde} pairs too, and expects at least 2 more, got {n_surrogate}."
        )
    return n_pde, n_surrogate


def _found(qoi: QoI, model: JacobianModel, dino: DINO, law: GaussianLaw) -> Found:
    """What must be the same on all ranks."""
    q = model.evalObservable(model.prior.mean)
    return {
        **describe(model),
        "qoi at the prior mean": Probe.of(_checked(qoi, q[None], "PDE"), tolerance=1e-3),
        "weights of the surrogate": of_weights(dino.weights),
        # a posterior comes from iterations of finite tolerance; prior deviations are 1
        "law of the latent parameter": Probe.of([law.mean, np.diag(law.covariance)], scale=1.0, tolerance=1e-2),
    }


def _held_out(
    qoi: QoI, dino: DINO, dataset: Dataset | None, posterior: hp.GaussianLRPosterior | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict]]:
    """Values, latent parameters and seconds of a dataset's test samples; its failures among them."""
    if dataset is None:
        return np.empty(0), np.empty((0, dino.input_basis.rank)), np.empty(0), []
    if posterior is not None:
        raise InputError("dataset: its samples are draws of the prior; leave it out with a posterior.")
    check_bases(dino, dataset)
    samples = dataset.split("test", jacobians=False)
    if samples.observable is None:
        raise InputError("dataset: keeps no observables where these are the whole state; leave it out.")
    learned = dino.input_basis.kind == "learned"
    x = dino.input_basis.encode(dataset.full("m", samples.index)) if learned else samples.x
    seconds = dataset.work["seconds"][np.isin(np.flatnonzero(dataset.status == DONE), samples.index)]
    segments = [(first, first + count) for name, first, count in dataset.plan.segments if name == "test"]
    failed = [f for f in dataset.failures if any(first <= f["index"] < end for first, end in segments)]
    return _checked(qoi, samples.observable, "PDE"), x, seconds, failed


def _checked(qoi: QoI, observables: np.ndarray, which: str) -> np.ndarray:
    """qoi (n,) of observables (n, dQ)."""
    values = np.asarray(qoi(observables), dtype=float)
    if values.shape != observables.shape[:1]:
        raise InputError(
            f"qoi: expected shape {observables.shape[:1]}, one value for each row of observables "
            f"{observables.shape}, got {values.shape}. Reduce over the last axis, for instance q.max(axis=1)."
        )
    bad = np.count_nonzero(~np.isfinite(values))
    if bad:
        raise InputError(f"qoi: {bad} of {len(values)} values by the {which} are not finite.")
    return values


class _Pairs:
    """PDE solves of fresh draws, shared by the groups of ranks."""

    def __init__(
        self,
        qoi: QoI,
        model: JacobianModel,
        law: GaussianLaw,
        ranks: Ranks,
        *,
        seed: int,
        max_failures: int,
        progress: bool,
    ):
        self.qoi, self.model, self.law, self.ranks = qoi, model, law, ranks
        self.seed, self.max_failures, self.progress = seed, max_failures, progress
        self.failures: list[dict] = []

    def solve(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values (n,), latent parameters (n, rM) and seconds (n,) of the draws that were solved."""
        found: dict[int, tuple[float, np.ndarray, float]] = {}
        failed: dict[int, str] = {}
        ranks = self.ranks
        handout = Handout(
            ranks.world, ranks.group, np.arange(n), "PDE samples", self.progress, max_failures=self.max_failures
        )

        def work() -> None:
            for index in handout:
                try:
                    found[index] = self._one(index)
                except SolveError as error:
                    failed[index] = str(error)
                if ranks.writes:
                    handout.done(failed=index in failed)
                handout.refresh()

        try:
            ranks.together(work, handout)
        finally:
            handout.close()
        found, failed = self._merged(found), self._merged(failed)
        if len(failed) > self.max_failures:
            raise SolveError(
                f"{len(failed)} PDE solves failed, more than max_failures={self.max_failures}; the first: "
                f"{failed[min(failed)]}"
            )
        seed = list(seed_of(Purpose.UQ_PDE, self.seed))
        self.failures = [{"index": i, "seed": seed, "reason": failed[i]} for i in sorted(failed)]
        values, x, seconds = np.empty(len(found)), np.empty((len(found), len(self.law.mean))), np.empty(len(found))
        for row, index in enumerate(sorted(found)):
            values[row], x[row], seconds[row] = found[index]
        return values, x, seconds

    def _one(self, index: int) -> tuple[float, np.ndarray, float]:
        start = time.perf_counter()
        m = self.law.draw(seed_of(Purpose.UQ_PDE, self.seed), index)
        q = self.model.evalObservable(m)
        seconds = time.perf_counter() - start
        return float(_checked(self.qoi, q[None], "PDE")[0]), self.law.encode(m), seconds

    def _merged(self, own: dict) -> dict:
        """The entries of all groups, on every rank; one rank of a group gives them."""
        parts = self.ranks.world.allgather(own if self.ranks.writes else {})
        return {index: entry for part in parts for index, entry in part.items()}


def _evaluate(
    qoi: QoI, dino: DINO, law: GaussianLaw, ranks: Ranks, n: int, *, seed: int, progress: bool
) -> tuple[np.ndarray, float]:
    """Surrogate values (n,) at draws in latent coordinates, on every rank; seconds of one."""
    size = max(1, min(CHUNK, CHUNK_ENTRIES // dino.output_basis.dim))
    group, n_groups = ranks.world.rank // ranks.group.size, ranks.world.size // ranks.group.size
    values = np.zeros(n)
    start = time.perf_counter()

    def work() -> None:
        for first in _shown(range(group * size, n, n_groups * size), progress and ranks.is_first):
            count = min(size, n - first)
            x = law.latent(generator(Purpose.SURROGATE_ALONE, seed, first // size), count)
            q = dino.output_basis.decode(dino.latent_map.value(x))
            own = _checked(qoi, q, "surrogate")
            if ranks.writes:
                values[first : first + count] = own

    ranks.together(work)
    seconds = ranks.world.allreduce(time.perf_counter() - start) / ranks.group.size
    return ranks.world.allreduce(values), seconds / n


def _shown(chunks: range, show: bool) -> Iterator[int]:
    yield from tqdm(chunks, desc="surrogate samples", unit="batch", disable=not show, mininterval=0.5)
