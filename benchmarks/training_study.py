"""Accuracy against training size: every formulation, architecture and baseline, on the paper's three problems.

    for p in confusion reaction_diffusion hyperelasticity; do python -m benchmarks.training_study generate $p; done
    python -m benchmarks.training_study run            # --full for all sizes, --small for a quick look
    python -m benchmarks.training_study tables         # --problem, --output for a part of it

`run` needs no FEniCS.  It shares the trainings among processes of one thread each, or gives them to the GPU one after
the other, keeps every result in a file of its own, so that it can be stopped and go on, and needs the datasets (and
`generate`'s Taylor expansions) alone.  `tables` writes benchmarks/results/training_study.md.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from matplotlib.figure import Figure
from tqdm import tqdm

from benchmarks.tables import processor, table
from hippylib_dino.plotting.figures import COLORS

HERE = Path(__file__).parent
OUTPUT = HERE / "output"
RESULTS = OUTPUT / "training_study"
# samples, ranks stored, ranks of the study
PROBLEMS = {
    "confusion": (4096, (200, 50), (100, 50)),
    "reaction_diffusion": (1024, (200, 50), (100, 50)),
    "hyperelasticity": (1024, (200, 100), (100, 100)),
}
SIZES = (16, 64, 256, 1024)
OTHER_SIZES = (64, 1024)
SEEDS = (0, 1, 2)
FORMULATIONS = ("l2", "h1", "h1_truncated", "h1_sketched")
# other networks: all latent inputs of one scale, as in the paper; residual; on full dimensions, the paper's control
# (one seed, two sizes)
OTHERS = ("l2 unscaled", "h1 unscaled", "resnet h1", "full-dimensional l2")
BASELINES = ("mean Jacobian", "Taylor 1", "Taylor 2", "kernel rbf", "kernel polynomial")
METRICS = {
    "observable": "observable",
    "observable_in_noise": "in noise deviations",
    "jacobian": "full Jacobian",
    "gauss_newton": "Gauss-Newton",
    "misfit_gradient_riesz": "misfit gradient",
    "null_space": "null space",
}

app = typer.Typer(no_args_is_help=True)


@dataclass(frozen=True)
class Job:
    """One trained (or fitted) model."""

    problem: str
    method: str
    n_train: int
    seed: int

    @property
    def file(self) -> Path:
        return RESULTS / f"{self.problem}-{self.method.replace(' ', '_')}-{self.n_train}-{self.seed}.json"


@cache
def dataset_of(problem: str):
    import hippylib_dino as hd

    dataset = hd.Dataset.open(OUTPUT / f"training_{problem}").truncate(*PROBLEMS[problem][2])
    dataset.split = lru_cache(maxsize=8)(dataset.split)  # read once for all trainings of a process
    return dataset


def fit(job: Job):
    """The DINO of a job."""
    import hippylib_dino as hd
    from hippylib_dino.network import FullDense, ReducedDense, ReducedResNet

    data, n = dataset_of(job.problem), job.n_train
    ranks = PROBLEMS[job.problem][2]
    settings = {"n_train": n, "seed": job.seed, "progress": False}
    if job.method in FORMULATIONS:
        return hd.train(data, job.method, **settings)
    if job.method.endswith("unscaled"):
        network = ReducedDense(*ranks, input_scale=(1.0,) * ranks[0])
        return hd.train(data, job.method.split()[0], architecture=network, **settings)
    if job.method == "resnet h1":
        return hd.train(data, "h1", architecture=ReducedResNet(*ranks), **settings)
    if job.method == "full-dimensional l2":
        return hd.train(data, "l2", architecture=FullDense(*ranks), **settings)
    if job.method == "mean Jacobian":
        return hd.linear_model(data, n_train=n)
    if job.method.startswith("Taylor"):
        return hd.DINO.load(OUTPUT / f"{job.problem}-taylor-{job.method[-1]}.dino")
    if job.method == "kernel rbf":
        return hd.kernel_regression(data, n_train=n, kernel="rbf")
    return hd.kernel_regression(data, n_train=n, kernel="polynomial")


def work(job: Job) -> None:
    start = time.perf_counter()
    dino = fit(job)
    seconds = time.perf_counter() - start
    errors = dino.evaluate(dataset_of(job.problem))
    how = {k: v for k, v in dino.training.items() if k != "history"}
    partial = job.file.with_suffix(".partial")
    partial.write_text(json.dumps({**asdict(job), "seconds": seconds, "errors": errors, "training": how}))
    os.replace(partial, job.file)
    if "keras" in sys.modules:
        sys.modules["keras"].utils.clear_session()  # what was compiled is given back


def jobs(problems: tuple[str, ...], sizes: tuple[int, ...], seeds: tuple[int, ...]) -> list[Job]:
    """All of the study: what one seed tells first, and of that the long ones."""
    found = []
    for problem in problems:
        n_samples = PROBLEMS[problem][0]
        for n, method in itertools.product(sizes, (*FORMULATIONS, *OTHERS)):
            if method in OTHERS and n not in OTHER_SIZES:
                continue
            used = seeds if method in FORMULATIONS else seeds[:1]
            found += [Job(problem, method, n, seed) for seed in used if n <= n_samples]
        for n, method in itertools.product(sizes, BASELINES):
            if n <= 1024 and not (method.startswith("Taylor") and n != sizes[0]):
                found.append(Job(problem, method, n, 0))
    return sorted(found, key=lambda job: (job.seed, job.n_train > SIZES[-1], job.problem, -job.n_train))


@app.command()
def generate(problem: str, ranks: Annotated[int, typer.Option(help="MPI ranks.")] = 2) -> None:
    """Dataset and Taylor expansions of a problem (needs FEniCS)."""
    n_samples, (input_rank, output_rank), _ = PROBLEMS[problem]
    command = [sys.executable, "-m", "hippylib_dino.cli", "generate", f"applications.{problem}"]
    command += [str(OUTPUT / f"training_{problem}"), "--n-samples", str(n_samples), "--n-validation", "256"]
    command += ["--n-test", "512", "--input-rank", str(input_rank), "--output-rank", str(output_rank)]
    command += ["--store-parameters", "--resume", "--retry", "continuation", "--max-failures", "50"]
    subprocess.run(["mpirun", "-n", str(ranks), *command], check=True)
    import importlib

    import hippylib_dino as hd

    model = importlib.import_module(f"applications.{problem}").build(hd.sample_communicator())
    for order in (1, 2):
        dino = hd.taylor_expansion(model, dataset_of(problem), order=order)
        dino.save(OUTPUT / f"{problem}-taylor-{order}.dino", overwrite=True)


def has_gpu() -> bool:
    """Whether Keras sees one."""
    code = "import keras; print(len(keras.distribution.list_devices('gpu')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.returncode == 0 and int(done.stdout.split()[-1]) > 0


@app.command()
def run(
    full: Annotated[bool, typer.Option(help="N = 4096 as well; the default where there is a GPU.")] = False,
    small: Annotated[bool, typer.Option(help="N = 16 and 64, one seed.")] = False,
    problem: Annotated[list[str] | None, typer.Option(help="Some of the problems.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Some of the methods.")] = None,
    size: Annotated[list[int] | None, typer.Option(help="Some of the sizes.")] = None,
    processes: Annotated[int, typer.Option(help="Trainings at the same time; 0: one a core, one on a GPU.")] = 0,
) -> None:
    """Train and fit what is not there yet."""
    gpu = has_gpu()
    sizes = SIZES[:2] if small else (*SIZES, 4096) if full or gpu else SIZES
    RESULTS.mkdir(parents=True, exist_ok=True)
    todo = [
        job
        for job in jobs(tuple(problem or PROBLEMS), tuple(size or sizes), SEEDS[:1] if small else SEEDS)
        if (not method or job.method in method) and not job.file.exists()
    ]
    n = processes or (1 if gpu else os.cpu_count() or 1)
    if not gpu:
        for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
            os.environ[name] = "1"
    with ProcessPoolExecutor(n, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(work, job) for job in todo]
        for future in tqdm(as_completed(waiting), total=len(waiting), unit="model"):
            future.result()


def collected() -> list[dict]:
    return [json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))]


def shown(metric: str, values: list[float]) -> str:
    """Mean, and spread over the seeds."""
    style = ".3g" if metric == "observable_in_noise" else ".2%"
    mean = format(np.mean(values), style)
    return mean if len(values) == 1 else f"{mean} ± {format(np.std(values, ddof=1), style)}"


def draw(results: list[dict]) -> Figure:
    """Errors against N: a column a problem, a row a metric."""
    present = [p for p in PROBLEMS if any(r["problem"] == p for r in results)]
    metrics = ("observable", "jacobian")
    figure = Figure(figsize=(4.2 * len(present) + 1.5, 7), layout="constrained")
    panels = figure.subplots(len(metrics), len(present), squeeze=False, sharex=True)
    for (row, metric), (column, problem) in itertools.product(enumerate(metrics), enumerate(present)):
        axes = panels[row, column]
        for i, method in enumerate((*FORMULATIONS, *OTHERS, *BASELINES)):
            own = [r for r in results if r["problem"] == problem and r["method"] == method]
            if not own:
                continue
            sizes = sorted({r["n_train"] for r in own})
            errors = [[r["errors"][metric] for r in own if r["n_train"] == n] for n in sizes]
            style = {"color": COLORS[i % len(COLORS)], "label": method}
            if method.startswith("Taylor"):
                axes.axhline(errors[0][0], linestyle=":", linewidth=1.2, **style)
                continue
            means = np.array([np.mean(e) for e in errors])
            spread = np.array([np.std(e, ddof=1) if len(e) > 1 else 0.0 for e in errors])
            line = "--" if method in BASELINES else "-." if method in OTHERS else "-"
            marker = {"-": "o", "-.": "s", "--": "^"}[line]
            axes.errorbar(sizes, means, spread, marker=marker, markersize=4, linestyle=line, **style)
        axes.set(xscale="log", yscale="log")
        axes.set_xticks(SIZES, [str(n) for n in SIZES])
        axes.minorticks_off()
        axes.grid(True, alpha=0.3)
        if row == 0:
            axes.set_title(problem.replace("_", "-"))
        else:
            axes.set_xlabel("training samples N")
        if column == 0:
            axes.set_ylabel(f"relative error, {METRICS[metric]}")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper")
    return figure


@app.command()
def tables(
    output: Path = HERE / "results" / "training_study.md",
    problem: Annotated[list[str] | None, typer.Option(help="Some of the problems.")] = None,
) -> None:
    """Tables and figure of what is there."""
    from hippylib_dino import plotting

    results = [r for r in collected() if r["problem"] in (problem or PROBLEMS)]
    sections = []
    for name in PROBLEMS:
        rows, own = [], [r for r in results if r["problem"] == name]
        if not own:
            continue
        for method in (*FORMULATIONS, *OTHERS, *BASELINES):
            for n in sorted({r["n_train"] for r in own if r["method"] == method}):
                same = [r for r in own if r["method"] == method and r["n_train"] == n]
                cells = [shown(m, [r["errors"][m] for r in same]) for m in METRICS]
                seconds = np.mean([r["seconds"] for r in same])
                size = "-" if method.startswith("Taylor") else n
                rows.append([method, size, *cells, f"{seconds:.0f} s" if not method.startswith("Taylor") else "-"])
        floor = own[0]["errors"]
        ranks = PROBLEMS[name][2]
        sections.append(
            f"## {name}, ranks {ranks}\n\n"
            f"The bases alone leave {floor['observable_truncation']:.3%} of the observable and "
            f"{floor['jacobian_truncation']:.3%} of the Jacobian. A constant scores {floor['observable_constant']:.1%} "
            f"of the observable and {floor['jacobian_constant']:.1%} of the Jacobian.\n\n"
            + table(["model", "N", *METRICS.values(), "training"], rows)
        )
    plotting.save(draw(results), output.with_suffix(".png"))
    body = "\n\n".join(sections)
    output.write_text(
        f"""# Accuracy against training size

Machine: {processor()}; one thread a training. Commands: see `benchmarks/training_study.py`.

Relative errors on 512 held-out samples (definitions: docs/training.md; the mean observable scores 100 %), mean ±
standard deviation over the seeds of the training where several ran. All of a problem share one pair of bases, made from
128 Jacobians, and N/4 (at least 16) validation samples on top of N. "Taylor" expansions at the prior mean take 1 and
201 PDE solves and no samples.

![errors against N]({output.stem}.png)

{body}
"""
    )
    print(output.read_text())


if __name__ == "__main__":
    app()
