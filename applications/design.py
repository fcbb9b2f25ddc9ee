"""What the applications of optimal design share: search, the PDE's verdict, figures, summary.

An application's `run.py` generates and trains, and gives its model and candidates to `design_and_assess`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import dolfin as dl
import numpy as np

import hippylib_dino as hd
from applications import study
from hippylib_dino import oed, plotting


class Effort(NamedTuple):
    """How much is done."""

    n_sensors: int  # to choose
    n_draws: int  # of parameter and noise
    n_random: int  # designs to compare with
    n_rivals: int  # of these, those that the PDE evaluates too
    n_pde_draws: int  # of the PDE's evaluation


def search(gain: oed.Criterion, linear: oed.Criterion, n_sensors: int) -> oed.Design:
    """Swapping greedy on the linearised criterion, where a design costs next to nothing; from there by MAP points."""
    return oed.swapping_greedy(gain, n_sensors, start=oed.swapping_greedy(linear, n_sensors).sensors)


def deviations(model: hd.JacobianModel, gain: oed.Criterion, design: oed.Design) -> dict[str, dl.Function]:
    """Pointwise standard deviation of the prior, and that expected of the posterior."""
    prior = model.prior.pointwise_variance(method="Randomized", r=200)
    before = hd.modeling.owned_values(prior)
    after = before - hd.modeling.DofOrder(model.prior.Vh).from_array(oed.variance_reduction(gain, design))
    fields = {}
    for name, variance in (("prior", before), (f"expected posterior, {len(design)} sensors", after)):
        fields[name] = dl.Function(model.prior.Vh, name=name)
        hd.modeling.set_owned_values(fields[name].vector(), np.sqrt(np.maximum(variance, 0.0)))
    return fields


def draw(
    output: Path, fields: dict[str, dl.Function], points: np.ndarray, gain: oed.Criterion, design: oed.Design,
    random: dict[int, np.ndarray],
) -> None:  # fmt: skip
    """Figures of the design: map, gain by number of sensors, random designs; deviation before and after."""
    alone = gain.evaluate([(s,) for s in range(gain.n_candidates)])
    figures = {
        "design": plotting.plot_design(points, design, scores=alone, units="information gain alone (nats)"),
        "gain": plotting.plot_gain({"swapping greedy": design.path}, random),
        "random": plotting.plot_random_designs(random[len(design)], {"swapping greedy": design.value}),
    }
    if points.shape[1] == 2:
        chosen = points[list(design)]
        figures["deviation"] = plotting.plot_fields(fields, points=chosen, units="standard deviation of m")
    for name, figure in figures.items():
        plotting.save(figure, output / f"{name}.png")
    plotting.write_xdmf(output / "deviation.xdmf", fields)


def design_and_assess(
    output: Path, model: hd.JacobianModel, dino: hd.DINO, points: np.ndarray, effort: Effort, *, seed: int,
    seconds: dict[str, float],
) -> None:  # fmt: skip
    """Choose sensors by information gain, let the PDE judge them, write figures and summary.json."""
    noise, n_sensors = model.noise_covariance, effort.n_sensors
    gain = oed.InformationGain(dino, noise, effort.n_draws, seed)
    linear = oed.InformationGain(dino, noise, effort.n_draws, seed, method="linearized")
    with study.timed(seconds, "design"):
        design = search(gain, linear, n_sensors)
    with study.timed(seconds, "random"):
        sizes = sorted({1, max(1, n_sensors // 2), n_sensors})
        designs = {k: oed.random_designs(gain, k, effort.n_random, seed) for k in sizes}
        random = {k: gain.evaluate(some) for k, some in designs.items()}
    with study.timed(seconds, "assess"):
        pde = oed.PDECriteria(model, effort.n_pde_draws, seed + 1)
        assessment = oed.assess(gain, pde, [design, *designs[n_sensors][: effort.n_rivals]])
    draw(output, deviations(model, gain, design), points, gain, design, random)
    print(assessment)
    summary = {
        "sensors": list(design),
        "points": points[list(design)].tolist(),
        "information_gain": {"surrogate": design.value, "PDE": assessment.pde[0].value},
        "best_random": float(random[n_sensors].max()),
        "rank_correlation": assessment.rank_correlation,
        "relative_error": assessment.relative_error,
        "pairs": gain.n_pairs,
        "pairs_failed": gain.n_failed,
        "seconds": seconds,
        "seconds_a_pair_PDE": assessment.seconds,
    }
    (output / "summary.json").write_text(json.dumps(summary, indent=2))
    print(f"sensors {summary['sensors']}; figures, deviation.xdmf and summary.json are in {output}/")
