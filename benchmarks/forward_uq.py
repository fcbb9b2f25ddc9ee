"""Forward UQ on reaction-diffusion, 32 x 32: DINO and Taylor expansions as control variates, at equal cost.

    python -m benchmarks.forward_uq

Run with one BLAS thread (OMP_NUM_THREADS=1) on one core.  Generates 256 training samples into
benchmarks/output/forward_uq, trains, solves the PDE at 2000 further draws of the prior, and writes
benchmarks/results/forward_uq.md and forward_uq.png.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import NamedTuple

import dolfin as dl
import hippylib as hp
import numpy as np
from matplotlib.figure import Figure

import hippylib_dino as hd
from applications import reaction_diffusion
from applications.compiling import compile_for_this_processor
from applications.study import compile_forms
from benchmarks.tables import processor, table, trivial
from hippylib_dino.data.streams import stream
from hippylib_dino.modeling.spaces import owned_values
from hippylib_dino.plotting import save
from hippylib_dino.plotting.figures import COLORS
from hippylib_dino.random_streams import Purpose, seed_of
from hippylib_dino.uq.control_variate import optimal_allocation
from hippylib_dino.uq.estimators import Exceedance, Mean, Statistic, Variance, estimate

HERE = Path(__file__).parent
OUTPUT, RESULTS = HERE / "output", HERE / "results"
MESH_SIZE, N_TRAIN, N_VALIDATION, N_TEST = 32, 256, 32, 32
N_PDE, N_CHEAP = 2000, 800_000
BUDGET, REPEATS = 200, 400  # PDE solves of one estimate; estimates
RANK = 60  # eigenpairs of the Taylor expansion's Hessian
TAIL = 0.1  # of the surrogate, on its training samples
SEED = 7


class MeanSquare(hp.Qoi):
    """Q = |B u|²/dQ, the mean square of the observables."""

    def __init__(self, B):
        self.B, self.n = B, B.size(0)
        self._data = dl.Vector(B.mpi_comm())
        B.init_vector(self._data, 0)

    def eval(self, x: list) -> float:
        self.B.mult(x[hp.STATE], self._data)
        return self._data.inner(self._data) / self.n

    def grad(self, i: int, x: list, out: dl.GenericVector) -> None:
        self.apply_ij(i, hp.STATE, x[hp.STATE], out)

    def setLinearizationPoint(self, x: list) -> None:
        """The second variation is the same everywhere."""

    def apply_ij(self, i: int, j: int, direction: dl.GenericVector, out: dl.GenericVector) -> None:
        out.zero()
        if i == j == hp.STATE:
            self.B.mult(direction, self._data)
            self.B.transpmult(self._data, out)
            out *= 2 / self.n


def of_observables(q: np.ndarray) -> np.ndarray:
    """The same of observables (n, dQ)."""
    return (q**2).mean(axis=1)


class Taylor(NamedTuple):
    """hIPPYlib's expansion about the prior mean in the coordinates of its own eigenvectors.

    With z = UᵀR(m - m̄) ~ N(0, I) and the rest t of gᵀ(m - m̄), independent of z, of variance gᵀR⁻¹g - ‖Uᵀg‖²:
    q₁ = q̄ + (Uᵀg)ᵀz + t and q₂ = q₁ + ½ Σ d z².  Its law is sampled without any solve.
    """

    expansion: hp.TaylorApproximationQoi
    slopes: np.ndarray  # Uᵀg
    rest: float  # deviation of t
    directions: np.ndarray  # RU
    n_linearized: int
    seconds: float
    pair_seconds: float  # of hIPPYlib's evaluation of order 2: one Hessian action

    def at(self, m: dl.GenericVector) -> np.ndarray:
        """q₁, q₂ and hIPPYlib's q₂, which takes a Hessian action, at a parameter."""
        step = m - self.expansion.x_bar[hp.PARAMETER]
        z = self.directions.T @ owned_values(step)
        first = self.expansion.q_bar + self.expansion.g_bar.inner(step)
        return np.array([first, first + 0.5 * self.expansion.d @ z**2, self.expansion.eval(m, order=2)])

    def sample(self, n: int) -> np.ndarray:
        """q₁ and q₂ (2, n) at draws of the prior."""
        rng = stream((SEED, 9), 0)
        z = rng.standard_normal((n, len(self.slopes)))
        first = self.expansion.q_bar + z @ self.slopes + self.rest * rng.standard_normal(n)
        return np.array([first, first + 0.5 * z**2 @ self.expansion.d])


def expand(model: hd.JacobianModel) -> Taylor:
    """The expansion, with the work that it took."""
    start = time.perf_counter()
    expansion = hp.TaylorApproximationQoi(hp.Parameter2QoiMap(model.problem, MeanSquare(model.misfit.B)), model.prior)
    mean = model.prior.mean
    expansion.x_bar[hp.STATE].axpy(1.0, model.solveState(mean))
    omega = hp.MultiVector(mean, RANK)
    hp.parRandom.normal(1.0, omega)
    expansion.computeLowRankFactorization(omega)
    solves = 1 + 2 * expansion.H.ncalls
    seconds = time.perf_counter() - start
    U, image = expansion.U, mean.copy()
    columns = []
    for i in range(RANK):
        model.prior.R.mult(U[i], image)
        columns.append(owned_values(image))
    slopes = np.array([U[i].inner(expansion.g_bar) for i in range(RANK)])
    rest = expansion.variance(order=1) - (slopes**2).sum()
    start = time.perf_counter()
    for _ in range(20):
        expansion.eval(mean, order=2)
    pair = (time.perf_counter() - start) / 20
    return Taylor(expansion, slopes, max(rest, 0.0) ** 0.5, np.stack(columns, axis=1), solves, seconds, pair)


class Method(NamedTuple):
    """A control variate: its values at the pairs and elsewhere, and what it costs in PDE solves."""

    label: str
    paired: np.ndarray
    cheap: np.ndarray
    cost: float  # of an evaluation
    offline: float

    def numbers(self, rho: float) -> tuple[int, int]:
        """Pairs and further evaluations that `BUDGET` affords, for terms of correlation `rho`."""
        if self.cost == 0:
            return BUDGET, len(self.cheap) // 2
        pairs, total = optimal_allocation(rho, 1 / self.cost, BUDGET)
        return pairs, min(total - pairs, len(self.cheap))


class Finding(NamedTuple):
    """Of a method and a statistic."""

    correlation: float
    predicted: float  # reduction of the variance at equal cost, by the correlation
    measured: float  # by repetition
    coverage: float
    n_pairs: int
    n_cheap: int


def find(method: Method, statistic: Statistic, pde: np.ndarray, truth: float) -> Finding:
    """Estimates from random parts of the PDE samples, all of one cost, against plain Monte Carlo of that cost."""
    rho = float(np.corrcoef(statistic.terms(pde), statistic.terms(method.paired))[0, 1])
    n, N = method.numbers(rho)
    values, plain, covered, given = np.empty(REPEATS), np.empty(REPEATS), 0, 0
    for k in range(REPEATS):
        rng = stream((SEED, 8), k)
        part = rng.choice(len(pde), BUDGET, replace=False)
        cheap = method.cheap[(rng.integers(len(method.cheap)) + np.arange(N)) % len(method.cheap)]
        found = estimate(statistic, pde[part[:n]], method.paired[part[:n]], cheap)
        values[k], plain[k] = found.value, statistic.terms(pde[part]).mean()
        covered += found.interval[0] <= truth <= found.interval[1]
        given += not found.reason
    predicted = n / BUDGET / (1 - rho**2 * N / (N + n))
    return Finding(
        rho, predicted, float(plain.var(ddof=1) / values.var(ddof=1)), covered / given if given else math.nan, n, N
    )


def stock_rows(taylor: Taylor, pde: np.ndarray, values: np.ndarray, pde_seconds: float) -> list[list]:
    """What `hp.varianceReductionMC` gives at these samples: weight 1, the moments of the expansion in closed form."""
    rows = []
    for order, column, cost in ((1, 0, 0.0), (2, 2, taylor.pair_seconds / pde_seconds)):
        rest = pde - values[:, column]
        mean = rest.mean() + taylor.expansion.expectedValue(order=order)
        reduction = pde.var(ddof=1) / rest.var(ddof=1) / (1 + cost)
        rows.append([f"order {order}", f"{mean:.5f} ± {(rest.var(ddof=1) / len(rest)) ** 0.5:.5f}", f"{reduction:.2f}"])
    return rows


def draw(methods: list[Method], found: dict, pde: np.ndarray) -> Figure:
    """Laws of the quantity of interest, and the mean's standard error over the whole cost."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    law, error = figure.subplots(1, 2)
    edges = np.linspace(*np.quantile(pde, [0.0, 0.995]), 50)
    law.hist(pde, edges, density=True, color="0.8", label=f"PDE ({len(pde)})")
    cost = np.geomspace(10, 1e6, 400)
    error.loglog(cost, np.sqrt(pde.var(ddof=1) / cost), color="0.35", label="plain Monte Carlo")
    for color, method in zip(COLORS, methods, strict=False):
        law.hist(method.cheap, edges, density=True, histtype="step", color=color, label=method.label)
        online = np.where(cost > method.offline, cost - method.offline, np.nan)
        reduction = found[method.label, "mean"].predicted
        error.loglog(cost, np.sqrt(pde.var(ddof=1) / (reduction * online)), color=color, label=method.label)
    law.set(xlabel="Q, mean square of the observables", ylabel="density", title="law under the prior")
    error.set(xlabel="cost in PDE solves, preparation included", ylabel="standard error", title="mean of Q")
    for axes in (law, error):
        axes.legend()
        axes.grid(True, which="major", alpha=0.3)
    return figure


def report(
    methods: list[Method], found: dict, names: list[str], plain: dict, references: dict, notes: dict[str, str]
) -> str:
    """Markdown of the measurements."""
    rows = [
        [
            name, method.label, f"{f.correlation:.5f}", f"{f.n_pairs} + {f.n_cheap}", f"{f.predicted:.3g}",
            f"{f.measured:.3g}", f"{f.coverage:.0%}",
            "never" if f.predicted <= 1 else f"{method.offline / (1 - 1 / f.predicted):.0f}",
        ]
        for name in names for method in methods for f in [found[method.label, name]]
    ]  # fmt: skip
    header = [
        "statistic", "control variate", "correlation", "PDE + other evaluations", "variance reduction, by correlation",
        "measured", "coverage of 95 % intervals", "break-even, PDE solves",
    ]  # fmt: skip
    estimates = [[n, f"{references[n].value:.5f} ± {references[n].standard_error:.5f}", plain[n]] for n in names]
    return f"""# Forward UQ: control variates at equal cost, reaction-diffusion, 32 x 32 (dM = 1089, dQ = 50)

Machine: {processor()}, one thread; one PDE solve, draw of the prior included, takes {notes["solve"]}.
Command: `OMP_NUM_THREADS=1 python -m benchmarks.forward_uq`, {notes["seconds"]} in all,
at a load average of {os.getloadavg()[0]:.1f}.
Quantity of interest: Q = |B u|²/50, the mean square of the observables, under the prior.

| | {N_PDE} PDE samples with the DINO | PDE samples alone |
|---|---|---|
{table(["-"] * 3, estimates).split(chr(10), 2)[2]}

## At equal cost

Each estimate may cost {BUDGET} PDE solves; {REPEATS} of them are made of random parts of the PDE samples.  Weights are
optimal and estimated from the same samples, without bias (`hippylib_dino.uq.estimate`).  Where another evaluation costs
something, there are as many as `hippylib_dino.uq.optimal_allocation` says.

{table(header, rows)}

"By correlation" is what the correlation over all {N_PDE} samples promises, at equal cost; "measured" is the ratio of
the variances of the {REPEATS} estimates.  Break-even counts what comes before the
first estimate: from so many PDE solves on, plain Monte Carlo is the dearer way to the same error.

## Before the first estimate

| | in seconds | in PDE solves | made of |
|---|---|---|---|
{notes["offline"]}

## hIPPYlib's own estimator of the mean

`hp.varianceReductionMC` subtracts the expansion with weight 1 and adds its mean in closed form.  Order 2 applies the
Hessian itself, two linearised solves or {notes["pair"]} of a PDE solve for each sample, and its mean takes the trace
from {RANK} eigenvalues.

{table(["", "mean of Q", "variance reduction at equal cost"], notes["stock"])}
"""


def main() -> None:
    """Generate, train, solve, compare, write."""
    began = time.perf_counter()
    compile_for_this_processor()
    model = reaction_diffusion.build(hd.sample_communicator(), MESH_SIZE)
    compile_forms(model)
    dataset = hd.generate(
        model, OUTPUT / "forward_uq", n_samples=N_TRAIN, n_validation=N_VALIDATION, n_test=N_TEST, input_rank=100,
        output_rank=50, seed=0, resume=True,
    )  # fmt: skip
    start = time.perf_counter()
    dino = hd.train(dataset, "h1", seed=0)
    train_seconds = time.perf_counter() - start
    surrogate = hd.SurrogateModel(dino, model.prior, model.misfit)
    taylor = expand(model)
    threshold = float(
        f"{np.quantile(of_observables(dino.output_basis.decode(dataset.split('train').y)), 1 - TAIL):.2g}"
    )
    statistics: list[Statistic] = [Mean(), Variance(), Exceedance(threshold)]
    result = hd.uq.control_variate(
        of_observables, model, surrogate, n_pde=N_PDE, n_surrogate=N_PDE + N_CHEAP, seed=SEED,
        statistics=("mean", "variance", ("exceedance", threshold)),
    )  # fmt: skip
    failed = {f["index"] for f in result.failures}
    own = seed_of(Purpose.UQ_PDE, SEED)
    draws = [hd.data.draw_parameter(model.prior, own, i) for i in range(N_PDE) if i not in failed]
    values = np.array([taylor.at(m) for m in draws])
    solve = result.pde_seconds
    spent = dataset.work["seconds"][np.isin(np.flatnonzero(dataset.status == 1), dataset.members("test"), invert=True)]
    costs = {"DINO": spent.sum() + train_seconds, "Taylor": taylor.seconds}
    first, second = taylor.sample(N_CHEAP)
    methods = [
        Method("DINO", result.paired, result.cheap, result.surrogate_seconds / solve, costs["DINO"] / solve),
        Method("Taylor, order 1", values[:, 0], first, 0.0, 2.0),
        Method("Taylor, order 2", values[:, 1], second, 0.0, costs["Taylor"] / solve),
    ]
    references = {s.name: result[s.name] for s in statistics}
    found = {(m.label, s.name): find(m, s, result.pde, references[s.name].value) for m in methods for s in statistics}
    errors = dino.evaluate(dataset)
    offline = [
        f"| DINO, data | {spent.sum():.0f} | {spent.sum() / solve:.0f} | {len(spent)} PDE solves, "
        f"{N_TRAIN} to train and {N_VALIDATION} to validate, with 50 adjoint solves each by one factorization |",
        f"| DINO, training | {train_seconds:.0f} | {train_seconds / solve:.0f} | one core; held-out errors "
        f"{errors['observable']:.2%} of the observable, {errors['jacobian']:.1%} of the Jacobian; {trivial(errors)} |",
        f"| Taylor, order 2 | {taylor.seconds:.1f} | {taylor.seconds / solve:.0f} | 1 PDE solve, {taylor.n_linearized} "
        f"linearised ones by one factorization, {RANK} eigenpairs |",
        "| Taylor, order 1 | | 2 | 1 PDE solve, 1 adjoint |",
    ]
    notes = {
        "solve": f"{1e3 * solve:.0f} ms (median)",
        "seconds": f"{time.perf_counter() - began:.0f} s",
        "offline": "\n".join(offline),
        "pair": f"{taylor.pair_seconds / solve:.2f}",
        "stock": stock_rows(taylor, result.pde, values, solve),
    }
    names = [statistic.name for statistic in statistics]
    plain = {n: f"{references[n].plain:.5f} ± {references[n].plain_error:.5f}" for n in names}
    text = report(methods, found, names, plain, references, notes)
    (RESULTS / "forward_uq.md").write_text(text)
    print(result, text, sep="\n")
    save(draw(methods, found, result.pde), RESULTS / "forward_uq.png")


if __name__ == "__main__":
    main()
