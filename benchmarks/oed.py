"""Optimal design of sensors on convection-reaction-diffusion, 64 x 64 with 100 candidates: surrogate against PDE.

    mpirun -n 2 python -m benchmarks.oed generate    # 1024 training samples, 128 each to validate and test
    python -m benchmarks.oed train
    mpirun -n 2 python -m benchmarks.oed verify      # criteria of 50 random designs by both; designs against 200 random
    python -m benchmarks.oed speed                   # searches, exhaustive search, evaluations a second

Each with --small for a quick look: few samples, designs and draws.  --problem cdr_3d is convection-diffusion-reaction
in the cube, 75 candidates, at two parameter dimensions by --mesh 12 (2197) and --mesh 16 (4913).  `verify` takes an
hour of a core at 64 x 64, most of it for the random rivals: --rivals 20 compares with fewer.  Run with one BLAS thread
a rank (OMP_NUM_THREADS=1).  Writes benchmarks/results/oed_<problem>_<mesh>_verify.md and ..._speed.md.
"""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from mpi4py import MPI

import hippylib_dino as hd
from applications.compiling import compile_for_this_processor
from benchmarks.tables import processor, table, trivial
from hippylib_dino import oed
from hippylib_dino.intervals import shown

HERE = Path(__file__).parent
OUTPUT, RESULTS = HERE / "output", HERE / "results"
COMM = MPI.COMM_WORLD

Small = Annotated[bool, typer.Option(help="A quick look.")]
Problem = Annotated[str, typer.Option(help="sensor_placement or cdr_3d.")]
Mesh = Annotated[int | None, typer.Option(help="Cells a side; default that of the problem.")]
Train = Annotated[int | None, typer.Option("--n-train", help="Training samples; default 1024 (sensor_placement), 512.")]
Rivals = Annotated[int | None, typer.Option(help="Random designs that a found one is compared with by the PDE.")]
app = typer.Typer(help=__doc__)


class Size(NamedTuple):
    """How much is done."""

    problem: str
    mesh: int
    n_train: int
    ranks: tuple[int, int]
    n_draws: int  # of the surrogate's criterion in searches
    n_compared: int  # random designs by both
    n_sensors: int  # of these
    n_pde_draws: int
    n_random: int  # that a found design is compared with
    n_random_draws: int  # of the PDE's, for each of these
    sensors: tuple[int, int, int]


FULL = {
    "sensor_placement": Size("sensor_placement", 64, 1024, (100, 60), 64, 50, 10, 8, 200, 4, (5, 10, 20)),
    "cdr_3d": Size("cdr_3d", 24, 512, (100, 60), 64, 20, 10, 4, 20, 2, (5, 10, 20)),
}
SMALL_MESH = {"sensor_placement": 16, "cdr_3d": 8}


def chosen(problem: str, small: bool, mesh: int | None, n_train: int | None) -> Size:
    if problem not in FULL:
        raise typer.BadParameter(f"--problem: expected one of {list(FULL)}, got {problem!r}.")
    size = FULL[problem]
    if small:
        size = Size(problem, SMALL_MESH[problem], 64, (30, 30), 8, 6, 4, 2, 8, 1, (2, 3, 4))
    given = {"mesh": mesh, "n_train": n_train}
    return size._replace(**{name: value for name, value in given.items() if value is not None})


def is_small(size: Size) -> bool:
    return size.n_draws < FULL[size.problem].n_draws


def name(size: Size) -> str:
    """Of its files: problem and mesh, and where it is another than the problem's own, the number of samples."""
    samples = "" if is_small(size) or size.n_train == FULL[size.problem].n_train else f"_N{size.n_train}"
    return f"oed_{size.problem}_{size.mesh}{samples}{'_small' if is_small(size) else ''}"


def files(size: Size) -> tuple[Path, Path, Path]:
    """Dataset, DINO, seconds that they took."""
    stem = OUTPUT / name(size)
    return stem, stem.with_suffix(".dino"), stem.with_suffix(".json")


def write(size: Size, what: str, text: str) -> None:
    """Into results, or output for a quick look."""
    folder = OUTPUT if is_small(size) else RESULTS
    (folder / f"{name(size)}_{what}.md").write_text(text)
    print(text)


def note(path: Path, **seconds: float) -> None:
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | seconds))


def build(size: Size) -> hd.JacobianModel:

    build_model = importlib.import_module(f"applications.{size.problem}").build
    compile_for_this_processor()
    return build_model(hd.sample_communicator(), size.mesh)


@app.command()
def generate(
    problem: Problem = "sensor_placement", small: Small = False, mesh: Mesh = None, n_train: Train = None
) -> None:
    """Training, validation and test samples."""
    size = chosen(problem, small, mesh, n_train)
    data, _, seconds = files(size)
    if data.exists():
        raise typer.BadParameter(f"{data} exists; remove it, so that generation is timed from the start.")
    model = build(size)
    model.linearize(model.prior.mean)  # forms are compiled
    COMM.barrier()
    begun = time.perf_counter()
    hd.generate(
        model, data, n_samples=size.n_train, n_validation=size.n_train // 8, n_test=size.n_train // 8,
        input_rank=size.ranks[0], output_rank=size.ranks[1], seed=0, progress=False,
    )  # fmt: skip
    if COMM.rank == 0:
        # of all cores that it took
        note(seconds, generate=(time.perf_counter() - begun) * COMM.size)


@app.command()
def train(
    problem: Problem = "sensor_placement", small: Small = False, mesh: Mesh = None, n_train: Train = None
) -> None:
    """The DINO, formulation "h1"."""
    data, path, seconds = files(chosen(problem, small, mesh, n_train))
    dataset = hd.Dataset.open(data)
    begun = time.perf_counter()
    dino = hd.train(dataset, "h1", seed=0, epochs=20 if small else None)
    note(seconds, train=time.perf_counter() - begun)
    dino.save(path, overwrite=True)


def search(gain: oed.Criterion, linear: oed.Criterion, n_sensors: int) -> oed.Design:
    return oed.swapping_greedy(gain, n_sensors, start=oed.swapping_greedy(linear, n_sensors).sensors)


def found(dino: hd.DINO, noise, size: Size) -> tuple[dict[int, oed.Design], dict[str, float]]:
    """Designs of each number of sensors; seconds and pairs that they took, by one core."""
    begun = time.perf_counter()
    gain = oed.InformationGain(dino, noise, size.n_draws)
    linear = oed.InformationGain(dino, noise, size.n_draws, method="linearized")
    designs = {k: search(gain, linear, k) for k in size.sensors}
    return designs, {"seconds": time.perf_counter() - begun, "pairs": gain.n_pairs, "failed": gain.n_failed}


@app.command()
def verify(
    problem: Problem = "sensor_placement",
    small: Small = False,
    mesh: Mesh = None,
    n_train: Train = None,
    rivals: Rivals = None,
) -> None:
    """Surrogate against PDE: correlation and error over random designs; found designs against random ones."""
    size = chosen(problem, small, mesh, n_train)
    size = size if rivals is None else size._replace(n_random=rivals)
    data, path, seconds_file = files(size)
    model, dino = build(size), hd.DINO.load(path)
    noise, gram = model.noise_covariance, oed.mass_gram(model.prior, dino.input_basis)
    criteria = {
        "information gain": oed.InformationGain(dino, noise),
        "A (trace, mass norm)": oed.ATrace(dino, noise, gram=gram),
        "D (log-determinant)": oed.DLogDet(dino, noise),
    }
    pde = oed.PDECriteria(model, size.n_pde_draws, seed=1, max_failed=0.2)
    designs = oed.random_designs(criteria["information gain"], size.n_sensors, size.n_compared, seed=1)
    pde.evaluate(designs, progress=True)
    begun = time.perf_counter()
    compared = {name: oed.assess(criterion, pde, designs) for name, criterion in criteria.items()}
    surrogate_seconds = time.perf_counter() - begun
    # one rank searches, so that its time is that of one core
    searched = COMM.bcast(found(dino, noise, size) if COMM.rank == 0 else None)
    other = oed.PDECriteria(model, size.n_random_draws, seed=2, max_failed=0.2)
    judged = {}
    for k, design in searched[0].items():
        random = oed.random_designs(criteria["information gain"], k, size.n_random, seed=2)
        judged[k] = oed.assess(criteria["information gain"], other, [design, *random], progress=True)
    if COMM.rank == 0:
        offline = json.loads(seconds_file.read_text())
        offline |= dino.evaluate(hd.Dataset.open(data)) | {"parameters": dino.input_basis.dim}
        write(size, "verify", verification(size, compared, judged, searched, offline, surrogate_seconds))


def verification(
    size: Size, compared: dict[str, oed.Assessment], rivals: dict[int, oed.Assessment], searched, offline: dict,
    surrogate_seconds: float,
) -> str:  # fmt: skip
    designs, cost = searched
    rows = [
        [name, f"{a.rank_correlation:.4f}", f"{a.relative_error:.2%}",
         f"{np.max([abs(s.value / p.value - 1) for s, p in zip(a.surrogate, a.pde, strict=True)]):.2%}",
         f"{np.mean([p.value for p in a.pde]):.4g}", f"{np.mean([p.standard_error for p in a.pde]):.3g}",
         len(a.failures)]
        for name, a in compared.items()
    ]  # fmt: skip
    against = []
    for k, a in rivals.items():
        values = np.array([p.value for p in a.pde])
        best = 1 + int(np.argmax(values[1:]))
        gained = a.rivals[best]
        against.append(
            [k, f"{values[0]:.3f}", f"{values[best]:.3f}", f"{np.median(values[1:]):.3f}",
             f"{gained.value:.3f} {shown(gained.interval, gained.reason, 3)}", f"{a.n_worse} of {len(values) - 1}",
             f"{a.rank_correlation:.4f}", len(a.failures)]
        )  # fmt: skip
    head = [
        "k", "found", "best random", "median random", "found less best (95 %)", "better than", "Spearman", "failed",
    ]  # fmt: skip
    pair = np.mean([a.seconds for a in rivals.values()])
    total = offline["generate"] + offline["train"] + cost["seconds"]
    time_rows = [
        ["samples, in core seconds", f"{offline['generate']:.0f}"],
        ["training", f"{offline['train']:.0f}"],
        [f"searches for {', '.join(map(str, designs))} sensors, {cost['pairs']} pairs, {cost['failed']} failed",
         f"{cost['seconds']:.0f}"],
        ["all with the surrogate", f"{total:.0f}"],
        ["one pair with the PDE, mean", f"{pair:.3f}"],
        ["as many pairs with the PDE: multiplied, not run", f"{pair * cost['pairs']:.3g}"],
        ["ratio, offline included", f"{pair * cost['pairs'] / total:.0f}"],
        ["ratio, search alone", f"{pair * cost['pairs'] / cost['seconds']:.0f}"],
    ]  # fmt: skip
    return f"""# Optimal design, {size.problem}: surrogate against PDE

Machine: {processor()}; ranks: {COMM.size}.  Commands: see `benchmarks/oed.py`{", --small" if is_small(size) else ""}.
{size.mesh} cells a side, {offline["parameters"]} parameters, N = {size.n_train}, ranks {size.ranks}.  Held-out errors:
observable {offline["observable"]:.2%}, full Jacobian {offline["jacobian"]:.2%}; beside them {trivial(offline)}.
Both count the same draws of parameter and noise; the PDE observes the full parameter.

## {size.n_compared} random designs of {size.n_sensors} sensors, {size.n_pde_draws} draws

{table(["criterion", "Spearman", "mean relative error", "largest", "PDE, mean", "its standard error", "failed"], rows)}

A is the decrease of the trace, D that of the log-determinant, whose relative errors are larger than those of
trace and log-determinant themselves.  All criteria by the surrogate took {surrogate_seconds:.1f} s.

## The design found against {size.n_random} random ones, by the PDE, {size.n_random_draws} draws each

{table(head, against)}

Information gain in nats; the interval is of the mean over draws, which both designs share.

## Seconds

{table(["", "seconds"], time_rows)}

A pair is the MAP point and the Laplace approximation of one design and one draw.  The surrogate searches on one core.
"""


@app.command()
def speed(
    problem: Problem = "sensor_placement", small: Small = False, mesh: Mesh = None, n_train: Train = None
) -> None:
    """Searches against each other and against exhaustive search; evaluations a second."""
    size = chosen(problem, small, mesh, n_train)
    data, path, _ = files(size)
    dataset, dino = hd.Dataset.open(data), hd.DINO.load(path)
    noise = dataset.noise_covariance
    text = f"""# Optimal design, {size.problem}: searches and speed ({size.mesh} cells a side, N = {size.n_train})

Machine: {processor()}, one core.  Command: see `benchmarks/oed.py`{", --small" if small else ""}.

## Searches, information gain by MAP points, {size.n_draws} draws

{table(["search", "candidates", "k", "value", "designs", "seconds"], searches(dino, noise, size))}

Linearised start: swapping greedy on the linearised criterion, and from its design by MAP points.  The bound is that of
the relaxed weights for the linearised criterion.

## Pairs of (design, draw) a second

{
        table(
            ["varied", "value", "MAP points and Laplace", "linearised", "linearised, one added (low rank)"],
            throughput(dataset, dino, noise, size),
        )
    }

Random designs; k = {size.sensors[1]}, {size.n_draws} draws and the ranks of the DINO where not varied.
"""
    write(size, "speed", text)


def searches(dino: hd.DINO, noise, size: Size) -> list[list]:
    rows = []

    def row(name: str, gain: oed.Criterion, k: int, run, candidates: int) -> oed.Design:
        fresh = gain.with_draws(gain.draws)  # which knows no values yet
        begun = time.perf_counter()
        design = run(fresh)
        seconds = time.perf_counter() - begun
        rows.append([name, candidates, k, f"{gain(design):.4f}", design.n_evaluations, f"{seconds:.1f}"])
        return design

    gain = oed.InformationGain(dino, noise, size.n_draws)
    linear = oed.InformationGain(dino, noise, size.n_draws, method="linearized")
    n, few = gain.n_candidates, list(range(0, gain.n_candidates, 5))
    for k in size.sensors:
        row("greedy", gain, k, lambda g, k=k: oed.greedy(g, k), n)
        row("swapping greedy", gain, k, lambda g, k=k: oed.swapping_greedy(g, k), n)
        row("swapping greedy, linearised start", gain, k, lambda g, k=k: search(g, linear, k), n)
        row("relaxed weights", gain, k, lambda g, k=k: oed.relaxed(g, k), n)
        best = max(gain.evaluate(oed.random_designs(gain, k, size.n_random, seed=3)))
        rows.append([f"best of {size.n_random} random", n, k, f"{best:.4f}", size.n_random, ""])
        rows.append(["bound, linearised", n, k, f"{oed.relaxed(linear, k).bound:.4f}", "", ""])
    k = 2 if is_small(size) else 4
    row("exhaustive", gain, k, lambda g: oed.exhaustive(g, k, candidates=few), len(few))
    row("swapping greedy", gain, k, lambda g: oed.swapping_greedy(g, k, candidates=few), len(few))
    return rows


def rates(dino: hd.DINO, noise, k: int, n_draws: int, n_designs: int) -> list[str]:
    gain = oed.InformationGain(dino, noise, n_draws)
    linear = oed.InformationGain(dino, noise, n_draws, method="linearized")
    designs = oed.random_designs(gain, k, n_designs, seed=4)
    out = []
    for criterion in (gain, linear):
        criterion.evaluate(designs[:1])  # linearisations at draws and mean are made
        begun = time.perf_counter()
        criterion.evaluate(designs[1:])
        out.append((len(set(designs)) - 1) * n_draws / (time.perf_counter() - begun))
    others = [c for c in range(gain.n_candidates) if c not in designs[0]]
    begun = time.perf_counter()
    linear.extensions(designs[0], others)
    out.append(len(others) * n_draws / (time.perf_counter() - begun))
    return [f"{rate:.3g}" for rate in out]


def throughput(dataset: hd.Dataset, dino: hd.DINO, noise, size: Size) -> list[list]:
    n_designs, k = (5 if is_small(size) else 40), size.sensors[1]
    rows: list[list] = [["k", some, *rates(dino, noise, some, size.n_draws, n_designs)] for some in size.sensors]
    for n_draws in (8, 64, 256):
        rows.append(["draws", n_draws, *rates(dino, noise, k, n_draws, n_designs)])
    for share in (4, 2):
        rank = size.ranks[0] // share
        smaller = dataset.truncate(rank, min(rank, size.ranks[1]))
        quick = hd.train(smaller, "h1", seed=0, epochs=5 if is_small(size) else 20, progress=False)
        rows.append(["rM", rank, *rates(quick, noise, k, size.n_draws, n_designs)])
    rows.append(["rM", size.ranks[0], *rates(dino, noise, k, size.n_draws, n_designs)])
    n_candidates = dino.output_basis.dim
    for n in (n_candidates // 4, n_candidates // 2, n_candidates):
        linear = oed.InformationGain(dino, noise, size.n_draws, method="linearized")
        begun = time.perf_counter()
        design = oed.swapping_greedy(linear, k, candidates=list(range(0, n_candidates, n_candidates // n)))
        seconds = time.perf_counter() - begun
        rows.append(["n candidates, whole search", n, "", f"{design.n_evaluations} designs in {seconds:.2f} s", ""])
    return rows


if __name__ == "__main__":
    app()
