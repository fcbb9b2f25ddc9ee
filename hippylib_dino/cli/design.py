"""The command oed: optimal experimental design."""

from __future__ import annotations

from typing import Annotated

import typer

from hippylib_dino.cli.arguments import DatasetPath, ModelPath, Seed
from hippylib_dino.cli.files import load_pair, named
from hippylib_dino.cli.showing import show
from hippylib_dino.errors import InputError


def oed(
    model_file: ModelPath,
    path: DatasetPath,
    n_sensors: Annotated[int, typer.Option(min=1, help="Observables of the dataset to choose.")] = 10,
    n_draws: Annotated[int, typer.Option(min=2, help="Draws of parameter and noise.")] = 64,
    n_random: Annotated[int, typer.Option(min=1, help="Random designs to compare with.")] = 100,
    linearized: Annotated[bool, typer.Option(help="Linearise at the draws: much faster, less exact.")] = False,
    seed: Seed = 0,
) -> None:
    """Choose sensors by expected information gain, with the noise of the dataset; needs no FEniCS."""
    import numpy as np

    from hippylib_dino.oed import InformationGain, random_designs, swapping_greedy

    dino, dataset = load_pair(model_file, path)
    with named(dino="MODEL_FILE", noise_covariance="DATASET"):
        noise = dataset.noise_covariance
        simple = InformationGain(dino, noise, n_draws, seed, method="linearized")
    if n_sensors > simple.n_candidates:
        raise InputError(
            f"--n-sensors: expected at most the {simple.n_candidates} observables that there are, got {n_sensors}."
        )
    design = swapping_greedy(simple, n_sensors)
    gain = simple
    if not linearized:
        gain = InformationGain(dino, noise, n_draws, seed)
        design = swapping_greedy(gain, n_sensors, start=design.sensors)
    estimate = gain.estimate(design)
    random = gain.evaluate(random_designs(gain, n_sensors, n_random, seed))
    show(
        f"{n_sensors} of {gain.n_candidates} observables",
        {
            "sensors, in order": " ".join(map(str, design)),
            "expected information gain, nats": f"{estimate.value:.5g} +- {estimate.standard_error:.2g}",
            "best, median random design": f"{random.max():.5g}, {np.median(random):.5g}",
            "designs asked for": design.n_evaluations,
            "draws that failed": f"{gain.n_failed} of {gain.n_pairs}",
        },
    )
