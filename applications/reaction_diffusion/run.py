"""The whole path on the reaction-diffusion problem: generate, train, MAP, Laplace.

    mpirun -n 2 python -m applications.reaction_diffusion.run --generate-only    # data, on as many ranks as you like
    python -m applications.reaction_diffusion.run                                # train, solve, compare

One `python -m applications.reaction_diffusion.run` does both on one core.  Writes ``summary.json``, figures (PNG)
and fields for ParaView (XDMF) into ``--output``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import hippylib_dino as hd
from applications import study
from applications.compiling import compile_for_this_processor
from applications.reaction_diffusion.model import build, observation_points


def main(
    output: Annotated[Path, typer.Option(help="Directory of all results.")] = Path("reaction-diffusion-output"),
    mesh_size: Annotated[int, typer.Option(help="Cells a side of the unit square.")] = 64,
    n_samples: Annotated[int, typer.Option(help="Training samples.")] = 128,
    input_rank: int = 100,
    epochs: int | None = None,
    seed: int = 0,
    generate_only: Annotated[bool, typer.Option(help="Stop when the data are there.")] = False,
) -> None:
    """Generate, train, and compare PDE and surrogate."""
    compile_for_this_processor()
    seconds: dict[str, float] = {}
    with study.timed(seconds, "generate"):
        model = build(hd.sample_communicator(), mesh_size)
        dataset = hd.generate(
            model, output / "dataset", n_samples=n_samples, n_test=32, input_rank=input_rank, seed=seed, resume=True
        )
    if generate_only:
        return
    with study.timed(seconds, "train"):
        dino = hd.train(dataset, "h1", epochs=epochs, seed=seed)
    dino.save(output / "reaction_diffusion.dino", overwrite=True)
    with study.timed(seconds, "infer"):
        comparison = study.compare(model, dino)

    study.draw_training(output, model, dataset, dino)
    study.draw_inference(output, model.prior.Vh, comparison, points=observation_points(), units="log diffusivity m")
    settings = {
        "mesh_size": mesh_size,
        "n_train": n_samples,
        "input_rank": input_rank,
        "epochs": dino.training["epochs"],
        "seed": seed,
    }
    numbers = {**comparison.numbers, "errors": dino.evaluate(dataset), "seconds": seconds, "settings": settings}
    study.report(output, numbers, "Reaction-diffusion")


if __name__ == "__main__":
    typer.run(main)
