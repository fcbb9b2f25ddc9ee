"""`hippylib-dino`: a thin skin over the functions of the same names.

An APPLICATION is the name of an importable module with ``build(comm, ...) -> hd.JacobianModel``,
for instance ``applications.confusion``.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hippylib_dino.errors import DinoError, InputError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Derivative-informed neural operators for hIPPYlib.")

Application = Annotated[str, typer.Argument(help="Module with build(comm, ...), e.g. applications.confusion.")]
DatasetPath = Annotated[Path, typer.Argument(help="Dataset directory.")]
ModelPath = Annotated[Path, typer.Argument(help="File of a trained DINO.")]
MeshSize = Annotated[int | None, typer.Option(help="Passed to build() as mesh_size; default the application's own.")]


def _build(application: str, mesh_size: int | None, ranks_per_sample: int = 1):
    """The application's model on this run's sample communicator."""
    import dolfin as dl

    from hippylib_dino.modeling import sample_communicator

    dl.set_log_level(dl.LogLevel.ERROR)
    sys.path.insert(0, os.getcwd())  # as `python -m` does, for applications beside the user
    try:
        module = importlib.import_module(application)
    except ModuleNotFoundError as error:
        raise InputError(
            f"APPLICATION: cannot import {application!r} ({error}); run from the folder that holds it."
        ) from error
    if not hasattr(module, "build"):
        raise InputError(f"APPLICATION: module {application!r} has no function build(comm, ...) -> JacobianModel.")
    comm = sample_communicator(ranks_per_sample)
    return module.build(comm, **({} if mesh_size is None else {"mesh_size": mesh_size}))


def _show(title: str, rows: dict) -> None:
    table = Table("", "", title=title, show_header=False)
    for name, value in rows.items():
        table.add_row(name, f"{value:.4%}" if isinstance(value, float) else str(value))
    Console().print(table)


@app.command()
def generate(
    application: Application,
    path: DatasetPath,
    n_samples: Annotated[int, typer.Option(help="Training samples.")] = 1024,
    n_validation: int | None = None,
    n_test: int | None = None,
    n_basis_samples: int | None = None,
    input_rank: int = 100,
    output_rank: int = 50,
    input_basis: str = "derivative",
    output_basis: str = "derivative",
    mesh_size: MeshSize = None,
    seed: int = 0,
    resume: Annotated[bool, typer.Option(help="Continue the dataset that is there, or append to it.")] = False,
    repair: Annotated[bool, typer.Option(help="With --resume: solve damaged samples again.")] = False,
    reuse: Annotated[Path | None, typer.Option(help="Dataset with full Jacobians to project from.")] = None,
    store_full: Annotated[bool, typer.Option(help="Keep full parameters and Jacobians as well.")] = False,
    store_parameters: Annotated[bool, typer.Option(help="Keep full parameters.")] = False,
    initial_guess: Annotated[str, typer.Option(help="auto, mean, linearized, nearest or regression.")] = "auto",
    retry: Annotated[str | None, typer.Option(help='"continuation" for solves that fail.')] = None,
    ranks_per_sample: Annotated[int, typer.Option(help="MPI ranks that share one mesh.")] = 1,
    max_failures: int = 10,
) -> None:
    """Generate a dataset; also under mpirun."""
    from mpi4py import MPI

    from hippylib_dino.data import Dataset
    from hippylib_dino.data import generate as run

    dataset = run(
        _build(application, mesh_size, ranks_per_sample),
        path,
        n_samples=n_samples,
        n_validation=n_validation,
        n_test=n_test,
        n_basis_samples=n_basis_samples,
        input_rank=input_rank,
        output_rank=output_rank,
        input_basis=input_basis,
        output_basis=output_basis,
        seed=seed,
        resume=resume,
        repair=repair,
        reuse=None if reuse is None else Dataset.open(reuse),
        store_full=store_full,
        store_parameters=store_parameters,
        initial_guess=initial_guess,
        retry=retry,
        max_failures=max_failures,
    )
    if MPI.COMM_WORLD.rank == 0:
        print(dataset)


@app.command()
def train(
    path: DatasetPath,
    output: ModelPath,
    formulation: Annotated[str, typer.Option(help='"h1" or "l2".')] = "h1",
    n_train: int | None = None,
    epochs: int = 400,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Train a DINO; needs no FEniCS."""
    from hippylib_dino.data import Dataset
    from hippylib_dino.network import train as run

    if output.exists() and not overwrite:
        raise InputError(f"OUTPUT: {str(output)!r} exists; pass --overwrite to replace it.")
    dino = run(Dataset.open(path), formulation, n_train=n_train, epochs=epochs, seed=seed)
    dino.save(output, overwrite=overwrite)
    print(dino)


@app.command()
def evaluate(model_file: ModelPath, path: DatasetPath, part: str = "test") -> None:
    """Relative errors of a DINO on held-out samples."""
    from hippylib_dino.data import Dataset
    from hippylib_dino.network import DINO

    _show(f"relative errors, {part} samples", DINO.load(model_file).evaluate(Dataset.open(path), part))


@app.command("map")
def map_point(
    application: Application,
    model_file: ModelPath,
    output: Annotated[Path, typer.Option(help="ParaView file of the MAP point.")] = Path("map.xdmf"),
    truth_seed: Annotated[int, typer.Option(help="Seed of the prior sample that makes the synthetic data.")] = 2026,
    mesh_size: MeshSize = None,
) -> None:
    """MAP point for synthetic data, by hIPPYlib's Newton-CG on the surrogate."""
    import hippylib as hp
    import numpy as np

    from hippylib_dino import plotting
    from hippylib_dino.data import draw_parameter
    from hippylib_dino.modeling import set_owned_values
    from hippylib_dino.network import DINO
    from hippylib_dino.surrogate import SurrogateModel

    dino = DINO.load(model_file)
    model = _build(application, mesh_size)
    surrogate = SurrogateModel(dino, model.prior, model.misfit)
    truth = draw_parameter(model.prior, truth_seed, 0)
    noise = model.noise_covariance.sample(np.random.default_rng(truth_seed))
    set_owned_values(model.misfit.d, model.evalObservable(truth) + noise)
    parameters = hp.ReducedSpaceNewtonCG_ParameterList()
    parameters["print_level"] = -1
    solver = hp.ReducedSpaceNewtonCG(surrogate, parameters)
    x = solver.solve([None, model.prior.mean.copy(), None])
    space = model.prior.Vh
    fields = {"truth": hp.vector2Function(truth, space), "surrogate MAP": hp.vector2Function(x[hp.PARAMETER], space)}
    plotting.write_xdmf(output, fields)
    _show(
        "MAP by the surrogate",
        {
            "converged": solver.converged,
            "Newton iterations": solver.it,
            "cost": f"{solver.final_cost:.6g}",
            "fields": output,
        },
    )


@app.command()
def info(
    path: Annotated[Path, typer.Argument(help="Dataset directory or DINO file.")],
    figure: Annotated[Path | None, typer.Option(help="Picture of a dataset: its solves and its bases.")] = None,
) -> None:
    """Progress, failures, speed and provenance of a dataset; what a DINO holds."""
    from hippylib_dino import plotting
    from hippylib_dino.data import Dataset, report
    from hippylib_dino.network import DINO

    if path.is_dir():
        dataset = Dataset.open(path)
        _show(str(path), report(dataset))
        if figure is not None:
            plotting.save(plotting.plot_dataset(dataset), figure)
    else:
        dino = DINO.load(path)
        training = {k: str(v) for k, v in dino.training.items() if k != "history"}
        _show(str(path), {"network": repr(dino), "input basis": dino.input_basis.kind, **training})


@app.command()
def verify(path: DatasetPath) -> None:
    """Read a dataset once; name what is damaged."""
    from hippylib_dino.data import Dataset

    print(f"{path}: {Dataset.open(path).verify()} good samples")


def main() -> None:
    """Entry point: errors of the package are one line, not a traceback."""
    try:
        app()
    except DinoError as error:
        print(f"hippylib-dino: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
