"""Samples with full Jacobians an hour on one core: plain hIPPYlib against the accelerated problem.

    python -m benchmarks.generation_speed

Run with one BLAS thread (OMP_NUM_THREADS=1).  Plain hIPPYlib is `solveFwd` from zero, `setLinearizationPoint` and one
adjoint solve with one `applyCt` for each row of J; accelerated is what `hd.generate` does for a sample.  Both take the
same samples in turns within one run, and tables give medians.  Writes benchmarks/results/generation_speed.md.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import hippylib as hp
import numpy as np
import typer
import zarr
from petsc4py import PETSc

import hippylib_dino as hd
from applications import confusion, hyperelasticity
from applications.compiling import compile_for_this_processor
from benchmarks.tables import plain_model, processor, table
from hippylib_dino.data.projection import Projector, linearized_covariance
from hippylib_dino.data.solving import Solved
from hippylib_dino.data.storing import SampleWriter
from hippylib_dino.modeling.spaces import owned_values, set_owned_values
from hippylib_dino.reduction import derivative_output_basis, kle_input_basis

RESULTS = Path(__file__).parent / "results" / "generation_speed.md"
CASES = (
    ("CRD 64x64", confusion.build, 64),
    ("CRD 128x128", confusion.build, 128),
    ("hyperelasticity 64x64", hyperelasticity.build, 64),
)
SENSORS = (50, 200, 800)
RANKS = 100, 50  # of the bases


class Stopwatch:
    """Seconds of named stages, one list entry a sample."""

    def __init__(self):
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def __call__(self, stage: str, work: Callable):
        start = time.perf_counter()
        result = work()
        self.seconds[stage].append(time.perf_counter() - start)
        return result

    def median(self, *stages: str) -> float:
        """Milliseconds; of several stages the median of their sum."""
        return 1e3 * float(np.median(np.sum([self.seconds[stage] for stage in stages], axis=0)))


def plain_rows(model: hp.Model) -> np.ndarray:
    """Jᵀ (dM, dQ) at the linearisation point, one adjoint solve a row."""
    rhs, p, row = (model.generate_vector(i) for i in (hp.STATE, hp.ADJOINT, hp.PARAMETER))
    e = model.misfit.d.copy()
    rows = np.empty((row.size(), e.size()))
    for j in range(e.size()):
        unit = np.zeros(e.size())
        unit[j] = 1.0
        set_owned_values(e, unit)
        model.misfit.B.transpmult(e, rhs)
        model.solveAdjIncremental(p, rhs)
        model.applyCt(p, row)
        rows[:, j] = -owned_values(row)
    return rows


def plain_sample(model: hp.Model, m, watch: Stopwatch) -> np.ndarray:
    """A sample as a hIPPYlib script takes it."""
    u = model.generate_vector(hp.STATE)
    watch("plain forward", lambda: model.solveFwd(u, [u, m, None]))
    x = [u, m, model.generate_vector(hp.ADJOINT)]
    watch("plain linearisation", lambda: model.setPointForHessianEvaluations(x, gauss_newton_approx=True))
    return watch("plain rows", lambda: plain_rows(model))


def accelerated_sample(model: hd.JacobianModel, m, watch: Stopwatch) -> tuple[Solved, np.ndarray]:
    """A sample as `hd.generate` takes it, stage by stage."""
    u = watch("forward", lambda: model.solveState(m))
    J = watch("point", lambda: model.linearize_at(u, m))
    problem = model.problem
    watch("assembly of A", lambda: problem.A)
    watch("assembly of C", lambda: problem.C)
    watch("factorization", lambda: problem.linearized_solver().factor(model.misfit.B.size(0)))
    rows = watch("block solve and product", J.owned_rows)
    return Solved(owned_values(m), model.observe_local(u), rows), rows


JACOBIAN = ("point", "assembly of A", "assembly of C", "factorization", "block solve and product")
STAGES = ("sampling", "forward", *JACOBIAN, "projection", "I/O")


def compare(name: str, build: Callable, size: int, n: int) -> tuple[list, list, list]:
    """Rows of the three tables for one problem."""
    model = build(hd.sample_communicator(), size)
    plain, watch = plain_model(model), Stopwatch()
    draws = [hd.data.draw_parameter(model.prior, 0, i) for i in range(n + 1)]
    iterations, agreement = [], []
    projector, store = some_projector(model)
    writer = SampleWriter(store)
    for i, m in enumerate(draws):
        if i == 1:
            watch.seconds.clear()  # the first sample compiled the forms
        watch("sampling", lambda i=i: hd.data.draw_parameter(model.prior, 0, i))
        truth = plain_sample(plain, m, watch)
        solved, rows = accelerated_sample(model, m, watch)
        iterations.append(model.problem.report)
        agreement.append(np.linalg.norm(rows - truth) / np.linalg.norm(truth))
        record = watch("projection", lambda s=solved, p=projector: p.record(s))
        if not len(store):
            for key, value in record.items():
                store.create_array(key, shape=(1, *np.shape(value)), chunks=(1, *np.shape(value)), dtype="f8")
        watch("I/O", lambda r=record, w=writer: w.write(0, r))
        PETSc.garbage_cleanup(PETSc.COMM_SELF)
    plain_ms = watch.median("sampling", "plain forward", "plain linearisation", "plain rows")
    ours_ms = watch.median("sampling", "forward", *JACOBIAN)
    forward, jacobian = watch.median("forward"), watch.median(*JACOBIAN)
    counts = [np.mean([getattr(r, field) for r in iterations[1:]]) for field in ("iterations", "residual_assemblies",
                                                                                "factorizations")]  # fmt: skip
    ratio = np.median(
        np.sum([watch.seconds[s] for s in ("sampling", "plain forward", "plain linearisation", "plain rows")], axis=0)
        / np.sum([watch.seconds[s] for s in ("sampling", "forward", *JACOBIAN)], axis=0)
    )
    jacobians = np.sum([watch.seconds[s] for s in JACOBIAN], axis=0)
    share = np.median(jacobians / np.array(watch.seconds["forward"]))
    summary = [
        name, model.misfit.B.size(0), f"{plain_ms:.0f}", f"{watch.median('plain forward'):.0f}", f"{ours_ms:.0f}",
        f"{forward:.0f}", f"{jacobian:.0f}", f"**{ratio:.1f}**", f"**{share:.0%}**",
        f"{np.median(jacobians / np.array(watch.seconds['plain forward'])):.0%}",
        f"{max(agreement):.0e}",
    ]  # fmt: skip
    breakdown = [name, *(f"{watch.median(stage):.1f}" for stage in STAGES)]
    return summary, breakdown, [name, *(f"{value:.1f}" for value in counts)]


def some_projector(model: hd.JacobianModel) -> tuple[Projector, zarr.Group]:
    """A projector on bases of the usual size, made from the prior mean; and a place to write to."""
    noise = model.noise_covariance
    covariance = linearized_covariance(model.prior, model.jacobian(model.prior.mean).owned_rows())
    output = derivative_output_basis(np.zeros(noise.dim), covariance, noise, rank=min(RANKS[1], noise.dim))
    basis = kle_input_basis(model.prior, rank=RANKS[0])
    folder = tempfile.mkdtemp()
    return Projector(model, basis, output, seed=0), zarr.open_group(folder, mode="w")


def block_against_rows(n_repeats: int) -> list[list]:
    """J of CRD 64x64 with more and more sensors: all rows at once, and hIPPYlib's way, A factored before."""
    base = confusion.build(hd.sample_communicator(), 64)
    space, rows = base.problem.Vh[hp.STATE], []
    m = hd.data.draw_parameter(base.prior, 0, 1)
    for n_sensors in SENSORS:
        points = np.random.default_rng(0).uniform(0.05, 0.95, (n_sensors, 2))
        misfit = hp.DiscreteStateObservation(hp.assemblePointwiseObservation(space, points), noise_variance=1.0)
        model = hd.JacobianModel(base.problem, base.prior, misfit)
        u, plain, watch = model.solveState(m), plain_model(model), Stopwatch()
        plain.setPointForHessianEvaluations([u, m, plain.generate_vector(hp.ADJOINT)], gauss_newton_approx=True)
        model.linearize_at(u, m).owned_rows()
        plain_rows(plain)
        for _ in range(n_repeats):
            J = model.linearize_at(u, m)
            model.problem.C.mat()
            model.problem.linearized_solver().factor(n_sensors)
            block = watch("block", J.owned_rows)
            single = watch("one by one", lambda plain=plain: plain_rows(plain))
        error = np.linalg.norm(block - single) / np.linalg.norm(single)
        ratio = np.median(np.array(watch.seconds["one by one"]) / np.array(watch.seconds["block"]))
        rows.append(
            [
                n_sensors,
                f"{watch.median('one by one'):.0f}",
                f"{watch.median('block'):.0f}",
                f"{ratio:.1f}",
                f"{error:.0e}",
            ]
        )
    return rows


def main(n: int = 12, output: Path = RESULTS) -> None:
    """Measure, print, write the tables."""
    compile_for_this_processor()
    results = [compare(name, build, size, n) for name, build, size in CASES]
    summary, breakdown, counts = ([result[k] for result in results] for k in range(3))
    header = ["problem", "dQ", "plain", "plain forward", "accelerated", "forward", "Jacobian", "plain : accelerated",
              "Jacobian : forward", "Jacobian : plain forward", "difference of J"]  # fmt: skip
    text = f"""# Samples with full Jacobians, one core

Machine: {processor()}; `OMP_NUM_THREADS=1 python -m benchmarks.generation_speed`; OpenBLAS; forms compiled with
-O3 -march=native for both. Milliseconds a sample, medians of {n} samples that both solve in turns; ratios are medians
of the samples' ratios. "Plain" is hIPPYlib's `solveFwd` from zero, `setLinearizationPoint` and one adjoint solve a row.
Sampling is part of both.

{table(header, summary)}

## Where an accelerated sample's time goes (ms)

{table(["problem", *STAGES], breakdown)}

Projection is on bases of rank {RANKS[0]} and {RANKS[1]}, I/O the writing of one sample.

## Work of an accelerated forward solve, mean

{table(["problem", "steps", "residual assemblies", "factorizations"], counts)}

## Rows of J at once against one by one, CRD 64x64, A factored and C assembled before (ms)

{table(["dQ", "one by one (hIPPYlib)", "block", "ratio", "difference"], block_against_rows(5))}
"""
    output.parent.mkdir(exist_ok=True)
    output.write_text(text)
    print(text)


if __name__ == "__main__":
    typer.run(main)
