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
from hippylib_dino.files import write_file

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Derivative-informed neural operators for hIPPYlib.")

Application = Annotated[str, typer.Argument(help="Module with build(comm, ...), e.g. applications.confusion.")]
DatasetPath = Annotated[Path, typer.Argument(help="Dataset directory.")]
ModelPath = Annotated[Path, typer.Argument(help="File of a trained DINO.")]
Part = Annotated[str, typer.Option(help="test, validation or train.")]
MeshSize = Annotated[int | None, typer.Option(help="Passed to build() as mesh_size; default the application's own.")]


def _module(application: str):
    """The application's module."""
    import dolfin as dl

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
    return module


def _build(application: str, mesh_size: int | None, ranks_per_sample: int = 1):
    """The application's model on this run's sample communicator."""
    from hippylib_dino.modeling import sample_communicator

    comm = sample_communicator(ranks_per_sample)
    return _module(application).build(comm, **({} if mesh_size is None else {"mesh_size": mesh_size}))


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
    input_rank: Annotated[
        str | None, typer.Option(help="A rank, or a share of the energy such as 0.9999; default at most 100.")
    ] = None,
    output_rank: Annotated[str | None, typer.Option(help="The same; default at most 50, all for identity.")] = None,
    control_rank: Annotated[str | None, typer.Option(help="Of controls, the same; default all of them.")] = None,
    input_basis: Annotated[str, typer.Option(help="derivative or kle.")] = "derivative",
    output_basis: Annotated[str, typer.Option(help="derivative, pod or identity.")] = "derivative",
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
    from hippylib_dino.reduction.ranks import parse_rank

    dataset = run(
        _build(application, mesh_size, ranks_per_sample),
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
    formulation: Annotated[str, typer.Option(help="h1, l2, h1_truncated or h1_sketched.")] = "h1",
    n_train: Annotated[int | None, typer.Option(help="First training samples to use; default all.")] = None,
    n_validation: Annotated[int | None, typer.Option(help="Default a quarter of n-train.")] = None,
    input_rank: Annotated[str | None, typer.Option(help="At most the dataset's, or a share of its energy.")] = None,
    output_rank: Annotated[str | None, typer.Option(help="The same.")] = None,
    hidden: Annotated[str, typer.Option(help="Widths of the hidden layers.")] = "192,192,192",
    activation: Annotated[str, typer.Option(help="gelu, tanh, softplus or silu.")] = "gelu",
    epochs: Annotated[int | None, typer.Option(help="Default by the number of samples.")] = None,
    batch_size: int = 32,
    optimizer: Annotated[str, typer.Option(help="muon, adam or adamw.")] = "muon",
    learning_rate: Annotated[float | None, typer.Option(help="Peak; default what suits the optimizer.")] = None,
    balance: Annotated[bool, typer.Option(help="Let both terms of the loss weigh the same.")] = False,
    precision: Annotated[str, typer.Option(help="float32, mixed_bfloat16 or mixed_float16.")] = "float32",
    patience: Annotated[int | None, typer.Option(help="Epochs without improvement before it stops.")] = None,
    seed: int = 0,
    stream: Annotated[bool, typer.Option(help="Read Jacobians from disk, batch by batch.")] = False,
    log: Annotated[Path | None, typer.Option(help="Folder for history, TensorBoard, and what resumes a kill.")] = None,
    report: Annotated[Path | None, typer.Option(help="Folder for a report on the test samples.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace OUTPUT and the report.")] = False,
) -> None:
    """Train a DINO; needs no FEniCS."""
    from hippylib_dino.data import Dataset
    from hippylib_dino.network import train as run
    from hippylib_dino.network.reporting import check_folder
    from hippylib_dino.network.reporting import report as write_report
    from hippylib_dino.reduction.ranks import parse_rank

    if output.exists() and not overwrite:
        raise InputError(f"OUTPUT: {str(output)!r} exists; pass --overwrite to replace it.")
    if report is not None:  # before the training, not after it
        check_folder(report, overwrite)
    dataset = Dataset.open(path)
    if input_rank is not None or output_rank is not None:
        plan = dataset.plan
        dataset = dataset.truncate(
            plan.input_rank if input_rank is None else parse_rank("input_rank", input_rank),
            plan.output_rank if output_rank is None else parse_rank("output_rank", output_rank),
        )
    dino = run(
        dataset,
        formulation,
        hidden=_widths(hidden),
        activation=activation,
        n_train=n_train,
        n_validation=n_validation,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        learning_rate=learning_rate,
        balance=balance,
        precision=precision,
        patience=patience,
        seed=seed,
        stream=stream,
        log=log,
    )
    dino.save(output, overwrite=overwrite)
    print(dino)
    if report is not None:
        print(write_report(dino, dataset, report, overwrite=overwrite))


def _widths(text: str) -> tuple[int, ...]:
    """Layer widths of a command line, "192,192"; "" for none."""
    try:
        return tuple(int(width) for width in text.split(",") if text)
    except ValueError as error:
        raise InputError(f"hidden: expected widths with commas between, such as 192,192, got {text!r}.") from error


@app.command()
def evaluate(model_file: ModelPath, path: DatasetPath, part: Part = "test") -> None:
    """Relative errors of a DINO on held-out samples, with their 95 % bootstrap intervals."""
    from hippylib_dino.network.metrics import confidence_intervals, root_mean

    dino, dataset = _loaded(model_file, path)
    squares = dino.sample_errors(dataset, part)
    rows = {
        name: f"{root_mean(squares[name]):.3%}  ({low:.3%} .. {high:.3%})"
        for name, (low, high) in confidence_intervals(squares).items()
    }
    _show(f"relative errors, {part} samples, 95 % intervals", rows)


@app.command()
def report(
    model_file: ModelPath,
    path: DatasetPath,
    folder: Annotated[Path, typer.Argument(help="Folder for report.md, its figures, and report.html.")],
    part: Part = "test",
    overwrite: Annotated[bool, typer.Option(help="Write into a folder that is not empty.")] = False,
) -> None:
    """Report of a DINO: errors, what to spend on, history, spectra, worst samples."""
    from hippylib_dino.network.reporting import report as run

    dino, dataset = _loaded(model_file, path)
    print(run(dino, dataset, folder, part, overwrite=overwrite))


def _loaded(model_file: Path, path: Path):
    """A DINO, and the dataset in the ranks that it was trained in; a learned encoder has no rank of a dataset."""
    from hippylib_dino.data import Dataset
    from hippylib_dino.network import DINO

    dino, dataset = DINO.load(model_file), Dataset.open(path)
    learned = dino.input_basis.kind == "learned"
    rank = dataset.plan.input_rank if learned else dino.input_basis.parameter_part().rank
    return dino, dataset.truncate(rank, dino.output_basis.rank)


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

    from hippylib_dino import plotting
    from hippylib_dino.data import draw_parameter
    from hippylib_dino.modeling import set_owned_values, stopped_by_rounding
    from hippylib_dino.network import DINO
    from hippylib_dino.random_streams import Purpose, generator, seed_of
    from hippylib_dino.surrogate import SurrogateModel

    dino = DINO.load(model_file)
    model = _build(application, mesh_size)
    surrogate = SurrogateModel(dino, model.prior, model.misfit)
    truth = draw_parameter(model.prior, seed_of(Purpose.TRUTH, truth_seed), 0)
    noise = model.noise_covariance.sample(generator(Purpose.TRUTH_NOISE, truth_seed))
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
            "converged": solver.converged or stopped_by_rounding(surrogate, x),
            "Newton iterations": solver.it,
            "cost": f"{solver.final_cost:.6g}",
            "fields": output,
        },
    )


@app.command()
def ouu(
    application: Annotated[str, typer.Argument(help="Module with build(comm, ...) and quantity(model).")],
    model_file: ModelPath,
    output: Annotated[Path, typer.Option(help="NumPy file of the control, z.")] = Path("control.npz"),
    risk: Annotated[
        str, typer.Option(help="expectation, mean-variance:1, cvar:0.95, entropic:1 or worst-case:0.01.")
    ] = ("cvar:0.95"),
    penalty: Annotated[float, typer.Option(help="Factor of half the square norm of the control.")] = 0.0,
    n_samples: Annotated[int, typer.Option(help="Samples of the surrogate.")] = 256,
    n_pde: Annotated[int, typer.Option(help="Fresh samples of the PDE, to assess the control with.")] = 0,
    mesh_size: MeshSize = None,
    seed: int = 0,
) -> None:
    """Optimal control under uncertainty by the surrogate, from the mean control, in the box it was trained on."""
    import numpy as np

    from hippylib_dino import ouu as package
    from hippylib_dino.network import DINO
    from hippylib_dino.random_streams import Purpose, generator

    module = _module(application)
    if not hasattr(module, "quantity"):
        raise InputError(f"APPLICATION: module {application!r} has no function quantity(model) -> FormQuantity.")
    measure, dino = package.parse_risk(risk), DINO.load(model_file)
    if dino.control is None:
        raise InputError(f"MODEL_FILE: {str(model_file)!r} is a DINO without a control; there is nothing to optimise.")
    model = _build(application, mesh_size)
    form = module.quantity(model)
    value, gradient = form.of_state()
    reduced = package.LatentQuadratic.reduce(value, gradient, dino.output_basis)
    rng, rank = generator(Purpose.SURROGATE_ENSEMBLE, seed), dino.input_basis.parameter_part().rank

    def surrogate(x: np.ndarray) -> package.SurrogateEnsemble:
        return package.SurrogateEnsemble.of_dino(dino, reduced, x)

    ensemble, penalties = surrogate(rng.standard_normal((n_samples, rank))), [package.L2Penalty(penalty)]
    law = dino.control
    bounds = (law.lower, law.upper) if isinstance(law, package.UniformControl) else None
    found = package.minimize(package.Objective(ensemble, measure, penalties), law.mean, bounds=bounds)
    output = output if output.suffix == ".npz" else output.with_name(output.name + ".npz")
    write_file(output, lambda stream: np.savez(stream, z=found.z))
    rows = {
        "converged": f"{found.converged} ({found.message})",
        "iterations": found.n_iterations,
        "risk at the mean control": f"{measure.value(ensemble.quantity(law.mean)):.6g}",
        "risk": f"{found.risk:.6g}",
        "control": output,
    }
    _show("optimal control by the surrogate", rows)
    if n_pde:
        pde = package.PDEEnsemble.draw(model, form, n_pde, seed=seed + 1)
        judged = package.assess(
            package.Objective(pde, measure, penalties), found.z, paired=surrogate(pde.latent(dino.input_basis)),
            cheap=surrogate(rng.standard_normal((20 * n_pde, rank))), bounds=bounds,
        )  # fmt: skip
        Console().print(judged.table())


@app.command()
def oed(
    model_file: ModelPath,
    path: DatasetPath,
    n_sensors: Annotated[int, typer.Option(help="Observables of the dataset to choose.")] = 10,
    n_draws: Annotated[int, typer.Option(help="Draws of parameter and noise.")] = 64,
    n_random: Annotated[int, typer.Option(help="Random designs to compare with.")] = 100,
    linearized: Annotated[bool, typer.Option(help="Linearise at the draws: much faster, less exact.")] = False,
    seed: int = 0,
) -> None:
    """Choose sensors by expected information gain, with the noise of the dataset; needs no FEniCS."""
    import numpy as np

    from hippylib_dino.data import Dataset
    from hippylib_dino.network import DINO
    from hippylib_dino.oed import InformationGain, random_designs, swapping_greedy

    dino, noise = DINO.load(model_file), Dataset.open(path).noise_covariance
    simple = InformationGain(dino, noise, n_draws, seed, method="linearized")
    design = swapping_greedy(simple, n_sensors)
    gain = simple
    if not linearized:
        gain = InformationGain(dino, noise, n_draws, seed)
        design = swapping_greedy(gain, n_sensors, start=design.sensors)
    estimate = gain.estimate(design)
    random = gain.evaluate(random_designs(gain, n_sensors, n_random, seed))
    _show(
        f"{n_sensors} of {gain.n_candidates} observables",
        {
            "sensors, in order": " ".join(map(str, design)),
            "expected information gain, nats": f"{estimate.value:.5g} +- {estimate.standard_error:.2g}",
            "best, median random design": f"{random.max():.5g}, {np.median(random):.5g}",
            "designs asked for": design.n_evaluations,
            "draws that failed": f"{gain.n_failed} of {gain.n_pairs}",
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
