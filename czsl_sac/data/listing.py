"""What a table, a folder or pair lists say of images: path, labels and split, with the faults."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from czsl_sac.data.protocol import SPLITS, SplitName
from czsl_sac.data.stores import ImageStore
from czsl_sac.words import some, visible

if TYPE_CHECKING:
    from czsl_sac.space import Pair

IMAGE_SUFFIXES = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
"""Suffixes of image files, in lower case, and Pillow's name of their format."""

NO_IMAGE = (
    f"A folder holds folders named attribute_object with images ({', '.join(IMAGE_SUFFIXES)}) in "
    "them, a table one row for each image."
)
"""What a data set without images lacks."""


@dataclass(frozen=True)
class Problem:
    """One kind of fault of a data set.

    Attributes:
        title: what the cases are, such as "images missing or damaged".
        cases: every case, as it is told.
        remedy: what to do about it.
        spoils: whether a result on this data set would be wrong or impossible to get.
    """

    title: str
    cases: Sequence[str]
    remedy: str
    spoils: bool = True

    def sentence(self, source: Path) -> str:
        """Return the problem in one line."""
        cases = some(self.cases).rstrip(".")
        return f"{visible(source)}: {self.title} ({len(self.cases)}): {cases}. {self.remedy}"


class Entry(NamedTuple):
    """An image: path below the listing's folder, composition, and split if it has one."""

    image: str
    pair: "Pair"
    split: SplitName | None


@dataclass(frozen=True)
class Listing:
    """The images of a data set.

    Attributes:
        source: the table, folder or metadata; for a store the name of the data set.
        folder: what the images' paths are relative to, or the store that has them by name.
        entries: images with a whole label.
        problems: faults of the source.
        pair_lists: the standard layout's lists of compositions, with repeats; None where the
            images alone say which compositions a split has.
    """

    source: Path
    folder: Path | ImageStore
    entries: Sequence[Entry]
    problems: Sequence[Problem] = field(default_factory=list)
    pair_lists: "Mapping[SplitName, Sequence[Pair]] | None" = None

    @property
    def has_splits(self) -> bool:
        """Whether every image has a split."""
        return all(entry.split is not None for entry in self.entries)

    @property
    def pairs(self) -> "dict[SplitName, tuple[Pair, ...]]":
        """Compositions of each split, in the order of the lists or of the images."""
        own = self.entries
        listed = self.pair_lists or {s: [e.pair for e in own if e.split == s] for s in SPLITS}
        return {split: tuple(dict.fromkeys(listed[split])) for split in SPLITS}

    def require_sound(self) -> None:
        """Refuse a listing with faults.

        Raises:
            ValueError: the listing has a fault that spoils results, or no image.
        """
        for problem in self.problems:
            if problem.spoils:
                raise ValueError(problem.sentence(self.source))
        if not self.entries:
            raise ValueError(
                f"{visible(self.source)} lists no image but must list some. {NO_IMAGE}"
            )
