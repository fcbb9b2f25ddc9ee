"""What several commands take, and checks of single values."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from hippylib_dino.errors import InputError

Application = Annotated[
    str, typer.Argument(metavar="APPLICATION", help="Module with build(comm, ...), e.g. applications.confusion.")
]
DatasetPath = Annotated[Path, typer.Argument(metavar="DATASET", help="Dataset directory.")]
ModelPath = Annotated[Path, typer.Argument(metavar="MODEL_FILE", help="File of a trained DINO.")]
MeshSize = Annotated[
    int | None, typer.Option(min=1, help="Passed to build() as mesh_size; default the application's own.")
]
Seed = Annotated[int, typer.Option(min=0)]
Overwrite = Annotated[bool, typer.Option(help="Replace what is there.")]


def choice(*names: str, help: str = "") -> Any:
    """An option that takes one of some names, which its help lists."""

    def check(param: typer.CallbackParam, value: str | None) -> str | None:
        if value is not None and value not in names:
            raise InputError(f"{param.name}: expected one of {', '.join(names)}, got {value!r}.")
        return value

    listed = f"{', '.join(names[:-1])} or {names[-1]}" if names[1:] else names[0]
    return typer.Option(help=f"{listed}{help or '.'}", callback=check)


def number(*, positive: bool, help: str) -> Any:
    """An option that takes a finite number, above zero or at least zero."""

    def check(param: typer.CallbackParam, value: float | None) -> float | None:
        if value is not None and not (math.isfinite(value) and (value > 0 if positive else value >= 0)):
            bound = "above 0" if positive else "of at least 0"
            raise InputError(f"{param.name}: expected a finite number {bound}, got {value}.")
        return value

    return typer.Option(help=help, callback=check)


def text(read: Callable[[str, str], object], *, help: str) -> Any:
    """An option whose text `read(name, text)` understands, or refuses by an `InputError`."""

    def check(param: typer.CallbackParam, value: str | None) -> str | None:
        if value is not None:
            read(str(param.name), value)
        return value

    return typer.Option(help=help, callback=check)


def rank(help: str) -> Any:
    """An option that takes a rank, or a share of the energy."""

    def read(name: str, value: str) -> object:
        from hippylib_dino.reduction.ranks import parse_rank

        return parse_rank(name, value)

    return text(read, help=help)


def widths(name: str, value: str) -> tuple[int, ...]:
    """Layer widths, "192,192"; "" for none.

    Raises
    ------
    InputError
        If they are none.
    """
    try:
        found = tuple(int(width) for width in value.split(",")) if value else ()
    except ValueError as error:
        raise InputError(f"{name}: expected widths with commas between, such as 192,192, got {value!r}.") from error
    if any(width < 1 for width in found):
        raise InputError(f"{name}: expected widths of at least 1, such as 192,192, got {value!r}.")
    return found


Part = Annotated[str, choice("test", "validation", "train")]
