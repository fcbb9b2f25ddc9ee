"""The command map: the MAP point of synthetic data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hippylib_dino.cli.application import build_model, load_module
from hippylib_dino.cli.arguments import Application, MeshSize, ModelPath, Overwrite
from hippylib_dino.cli.files import check_file, load_dino, named
from hippylib_dino.cli.showing import show
from hippylib_dino.errors import InputError


def map_point(
    application: Application,
    model_file: ModelPath,
    output: Annotated[Path, typer.Option(help="ParaView file of the MAP point.")] = Path("map.xdmf"),
    truth_seed: Annotated[
        int, typer.Option(min=0, help="Seed of the prior sample that makes the synthetic data.")
    ] = 2026,
    mesh_size: MeshSize = None,
    overwrite: Overwrite = False,
) -> None:
    """MAP point for synthetic data, by hIPPYlib's Newton-CG on the surrogate; exit code 1 if it does not converge."""
    for file in (output, output.with_suffix(".h5")):  # which holds the numbers
        check_file("--output", file, overwrite, (".xdmf", ".h5") if file is not output else (".xdmf",))
    dino = load_dino(model_file)
    if dino.control is not None:
        raise InputError(
            f"MODEL_FILE: {str(model_file)!r} is a DINO with a control, a MAP point has none; use hippylib-dino ouu."
        )
    module = load_module(application, "build")
    import hippylib as hp
    from mpi4py import MPI

    from hippylib_dino import plotting
    from hippylib_dino.modeling import stopped_by_rounding
    from hippylib_dino.surrogate import SurrogateModel

    if MPI.COMM_WORLD.size > 1:  # each would write the same file
        raise InputError(f"map: runs on one rank, got {MPI.COMM_WORLD.size}; start it without mpirun.")
    model = build_model(application, module, mesh_size)
    with named(dino="MODEL_FILE"):
        surrogate = SurrogateModel(dino, model.prior, model.misfit, state_space=model.problem.Vh[hp.STATE])
    truth = _synthetic_data(model, truth_seed)
    parameters = hp.ReducedSpaceNewtonCG_ParameterList()
    parameters["print_level"] = -1
    solver = hp.ReducedSpaceNewtonCG(surrogate, parameters)
    x = solver.solve([None, model.prior.mean.copy(), None])
    space = model.prior.Vh
    fields = {"truth": hp.vector2Function(truth, space), "surrogate MAP": hp.vector2Function(x[hp.PARAMETER], space)}
    plotting.write_xdmf(output, fields)
    converged = solver.converged or stopped_by_rounding(surrogate, x)
    show(
        "MAP by the surrogate",
        {
            "converged": converged,
            "Newton iterations": solver.it,
            "cost": f"{solver.final_cost:.6g}",
            "fields": output,
        },
    )
    if not converged:
        raise typer.Exit(1)


def _synthetic_data(model, seed: int):
    """Put noisy observations of a prior sample into the misfit; return the sample.

    A whole state gets independent noise of variance σ²/W_ii at each coefficient that its mass matrix W sees, whose
    expected misfit is that of N(0, σ² W⁻¹).
    """
    import numpy as np

    from hippylib_dino.data import draw_parameter
    from hippylib_dino.modeling import set_owned_values
    from hippylib_dino.random_streams import Purpose, generator, seed_of

    rng = generator(Purpose.TRUTH_NOISE, seed)
    truth = draw_parameter(model.prior, seed_of(Purpose.TRUTH, seed), 0)
    misfit = model.misfit
    if model.whole_state:
        import dolfin as dl

        variance = float(model.data_space.value)
        weights = dl.as_backend_type(misfit.W).mat().getDiagonal().array
        noise = np.zeros(len(weights))
        seen = weights > 0
        noise[seen] = np.sqrt(variance / weights[seen]) * rng.standard_normal(int(seen.sum()))
        set_owned_values(misfit.d, model.observe_local(model.solveState(truth)) + noise)
        return truth
    noise = model.noise_covariance.sample(rng)  # before the solve, since there may be none
    data = model.evalObservable(truth) + noise
    if model.time_dependent:
        for member, rows in zip(misfit.misfits, model.observation.rows, strict=True):
            set_owned_values(member.d, data[rows])
    else:
        set_owned_values(misfit.d, data)
    return truth
