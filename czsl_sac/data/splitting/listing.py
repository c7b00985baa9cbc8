"""The split of a table or folder of images, and the table that it is written to."""

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np

from czsl_sac.checks import check_choice
from czsl_sac.data.listing import Entry, Listing, Problem
from czsl_sac.data.names import refuse_read_alike
from czsl_sac.data.near_duplicates import MAX_DISTANCE, group_near_duplicates
from czsl_sac.data.reading import OnBadImage
from czsl_sac.data.scan import ImageFacts, hashes_of, scan_images
from czsl_sac.data.splitting.natural import SplitShares, choose_unseen, natural_split
from czsl_sac.data.stores import ImageStore
from czsl_sac.files import write_atomically
from czsl_sac.words import counted, some, visible

_SWALLOWED = 0.2  # share of the images from which on a group of near-duplicates needs a look
_LOST = 0.02  # likewise of images that are left out for their near-duplicates


@dataclass(frozen=True)
class MadeSplit:
    """A split, and what became of the images on the way.

    Attributes:
        listing: the images with their split; those left out are not in it.
        unreadable: images left out because they cannot be read, each with the reason.
        conflicting: images left out because they nearly equal one of the other side's.
        groups: groups of two or more near-duplicates.
        largest_group: paths of the largest of them; one path where there is none.
    """

    listing: Listing
    unreadable: list[str]
    conflicting: list[str]
    groups: int
    largest_group: list[str]

    def remarks(self) -> Iterator[str]:
        """Yield a sentence for each thing that became of images."""
        if self.groups:
            stay = "stays" if self.groups == 1 else "stay"
            yield (
                f"{counted(self.groups, 'group')} of near-duplicates {stay} together, the largest "
                f"of {counted(len(self.largest_group), 'image')}."
            )
        if self.conflicting:
            yield (
                f"Left out as near-duplicates of images of another unseen composition: "
                f"{counted(len(self.conflicting), 'image')}, {some(self.conflicting)}."
            )
        if self.unreadable:
            yield (
                f"Left out because they cannot be read: "
                f"{counted(len(self.unreadable), 'image')}, {some(self.unreadable)}."
            )

    def doubts(self) -> Iterator[str]:
        """Yield a sentence, with the remedy, for what makes the near-duplicates doubtful."""
        total = len(self.listing.entries) + len(self.conflicting)
        remedy = (
            "Look at them: if they are different photographs, pass a smaller --near-duplicates "
            "(such as 4 or 0), or None to compare no images."
        )
        if len(self.largest_group) > _SWALLOWED * total:
            yield (
                f"one group of near-duplicates holds {len(self.largest_group)} of "
                f"{counted(total, 'image')}, which all go to one split: "
                f"{some(self.largest_group)}. {remedy}"
            )
        if len(self.conflicting) > _LOST * total:
            yield (
                f"{len(self.conflicting)} of {counted(total, 'image')} are left out as "
                f"near-duplicates of another unseen composition's. {remedy}"
            )


def split_listing(
    listing: Listing,
    shares: SplitShares | None = None,
    *,
    seed: int = 0,
    max_distance: int | None = MAX_DISTANCE,
    on_bad_image: OnBadImage = "stop",
) -> MadeSplit:
    """Give every image of a listing a split; see `natural_split`.

    Args:
        listing: the images; a split that they have is not looked at.
        shares: how much goes where; None takes the default.
        seed: decides.
        max_distance: differing bits up to which images can be near-duplicates and stay on one
            side; None takes every image by itself.
        on_bad_image: `"stop"`: a missing or damaged image is an error. `"skip"`: it is left out.

    Raises:
        ValueError: the listing has a fault, an image cannot be read, or there is no such split.

    Warns:
        UserWarning: a group of near-duplicates holds a fifth of the images, or many are left out.
    """
    check_choice("on_bad_image", on_bad_image, get_args(OnBadImage))
    listing.require_sound()
    pairs = list(dict.fromkeys(entry.pair for entry in listing.entries))
    refuse_read_alike(pairs, listing.source)
    # What can be refused without opening an image.
    choose_unseen(pairs, shares or SplitShares(), np.random.default_rng(seed))
    facts = {
        fact.path: fact
        for fact in scan_images(
            listing.folder, [e.image for e in listing.entries], hashes=max_distance is not None
        )
    }
    unreadable = [f"{path} ({fact.problem})" for path, fact in facts.items() if fact.problem]
    if unreadable and on_bad_image == "stop":
        raise ValueError(
            f"images of {visible(listing.source)} are missing or damaged ({len(unreadable)}): "
            f"{some(unreadable)}. Restore them, or pass --on-bad-image skip to leave them out."
        )
    entries = [entry for entry in listing.entries if facts[entry.image].problem is None]
    groups = _groups([facts[entry.image] for entry in entries], max_distance)
    splits = natural_split([entry.pair for entry in entries], groups, shares=shares, seed=seed)
    sizes = Counter(groups)
    largest = max(sizes, key=lambda group: sizes[group])
    made = MadeSplit(
        listing=replace(
            listing,
            entries=[
                entry._replace(split=split)
                for entry, split in zip(entries, splits, strict=True)
                if split is not None
            ],
        ),
        unreadable=unreadable,
        conflicting=[e.image for e, split in zip(entries, splits, strict=True) if split is None],
        groups=sum(size > 1 for size in sizes.values()),
        largest_group=[e.image for e, g in zip(entries, groups, strict=True) if g == largest],
    )
    for doubt in made.doubts():
        warnings.warn(doubt, stacklevel=2)
    return made


def check_splittable(
    listing: Listing, facts: Sequence[ImageFacts], max_distance: int | None
) -> Iterator[Problem]:
    """Yield why `split_listing` would refuse images without a split, of which a scan has facts."""
    used = {fact.path: fact for fact in facts if not fact.problem}
    entries = [entry for entry in listing.entries if entry.image in used]
    found = [used[entry.image] for entry in entries]
    hashed = all(fact.hash is not None for fact in found)
    refusals = []
    try:
        groups = _groups(found, max_distance if hashed else None)
        natural_split([entry.pair for entry in entries], groups)
    except ValueError as error:
        refusals.append(str(error))
    yield Problem(
        "reasons for which czsl-sac split refuses these images",
        refusals,
        "Without a split there is nothing to train on or to measure.",
    )


def write_split(made: MadeSplit, path: Path) -> None:
    """Write a split as the CSV table that `ImageTable` reads, whole or not at all.

    Images go by their paths relative to the table's folder, and those of a store by its names.

    Raises:
        OSError: the table cannot be written.
    """
    import pandas as pd

    rows = [_row(entry, made.listing.folder, path.parent) for entry in made.listing.entries]
    table = pd.DataFrame(rows, columns=["image", "attribute", "object", "split"])
    write_atomically(path, lambda temporary: table.to_csv(temporary, index=False))


def _groups(facts: Sequence[ImageFacts], max_distance: int | None) -> list[int]:
    if max_distance is None:
        return list(range(len(facts)))
    groups: list[int] = group_near_duplicates(*hashes_of(facts), max_distance).tolist()
    return groups


def _row(entry: Entry, images: Path | ImageStore, folder: Path) -> tuple[str, str, str, str | None]:
    path = entry.image
    if isinstance(images, Path):
        path = Path(os.path.relpath(images / path, folder)).as_posix()
    return (path, *entry.pair, entry.split)
