"""The application, what its exit codes mean, and how errors are told."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import typer

from hippylib_dino.cli import control, data, design, inverse, training
from hippylib_dino.cli.application import own_lines
from hippylib_dino.errors import DinoError, InputError, LibraryError

NAME = "hippylib-dino"
FAILED, MISUSED = 1, 2
CODES = (
    "Exit codes: 0, done; 1, the work failed: a solve, a training, a verdict that is no, an exception of your own "
    "module; 2, wrong use, which is told before any work: an argument, an input, an output that cannot be written, a "
    "library that is missing."
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # whose boxes break messages, and the paths in them, into lines
    help="Derivative-informed neural operators for hIPPYlib.",
    epilog=CODES,
)
COMMANDS: dict[str, Callable[..., None]] = {
    "generate": data.generate,
    "train": training.train,
    "evaluate": training.evaluate,
    "report": training.report,
    "map": inverse.map_point,
    "ouu": control.ouu,
    "oed": design.oed,
    "info": data.info,
    "verify": data.verify,
}
for name, command in COMMANDS.items():
    app.command(name)(command)


def main() -> None:
    """Entry point."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command line.

    Parameters
    ----------
    arguments : sequence of str
        Without the program's name.

    Returns
    -------
    The exit code, see `CODES`.  Errors of the package are one line on the standard error, an exception that came
    through the user's own module is told with the lines of that module.
    """
    command = typer.main.get_command(app)
    try:
        command(args=list(arguments), prog_name=NAME)
    except SystemExit as end:  # typer has told what was wrong
        return end.code if isinstance(end.code, int) else FAILED
    except DinoError as error:
        return _tell_own(error, _as_options(str(error), command, arguments))
    except Exception as error:  # noqa: BLE001  no traceback but of the user's own module reaches him
        return _tell_other(error)
    return 0


def _tell_own(error: DinoError, message: str) -> int:
    """Tell an error of the package, and where in the user's module it came from; its exit code."""
    _print(f"{type(error).__name__}: {message}")
    lines = own_lines(error)
    if lines is not None:
        _print("it came from your module:\n" + lines.frames)
    return MISUSED if isinstance(error, InputError | LibraryError) else FAILED


def _tell_other(error: Exception) -> int:
    """Tell any other exception; its exit code."""
    lines = own_lines(error)
    if lines is not None:
        _print(f"your module raised:\n{lines.frames}{lines.error}")
        return FAILED
    if isinstance(error, ImportError):
        _print(
            f"{error.name or 'a library'}: cannot be imported ({error}), and this command needs it. README.md says how "
            "to install what a command needs."
        )
        return MISUSED
    message = f"{type(error).__name__}: {str(error).strip()}"
    if not isinstance(error, OSError | MemoryError):
        place = traceback.extract_tb(error.__traceback__)[-1]
        message += (
            f"\nThis was not foreseen, at {place.filename}:{place.lineno}. If the arguments are what they should be, "
            "please report it."
        )
    _print(message)
    return FAILED


def _print(message: str) -> None:
    print(f"{NAME}: {message}", file=sys.stderr)


def _as_options(message: str, group: Any, arguments: Sequence[str]) -> str:
    """The message with Python's names of arguments, such as seed: and resume=True, as options of this command."""
    command = next((group.commands[name] for name in arguments if name in group.commands), None)
    options = {
        parameter.name: parameter.opts[0]
        for parameter in (command.params if command is not None else ())
        if parameter.opts[0].startswith("--")
    }
    subject, colon, rest = message.partition(":")
    if colon and all(word in options for word in subject.split(", ")):
        message = f"{', '.join(options[word] for word in subject.split(', '))}:{rest}"

    def as_option(found: re.Match) -> str:
        option, value = options.get(found[1]), found[2].strip("\"'")
        if option is None:
            return found[0]
        return option if value == "True" else f"{option} {value}"

    return re.sub(r"(?<![\w/.'])(\w+)=(True\b|\"\w+\")", as_option, message)  # not in the name of a file
