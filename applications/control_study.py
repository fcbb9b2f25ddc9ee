"""What the control applications share: an optimal control by the surrogate, what the PDE says of it, figures, a table.

An application's `run.py` generates and trains, and gives its own problems and labels to these functions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import dolfin as dl
import hippylib as hp
import numpy as np
from rich.console import Console
from rich.table import Table

import hippylib_dino as hd
from hippylib_dino import ouu, plotting
from hippylib_dino.intervals import shown

COMMON_SEED, FRESH_SEED = 2026, 2027  # streams that the training samples do not use
MANY = 2048  # samples of the surrogate where it is a control variate


@dataclass(frozen=True)
class Case:
    """One problem of optimization under uncertainty.

    Attributes
    ----------
    quantity : FormQuantity
    risk : RiskMeasure
    penalties : sequence of Penalty
    bounds : (float, float)
    """

    quantity: ouu.FormQuantity
    risk: ouu.RiskMeasure
    penalties: tuple[ouu.Penalty, ...]
    bounds: tuple[float, float]


@dataclass(frozen=True)
class Solution:
    """What was found for a case.

    Attributes
    ----------
    run : OptimalControl
        By the surrogate.
    polished : OptimalControl or None
        From there with a few evaluations of the PDE.
    assessments : dict of Assessment
        By the PDE, on samples that no optimiser has seen, of "z = 0", "z*", the surrogate's control, and "polished".
    """

    run: ouu.OptimalControl
    polished: ouu.OptimalControl | None
    assessments: dict[str, ouu.Assessment]


def solve(
    model: hd.JacobianModel, dino: hd.DINO, case: Case, *, n_samples: int, n_fresh: int, polish: int = 0
) -> Solution:
    """Minimise by the surrogate at `n_samples`, polish with so many evaluations, judge at `n_fresh` others."""
    basis = dino.input_basis
    reduced = ouu.LatentQuadratic.reduce(*case.quantity.of_state(), dino.output_basis)

    def surrogate(x: np.ndarray) -> ouu.SurrogateEnsemble:
        return ouu.SurrogateEnsemble.of_dino(dino, reduced, x)

    def objective(ensemble: ouu.Ensemble) -> ouu.Objective:
        return ouu.Objective(ensemble, case.risk, case.penalties)

    common = ouu.PDEEnsemble.draw(model, case.quantity, n_samples, seed=COMMON_SEED)
    fresh = ouu.PDEEnsemble.draw(model, case.quantity, n_fresh, seed=FRESH_SEED)
    zero = np.zeros(common.n_control)
    ensemble = surrogate(common.latent(basis))
    run = ouu.minimize(objective(ensemble), zero, bounds=case.bounds)
    many = np.random.default_rng(FRESH_SEED).standard_normal((MANY, basis.parameter_part().rank))
    twins = {"paired": surrogate(fresh.latent(basis)), "cheap": surrogate(many)}
    controls, polished = {"z = 0": zero, "z*": run.z}, None
    if polish:
        polished = ouu.polish(objective(common), ensemble, run.z, bounds=case.bounds, max_evaluations=polish)
        controls["polished"] = polished.z
    judged = {label: ouu.assess(objective(fresh), z, bounds=case.bounds, **twins) for label, z in controls.items()}
    return Solution(run, polished, judged)


def mean_states(model: hd.JacobianModel, controls: Mapping[str, np.ndarray]) -> dict[str, dl.Function]:
    """The states at the prior mean, by label of the control."""
    pde, states = model.problem, {}
    for label, z in controls.items():
        with pde.at(pde.control_from_array(z)):
            u = model.solveState(model.prior.mean)
        states[label] = hp.vector2Function(u, pde.Vh[hp.STATE], name=label)
    return states


def draw(output: Path, name: str, case: Case, solution: Solution) -> None:
    """Figures of a solution but for its states: control, distribution of the quantity before and after, convergence."""
    controls = {"surrogate": solution.run.z}
    runs = {"surrogate": solution.run}
    if solution.polished is not None:
        controls["polished by the PDE"] = solution.polished.z
        runs["polished by the PDE"] = solution.polished
    quantities = {label: found.quantity for label, found in solution.assessments.items()}
    figures = {
        "control": plotting.plot_controls(controls, bounds=case.bounds),
        "quantity": plotting.plot_quantity(quantities, risk=case.risk, log=True),
        "convergence": plotting.plot_convergence(runs),
    }
    for kind, figure in figures.items():
        plotting.save(figure, output / f"{name}-{kind}.png")


def report(output: Path, solutions: Mapping[str, Solution], numbers: dict, title: str) -> None:
    """Write summary.json, `numbers` and what was found; print a table."""
    found = {}
    table = Table(title=f"{title}: risk of the DINO's optimal controls, by the PDE on fresh samples")
    for heading in ("", "z = 0", "z*", "95 % interval", "z*, by the surrogate", "polished"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=not heading)
    for name, solution in solutions.items():
        run, risks = solution.run, {label: at.risk for label, at in solution.assessments.items()}
        low, high = map(float, risks["z*"].interval)
        found[name] = {
            "risk": {label: float(at.value) for label, at in risks.items()},
            "interval": None if risks["z*"].reason else [low, high],
            "no interval, because": risks["z*"].reason or None,
            "risk_by_surrogate": run.risk,
            "converged": run.converged,
            "evaluations": run.n_evaluations,
            "seconds": run.seconds,
            "outside": run.outside,
        }
        cells = {label: f"{float(at.value):.5g}" for label, at in risks.items()}
        interval = shown((low, high), risks["z*"].reason).replace("[", r"\[")
        table.add_row(name, cells["z = 0"], cells["z*"], interval, f"{run.risk:.5g}", cells.get("polished", ""))
    (output / "summary.json").write_text(json.dumps({**numbers, "problems": found}, indent=2))
    console = Console()
    console.print(table)
    errors = numbers["errors"]
    names = {"observable": "state", "parameter_jacobian": "parameter Jacobian", "control_jacobian": "control Jacobian"}
    print("held-out errors: " + ", ".join(f"{label} {errors[key]:.2%}" for key, label in names.items()))
    print("  mean Jacobian: " + ", ".join(f"{label} {errors[f'{key}_affine']:.2%}" for key, label in names.items()))
    print(f"figures, fields and summary.json are in {output}/")
