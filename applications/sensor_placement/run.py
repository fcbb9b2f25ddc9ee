"""Where to place sensors: generate, train, search for designs, ask the PDE.

    mpirun -n 2 python -m applications.sensor_placement.run --generate-only    # data, on as many ranks as you like
    python -m applications.sensor_placement.run                                # train, design, assess

Writes ``summary.json``, figures (PNG) and ``sensors.dino`` into ``--output``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import dolfin as dl
import numpy as np
import typer

import hippylib_dino as hd
from applications import study
from applications.sensor_placement.model import build, candidate_points
from hippylib_dino import oed, plotting


def search(gain: oed.Criterion, linear: oed.Criterion, n_sensors: int) -> oed.Design:
    """Swapping greedy on the linearised criterion, where a design costs next to nothing; from there by MAP points."""
    return oed.swapping_greedy(gain, n_sensors, start=oed.swapping_greedy(linear, n_sensors).sensors)


def draw(
    output: Path, model: hd.JacobianModel, gain: oed.Criterion, design: oed.Design, random: dict[int, np.ndarray]
) -> None:
    """Figures of the design: map, gain by number of sensors, random designs, deviation before and after."""
    points, n = candidate_points(), len(design)
    alone = gain.evaluate([(s,) for s in range(gain.n_candidates)])
    prior = model.prior.pointwise_variance(method="Exact")
    order = hd.modeling.DofOrder(model.prior.Vh)
    before = hd.modeling.owned_values(prior)
    after = before - order.from_array(oed.variance_reduction(gain, design))
    fields = {}
    for name, variance in (("prior", before), (f"expected posterior, {n} sensors", after)):
        field = dl.Function(model.prior.Vh)
        hd.modeling.set_owned_values(field.vector(), np.sqrt(np.maximum(variance, 0.0)))
        fields[name] = field
    figures = {
        "design": plotting.plot_design(points, design, scores=alone, units="information gain alone (nats)"),
        "gain": plotting.plot_gain({"swapping greedy": design.path}, random),
        "random": plotting.plot_random_designs(random[n], {"swapping greedy": design.value}),
        "deviation": plotting.plot_fields(fields, points=points[list(design)], units="standard deviation of m"),
    }
    for name, figure in figures.items():
        plotting.save(figure, output / f"{name}.png")


def main(
    output: Annotated[Path, typer.Option(help="Directory of all results.")] = Path("sensor-output"),
    mesh_size: Annotated[int, typer.Option(help="Cells a side of the unit square.")] = 64,
    n_samples: Annotated[int, typer.Option(help="Training samples.")] = 256,
    input_rank: int = 100,
    output_rank: int = 60,
    epochs: int | None = None,
    seed: int = 0,
    n_sensors: Annotated[int, typer.Option(help="Sensors to choose.")] = 10,
    n_draws: Annotated[int, typer.Option(help="Draws of parameter and noise.")] = 64,
    n_random: Annotated[int, typer.Option(help="Random designs to compare with.")] = 100,
    n_rivals: Annotated[int, typer.Option(help="Random designs that the PDE evaluates too.")] = 4,
    n_pde_draws: Annotated[int, typer.Option(help="Draws of the PDE's evaluation.")] = 4,
    generate_only: Annotated[bool, typer.Option(help="Stop when the data are there.")] = False,
) -> None:
    """Generate, train, design, and let the PDE judge the design."""
    dl.set_log_level(dl.LogLevel.ERROR)
    dl.parameters["form_compiler"]["cpp_optimize_flags"] = "-O3 -march=native"
    seconds: dict[str, float] = {}
    with study.timed(seconds, "generate"):
        model = build(hd.sample_communicator(), mesh_size)
        dataset = hd.generate(
            model, output / "dataset", n_samples=n_samples, n_test=32, input_rank=input_rank, output_rank=output_rank,
            seed=seed, resume=True,
        )  # fmt: skip
    if generate_only:
        return
    with study.timed(seconds, "train"):
        dino = hd.train(dataset, "h1", epochs=epochs, seed=seed)
    dino.save(output / "sensors.dino", overwrite=True)

    noise = model.noise_covariance
    gain = oed.InformationGain(dino, noise, n_draws, seed)
    linear = oed.InformationGain(dino, noise, n_draws, seed, method="linearized")
    with study.timed(seconds, "design"):
        design = search(gain, linear, n_sensors)
    with study.timed(seconds, "random"):
        sizes = sorted({1, max(1, n_sensors // 2), n_sensors})
        designs = {k: oed.random_designs(gain, k, n_random, seed) for k in sizes}
        random = {k: gain.evaluate(some) for k, some in designs.items()}
    with study.timed(seconds, "assess"):
        pde = oed.PDECriteria(model, n_pde_draws, seed + 1)
        assessment = oed.assess(gain, pde, [design, *designs[n_sensors][:n_rivals]])
    draw(output, model, gain, design, random)
    print(assessment)
    summary = {
        "sensors": [int(s) for s in design],
        "points": candidate_points()[list(design)].tolist(),
        "information_gain": {"surrogate": design.value, "PDE": assessment.pde[0].value},
        "best_random": float(random[n_sensors].max()),
        "bound_linearized": oed.relaxed(linear, n_sensors).bound,
        "rank_correlation": assessment.rank_correlation,
        "relative_error": assessment.relative_error,
        "pairs": gain.n_pairs,
        "pairs_failed": gain.n_failed,
        "errors": dino.evaluate(dataset),
        "seconds": seconds,
        "seconds_a_pair_PDE": assessment.seconds,
    }
    (output / "summary.json").write_text(json.dumps(summary, indent=2))
    print(f"sensors {summary['sensors']}; figures and summary.json are in {output}/")


if __name__ == "__main__":
    typer.run(main)
