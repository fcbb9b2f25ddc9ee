"""What all figures share: colours, the error of a wrong argument, writing to a file."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from hippylib_dino.errors import InputError
from hippylib_dino.files import write_file

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
        Its suffix chooses the format: .png, which is added where there is none, .pdf, .svg.  The folder must exist.  A
        file that is there is replaced, once all of the new one is.
    """
    path, content = Path(path), io.BytesIO()
    path = path if path.suffix else path.with_suffix(".png")
    figure.savefig(content, format=path.suffix[1:], dpi=150, bbox_inches="tight")
    write_file(path, lambda stream: stream.write(content.getvalue()))
