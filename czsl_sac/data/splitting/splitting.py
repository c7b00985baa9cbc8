"""Making the split of a table or folder of images, and writing it as a table."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from czsl_sac.data.image_data import OnBadImage
from czsl_sac.data.listing import Entry, Listing, some
from czsl_sac.data.near_duplicates import MAX_DISTANCE, group_near_duplicates
from czsl_sac.data.scan import scan_images
from czsl_sac.data.splitting.natural_split import SplitShares, natural_split

__all__ = ["MadeSplit", "split_listing", "split_table"]


@dataclass(frozen=True)
class MadeSplit:
    """A split, and what became of the images on the way.

    Attributes:
        listing: the images with their split; those left out are not in it.
        unreadable: images left out because they cannot be read, each with the reason.
        conflicting: images left out because they nearly equal one of the other side's.
        groups: groups of two or more near-duplicates.
        largest_group: images of the largest of them; 1 where there is none.
    """

    listing: Listing
    unreadable: list[str]
    conflicting: list[str]
    groups: int
    largest_group: int

    def remarks(self) -> Iterator[str]:
        """Yield a sentence for each thing that became of images."""
        if self.groups:
            yield (
                f"{self.groups} groups of near-duplicates stay together, the largest of "
                f"{self.largest_group} images."
            )
        if self.conflicting:
            yield (
                f"{len(self.conflicting)} images are left out, near-duplicates of images of "
                f"another unseen composition: {some(self.conflicting)}."
            )
        if self.unreadable:
            yield (
                f"{len(self.unreadable)} images cannot be read and are left out: "
                f"{some(self.unreadable)}."
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
        max_distance: differing bits up to which images are near-duplicates and stay on one side;
            None takes every image by itself.
        on_bad_image: `"stop"`: a missing or damaged image is an error. `"skip"`: it is left out.

    Raises:
        ValueError: the listing has a fault, an image cannot be read, or there is no such split.
    """
    listing.require_sound()
    facts = {
        fact.path: fact
        for fact in scan_images(
            listing.folder, [e.image for e in listing.entries], hashes=max_distance is not None
        )
    }
    unreadable = [f"{path} ({fact.problem})" for path, fact in facts.items() if fact.problem]
    if unreadable and on_bad_image == "stop":
        raise ValueError(
            f"{len(unreadable)} images of {listing.source} are missing or damaged: "
            f"{some(unreadable)}. Restore them, or pass --on-bad-image skip to leave them out."
        )
    entries = [entry for entry in listing.entries if facts[entry.image].problem is None]
    if max_distance is None:
        groups = np.arange(len(entries))
    else:
        hashes = np.array([facts[entry.image].bits for entry in entries], dtype=np.uint64)
        groups = group_near_duplicates(hashes, max_distance)
    splits = natural_split(
        [entry.pair for entry in entries], groups.tolist(), shares=shares, seed=seed
    )
    sizes = Counter(groups.tolist())
    return MadeSplit(
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
        largest_group=max(sizes.values()),
    )


def split_table(listing: Listing, folder: Path) -> pd.DataFrame:
    """Return a listing as the table that `ImageTable` reads.

    Args:
        listing: images with their split.
        folder: where the table will stand: the paths are relative to it.
    """
    rows = [_row(entry, listing.folder, folder) for entry in listing.entries]
    return pd.DataFrame(rows, columns=["image", "attribute", "object", "split"])


def _row(entry: Entry, images: Path, folder: Path) -> tuple[str, str, str, str | None]:
    path = Path(os.path.relpath(images / entry.image, folder)).as_posix()
    return (path, *entry.pair, entry.split)
