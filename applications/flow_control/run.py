"""The whole path on the flow control problem: generate, train, optimal controls, what the PDE says of them.

    mpirun -n 2 python -m applications.flow_control.run --generate-only    # data, on as many ranks as you like
    python -m applications.flow_control.run                                # train, optimise, judge by the PDE

One `python -m applications.flow_control.run` does both on one core.  Writes ``summary.json``, figures (PNG)
and states for ParaView (XDMF) into ``--output``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import dolfin as dl
import numpy as np
import typer

import hippylib_dino as hd
from applications import control_study, study
from applications.compiling import compile_for_this_processor
from applications.flow_control.model import LARGEST, build, quantity
from hippylib_dino import ouu, plotting
from hippylib_dino.network import ReducedProduct

RISKS = {"CVaR": ouu.CVaR(beta=0.95), "mean-variance": ouu.MeanVariance(beta=1.0)}
PENALTY = 1e-3


def speed(state: dl.Function) -> dl.Function:
    """|v| of velocity and pressure, at the vertices."""
    space = dl.FunctionSpace(state.function_space().mesh(), "Lagrange", 1)
    at_vertices = state.compute_vertex_values().reshape(3, -1)[:2]
    out = dl.Function(space)
    hd.modeling.set_owned_values(out.vector(), np.linalg.norm(at_vertices, axis=0)[dl.dof_to_vertex_map(space)])
    return out


def main(
    output: Annotated[Path, typer.Option(help="Directory of all results.")] = Path("flow-control-output"),
    mesh_size: Annotated[int, typer.Option(help="Cells of the channel's height.")] = 24,
    n_samples: Annotated[int, typer.Option(help="Training samples.")] = 256,
    input_rank: int = 12,
    output_rank: int = 60,
    epochs: int | None = None,
    n_ensemble: Annotated[int, typer.Option(help="Samples of each sample average.")] = 64,
    polish: Annotated[int, typer.Option(help="Evaluations of the PDE from the surrogate's control.")] = 0,
    seed: int = 0,
    generate_only: Annotated[bool, typer.Option(help="Stop when the data are there.")] = False,
) -> None:
    """Generate, train, and optimise for two risk measures of the dissipation."""
    compile_for_this_processor()
    seconds: dict[str, float] = {}
    with study.timed(seconds, "generate"):
        model = build(hd.sample_communicator(), mesh_size)
        dataset = hd.generate(
            model, output / "dataset", n_samples=n_samples, n_basis_samples=min(n_samples, 4 * output_rank), n_test=32,
            input_rank=input_rank, output_rank=output_rank, output_basis="pod", seed=seed, resume=True,
            retry="continuation", max_failures=n_samples // 20 + 5,
        )  # fmt: skip
    if generate_only:
        return
    with study.timed(seconds, "train"):
        network = ReducedProduct(dataset.input_basis.rank, dataset.output_basis.rank)
        dino = hd.train(dataset, "h1", architecture=network, epochs=epochs, seed=seed)
    dino.save(output / "flow_control.dino", overwrite=True)
    solutions = {}
    with study.timed(seconds, "optimise"):
        for risk, measure in RISKS.items():
            case = control_study.Case(quantity(model), measure, (ouu.L2Penalty(PENALTY),), (-LARGEST, LARGEST))
            found = control_study.solve(model, dino, case, n_samples=n_ensemble, n_fresh=n_ensemble, polish=polish)
            solutions[risk] = found
            control_study.draw(output, risk, case, found)
            states = control_study.mean_states(model, {"z = 0": np.zeros(len(found.run.z)), "z*": found.run.z})
            speeds = {f"{label}, mean inflow": speed(state) for label, state in states.items()}
            plotting.save(plotting.plot_fields(speeds, units="speed |v|"), output / f"{risk}-state.png")
            plotting.write_xdmf(output / f"{risk}-state.xdmf", speeds)
    settings = {"mesh_size": mesh_size, "n_train": n_samples, "ranks": [input_rank, output_rank], "seed": seed}
    numbers = {"errors": dino.evaluate(dataset), "seconds": seconds, "settings": settings}
    control_study.report(output, solutions, numbers, "Flow control")


if __name__ == "__main__":
    typer.run(main)
