"""Commands about datasets: generate, info, verify."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from hippylib_dino.cli.application import build_model, load_module
from hippylib_dino.cli.arguments import Application, DatasetPath, MeshSize, Overwrite, Seed, choice, rank
from hippylib_dino.cli.files import check_file, check_folder, load_dino, named, open_dataset
from hippylib_dino.cli.showing import show
from hippylib_dino.data.integrity import METADATA
from hippylib_dino.errors import DatasetError, InputError

PICTURES = (".png", ".pdf", ".svg")


def generate(
    application: Application,
    path: DatasetPath,
    n_samples: Annotated[int, typer.Option(min=1, help="Training samples.")] = 1024,
    n_validation: Annotated[int | None, typer.Option(min=0)] = None,
    n_test: Annotated[int | None, typer.Option(min=0)] = None,
    n_basis_samples: Annotated[int | None, typer.Option(min=1)] = None,
    input_rank: Annotated[
        str | None, rank("A rank, or a share of the energy such as 0.9999; default at most 100.")
    ] = None,
    output_rank: Annotated[str | None, rank("The same; default at most 50, all for identity.")] = None,
    control_rank: Annotated[str | None, rank("Of controls, the same; default all of them.")] = None,
    input_basis: Annotated[str, choice("derivative", "kle")] = "derivative",
    output_basis: Annotated[str, choice("derivative", "pod", "identity")] = "derivative",
    mesh_size: MeshSize = None,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option(help="Continue the dataset that is there, or append to it.")] = False,
    repair: Annotated[bool, typer.Option(help="With --resume: solve damaged samples again.")] = False,
    reuse: Annotated[Path | None, typer.Option(help="Dataset with full Jacobians to project from.")] = None,
    store_full: Annotated[bool, typer.Option(help="Keep full parameters and Jacobians as well.")] = False,
    store_parameters: Annotated[bool, typer.Option(help="Keep full parameters.")] = False,
    initial_guess: Annotated[str, choice("auto", "mean", "linearized", "nearest", "regression")] = "auto",
    retry: Annotated[str | None, choice("continuation", help=", for solves that fail.")] = None,
    ranks_per_sample: Annotated[int, typer.Option(min=1, help="MPI ranks that share one mesh.")] = 1,
    max_failures: Annotated[int, typer.Option(min=0)] = 10,
) -> None:
    """Generate a dataset; also under mpirun."""
    from hippylib_dino.reduction.ranks import parse_rank

    if repair and not resume:
        raise InputError("--repair: repairs a dataset that is there, so pass --resume with it.")
    if n_basis_samples is not None and n_basis_samples > n_samples:
        raise InputError(
            f"--n-basis-samples: expected at most the {n_samples} of --n-samples, whose first ones make the bases, got "
            f"{n_basis_samples}."
        )
    projected = None if reuse is None else open_dataset(reuse, "--reuse")
    if projected is not None and not projected.plan.store_full:
        raise InputError(
            f"--reuse: {str(reuse)!r} holds no full Jacobians; pass one that was generated with --store-full."
        )
    module = load_module(application, "build")
    from mpi4py import MPI

    from hippylib_dino.data import generate as run
    from hippylib_dino.data.together import Ranks

    Ranks(MPI.COMM_WORLD).on_first(lambda: _check_place(path, resume))
    model = build_model(application, module, mesh_size, ranks_per_sample)
    with named(path="DATASET"):
        dataset = run(
            model,
            path,
            n_samples=n_samples,
            n_validation=n_validation,
            n_test=n_test,
            n_basis_samples=n_basis_samples,
            input_rank=None if input_rank is None else parse_rank("input_rank", input_rank),
            output_rank=None if output_rank is None else parse_rank("output_rank", output_rank),
            control_rank=None if control_rank is None else parse_rank("control_rank", control_rank),
            input_basis=input_basis,
            output_basis=output_basis,
            seed=seed,
            resume=resume,
            repair=repair,
            reuse=projected,
            store_full=store_full,
            store_parameters=store_parameters,
            initial_guess=initial_guess,
            retry=retry,
            max_failures=max_failures,
        )
    if MPI.COMM_WORLD.rank == 0:
        print(dataset)


def _check_place(path: Path, resume: bool) -> None:
    """Raise `InputError` where no dataset can be made, or none is to be continued; a run that was killed may be."""
    from hippylib_dino.data.directory import PARTIAL
    from hippylib_dino.data.lock import NAME as LOCK

    if not os.path.exists(path / METADATA):
        check_folder("DATASET", path)
        names = os.listdir(path) if path.exists() else []
        if names and not {PARTIAL, LOCK}.intersection(names):
            raise DatasetError(
                f"DATASET: {str(path)!r} is not empty and holds no dataset; choose another directory. If it held one, "
                "restore its zarr.json."
            )
    elif not resume:
        raise DatasetError(
            f"DATASET: {str(path)!r} holds a dataset; pass --resume to continue it or to append to it, or choose "
            "another name."
        )
    else:
        open_dataset(path)


def info(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Dataset directory or DINO file.")],
    figure: Annotated[
        Path | None, typer.Option(help="Picture of a dataset, its solves and its bases: .png, .pdf or .svg.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Progress, failures, speed and provenance of a dataset; what a DINO holds."""
    if os.path.isdir(path):  # which raises for no path
        _info_of_dataset(path, figure, overwrite)
        return
    if figure is not None:
        raise InputError(f"--figure: draws a dataset, and {str(path)!r} is no folder of one; leave it out.")
    dino = load_dino(path, "path")
    training = {k: str(v) for k, v in dino.training.items() if k != "history"}
    show(str(path), {"network": repr(dino), "input basis": dino.input_basis.kind, **training})


def _info_of_dataset(path: Path, figure: Path | None, overwrite: bool) -> None:
    from hippylib_dino import plotting
    from hippylib_dino.data import report

    if figure is not None:
        check_file("--figure", figure, overwrite, PICTURES)
    dataset = open_dataset(path, "path")
    show(str(path), report(dataset))
    if figure is not None:
        plotting.save(plotting.plot_dataset(dataset), figure)


def verify(path: DatasetPath) -> None:
    """Read a dataset once; name what is damaged, which is exit code 1."""
    try:
        print(f"{path}: {open_dataset(path).verify()} good samples")
    except DatasetError as error:
        if not os.path.isfile(path / METADATA):
            raise  # there is none
        typer.echo(f"hippylib-dino: {error}", err=True)
        raise typer.Exit(1) from error
