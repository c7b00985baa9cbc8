"""Everything that is wrong with a data set, found at once."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, get_args

from czsl_sac.data.checks.images import check_files, check_straddling
from czsl_sac.data.checks.pairs import check_counts, check_coverage, check_lists
from czsl_sac.data.listing import Entry, Listing, Problem, read_listing
from czsl_sac.data.near_duplicates import MAX_DISTANCE
from czsl_sac.data.protocol import SplitName
from czsl_sac.data.scan import scan_images
from czsl_sac.data.standard import (
    METADATA,
    SPLIT,
    is_labelled,
    is_standard_layout,
    read_metadata,
    read_pairs,
    split_of,
)
from czsl_sac.space import Pair

__all__ = ["CheckedData", "check_data"]

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class CheckedData:
    """A data set and its faults.

    Attributes:
        listing: its images, as far as they could be read.
        pairs: compositions of each split; empty where the images have no split.
        problems: the faults, those that spoil a result first.
    """

    listing: Listing
    pairs: dict[SplitName, tuple[Pair, ...]]
    problems: list[Problem]

    @property
    def spoiled(self) -> bool:
        """Whether a fault would spoil a result."""
        return any(problem.spoils for problem in self.problems)


def check_data(
    source: Path,
    *,
    name: str | None = None,
    decode: bool = True,
    max_distance: int | None = MAX_DISTANCE,
    workers: int | None = None,
) -> CheckedData:
    """Look for everything that can be wrong with a data set.

    Args:
        source: a folder in the standard layout, a folder of folders `attribute_object`, or a CSV
            or Parquet table.
        name: of a data set whose counts Tab. 7 gives; None takes the folder's name.
        decode: decode every image; without, truncated images and near-duplicates stay unfound.
        max_distance: differing bits up to which two images are near-duplicates; None leaves the
            search out.
        workers: threads that read images; None takes one per core.

    Raises:
        FileNotFoundError: there is nothing at `source`.
        ValueError: a table that cannot be read at all.
        ImportError: a Parquet table, and no pyarrow is installed.
    """
    if is_standard_layout(source):
        listing, pairs, unreadable = _read_standard(source)
        problems = [Problem("files of the layout cannot be read", unreadable, "Fetch them again.")]
        if not unreadable:
            problems += check_lists(pairs, listing.entries)
            problems += check_counts(name or source.resolve().name, pairs, listing.entries)
    else:
        listing, problems = read_listing(source), []
        pairs = listing.pairs if listing.has_splits else {}
    facts = scan_images(
        listing.folder, [entry.image for entry in listing.entries], decode=decode, workers=workers
    )
    problems += check_files(listing, facts)
    if pairs:
        problems += check_coverage(pairs, listing.entries)
        problems += check_straddling(listing.entries, facts, max_distance)
    found = [problem for problem in [*listing.problems, *problems] if problem.cases]
    return CheckedData(listing, pairs, sorted(found, key=lambda problem: not problem.spoils))


def _read_standard(root: Path) -> tuple[Listing, dict[SplitName, tuple[Pair, ...]], list[str]]:
    unreadable: list[str] = []

    def attempt(read: Callable[[Path], list[_Item]], path: Path) -> list[_Item]:
        try:
            return read(path)
        except (OSError, ValueError) as error:
            unreadable.append(str(error))
            return []

    pairs: dict[SplitName, tuple[Pair, ...]] = {
        split: tuple(attempt(read_pairs, root / SPLIT / f"{split}_pairs.txt"))
        for split in get_args(SplitName)
    }
    records = attempt(read_metadata, root / METADATA)
    known = {pair for listed in pairs.values() for pair in listed}
    entries, listless, unlabelled = [], [], []
    for record in records:
        pair = (record["attr"], record["obj"])
        if not is_labelled(record):
            unlabelled.append(record["image"])
        elif pair not in known:
            listless.append(f"{record['image']} ({' '.join(pair)})")
        else:
            entries.append(Entry(record["image"], pair, split_of(record)))
    problems = [
        Problem(
            "images are of a composition that stands in no pair list",
            listless,
            "They are left out, as the published loaders do; add the pair to a list to use them.",
            spoils=False,
        ),
        Problem(
            "images have no attribute, object or split (NA)",
            unlabelled,
            "They are left out, as the published loaders do.",
            spoils=False,
        ),
    ]
    return Listing(root, root / "images", entries, problems), pairs, unreadable
