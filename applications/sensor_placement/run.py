"""Where to place sensors: generate, train, search for designs, ask the PDE.

    mpirun -n 2 python -m applications.sensor_placement.run --generate-only    # data, on as many ranks as you like
    python -m applications.sensor_placement.run                                # train, design, assess

Writes ``summary.json``, figures (PNG), ``deviation.xdmf`` and ``sensors.dino`` into ``--output``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import hippylib_dino as hd
from applications import study
from applications.compiling import compile_for_this_processor
from applications.design import Effort, design_and_assess
from applications.sensor_placement.model import build, candidate_points


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
    compile_for_this_processor()
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
    effort = Effort(n_sensors, n_draws, n_random, n_rivals, n_pde_draws)
    design_and_assess(output, model, dino, candidate_points(), effort, seed=seed, seconds=seconds)


if __name__ == "__main__":
    typer.run(main)
