"""Compares every measured number in README and docs with the committed table that it comes from.

    python -m benchmarks.check_claims

`benchmarks/claims.toml` says for each sentence or table row of a page which rows of which table in benchmarks/results
it was taken from. Three things are errors: a claim whose words do not stand on the page just once; a number in it that
none of its rows holds, rounded as the page has it, in the same unit; a number with a unit of measurement anywhere on a
page that no claim covers. What was not measured, a definition or a default, is listed there as given, with the reason.
"""

from __future__ import annotations

import re
import sys
import tomllib
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

ROOT = Path(__file__).parent.parent
CLAIMS = ROOT / "benchmarks" / "claims.toml"
SECONDS = {"s": Decimal(1), "ms": Decimal("1e-3"), "µs": Decimal("1e-6")}
_NUMBER = re.compile(
    r"(?<![\w.,^-])(?P<number>[-+]?(?:\d{1,3}(?:[ \u202f]\d{3})+(?!\d)|\d+(?:\.\d+)?(?:e[-+]?\d+)?))"
    r"\s?(?P<unit>%|×(?!\s?\d)|x\b(?!\s?\d)|times\b|samples/s|MiB\b|GB\b|MB\b|kB\b|ms\b|µs\b|s\b)?"
)


@dataclass(frozen=True)
class Number:
    """A number as written: its value, half a unit in its last place, and its unit ("" where it has none)."""

    text: str
    value: Decimal  # without regard to the unit
    half: Decimal
    unit: str
    scale: Decimal = Decimal(1)  # of ms and µs, which are compared in seconds

    def rounds(self, other: Number) -> bool:
        """Whether this is what `other` is when rounded to the digits that are written here.

        Per cent are compared with per cent. Other units may stand in a table's header: a number without one matches.
        """
        if self.unit != other.unit and ((self.unit and other.unit) or "%" in (self.unit, other.unit)):
            return False
        mine, its = (self.scale, other.scale) if self.unit and other.unit else (Decimal(1), Decimal(1))
        return abs(abs(self.value) * mine - abs(other.value) * its) <= self.half * mine


def numbers(text: str) -> list[Number]:
    """All numbers of a text."""
    found = []
    for match in _NUMBER.finditer(text):
        value = Decimal(match["number"].replace(" ", "").replace("\u202f", ""))
        unit, scale = match["unit"] or "", Decimal(1)
        if unit in SECONDS:
            unit, scale = "s", SECONDS[unit]
        elif unit in ("x", "times"):
            unit = "×"
        half = Decimal((0, (5,), int(value.as_tuple().exponent) - 1))
        found.append(Number(match[0].strip(), value, half, unit, scale))
    return found


def row_of(table: str, where: str) -> str:
    """The first line of `table` that begins with `where`; of "heading >> beginning", below a line that begins so.

    Raises
    ------
    ValueError
        If there is none.
    """
    lines = table.splitlines()
    *headings, beginning = where.split(" >> ")
    for wanted in (*headings, beginning):
        start = next((i for i, line in enumerate(lines) if line.startswith(wanted)), None)
        if start is None:
            raise ValueError(f"no line begins with {wanted!r}")
        lines = lines[start:]
    return lines[0]


def check(claims: dict, pages: dict[str, str], tables: dict[str, str]) -> list[str]:
    """Everything that does not agree, one line each; empty if all does.

    Parameters
    ----------
    claims : dict
        What claims.toml holds: lists "claim" (keys page, says, table, rows) and "given" (page, says, why).
    pages, tables : dict
        Texts by file name.
    """
    wrong, left = [], dict(pages)
    for entry in [*claims.get("claim", []), *claims.get("given", [])]:
        page, says = entry["page"], entry["says"]
        if (times := pages.get(page, "").count(says)) != 1:
            wrong.append(f"{page}: says {says!r} {times} times, expected once; mend the entry in claims.toml")
            continue
        left[page] = left[page].replace(says, "")
        if "why" in entry:
            continue
        try:
            rows = [row_of(tables[entry["table"]], where) for where in entry["rows"]]
        except (KeyError, ValueError) as error:
            wrong.append(f"{page}: {says!r} is from {entry['table']}: {error}")
            continue
        there = numbers(" ".join(rows))
        for number in numbers(says):
            if not any(number.rounds(other) for other in there):
                wrong.append(f"{page}: {says!r}: {number.text} is not in {entry['table']}, rows {entry['rows']}")
    for page, text in left.items():
        for line in text.splitlines():
            wrong += [
                f"{page}: {number.text} in {line.strip()!r} has no entry in claims.toml"
                for number in numbers(re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", "", line))
                if number.unit
            ]
    return wrong


def without_code(text: str) -> str:
    """A page with its code blocks emptied: what is written there is no claim."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def read() -> tuple[dict, dict[str, str], dict[str, str]]:
    """Claims, pages and tables as they are in this checkout."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    tables = sorted((ROOT / "benchmarks" / "results").glob("*.md"))
    return (
        tomllib.loads(CLAIMS.read_text()),
        {str(path.relative_to(ROOT)): without_code(path.read_text()) for path in pages},
        {path.name: path.read_text() for path in tables},
    )


if __name__ == "__main__":
    complaints = check(*read())
    print("\n".join(complaints) if complaints else "all measured numbers of README and docs are those of their tables")
    sys.exit(bool(complaints))
