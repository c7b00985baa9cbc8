"""The page of equations and the code name each other: 13 rows, functions, equals, options."""

import re
from functools import reduce
from pathlib import Path

import pytest

import czsl_sac
from czsl_sac import functional

ROOT = Path(__file__).parent.parent
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs/equations.md").read_text("utf-8").splitlines()
    if re.match(r"\| \d", line)
]
FUNCTIONS = {name: getattr(functional, name) for name in functional.__all__ if name[0].islower()}


def named(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def equations(docstring: str | None) -> set[int]:
    """Numbers after "Eq.": "Eq. 1, 3, 5 and 10", "Eq. 3 to 8"."""
    found: set[int] = set()
    for words in re.findall(r"Eq\.\s+([\d,\s]+(?:(?:and|to)\s+\d+)?)", docstring or ""):
        numbers = [int(number) for number in re.findall(r"\d+", words)]
        found |= set(range(numbers[0], numbers[-1] + 1)) if "to" in words else set(numbers)
    return found


def test_all_thirteen_are_there_in_order() -> None:
    assert [int(row[0]) for row in ROWS] == [*range(1, 14)]
    assert {len(row) for row in ROWS} == {5}
    assert all(row[1] and row[2] for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"Eq. {row[0]}")
def test_what_a_row_names_exists_and_names_the_equation(row: list[str]) -> None:
    for name in named(row[2]):
        assert int(row[0]) in equations(FUNCTIONS[name].__doc__), name
    for path in named(row[3]):
        assert path.startswith("czsl_sac.")
        assert reduce(getattr, path.split(".")[1:], czsl_sac)
    sources = "\n".join(file.read_text("utf-8") for file in (ROOT / "czsl_sac").rglob("*.py"))
    for option in named(row[4]):
        field = option.split()[0].removeprefix("--").replace("-", "_")
        assert re.search(rf"^    {field}: ", sources, re.M), option


def test_every_function_of_an_equation_has_its_row() -> None:
    rows = {int(row[0]): named(row[2]) for row in ROWS}
    for name, function in FUNCTIONS.items():
        summary = function.__doc__.split("\n\n")[0]
        for number in equations(summary):
            assert name in rows[number], (name, number)
