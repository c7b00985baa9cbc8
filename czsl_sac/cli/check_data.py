"""`czsl-sac check-data`: what is in a data set, and everything that is wrong with it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from czsl_sac.checks import check_range
from czsl_sac.cli.options import HubColumns, parse_options, source_of
from czsl_sac.words import counted, visible

if TYPE_CHECKING:
    from czsl_sac.data.checks.data import CheckedData
    from czsl_sac.data.listing import Problem


@dataclass(frozen=True)
class CheckDataOptions:
    """Report what is in a data set and all that is wrong with it.

    The exit code is 1 if a problem would spoil a result, else 0.
    """

    data: tyro.conf.Positional[Path]
    """Folder in the standard layout, folder of folders attribute_object, CSV or Parquet table, or
    hf:NAME, a Hugging Face data set."""
    columns: Annotated[HubColumns, tyro.conf.arg(name="")] = field(default_factory=HubColumns)
    split_table: Path | None = None
    """hf:NAME: the table that czsl-sac split wrote of it; None: its own splits."""
    dataset: Literal["ut-zappos", "mit-states", "cgqa"] | None = None
    """Data set whose counts (the paper's Tab. 7) must be met; None goes by the folder's name."""
    decode: bool = True
    """Decode every image; without, truncated images and near-duplicates stay unfound."""
    near_duplicates: int | None = 8
    """Differing bits of the 64-bit difference hash up to which two images can be near-duplicates;
    None: do not search."""
    examples: int = 3
    """Cases shown of each problem."""
    workers: int | None = None
    """Threads that read images; None takes one per core."""

    def __post_init__(self) -> None:
        check_range("near_duplicates", self.near_duplicates, low=0, high=64)
        check_range("examples", self.examples, low=0)
        check_range("workers", self.workers, low=1)


def run(arguments: list[str]) -> int:
    """Run the command with its options."""
    options = parse_options(CheckDataOptions, "check-data", arguments)

    from czsl_sac.cli.tables import data_table
    from czsl_sac.data.checks.data import check_data  # loads what decodes images

    checked = check_data(
        source_of(options.data, options.columns, options.split_table),
        name=options.dataset,
        decode=options.decode,
        max_distance=options.near_duplicates,
        workers=options.workers,
    )
    if not checked.listing.entries:
        print(f"No image of {visible(options.data)} can be used.")
    elif checked.pairs:
        print(data_table(checked.listing.entries, checked.pairs))
        print("\n".join(_chance(checked)))
    else:
        print(_unsplit(checked))
    for problem in checked.problems:
        print(f"\n{_paragraph(problem, options.examples)}")
    print(f"\n{_verdict(checked)}")
    return int(checked.spoiled)


def _unsplit(checked: "CheckedData") -> str:
    entries = checked.listing.entries
    pairs = {entry.pair for entry in entries}
    source = visible(checked.listing.source)
    return (
        f"{counted(len(entries), 'image')} of {counted(len(pairs), 'composition')}, without a "
        f"split: make one with czsl-sac split {source}"
    )


def _chance(checked: "CheckedData") -> list[str]:
    """Tell what random scores reach on validation and test, and where these are too small."""
    from tabulate import tabulate

    from czsl_sac.evaluation.chance import chance_row, small_sample_warnings  # loads torch

    seen = set(checked.pairs["train"])
    rows, remarks = [], []
    for split in ("val", "test"):
        images = [entry.pair for entry in checked.listing.entries if entry.split == split]
        unseen = [pair for pair in images if pair not in seen]
        if not seen or not unseen or len(unseen) == len(images):
            continue  # a problem says so
        seen_images, unseen_images = len(images) - len(unseen), len(unseen)
        chance = chance_row(
            seen_candidates=len(seen),
            unseen_candidates=len({*checked.pairs[split]} - seen),
            seen_images=seen_images,
            unseen_images=unseen_images,
        )
        figures = (chance.seen, chance.unseen, chance.hm, chance.auc)
        rows.append((split, *(100 * figure for figure in figures)))
        small = small_sample_warnings(
            unseen_compositions=len({*unseen}),
            seen_images=seen_images,
            unseen_images=unseen_images,
        )
        remarks += [f"{split}: {sentence}" for sentence in small]
    if not rows:
        return []
    table = tabulate(rows, ("chance, in %", "S", "U", "HM", "AUC"), "simple", floatfmt=".2f")
    return ["", table, *(["", *remarks] if remarks else [])]


def _paragraph(problem: "Problem", examples: int) -> str:
    lines = [f"{'ERROR' if problem.spoils else 'note'}: {problem.title} ({len(problem.cases)})"]
    lines += [f"  {visible(case)}" for case in problem.cases[:examples]]
    if examples < len(problem.cases):
        lines.append(f"  and {len(problem.cases) - examples} more")
    return "\n".join([*lines, f"  {problem.remedy}"])


def _verdict(checked: "CheckedData") -> str:
    spoiling = sum(problem.spoils for problem in checked.problems)
    found = (
        counted(spoiling, "kind of problem", "kinds of problem") if spoiling else "Nothing found"
    )
    link = "" if spoiling else " that"
    notes = counted(len(checked.problems) - spoiling, "note")
    return f"{found}{link} would spoil a result; {notes}."
