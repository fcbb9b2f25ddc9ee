"""When and where to measure the temperature: designs of single readings, and of places that are read at all times.

    python -m applications.heat.run       # trains heat.dino on all places and times
    python -m applications.heat.design

Writes ``design.json`` and ``design.png`` into ``--output``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import dolfin as dl
import typer

import hippylib_dino as hd
from applications.design import search
from applications.heat.model import OBSERVED_STEPS, TIME_STEP, build, observation_points
from hippylib_dino import oed, plotting


def main(
    output: Annotated[Path, typer.Option(help="Directory of heat.dino, and of the results.")] = Path("heat-output"),
    mesh_size: Annotated[int, typer.Option(help="Of heat.dino.")] = 32,
    n_readings: Annotated[int, typer.Option(help="Readings to choose; a place has three times.")] = 6,
    n_draws: int = 64,
    n_pde_draws: int = 4,
    seed: int = 0,
) -> None:
    """Choose readings one by one, and places with all their times; let the PDE compare the two."""
    dl.set_log_level(dl.LogLevel.ERROR)
    dino, model = hd.DINO.load(output / "heat.dino"), build(hd.sample_communicator(), mesh_size)
    points, times = observation_points(), [TIME_STEP * step for step in OBSERVED_STEPS]
    n_places, noise = len(points), model.noise_covariance
    # observables are all places at the first time, then at the next
    places = [[place + n_places * k for k in range(len(times))] for place in range(n_places)]

    def chosen(k: int, groups: list | None) -> tuple[oed.Criterion, oed.Design]:
        gain, linear = (
            oed.InformationGain(dino, noise, n_draws, seed, method=method, groups=groups)
            for method in ("laplace", "linearized")
        )
        return gain, search(gain, linear, k)

    gain, readings = chosen(n_readings, None)
    _, always = chosen(n_readings // len(times), places)
    pde = oed.PDECriteria(model, n_pde_draws, seed + 1)
    assessment = oed.assess(gain, pde, [readings, [r for place in always for r in places[place]]])
    print(assessment)
    found = [{"place": points[r % n_places].tolist(), "time": times[r // n_places]} for r in readings]
    summary = {
        "readings": found,
        "information_gain": readings.value,
        "places read at all times": points[list(always)].tolist(),
        "their information_gain": always.value,
        "more by the PDE": {
            "value": assessment.rivals[1].value,
            "interval": None if assessment.rivals[1].reason else assessment.rivals[1].interval,
        },
    }
    (output / "design.json").write_text(json.dumps(summary, indent=2))
    where = [(*points[r % n_places], times[r // n_places]) for r in range(gain.n_candidates)]
    plotting.save(plotting.plot_design(where, readings, labels=("x", "y", "time")), output / "design.png")
    for reading in found:
        print(f"read at {reading['place']} at time {reading['time']:.3g}")


if __name__ == "__main__":
    typer.run(main)
