"""Optimization under uncertainty: semilinear control by 49 wells, three targets; CVaR and mean + variance.

    mpirun -n 2 python -m benchmarks.control generate    # 1024 training samples, 128 each to validate and test
    python -m benchmarks.control train                   # "h1" and its twin "l2"
    mpirun -n 2 python -m benchmarks.control reference   # optimal controls by the PDE alone: an hour
    mpirun -n 2 python -m benchmarks.control measure     # controls by DINO and twin; the PDE judges them all

Run with one BLAS thread a rank (OMP_NUM_THREADS=1).  Evaluations by the PDE are kept in benchmarks/output, and a run
that was interrupted goes on.  With --small everything takes a minute, and says nothing.  --problem flow_control is the
flow past a body, one quantity.  Writes benchmarks/results/control.md and .png, or control_flow.md and .png.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Annotated

import dolfin as dl
import numpy as np
import typer
from mpi4py import MPI

import hippylib_dino as hd
from applications import flow_control, semilinear_control
from applications.compiling import compile_for_this_processor
from benchmarks.tables import processor, table, trivial
from hippylib_dino import ouu
from hippylib_dino.intervals import shown
from hippylib_dino.network import ReducedProduct
from hippylib_dino.plotting import plot_quantity, save

HERE = Path(__file__).parent
OUTPUT, RESULTS = HERE / "output", HERE / "results"
COMMON, FRESH = 1, 2  # seeds of samples; that of the training data is 0
FORMULATIONS = ["h1", "l2"]


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    name: str
    mesh: int
    n_train: int
    n_held_out: int
    n_basis: int
    ranks: tuple[int, int]
    n_samples: int
    n_cheap: int
    width: int  # products of the network
    epochs: int
    iterations: int  # of the surrogates
    pde_iterations: int
    polish: int  # evaluations of the PDE

    def path(self, suffix: str) -> Path:
        return OUTPUT / f"{self.name}{suffix}"


@dataclass(frozen=True)
class Case:
    """A control problem, its risk measures, and how much is done."""

    module: ModuleType  # with `build`, and the bound of controls in its `model`
    about: str
    quantities: Callable[[hd.JacobianModel], dict[str, ouu.FormQuantity]]
    risks: dict[str, ouu.RiskMeasure]
    penalty: ouu.L2Penalty
    full: Size
    small: Size

    @property
    def bounds(self) -> tuple[float, float]:
        return -self.module.model.LARGEST, self.module.model.LARGEST

    def judge(self, risk: str) -> ouu.RiskMeasure:
        """By which controls are compared: without smoothing."""
        measure = self.risks[risk]
        return replace(measure, epsilon=1e-9) if isinstance(measure, ouu.CVaR) else measure


def tracking(model: hd.JacobianModel) -> dict[str, ouu.FormQuantity]:
    targets = {
        "sin 2πx sin 2πy": "sin(2*pi*x[0])*sin(2*pi*x[1])",
        "sin 4πx sin 2πy": "sin(4*pi*x[0])*sin(2*pi*x[1])",
        "1": "1.0",
    }
    Vh = model.problem.Vh
    return {label: ouu.tracking(Vh, dl.Expression(target, degree=4)) for label, target in targets.items()}


def risks(beta: float) -> dict[str, ouu.RiskMeasure]:
    return {
        "CVaR 0.95": ouu.CVaR(beta=0.95, epsilon=1e-4),
        f"mean + {beta:g} variance": ouu.MeanVariance(beta=beta),
    }


CASES = {
    "semilinear_control": Case(
        semilinear_control, "49 wells, Q = ½‖u - u_d‖²", tracking, risks(10.0), ouu.L2Penalty(1e-4),
        full=Size("control", 64, 1024, 128, 512, (200, 200), 256, 4096, 256, 100, 500, 100, 5),
        small=Size("control_small", 12, 24, 8, 24, (8, 12), 6, 64, 32, 5, 3, 3, 2),
    ),
    "flow_control": Case(
        flow_control, "blowing and suction at a body by 18 splines, Q = dissipation",
        lambda model: {"dissipation": flow_control.quantity(model)}, risks(1.0), ouu.L2Penalty(1e-3),
        full=Size("control_flow", 16, 512, 64, 256, (16, 120), 64, 2048, 128, 200, 300, 60, 5),
        small=Size("control_flow_small", 8, 16, 4, 16, (4, 8), 4, 64, 16, 5, 3, 3, 2),
    ),
}  # fmt: skip

Which = Annotated[str, typer.Option("--problem", help="semilinear_control or flow_control.")]
Small = Annotated[bool, typer.Option(help="A quick look.")]
app = typer.Typer(help=__doc__, add_completion=False)


def chosen(problem: str, small: bool) -> tuple[Case, Size]:
    if problem not in CASES:
        raise typer.BadParameter(f"--problem: expected one of {list(CASES)}, got {problem!r}.")
    case = CASES[problem]
    return case, case.small if small else case.full


def prepare(case: Case, size: Size) -> hd.JacobianModel:
    compile_for_this_processor()
    return case.module.build(hd.sample_communicator(), size.mesh)


@app.command()
def generate(problem: Which = "semilinear_control", small: Small = False) -> None:
    """Training, validation and test samples."""
    case, size = chosen(problem, small)
    OUTPUT.mkdir(exist_ok=True)
    hd.generate(
        prepare(case, size), size.path(""), n_samples=size.n_train, n_validation=size.n_held_out,
        n_test=size.n_held_out, n_basis_samples=size.n_basis, input_rank=size.ranks[0], output_rank=size.ranks[1],
        output_basis="pod", seed=0, resume=True, retry="continuation", max_failures=size.n_train // 20 + 5,
    )  # fmt: skip


@app.command()
def train(
    problem: Which = "semilinear_control",
    formulation: Annotated[list[str], typer.Option()] = FORMULATIONS,
    small: Small = False,
) -> None:
    """The DINO and its twin, which sees values alone; one of them with --formulation."""
    _, size = chosen(problem, small)
    dataset = hd.Dataset.open(size.path(""))
    for loss in formulation:
        network = ReducedProduct(
            dataset.input_basis.rank, dataset.output_basis.rank, hidden=(size.width,), width=size.width,
            layer_rank=size.width // 2,
        )  # fmt: skip
        dino = hd.train(dataset, loss, architecture=network, epochs=size.epochs, seed=0)
        print(loss, dino.evaluate(dataset))
        dino.save(size.path(f"_{loss}.dino"), overwrite=True)
        for path in OUTPUT.glob(f"{size.name}_[0-9]*.polish"):  # from controls of an earlier DINO
            path.unlink()


def minimize(case: Case, ensemble: ouu.Ensemble, risk: str, iterations: int, **options) -> ouu.OptimalControl:
    """From zero."""
    objective = ouu.Objective(ensemble, case.risks[risk], [case.penalty])
    return ouu.minimize(
        objective,
        np.zeros(ensemble.n_control),
        bounds=case.bounds,
        max_iterations=iterations,
        progress=False,
        **options,
    )


def own_optimum(case: Case, common: ouu.PDEEnsemble, size: Size, stem: str, risk: str) -> ouu.OptimalControl:
    return minimize(case, common, risk, size.pde_iterations, path=size.path(f"{stem}.pde"), resume=True)


def stems(case: Case, number: int) -> dict[str, str]:
    """What the files of evaluations by the PDE are called for a quantity, by risk."""
    return {risk: f"_{number}_{i}" for i, risk in enumerate(case.risks)}


@app.command()
def reference(problem: Which = "semilinear_control", small: Small = False) -> None:
    """The PDE's own optimal controls, which `measure` reads."""
    case, size = chosen(problem, small)
    model = prepare(case, size)
    for number, (target, form) in enumerate(case.quantities(model).items()):
        common = ouu.PDEEnsemble.draw(model, form, size.n_samples, seed=COMMON)
        for risk, stem in stems(case, number).items():
            run = own_optimum(case, common, size, stem, risk)
            if common.is_first:
                found = f"{run.risk:.6g} after {run.n_evaluations} evaluations, {run.message}"
                print(f"{target}, {risk}: {found}", flush=True)


@dataclass
class Problem:
    """One target and one risk measure: what was found, and what the PDE says of it."""

    case: Case
    target: str
    risk: str
    runs: dict[str, ouu.OptimalControl]  # "PDE", "polished", and by formulation
    quantities: dict[str, np.ndarray]  # of the PDE at the common samples, of each of these controls and of zero
    fresh: dict[str, ouu.Assessment]  # at other samples, of zero and of the DINO's control
    pde_seconds: float  # of a gradient, summed over cores
    surrogate_seconds: float

    def value(self, label: str) -> float:
        """Risk by the PDE at the common samples."""
        return self.case.judge(self.risk).value(self.quantities[label])

    def excess(self, label: str) -> float:
        """Of `value`, over the least that is known."""
        return self.value(label) / min(self.value(name) for name in self.runs) - 1

    def objective_excess(self, label: str) -> float:
        """The same for what is minimised, risk as smoothed and penalty."""
        values = {
            name: self.case.risks[self.risk].value(self.quantities[name])
            + self.case.penalty.value_and_gradient(run.z)[0]
            for name, run in self.runs.items()
        }
        return values[label] / min(values.values()) - 1


def gradient_seconds(ensemble: ouu.Ensemble, run: ouu.OptimalControl) -> float:
    """Median seconds of q and its Jacobian, over iterates that follow each other."""
    seconds = []
    for iterate in run.history[1:6]:
        start = time.perf_counter()
        ensemble.quantity_and_jacobian(iterate.z)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def solve(
    case: Case, model: hd.JacobianModel, form: ouu.FormQuantity, dinos: dict[str, hd.DINO], size: Size, target: str,
    number: int,
) -> list[Problem]:  # fmt: skip
    """Both risk measures for one quantity, by surrogates and by the PDE, from zero."""
    world, zero = MPI.COMM_WORLD, np.zeros(dinos["h1"].control.dim)
    common, other = (ouu.PDEEnsemble.draw(model, form, size.n_samples, seed=s) for s in (COMMON, FRESH))
    basis = dinos["h1"].input_basis
    x = {"common": common.latent(basis), "other": other.latent(basis)}
    x["many"] = np.random.default_rng(FRESH).standard_normal((size.n_cheap, x["common"].shape[1]))
    reduced = {name: ouu.LatentQuadratic.reduce(*form.of_state(), dino.output_basis) for name, dino in dinos.items()}

    def surrogate(name: str, samples: str) -> ouu.SurrogateEnsemble:
        return ouu.SurrogateEnsemble.of_dino(dinos[name], reduced[name], x[samples])

    problems = []
    for risk, stem in stems(case, number).items():
        runs = {}
        for name in dinos:  # on every rank the control of the first, whatever rounding does to the rank's own
            runs[name] = world.bcast(minimize(case, surrogate(name, "common"), risk, size.iterations))
        runs["PDE"] = own_optimum(case, common, size, stem, risk)
        runs["polished"] = ouu.polish(
            ouu.Objective(common, case.risks[risk], [case.penalty]), surrogate("h1", "common"), runs["h1"].z,
            bounds=case.bounds, max_evaluations=size.polish, path=size.path(f"{stem}.polish"), resume=True,
        )  # fmt: skip
        judged = ouu.Objective(other, case.judge(risk), [case.penalty])
        fresh = {
            label: ouu.assess(
                judged, z, paired=surrogate("h1", "other"), cheap=surrogate("h1", "many"), bounds=case.bounds
            )
            for label, z in (("zero", zero), ("h1", runs["h1"].z))
        }
        controls = {"zero": zero, **{label: run.z for label, run in runs.items()}}
        problems.append(
            Problem(
                case=case,
                target=target,
                risk=risk,
                runs=runs,
                quantities={label: common.quantity(z) for label, z in controls.items()},
                fresh=fresh,
                pde_seconds=world.size * gradient_seconds(common, runs["PDE"]),
                surrogate_seconds=gradient_seconds(surrogate("h1", "common"), runs["h1"]),
            )
        )
    return problems


def risks_table(problems: list[Problem]) -> str:
    labels = ("PDE", "h1", "l2", "polished")
    header = ["Q", "risk", "z = 0", "PDE's z*", "h1's z*", "l2's z*", "h1, polished", "h1's own value"]
    rows = [
        [p.target, p.risk, f"{p.value('zero'):.5f}",
         *(f"{p.value(label):.5f} ({p.excess(label):+.2%}, {p.objective_excess(label):+.2%})" for label in labels),
         f"{p.runs['h1'].risk:.5f}"]
        for p in problems
    ]  # fmt: skip
    return table(header, rows)


def ends_table(problems: list[Problem]) -> str:
    labels = ("PDE", "h1", "l2", "polished")

    def end(run: ouu.OptimalControl) -> str:
        shown = f"{run.n_evaluations}, {run.gradient_norm / run.history[0].gradient_norm:.0e}"
        return shown if run.converged else f"{shown} (cut)"

    rows = [[p.target, p.risk, *(end(p.runs[label]) for label in labels)] for p in problems]
    return table(["Q", "risk", *labels], rows)


def fresh_table(problems: list[Problem]) -> str:
    header = ["Q", "risk", "z = 0", "h1's z*", "95 % interval", "PDE samples alone", "largest projected gradient"]
    rows = []
    for p in problems:
        found, zero = p.fresh["h1"], p.fresh["zero"]
        low, high = map(float, found.risk.interval)
        interval = shown((low, high), found.risk.reason)
        entry = int(np.abs(found.projected_gradient).argmax())
        rows.append(
            [p.target, p.risk, f"{zero.risk.value:.5f}", f"{found.risk.value:.5f}", interval,
             f"{found.risk.plain:.5f} ± {found.risk.plain_error:.5f}",
             f"{found.projected_gradient[entry]:+.1e} ± {found.gradient.standard_error[entry]:.1e}, "
             f"{np.abs(zero.projected_gradient).max():.1e} at z = 0"]
        )  # fmt: skip
    return table(header, rows)


def cost_table(problems: list[Problem], size: Size) -> str:
    header = ["Q", "risk", "forward solves, PDE alone", "of the polish", "seconds of h1's search",
              "gradient, PDE (core s)", "gradient, h1 (s, one core)", "ratio"]  # fmt: skip
    rows = [
        [p.target, p.risk, p.runs["PDE"].n_evaluations * size.n_samples,
         p.runs["polished"].n_evaluations * size.n_samples, f"{p.runs['h1'].seconds:.1f}",
         f"{p.pde_seconds:.2f}", f"{p.surrogate_seconds:.4f}", f"{p.pde_seconds / p.surrogate_seconds:.0f}"]
        for p in problems
    ]  # fmt: skip
    return table(header, rows)


def errors_table(dinos: dict[str, hd.DINO], dataset: hd.Dataset) -> str:
    names = ("observable", "observable_truncation", "control_jacobian", "control_jacobian_truncation",
             "parameter_jacobian")  # fmt: skip
    errors = {formulation: dino.evaluate(dataset) for formulation, dino in dinos.items()}
    rows = [[formulation, *(f"{found[name]:.2%}" for name in names)] for formulation, found in errors.items()]
    header = ["loss", "state", "of it truncation", "control Jacobian", "of it truncation", "parameter Jacobian"]
    one = next(iter(errors.values()))
    beside = trivial(one, ("observable", "control_jacobian", "parameter_jacobian"))
    return f"{table(header, rows)}\n\nBeside them {beside}."


def report(problems: list[Problem], dinos: dict[str, hd.DINO], dataset: hd.Dataset, size: Size, problem: str) -> str:
    case = CASES[problem]
    paid = size.n_train + size.n_held_out
    spent = sum(p.runs["PDE"].n_evaluations for p in problems) * size.n_samples
    polishing = sum(p.runs["polished"].n_evaluations for p in problems) * size.n_samples
    worst = {
        label: ", ".join(
            f"{risk} {max(p.excess(label) for p in problems if p.risk == risk):+.2%}" for risk in case.risks
        )
        for label in ("h1", "polished", "PDE")
    }
    better = sum(p.value("h1") < p.value("l2") for p in problems)
    note = "**A smoke run, which says nothing.**\n\n" if size is case.small else ""
    return f"""# Optimization under uncertainty: {problem.replace("_", " ")}

{note}Commands: `mpirun -n {MPI.COMM_WORLD.size} python -m benchmarks.control generate --problem {
        problem
    }`, then `train` (one rank),
`reference` and `measure` alike; {processor()}, one thread a rank.

Problem: `applications/{problem}`, mesh size {size.mesh}, {case.about}. DINO: {size.n_train} training
samples of the whole state, ranks {size.ranks[0]} + {dinos["h1"].control.dim} to {size.ranks[1]}, POD, {
        size.width
    } products (`ReducedProduct`),
{size.epochs} epochs; its twin "l2" sees the same values, no Jacobians. Objective: risk of Q at {
        size.n_samples
    } common samples
+ ½ {case.penalty.weight:g} ‖z‖², |z_j| ≤ {case.bounds[1]:g}, L-BFGS-B from z = 0, at most {
        size.iterations
    } iterations of the surrogates and
{size.pde_iterations} of the PDE. CVaR is optimised with ε = 1e-4 and judged with ε = 1e-9.

- Largest excess of the risk by the PDE, over the least that is known: at h1's control {worst["h1"]}; at the
  polished one {worst["polished"]}; at the PDE's own {worst["PDE"]}.
- h1's control is better than l2's in {better} of {len(problems)} problems.
- A gradient at {size.n_samples} samples takes {
        np.median(
            [p.pde_seconds / p.surrogate_seconds for p in problems]
        ):.0f} times less core seconds than by the PDE (median).
- The {len(problems)} searches by the PDE took {spent} forward solves, each with an adjoint one; the surrogate {
        paid
    } for training and
  validation, each with its Jacobians: {spent / paid:.0f} times less. With the {polishing} of the polish {
        spent / (paid + polishing):.0f} times less.

## Errors on {size.n_held_out} held-out samples

{errors_table(dinos, dataset)}

## Risk by the PDE at the common samples

{risks_table(problems)}

"Polished": at most {size.polish} evaluations of the PDE, which correct the DINO (`hd.ouu.polish`), from h1's control.
In brackets the excess over the least that is known: of the risk, and of what is minimised (smoothed risk and penalty).

## How the searches ended

Evaluations, and the largest projected gradient relative to that at the start; "cut" where iterations or evaluations
ran out.

{ends_table(problems)}

## Risk and gradient by the PDE at {size.n_samples} fresh samples

With the surrogate at {size.n_cheap} samples as control variate (`hd.ouu.assess`).

{fresh_table(problems)}

## Cost

{cost_table(problems, size)}
"""


@app.command()
def measure(problem: Which = "semilinear_control", small: Small = False) -> None:
    """Controls by DINO, twin and PDE, and the tables."""
    case, size = chosen(problem, small)
    model, dataset = prepare(case, size), hd.Dataset.open(size.path(""))
    dinos = {formulation: hd.DINO.load(size.path(f"_{formulation}.dino")) for formulation in FORMULATIONS}
    problems = [
        found
        for number, (target, form) in enumerate(case.quantities(model).items())
        for found in solve(case, model, form, dinos, size, target, number)
    ]
    if MPI.COMM_WORLD.rank:
        return
    path = (OUTPUT if small else RESULTS) / f"{size.name}.md"
    path.write_text(report(problems, dinos, dataset, size, problem))
    print(path.read_text())
    first = problems[0]
    labels = {"z = 0": "zero", "PDE": "PDE", "h1": "h1", "l2": "l2"}
    figure = plot_quantity({k: first.quantities[v] for k, v in labels.items()}, risk=case.judge(first.risk), log=True)
    save(figure, path.with_suffix(".png"))


if __name__ == "__main__":
    app()
