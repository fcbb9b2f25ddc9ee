"""Commands about the network: train, evaluate, report."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from hippylib_dino.cli.arguments import (
    DatasetPath,
    ModelPath,
    Part,
    Seed,
    choice,
    number,
    rank,
    text,
    widths,
)
from hippylib_dino.cli.files import check_apart, check_file, check_folder, load_pair, open_dataset
from hippylib_dino.cli.showing import show
from hippylib_dino.data.dataset import Dataset
from hippylib_dino.errors import DinoError, InputError
from hippylib_dino.network.dino import DINO


def train(
    path: DatasetPath,
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="File to write the trained DINO to.")],
    formulation: Annotated[str, choice("h1", "l2", "h1_truncated", "h1_sketched")] = "h1",
    n_train: Annotated[int | None, typer.Option(min=2, help="First training samples to use; default all.")] = None,
    n_validation: Annotated[int | None, typer.Option(min=1, help="Default a quarter of n-train.")] = None,
    input_rank: Annotated[str | None, rank("At most the dataset's, or a share of its energy.")] = None,
    output_rank: Annotated[str | None, rank("The same.")] = None,
    hidden: Annotated[str, text(widths, help="Widths of the hidden layers.")] = "192,192,192",
    activation: Annotated[str, choice("gelu", "tanh", "softplus", "silu")] = "gelu",
    epochs: Annotated[int | None, typer.Option(min=1, help="Default by the number of samples.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    optimizer: Annotated[str, choice("muon", "adam", "adamw")] = "muon",
    learning_rate: Annotated[
        float | None, number(positive=True, help="Peak; default what suits the optimizer.")
    ] = None,
    balance: Annotated[bool, typer.Option(help="Let both terms of the loss weigh the same.")] = False,
    precision: Annotated[str, choice("float32", "mixed_bfloat16", "mixed_float16")] = "float32",
    patience: Annotated[int | None, typer.Option(min=1, help="Epochs without improvement before it stops.")] = None,
    seed: Seed = 0,
    stream: Annotated[bool, typer.Option(help="Read Jacobians from disk, batch by batch.")] = False,
    log: Annotated[Path | None, typer.Option(help="Folder for history, TensorBoard, and what resumes a kill.")] = None,
    report: Annotated[Path | None, typer.Option(help="Folder for a report on the test samples.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace OUTPUT and the report.")] = False,
) -> None:
    """Train a DINO; needs no FEniCS."""
    from hippylib_dino.reduction.ranks import parse_rank

    check_file("OUTPUT", output, overwrite)
    check_apart(output, {"--log": log, "--report": report})
    if log is not None:
        check_folder("--log", log)
    if report is not None:
        check_folder("--report", report, empty=not overwrite)
    dataset = open_dataset(path)
    _check_count(dataset, "train", n_train)
    _check_count(dataset, "validation", n_validation)
    if report is not None and len(dataset.members("test")) == 0:
        raise InputError(
            "--report: the dataset has no test samples to report on; leave it out, or generate with --n-test."
        )
    from hippylib_dino.network import train as run
    from hippylib_dino.network.reporting import report as write_report

    if input_rank is not None or output_rank is not None:
        plan = dataset.plan
        dataset = dataset.truncate(
            plan.input_rank if input_rank is None else parse_rank("input_rank", input_rank),
            plan.output_rank if output_rank is None else parse_rank("output_rank", output_rank),
        )
    dino = run(
        dataset,
        formulation,
        hidden=widths("hidden", hidden),
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
    _save(dino, output, overwrite)
    print(dino)
    if report is not None:  # which was empty, and may hold OUTPUT and the log by now
        print(write_report(dino, dataset, report, overwrite=True))


def _check_count(dataset: Dataset, part: str, asked: int | None) -> None:
    there = len(dataset.members(part))
    if asked is not None and asked > there:
        raise InputError(
            f"n_{part}: expected at most {there}, the finished {part} samples of {str(dataset.path)!r}, got {asked}. "
            "Ask for fewer, or generate more."
        )


def _save(dino: DINO, output: Path, overwrite: bool) -> None:
    """Save the DINO; a disk that is full or gone by now does not cost the training.

    Raises
    ------
    DinoError
        If it went to the folder for temporary files, which the message names.
    """
    try:
        dino.save(output, overwrite=overwrite)
    except (OSError, InputError) as error:
        kept = Path(tempfile.mkdtemp(prefix="hippylib-dino-")) / "trained.dino"
        dino.save(kept)
        raise DinoError(
            f"OUTPUT: {str(output)!r} could be written before the training, but not after it ({error}). The DINO is in "
            f"{str(kept)!r}; move it to where it is to stay."
        ) from error


def evaluate(model_file: ModelPath, path: DatasetPath, part: Part = "test") -> None:
    """Relative errors of a DINO on held-out samples, with their 95 % bootstrap intervals."""
    from hippylib_dino.network.metrics import confidence_intervals, root_mean

    dino, dataset = load_pair(model_file, path)
    squares = dino.sample_errors(dataset, part)
    rows = {
        name: f"{root_mean(squares[name]):.3%}  ({low:.3%} .. {high:.3%})"
        for name, (low, high) in confidence_intervals(squares).items()
    }
    show(f"relative errors, {part} samples, 95 % intervals", rows)


def report(
    model_file: ModelPath,
    path: DatasetPath,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder for report.md, its figures, and report.html.")
    ],
    part: Part = "test",
    overwrite: Annotated[bool, typer.Option(help="Write into a folder that is not empty.")] = False,
) -> None:
    """Report of a DINO: errors, what to spend on, history, spectra, worst samples."""
    from hippylib_dino.network.reporting import report as run

    check_folder("FOLDER", folder, empty=not overwrite)
    dino, dataset = load_pair(model_file, path)
    print(run(dino, dataset, folder, part, overwrite=overwrite))
