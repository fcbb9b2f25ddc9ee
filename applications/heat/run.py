"""The whole path on the time-dependent heat problem: generate, train, MAP, Laplace.

    mpirun -n 2 python -m applications.heat.run --generate-only    # data, on as many ranks as you like
    python -m applications.heat.run                                # train, solve, compare

Writes ``summary.json``, figures (PNG) and fields for ParaView (XDMF) into ``--output``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import dolfin as dl
import typer

import hippylib_dino as hd
from applications import study
from applications.heat.model import build, observation_points


def main(
    output: Annotated[Path, typer.Option(help="Directory of all results.")] = Path("heat-output"),
    mesh_size: Annotated[int, typer.Option(help="Cells a side of the unit square.")] = 32,
    n_samples: Annotated[int, typer.Option(help="Training samples.")] = 256,
    input_rank: int = 60,
    epochs: int | None = None,
    seed: int = 0,
    generate_only: Annotated[bool, typer.Option(help="Stop when the data are there.")] = False,
) -> None:
    """Generate, train, and compare PDE and surrogate."""
    dl.set_log_level(dl.LogLevel.ERROR)
    seconds: dict[str, float] = {}
    with study.timed(seconds, "generate"):
        model = build(hd.sample_communicator(), mesh_size)
        dataset = hd.generate(
            model, output / "dataset", n_samples=n_samples, n_test=32, input_rank=input_rank, output_rank=27, seed=seed,
            resume=True,
        )  # fmt: skip
    if generate_only:
        return
    with study.timed(seconds, "train"):
        dino = hd.train(dataset, "h1", epochs=epochs, seed=seed)
    dino.save(output / "heat.dino", overwrite=True)
    with study.timed(seconds, "infer"):
        comparison = study.compare(model, dino)

    study.draw_training(output, model, dataset, dino)
    study.draw_inference(output, model.prior.Vh, comparison, points=observation_points(), units="log conductivity m")
    settings = {
        "mesh_size": mesh_size,
        "n_train": n_samples,
        "input_rank": input_rank,
        "epochs": dino.training["epochs"],
        "seed": seed,
    }
    numbers = {**comparison.numbers, "errors": dino.evaluate(dataset), "seconds": seconds, "settings": settings}
    study.report(output, numbers, "Heat conduction")


if __name__ == "__main__":
    typer.run(main)
