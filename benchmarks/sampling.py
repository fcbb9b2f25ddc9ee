"""Exact posterior sampling on reaction-diffusion, 40 x 40 with 25 observations: with and without the surrogate.

    mpirun -n 2 python -m benchmarks.sampling generate    # 1024 training samples, 128 each to validate and test
    python -m benchmarks.sampling train
    mpirun -n 2 python -m benchmarks.sampling measure     # four chains of each kernel, shared by the ranks
    mpirun -n 2 python -m benchmarks.sampling agree       # a longer run of the PDE alone, to compare moments with

Run with one BLAS thread a rank (OMP_NUM_THREADS=1).  All chains start from the surrogate's own chain, at no PDE solve.
Writes benchmarks/results/sampling.md and sampling_agreement.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import arviz
import dolfin as dl
import hippylib as hp
import numpy as np
import typer
from mpi4py import MPI

import hippylib_dino as hd
from applications import reaction_diffusion
from applications.compiling import compile_for_this_processor
from applications.study import compile_forms, solve_map, synthetic_data
from benchmarks.tables import processor, table
from hippylib_dino import mcmc
from hippylib_dino.mcmc.potentials import SurrogatePotential
from hippylib_dino.modeling.spaces import owned_values
from hippylib_dino.plotting import save
from hippylib_dino.plotting.chains import plot_chains
from hippylib_dino.random_streams import Purpose, generator

HERE = Path(__file__).parent
OUTPUT, RESULTS = HERE / "output", HERE / "results"
N_TRAIN, N_VALIDATION = 1024, 128
N_CHAINS = 4
N_LATENT = 8  # leading latent coordinates among the quantities of interest
PLACES = [(x, y) for x in (0.25, 0.75) for y in (0.25, 0.75)]  # where m is a quantity of interest
STEPS = {"pCN": 0.002, "gpCN": 0.25, "geometric": 0.5}  # h; best of a few on the surrogate's own chain

app = typer.Typer(help=__doc__)


class Case(NamedTuple):
    """A kernel to measure."""

    label: str
    kernel: object
    n_samples: int
    burn_in: int


class Run(NamedTuple):
    """What was measured."""

    case: Case
    chains: mcmc.Chains
    efficiency: mcmc.Efficiency


def build(comm: MPI.Comm, mesh_size: int = 40) -> hd.JacobianModel:
    """The application with 5 x 5 sensors over the whole square, 1 % noise."""
    application = reaction_diffusion.build(comm, mesh_size)
    grid = np.linspace(0.1, 0.9, 5)
    points = np.array([(x, y) for x in grid for y in grid])
    misfit = hp.DiscreteStateObservation(hp.assemblePointwiseObservation(application.problem.Vh[hp.STATE], points))
    model = hd.JacobianModel(application.problem, application.prior, misfit)
    misfit.noise_variance = (0.01 * np.abs(model.evalObservable(model.prior.mean)).max()) ** 2
    return model


def prepare() -> hd.JacobianModel:
    compile_for_this_processor()
    return build(hd.sample_communicator())


@app.command()
def generate() -> None:
    """Training, validation and test samples."""
    hd.generate(
        prepare(), OUTPUT / "sampling", n_samples=N_TRAIN, n_validation=N_VALIDATION, n_test=128, input_rank=100,
        output_rank=25, seed=0, resume=True,
    )  # fmt: skip


@app.command()
def train(epochs: int = 200) -> None:
    """The DINO, formulation "h1"."""
    dataset = hd.Dataset.open(OUTPUT / "sampling")
    dino = hd.train(dataset, "h1", epochs=epochs, seed=0)
    print(dino.evaluate(dataset))
    dino.save(OUTPUT / "sampling.dino", overwrite=True)


def cases(model: hd.JacobianModel, surrogate: hd.SurrogateModel, scale: float) -> list[Case]:
    """PDE alone, then delayed acceptance, with `scale` times their usual lengths."""
    laplace = {m: hd.laplace(m, solve_map(m)[0]) for m in (model, surrogate)}
    pcn, gpcn, mmala = (
        mcmc.PCN(STEPS["pCN"]), mcmc.Laplace(STEPS["gpCN"], laplace[surrogate]), mcmc.Geometric(STEPS["geometric"]),
    )  # fmt: skip
    stock_pcn, stock_gpcn = hp.mcmc.kernels.pCNKernel(model), hp.mcmc.kernels.gpCNKernel(model, laplace[model])
    for kernel, proposal in ((stock_pcn, pcn), (stock_gpcn, gpcn)):
        kernel.parameters["s"] = float(np.sqrt(1 - proposal.rho**2))

    def delayed(proposal: mcmc.Proposal, subchain: int) -> mcmc.DelayedAcceptance:
        return mcmc.DelayedAcceptance(model, surrogate, proposal, subchain=subchain)

    def case(label: str, kernel, n_samples: int) -> Case:
        n_samples = max(20, int(scale * n_samples))
        return Case(label, kernel, n_samples, n_samples // 10)

    return [
        case("PDE pCN (hIPPYlib)", stock_pcn, 1000),
        case("PDE gpCN (hIPPYlib)", stock_gpcn, 700),
        case("PDE mMALA", mcmc.PDEKernel(model, surrogate.dino.input_basis, mmala), 1000),
        case("delayed pCN, subchain 500", delayed(pcn, 500), 250),
        case("delayed gpCN, subchain 200", delayed(gpcn, 200), 250),
        case("delayed mMALA, subchain 1", delayed(mmala, 1), 3000),
        case("delayed mMALA, subchain 30", delayed(mmala, 30), 400),
        case("delayed mMALA, subchain 100", delayed(mmala, 100), 500),
        case("delayed mMALA, subchain 300", delayed(mmala, 300), 250),
    ]


class Long(NamedTuple):
    """What a proposal needs on the surrogate's own posterior."""

    steps_per_sample: float  # median over leading latent coordinates
    r_hat: float


def long_chains(surrogate: hd.SurrogateModel, proposal: mcmc.Proposal, start: np.ndarray, n: int) -> Long:
    """A chain of `n` steps for the surrogate's own posterior on each rank."""
    potential, rng = SurrogatePotential(surrogate), np.random.default_rng(MPI.COMM_WORLD.rank)
    evaluate = lambda x: proposal.point(x, potential.evaluate(x, proposal.derivatives))  # noqa: E731
    point, chain = evaluate(start), np.empty((n, N_LATENT))
    for k in range(n):
        candidate = evaluate(proposal.draw(point, rng))
        if np.log(rng.random()) < proposal.log_ratio(point, candidate):
            point = candidate
        chain[k] = point.x[:N_LATENT]
    everyone = np.stack(MPI.COMM_WORLD.allgather(chain))
    effective = [arviz.ess(everyone[..., j], method="mean") for j in range(N_LATENT)]
    worst = max(float(arviz.rhat(everyone[..., j])) for j in range(N_LATENT))
    return Long(everyone.shape[0] * n / float(np.median(effective)), worst)


def flat(chains: mcmc.Chains) -> np.ndarray:
    """All quantities, (n_chains, n_samples, n_quantities)."""
    return np.concatenate([v.reshape(*v.shape[:2], -1) for v in chains.quantities.values()], axis=2)


def deviations(a: np.ndarray, b: np.ndarray, power: int) -> np.ndarray:
    """Differences of means (power 1) or variances (2) in Monte Carlo deviations of both."""
    a, b = ((values - b.mean(axis=(0, 1))) ** power for values in (a, b))
    error = [np.hypot(*(arviz.mcse(values[..., j]) for values in (a, b))) for j in range(a.shape[2])]
    return (a.mean(axis=(0, 1)) - b.mean(axis=(0, 1))) / error


def share(counts: list[dict], part: str, whole: str) -> str:
    """Of what the kernels counted, over all chains."""
    total = sum(c.get(whole, 0) for c in counts)
    return f"{sum(c[part] for c in counts) / total:.0%}" if total else ""


def measured_rows(runs: list[Run]) -> list[list]:
    rows = []
    for run in runs:
        e, counts = run.efficiency, run.chains.counts
        rows.append([
            run.case.label, run.chains.statistics["cost"].size, e.solves, f"{e.acceptance:.0%}",
            share(counts, "surrogate_accepted", "surrogate_steps"), share(counts, "accepted", "tested"),
            f"{e.least:.0f}", f"{e.median:.0f}", f"{e.worst_r_hat:.2f}", f"{1e3 * e.per_solve('least'):.1f}",
            f"{1e3 * e.per_solve():.1f}", f"{e.per_second('least'):.3f}", f"{e.per_second():.3f}",
            f"{e.square_jump:.4f}",
        ])  # fmt: skip
    return rows


def gain_rows(runs: list[Run], best: Run, long: dict[str, Long]) -> list[list]:
    """Gain of the best kernel over the PDE alone, whose figure is measured or that of long chains."""
    by_label, rows, spent = {run.case.label: run.efficiency for run in runs}, [], N_TRAIN + N_VALIDATION
    for label, own in (("PDE pCN (hIPPYlib)", "pCN"), ("PDE gpCN (hIPPYlib)", "gpCN"), ("PDE mMALA", "geometric")):
        e = by_label[label]
        here, there = e.per_solve(), 1.0 / long[own].steps_per_sample
        gain, by_time = best.efficiency.per_solve(), best.efficiency.per_second() * e.seconds / e.solves
        rows.append([
            label, f"{1e3 * here:.2f} ({e.worst_r_hat:.2f})", f"{1e3 * there:.2f} ({long[own].r_hat:.2f})",
            f"{gain / here:.0f}x / {gain / there:.0f}x", f"{by_time / here:.0f}x / {by_time / there:.0f}x",
            " / ".join(f"{spent / (1 / figure - 1 / gain):.0f}" for figure in (here, there)),
        ])  # fmt: skip
    return rows


def report(runs: list[Run], long: dict[str, Long], seconds_per_solve: float) -> str:
    """Markdown of the measurements."""
    reference = next(run for run in runs if run.case.label == "PDE mMALA")
    delayed = [run for run in runs if run.case.label.startswith("delayed")]
    best = max(delayed, key=lambda run: run.efficiency.per_solve("least"))
    n_quantities = N_LATENT + len(PLACES)
    header = [
        "kernel", "steps", "PDE solves", "moved", "1st stage", "2nd stage", "ESS, least", "ESS, median", "R-hat",
        "ESS / 1000 solves, least", "median", "ESS / s, least", "median", "square jump",
    ]  # fmt: skip
    gain_header = [
        "against", "its ESS / 1000 solves, measured (R-hat)", "on the surrogate's posterior, long chains (R-hat)",
        "gain a solve", "gain a second", "break-even, effective samples",
    ]  # fmt: skip
    agreement = [
        [
            run.case.label,
            *(f"{np.abs(deviations(flat(run.chains), flat(reference.chains), p)).max():.1f}" for p in (1, 2)),
        ]
        for run in runs
        if run is not reference
    ]
    return f"""# Exact posterior sampling: reaction-diffusion, 40 x 40, 25 observations (dM = 1681, rM = 100, rQ = 25)

Machine: {processor()}, {MPI.COMM_WORLD.size} ranks; one PDE solve takes {1e3 * seconds_per_solve:.0f} ms.
Commands: see `benchmarks/sampling.py`.
DINO: "h1", N = {N_TRAIN}.  Data: a prior sample that training has not seen, 1 % noise.  {N_CHAINS} chains of each
kernel, all started from the surrogate's own chain; burn-in, one step for ten of those given, is left out.  Quantities:
{N_LATENT} leading latent coordinates and m at {len(PLACES)} points; effective samples (ESS) of their means by ArviZ,
least and median of the {n_quantities}.

{table(header, measured_rows(runs))}

"moved" is the share of steps accepted, "1st stage" the surrogate's own acceptance, "2nd stage" the PDE's; "square jump"
is the mean of the squared step in the mass norm.  "ESS / s" is of one rank.  An R-hat well above 1.01 says that the
chains are too short to know their effective samples: the figure is then too kind to the kernel.

## Gain of {best.case.label} over the PDE alone

{table(gain_header, gain_rows(runs, best, long))}

Of the medians.  Gains and break-even are given against either figure of the PDE: as measured, and what the same
proposal needs on the surrogate's posterior, which long chains can afford to find out.  Where the R-hat of the measured
one is above 1.05, the second is the one to believe.  Break-even counts the {N_TRAIN + N_VALIDATION} solves of training
and validation samples.

## Agreement with PDE mMALA

Largest difference over the {n_quantities} quantities, in Monte Carlo deviations of both chains, themselves rough where
a chain is short; `python -m benchmarks.sampling agree` makes a longer run of the PDE.

{table(["kernel", "means", "variances"], agreement)}
"""


class Setting(NamedTuple):
    """The inverse problem, and what is observed of the chains."""

    model: hd.JacobianModel
    surrogate: hd.SurrogateModel
    starts: list[dl.Vector]
    quantities: dict


def setting() -> Setting:
    model = prepare()
    synthetic_data(model, 0)
    compile_forms(model)
    surrogate = hd.SurrogateModel(hd.DINO.load(OUTPUT / "sampling.dino"), model.prior, model.misfit)
    coordinates = mcmc.LatentCoordinates(model.prior, surrogate.dino.input_basis)
    points = hp.assemblePointwiseObservation(model.prior.Vh, np.array(PLACES))
    quantities = {
        "x": lambda state: coordinates.encode(state[hp.PARAMETER])[:N_LATENT],
        "m": lambda state: owned_values(points * state[hp.PARAMETER]),
    }
    guide = mcmc.DelayedAcceptance(model, surrogate, mcmc.Geometric(STEPS["geometric"]))
    starts, law = [], guide.laplace()
    for c in range(N_CHAINS):
        guide.restart((17, c))
        starts.append(guide.warm_start(guide.parameter(law, generator(Purpose.LAPLACE_START, 17, c)), 3000))
    return Setting(model, surrogate, starts, quantities)


def run(case: Case, at: Setting) -> Run:
    chains = mcmc.run_chains(
        case.kernel, n_chains=N_CHAINS, n_samples=case.n_samples, burn_in=case.burn_in, starts=at.starts,
        quantities=at.quantities, progress=False,
    )  # fmt: skip
    found = Run(case, chains, mcmc.efficiency(chains))
    if MPI.COMM_WORLD.rank == 0:
        print(case.label, found.efficiency, flush=True)
    return found


@app.command()
def measure(scale: float = 1.0, output: Path = RESULTS / "sampling.md") -> None:
    """Run all kernels, write the table; `scale` lengthens or shortens all chains."""
    at, comm = setting(), MPI.COMM_WORLD
    every = cases(at.model, at.surrogate, scale)
    np.random.seed(comm.rank)  # noqa: NPY002  hIPPYlib's kernels draw from it
    runs = [run(case, at) for case in every]
    coordinates = mcmc.LatentCoordinates(at.model.prior, at.surrogate.dino.input_basis)
    start, kernels = coordinates.encode(at.starts[comm.rank % N_CHAINS]), {case.label: case.kernel for case in every}
    long = {
        name: long_chains(at.surrogate, kernels[label].proposal, start, int(scale * n))
        for name, label, n in (
            ("pCN", "delayed pCN, subchain 500", 300_000),
            ("gpCN", "delayed gpCN, subchain 200", 150_000),
            ("geometric", "delayed mMALA, subchain 100", 60_000),
        )
    }
    pde = runs[0].efficiency
    if comm.rank == 0:
        text = report(runs, long, pde.seconds / pde.solves)
        output.write_text(text)
        print(text)
        best = max(runs[3:], key=lambda run: run.efficiency.per_solve("least"))
        save(plot_chains(best.chains, "x", [0, 1, 2, 7]), output.with_suffix(".png"))


@app.command()
def agree(n_samples: int = 4000, output: Path = RESULTS / "sampling_agreement.md") -> None:
    """Means and variances of delayed acceptance against a long run of the PDE alone."""
    at, mmala = setting(), mcmc.Geometric(STEPS["geometric"])
    delayed = mcmc.DelayedAcceptance(at.model, at.surrogate, mmala, subchain=100)
    alone = mcmc.PDEKernel(at.model, at.surrogate.dino.input_basis, mmala)
    mine = run(Case("delayed mMALA, subchain 100", delayed, n_samples // 4, 20), at)
    theirs = run(Case("PDE mMALA", alone, n_samples, 100), at)
    if MPI.COMM_WORLD.rank:
        return
    for name, found in (("delayed", mine), ("pde", theirs)):
        found.chains.save(OUTPUT / f"sampling-{name}.nc", overwrite=True)
    a, b = flat(mine.chains), flat(theirs.chains)
    names = [f"x{j}" for j in range(N_LATENT)] + [f"m{place}" for place in PLACES]
    zs = zip(*(deviations(a, b, power) for power in (1, 2)), strict=True)
    rows = [
        [name, *(f"{f(values[..., j]):.4f}" for f in (np.mean, np.std) for values in (a, b)), *(f"{v:+.1f}" for v in z)]
        for j, (name, z) in enumerate(zip(names, zs, strict=True))
    ]
    header = ["quantity", "mean, delayed", "mean, PDE", "deviation, delayed", "deviation, PDE", "means", "variances"]
    lengths = [
        [r.case.label, r.chains.statistics["cost"].size, r.efficiency.solves, f"{r.efficiency.least:.0f}",
         f"{r.efficiency.median:.0f}", f"{r.efficiency.worst_r_hat:.3f}"]
        for r in (mine, theirs)
    ]  # fmt: skip
    text = f"""# Delayed acceptance against the PDE alone: reaction-diffusion, 40 x 40, 25 observations

Command: `mpirun -n 2 python -m benchmarks.sampling agree`.  Problem as in `sampling.md`.

{table(["kernel", "steps", "PDE solves", "ESS, least", "ESS, median", "R-hat"], lengths)}

{table(header, rows)}

The last two columns: difference of means, and of variances, in Monte Carlo deviations of both.
"""
    output.write_text(text)
    print(text)


if __name__ == "__main__":
    app()
