"""Everything that is wrong with a data set, found at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from czsl_sac.data.checks.files import check_files
from czsl_sac.data.checks.overlap import check_overlap
from czsl_sac.data.checks.pairs import check_counts, check_coverage, check_lists, check_names
from czsl_sac.data.listing import NO_IMAGE, Listing, Problem
from czsl_sac.data.near_duplicates import MAX_DISTANCE
from czsl_sac.data.protocol import SplitName
from czsl_sac.data.scan import scan_images
from czsl_sac.data.sources.hub import HubSource, read_hub
from czsl_sac.data.sources.read import read_listing
from czsl_sac.data.sources.standard import is_standard_layout, read_standard_layout
from czsl_sac.data.splitting.listing import check_splittable

if TYPE_CHECKING:
    from czsl_sac.space import Pair


@dataclass(frozen=True)
class CheckedData:
    """A data set and its faults.

    Attributes:
        listing: its images, as far as they could be read.
        pairs: compositions of each split; empty where the images have no split.
        problems: the faults, those that spoil a result first.
    """

    listing: Listing
    pairs: "Mapping[SplitName, tuple[Pair, ...]]"
    problems: list[Problem]

    @property
    def spoiled(self) -> bool:
        """Whether a fault would spoil a result."""
        return any(problem.spoils for problem in self.problems)


def check_data(
    source: Path | HubSource,
    *,
    name: str | None = None,
    decode: bool = True,
    max_distance: int | None = MAX_DISTANCE,
    workers: int | None = None,
) -> CheckedData:
    """Look for everything that can be wrong with a data set.

    Args:
        source: a folder in the standard layout, a folder of folders `attribute_object`, a CSV or
            Parquet table, or a Hugging Face data set.
        name: of a data set whose counts Tab. 7 gives; None takes the folder's name.
        decode: decode every image; without, truncated images and near-duplicates stay unfound.
        max_distance: differing bits up to which two images can be near-duplicates; None leaves
            the search out.
        workers: threads that read images; None takes one per core.

    Raises:
        FileNotFoundError: there is nothing at `source`.
        ValueError: a table or Hugging Face data set that cannot be read at all.
        ImportError: a Parquet table and no pyarrow, or a Hugging Face data set and no `datasets`.
    """
    problems: list[Problem] = []
    errors: list[Exception] = []
    if isinstance(source, HubSource):
        listing = read_hub(source)
    elif is_standard_layout(source):
        listing, errors = read_standard_layout(source)
        unreadable = [str(error) for error in errors]
        problems += [Problem("unreadable files of the layout", unreadable, "Fetch them again.")]
        if not errors:
            problems += check_lists(listing)
            problems += check_counts(name or source.resolve().name, listing)
    else:
        listing = read_listing(source)
    pairs = listing.pairs if listing.has_splits else {}
    facts = scan_images(
        listing.folder, [entry.image for entry in listing.entries], decode=decode, workers=workers
    )
    problems += check_names(listing)
    problems += check_files(listing, facts)
    if not listing.entries:
        told = errors or any(problem.spoils for problem in listing.problems)
        problems += [Problem("no image found", [] if told else [str(listing.source)], NO_IMAGE)]
    elif pairs:
        problems += check_coverage(listing)
        problems += check_overlap(listing.entries, facts, max_distance)
    else:
        problems += check_splittable(listing, facts, max_distance)
    found = [problem for problem in [*listing.problems, *problems] if problem.cases]
    return CheckedData(listing, pairs, sorted(found, key=lambda problem: not problem.spoils))
