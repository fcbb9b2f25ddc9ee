"""The whole path on the hyperelastic square: generate, train, MAP, Laplace, deformed bodies.

    mpirun -n 2 python -m applications.hyperelasticity.run --generate-only    # data, on as many ranks as you like
    python -m applications.hyperelasticity.run                                # train, solve, compare

One `python -m applications.hyperelasticity.run` does both on one core.  Writes ``summary.json``, figures (PNG)
and fields for ParaView (XDMF) into ``--output``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import dolfin as dl
import hippylib as hp
import numpy as np
import typer

import hippylib_dino as hd
from applications import study
from applications.compiling import compile_for_this_processor
from applications.hyperelasticity.model import build, observation_points
from hippylib_dino import plotting


def deformed_body(u: dl.Function) -> dl.Function:
    """|u| on the mesh as the P1 displacement u moves it."""
    mesh = dl.Mesh(u.function_space().mesh())
    space = dl.FunctionSpace(mesh, "Lagrange", 1)
    at_vertices = u.compute_vertex_values().reshape(2, -1)
    length = dl.Function(space)
    hd.modeling.set_owned_values(length.vector(), np.linalg.norm(at_vertices, axis=0)[dl.dof_to_vertex_map(space)])
    mesh.coordinates()[:] += at_vertices.T
    return length


def draw_displacements(output: Path, model: hd.JacobianModel, dino: hd.DINO, fields: dict) -> None:
    """The body as truth and MAP points deform it, by the PDE, with the sensors where data, PDE and DINO put them."""
    # all three explain one data set, so that the true state is a good guess of the other two
    u_true = model.solveState(fields["truth"])
    u_pde, u_surrogate = (model.solveState(fields[f"{name} MAP"], guess=u_true) for name in ("PDE", "surrogate"))
    space = model.problem.Vh[hp.STATE]
    states = {"truth": u_true, "PDE MAP": u_pde, "surrogate MAP": u_surrogate}
    functions = {name: hp.vector2Function(u, space, name=name) for name, u in states.items()}
    bodies = {name: deformed_body(u) for name, u in functions.items()}
    gap = bodies["PDE MAP"].copy(deepcopy=True)
    gap.vector()[:] = bodies["surrogate MAP"].vector() - bodies["PDE MAP"].vector()
    panels = {
        "truth, circles: data": bodies["truth"],
        "PDE MAP, circles: PDE": bodies["PDE MAP"],
        "surrogate MAP, circles: DINO": bodies["surrogate MAP"],
        "surrogate - PDE": gap,
    }
    figure = plotting.plot_fields(panels, differences=["surrogate - PDE"], units="displacement |u|")
    surrogate = hd.SurrogateModel(dino, model.prior, model.misfit)
    q_data = hd.modeling.owned_values(model.misfit.d)
    q_pde, q_surrogate = model.observe(u_pde), surrogate.value(fields["surrogate MAP"])
    for axes, q in zip(figure.axes, (q_data, q_pde, q_surrogate, None), strict=True):
        axes.plot([0, 1, 1, 0, 0], [0, 0, 1, 1, 0], "--", color="0.35", linewidth=0.8)  # the body at rest
        if q is not None:
            sensors = observation_points() + q.reshape(-1, 2)
            axes.plot(*sensors.T, "o", markersize=3, color="white", markeredgecolor="black", markeredgewidth=0.6)
    plotting.save(figure, output / "displacement.png")
    plotting.write_xdmf(output / "displacement.xdmf", functions)


def main(
    output: Annotated[Path, typer.Option(help="Directory of all results.")] = Path("hyperelasticity-output"),
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
        # Newton from the prior mean fails for about one sample in a hundred
        dataset = hd.generate(
            model, output / "dataset", n_samples=n_samples, n_test=32, input_rank=input_rank, output_rank=100,
            seed=seed, resume=True, retry="continuation", max_failures=30,
        )  # fmt: skip
    if generate_only:
        return
    with study.timed(seconds, "train"):
        dino = hd.train(dataset, "h1", epochs=epochs, seed=seed)
    dino.save(output / "hyperelasticity.dino", overwrite=True)
    with study.timed(seconds, "infer"):
        comparison = study.compare(model, dino)

    study.draw_training(output, model, dataset, dino)
    study.draw_inference(output, model.prior.Vh, comparison, points=observation_points(), units="m = ln(E - 1)")
    draw_displacements(output, model, dino, comparison.fields)
    settings = {
        "mesh_size": mesh_size,
        "n_train": n_samples,
        "input_rank": input_rank,
        "epochs": dino.training["epochs"],
        "seed": seed,
    }
    numbers = {**comparison.numbers, "errors": dino.evaluate(dataset), "seconds": seconds, "settings": settings}
    study.report(output, numbers, "Hyperelasticity")


if __name__ == "__main__":
    typer.run(main)
