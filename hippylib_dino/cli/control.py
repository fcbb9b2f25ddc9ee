"""The command ouu: optimal control under uncertainty."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hippylib_dino.cli.application import build_model, left_alone, load_module
from hippylib_dino.cli.arguments import MeshSize, ModelPath, Overwrite, Seed, number, text
from hippylib_dino.cli.files import check_file, load_dino, named
from hippylib_dino.cli.showing import show
from hippylib_dino.errors import InputError
from hippylib_dino.files import write_file


def _risk(name: str, value: str) -> object:
    from hippylib_dino.ouu import parse_risk

    with named(**{key: f"{name}: {key}" for key in ("beta", "theta", "epsilon")}):  # parameters of measures
        return parse_risk(value)


def ouu(
    application: Annotated[
        str, typer.Argument(metavar="APPLICATION", help="Module with build(comm, ...) and quantity(model).")
    ],
    model_file: ModelPath,
    output: Annotated[Path, typer.Option(help="NumPy file of the control, z.")] = Path("control.npz"),
    risk: Annotated[
        str, text(_risk, help="expectation, mean-variance:1, cvar:0.95, entropic:1 or worst-case:0.01.")
    ] = "cvar:0.95",
    penalty: Annotated[float, number(positive=False, help="Factor of half the square norm of the control.")] = 0.0,
    n_samples: Annotated[int, typer.Option(min=1, help="Samples of the surrogate.")] = 256,
    n_pde: Annotated[int, typer.Option(min=0, help="Fresh samples of the PDE, to assess the control with.")] = 0,
    mesh_size: MeshSize = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Optimal control under uncertainty by the surrogate, from the mean control, in the box it was trained on.

    Exit code 1 if the optimiser does not converge.
    """
    if n_pde == 1:
        raise InputError("n_pde: expected 0, or at least 2 samples, whose scatter tells the error, got 1.")
    dino = load_dino(model_file)
    if dino.control is None:
        raise InputError(
            f"MODEL_FILE: {str(model_file)!r} is a DINO without a control; there is nothing to optimise. Train one on "
            "data of a model with control=..."
        )
    module = load_module(application, "build", "quantity")
    import numpy as np
    from mpi4py import MPI
    from rich.console import Console

    from hippylib_dino import ouu as package
    from hippylib_dino.data.together import Ranks
    from hippylib_dino.random_streams import Purpose, generator

    Ranks(MPI.COMM_WORLD).on_first(lambda: check_file("--output", output, overwrite, (".npz",)))
    measure, is_first = package.parse_risk(risk), MPI.COMM_WORLD.rank == 0
    model, form = _problem(application, module, mesh_size, dino)
    value, gradient = form.of_state()
    reduced = package.LatentQuadratic.reduce(value, gradient, dino.output_basis)
    rng, rank = generator(Purpose.SURROGATE_ENSEMBLE, seed), dino.input_basis.parameter_part().rank

    def surrogate(x: np.ndarray) -> package.SurrogateEnsemble:
        return package.SurrogateEnsemble.of_dino(dino, reduced, x)

    ensemble, penalties = surrogate(rng.standard_normal((n_samples, rank))), [package.L2Penalty(penalty)]
    law = dino.control
    bounds = (law.lower, law.upper) if isinstance(law, package.UniformControl) else None
    found = package.minimize(package.Objective(ensemble, measure, penalties), law.mean, bounds=bounds)
    rows = {
        "converged": f"{found.converged} ({found.message})",
        "iterations": found.n_iterations,
        "risk at the mean control": f"{measure.value(ensemble.quantity(law.mean)):.6g}",
        "risk": f"{found.risk:.6g}",
        **({} if found.smoothing is None else {"smoothing of the risk": f"{found.smoothing:.3g}"}),
        "control": output,
    }
    if is_first:
        write_file(output, lambda stream: np.savez(stream, z=found.z))
        show("optimal control by the surrogate", rows)
    if n_pde:
        pde = package.PDEEnsemble.draw(model, form, n_pde, seed=seed + 1)
        judged = package.assess(
            package.Objective(pde, measure, penalties), found.z, paired=surrogate(pde.latent(dino.input_basis)),
            cheap=surrogate(rng.standard_normal((20 * n_pde, rank))), bounds=bounds,
        )  # fmt: skip
        if is_first:
            Console().print(judged.table())
    if not found.converged:
        raise typer.Exit(1)


def _problem(application: str, module, mesh_size: int | None, dino):
    """The model and its quantity of interest, of the problem that the DINO was trained for."""
    from hippylib_dino.modeling import check_fingerprint, fingerprint
    from hippylib_dino.ouu import FormQuantity

    model = build_model(application, module, mesh_size)
    if model.control_distribution is None:
        raise InputError(
            f"APPLICATION: the model of {application!r} draws no controls; pass control=... to hd.JacobianModel."
        )
    here = {**fingerprint(model), "control": model.control_distribution.get_config()}
    check_fingerprint(dino.fingerprint, here, "MODEL_FILE: it")
    form = left_alone(lambda: module.quantity(model))
    if not isinstance(form, FormQuantity):
        raise InputError(
            f"APPLICATION: expected quantity of {application!r} to return an hd.ouu.FormQuantity, got "
            f"{type(form).__name__}."
        )
    return model, form
