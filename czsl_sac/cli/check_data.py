"""`czsl-sac check-data`: what is in a data set, and everything that is wrong with it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from czsl_sac.checks import check_range
from czsl_sac.cli.options import parse_options

if TYPE_CHECKING:
    from czsl_sac.data.checks.checks import CheckedData
    from czsl_sac.data.listing import Problem


@dataclass(frozen=True)
class CheckDataOptions:
    """Report what is in a data set and all that is wrong with it.

    The exit code is 1 if a problem would spoil a result, else 0.
    """

    data: tyro.conf.Positional[Path]
    """Folder in the standard layout, folder of folders attribute_object, or CSV or Parquet."""
    dataset: Literal["ut-zappos", "mit-states", "cgqa"] | None = None
    """Data set whose counts (the paper's Tab. 7) must be met; None goes by the folder's name."""
    decode: bool = True
    """Decode every image; without, truncated images and near-duplicates stay unfound."""
    near_duplicates: int | None = 8
    """Differing bits, of 64, up to which two images are near-duplicates; None: do not search."""
    examples: int = 3
    """Cases shown of each problem."""
    workers: int | None = None
    """Threads that read images; None takes one per core."""

    def __post_init__(self) -> None:
        check_range("near_duplicates", self.near_duplicates, low=0, high=64)
        check_range("examples", self.examples, low=0)
        check_range("workers", self.workers, low=1)


def run(arguments: list[str]) -> int:
    """Run the command.

    Args:
        arguments: Its options.
    """
    options = parse(arguments)
    if options is None:
        return 0

    from czsl_sac.cli.tables import data_table
    from czsl_sac.data.checks.checks import check_data  # loads torch and pandas

    checked = check_data(
        options.data,
        name=options.dataset,
        decode=options.decode,
        max_distance=options.near_duplicates,
        workers=options.workers,
    )
    entries = checked.listing.entries
    print(data_table(entries, checked.pairs) if checked.pairs else _unsplit(checked))
    for problem in checked.problems:
        print(f"\n{_paragraph(problem, options.examples)}")
    print(f"\n{_verdict(checked)}")
    return int(checked.spoiled)


def parse(arguments: list[str]) -> CheckDataOptions | None:
    """Return the options; None if help was shown.

    Args:
        arguments: Options of the command.

    Raises:
        ValueError: If an option is unknown or has a value that does not fit.
    """
    return parse_options(CheckDataOptions, "check-data", arguments)


def _unsplit(checked: "CheckedData") -> str:
    entries = checked.listing.entries
    pairs = {entry.pair for entry in entries}
    return (
        f"{len(entries)} images of {len(pairs)} compositions, without a split: "
        f"make one with czsl-sac split {checked.listing.source}"
    )


def _paragraph(problem: "Problem", examples: int) -> str:
    lines = [f"{'ERROR' if problem.spoils else 'note'}: {len(problem.cases)} {problem.title}"]
    lines += [f"  {case}" for case in problem.cases[:examples]]
    if examples < len(problem.cases):
        lines.append(f"  and {len(problem.cases) - examples} more")
    return "\n".join([*lines, f"  {problem.remedy}"])


def _verdict(checked: "CheckedData") -> str:
    spoiling = sum(problem.spoils for problem in checked.problems)
    notes = len(checked.problems) - spoiling
    what = f"{spoiling} kinds of problem" if spoiling else "Nothing found that"
    return f"{what} would spoil a result; {notes} notes."
