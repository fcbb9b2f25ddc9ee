"""Numbers of README and docs against the tables: what agrees passes, and each way to disagree is named."""

import pytest

from benchmarks.check_claims import check, numbers, read, without_code

TABLE = """# Errors

## first

| model | N | error | time |
|---|---|---|---|
| l2 | 64 | 3.56% ± 0.20% | 3.07 ms |
milliseconds 2.1

## second

| l2 | 64 | 7.10% | 1152 |
"""
CLAIM = {"page": "p.md", "says": "| 64 | 3.6 % | 3 ms |", "table": "t.md", "rows": ["| l2 | 64 |"]}


def complaints(page, *claims, given=()):
    return check({"claim": list(claims), "given": list(given)}, {"p.md": page}, {"t.md": TABLE})


def test_every_number_of_readme_and_docs_is_that_of_its_table():
    assert check(*read()) == []


@pytest.mark.parametrize(
    ("page", "changes"),
    [
        ("| 64 | 3.6 % | 3 ms |", {}),
        ("x | 64 | 3.6 % | 0.0031 s | x", {"says": "| 64 | 3.6 % | 0.0031 s |"}),
        ("2 ms", {"says": "2 ms", "rows": ["milliseconds"]}),
        ("7.1 % after 1 152 solves", {"says": "7.1 % after 1 152 solves", "rows": ["## second >> | l2 | 64 |"]}),
    ],
)
def test_what_agrees(page, changes):
    assert complaints(page, CLAIM | changes) == []


@pytest.mark.parametrize(
    ("page", "changes", "words"),
    [
        ("| 64 | 3.5 % | 3 ms |", {"says": "| 64 | 3.5 % | 3 ms |"}, "3.5 % is not in t.md"),
        ("| 64 | 3.6 ms |", {"says": "| 64 | 3.6 ms |"}, "3.6 ms is not in t.md"),
        ("| 65 | 3.6 % |", {"says": "| 65 | 3.6 % |"}, "65 is not in t.md"),
        ("nothing", {}, "0 times, expected once"),
        ("| 64 | 3.6 % | 3 ms | | 64 | 3.6 % | 3 ms |", {}, "2 times, expected once"),
        ("| 64 % |", {"says": "| 64 % |"}, "64 % is not in t.md"),
        ("| 64 | 3.6 % | 3 ms |", {"rows": ["## second >> | l2 | 64 |"]}, "3.6 % is not in t.md"),
        ("| 64 | 3.6 % | 3 ms |", {"rows": ["## third >> | l2 | 64 |"]}, "no line begins with '## third'"),
        ("| 64 | 3.6 % | 3 ms |", {"rows": ["| h1 |"]}, "no line begins with '| h1 |'"),
        ("| 64 | 3.6 % | 3 ms |", {"table": "u.md"}, "u.md"),
        ("| 64 | 3.6 % | 3 ms | and 5 times as fast", {}, "5 times in"),
    ],
)
def test_what_disagrees_is_named(page, changes, words):
    assert words in "\n".join(complaints(page, CLAIM | changes))


def test_what_is_given_needs_no_table():
    given = {"page": "p.md", "says": "over 5 % of the steps", "why": "a default"}
    assert complaints("warm-up over 5 % of the steps", given=[given]) == []


def test_numbers():
    found = {n.text: (float(n.value * n.scale), n.unit) for n in numbers("1.5 µs, +42 %, 142 336, 64×64, h1, 3x")}
    microseconds = found.pop("1.5 µs")
    assert microseconds == (pytest.approx(1.5e-6), "s")
    assert found == {"+42 %": (42, "%"), "142 336": (142336, ""), "64": (64, ""), "3x": (3, "×")}


def test_code_is_no_claim():
    assert numbers(without_code("a\n```\nx = 5 % 3 s\n```\n")) == []
