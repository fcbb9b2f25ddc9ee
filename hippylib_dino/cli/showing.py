"""One table for all commands."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table


def show(title: str, rows: dict) -> None:
    """Print rows of label and value."""
    table = Table("", "", title=title, show_header=False)
    for name, value in rows.items():
        table.add_row(name, str(value))
    Console().print(table)
