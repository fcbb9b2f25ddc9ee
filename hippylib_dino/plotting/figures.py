"""What all figures share: colours, the error of a wrong argument, writing to a file."""

from __future__ import annotations

import os
from collections.abc import Mapping

from matplotlib.figure import Figure

from hippylib_dino.errors import InputError

# Okabe and Ito's palette, told apart by colour-blind readers and in print
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
REFERENCE = "0.35"  # grey of lines that are not data


def input_error(argument: str, *, expected: str, received: str, remedy: str) -> InputError:
    """The error to raise for a wrong `argument`."""
    return InputError(f"{argument}: expected {expected}, got {received}. {remedy}")


def check_entries(entries: Mapping, argument: str) -> None:
    """Raise `InputError` unless `entries` is a mapping with at least one entry."""
    if not isinstance(entries, Mapping) or not entries:
        received = "an empty one" if isinstance(entries, Mapping) else type(entries).__name__
        raise input_error(
            argument,
            expected="a dict with at least one entry, label to values",
            received=received,
            remedy='Pass for instance {"PDE": values}.',
        )


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Write `figure` to `path` at 150 dots per inch, cropped to what is drawn.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    path : path
        Its suffix chooses the format: .png, .pdf, .svg.  The folder must exist.
    """
    figure.savefig(path, dpi=150, bbox_inches="tight")
