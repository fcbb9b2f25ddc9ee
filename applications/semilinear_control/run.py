"""The whole path on the semilinear control problem: generate, train, optimal controls, what the PDE says of them.

    mpirun -n 2 python -m applications.semilinear_control.run --generate-only    # data, on as many ranks as you like
    python -m applications.semilinear_control.run                                # train, optimise, judge by the PDE

One `python -m applications.semilinear_control.run` does both on one core.  Writes ``summary.json``, figures (PNG)
and states for ParaView (XDMF) into ``--output``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import dolfin as dl
import hippylib as hp
import numpy as np
import typer

import hippylib_dino as hd
from applications import control_study, study
from applications.compiling import compile_for_this_processor
from applications.semilinear_control.model import LARGEST, build
from hippylib_dino import ouu, plotting
from hippylib_dino.network import ReducedProduct

TARGETS = {"sinusoidal": "sin(2*pi*x[0])*sin(2*pi*x[1])", "constant": "1.0"}
RISKS = {"CVaR": ouu.CVaR(beta=0.95), "mean-variance": ouu.MeanVariance(beta=10.0)}
PENALTY = 1e-4


def main(
    output: Annotated[Path, typer.Option(help="Directory of all results.")] = Path("semilinear-control-output"),
    mesh_size: Annotated[int, typer.Option(help="Cells a side of the unit square.")] = 64,
    n_samples: Annotated[int, typer.Option(help="Training samples.")] = 512,
    input_rank: int = 100,
    output_rank: int = 100,
    epochs: int | None = None,
    n_ensemble: Annotated[int, typer.Option(help="Samples of each sample average.")] = 128,
    polish: Annotated[int, typer.Option(help="Evaluations of the PDE from the surrogate's control.")] = 0,
    seed: int = 0,
    generate_only: Annotated[bool, typer.Option(help="Stop when the data are there.")] = False,
) -> None:
    """Generate, train, and optimise for two targets and two risk measures."""
    compile_for_this_processor()
    seconds: dict[str, float] = {}
    with study.timed(seconds, "generate"):
        model = build(hd.sample_communicator(), mesh_size)
        dataset = hd.generate(
            model, output / "dataset", n_samples=n_samples, n_basis_samples=min(n_samples, 4 * output_rank), n_test=32,
            input_rank=input_rank, output_rank=output_rank, output_basis="pod", seed=seed, resume=True,
        )  # fmt: skip
    if generate_only:
        return
    with study.timed(seconds, "train"):
        network = ReducedProduct(dataset.input_basis.rank, dataset.output_basis.rank)
        dino = hd.train(dataset, "h1", architecture=network, epochs=epochs, seed=seed)
    dino.save(output / "semilinear_control.dino", overwrite=True)
    Vh, solutions = model.problem.Vh, {}
    with study.timed(seconds, "optimise"):
        for goal, expression in TARGETS.items():
            target = dl.interpolate(dl.Expression(expression, degree=4), Vh[hp.STATE])
            for risk, measure in RISKS.items():
                case = control_study.Case(
                    ouu.tracking(Vh, target), measure, (ouu.L2Penalty(PENALTY),), (-LARGEST, LARGEST)
                )
                found = control_study.solve(model, dino, case, n_samples=n_ensemble, n_fresh=n_ensemble, polish=polish)
                name = f"{goal}, {risk}"
                solutions[name] = found
                control_study.draw(output, f"{goal}-{risk}", case, found)
                states = control_study.mean_states(model, {"z = 0": np.zeros(len(found.run.z)), "z*": found.run.z})
                fields = {"target": target, **{f"{k}, mean diffusivity": u for k, u in states.items()}}
                plotting.save(plotting.plot_fields(fields, units="state u"), output / f"{goal}-{risk}-state.png")
                plotting.write_xdmf(output / f"{goal}-{risk}-state.xdmf", fields)
    settings = {"mesh_size": mesh_size, "n_train": n_samples, "ranks": [input_rank, output_rank], "seed": seed}
    numbers = {"errors": dino.evaluate(dataset), "seconds": seconds, "settings": settings}
    control_study.report(output, solutions, numbers, "Semilinear control")


if __name__ == "__main__":
    typer.run(main)
