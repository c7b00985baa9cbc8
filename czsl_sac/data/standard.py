"""Data sets in the standard layout: UT-Zappos, MIT-States, C-GQA, and others made like them."""

import warnings
from pathlib import Path
from typing import Any

from czsl_sac.data.counts import TAB7_COUNTS, differences_from_tab7
from czsl_sac.data.image_data import ImageData
from czsl_sac.data.reading import Exif
from czsl_sac.data.sources.standard import is_standard_layout, read_standard_layout
from czsl_sac.words import visible

__all__ = ["StandardLayout", "is_standard_layout"]


class StandardLayout(ImageData):
    """A data set in the field's standard layout, split by each record's `set`.

    Records without attribute, object or split (`NA`), or whose pair stands in no list, are
    dropped, as the published loaders do. The counts of a data set that Tab. 7 names are checked.

    Args:
        root: folder of the data set.
        name: for printouts; `"ut-zappos"`, `"mit-states"` and `"cgqa"` are checked against Tab. 7.
        exif: turn photographs as their EXIF orientation says (`"follow"`), or leave the pixels as
            they are stored (`"ignore"`). None ignores it for the data sets of Tab. 7, as the
            published loaders do, and follows it for others.
        **look: `image_size`, `mean` and `std`, and as you like `on_bad_image` and
            `image_reader`; as for `ImageData`.

    Raises:
        FileNotFoundError: the folder, a pair list or the metadata is missing.
        ValueError: a file is damaged, a record's set is unknown, a split has no record, or a
            record's pair is neither one of its split nor seen.

    Warns:
        UserWarning: a count differs from Tab. 7; the message says which, and by how much. It is
            no error, since corrected versions of the three data sets are in use.
    """

    def __init__(self, root: Path, *, name: str, exif: Exif | None = None, **look: Any) -> None:
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(
                f"no data set at {visible(root)}: the folder does not exist; give the one that "
                "holds images/"
            )
        listing, errors = read_standard_layout(root)
        if errors:
            raise errors[0]
        exif = exif or ("ignore" if name in TAB7_COUNTS else "follow")
        super().__init__(listing, name=name, exif=exif, **look)
        differing = differences_from_tab7(name, self.counts())
        if differing:
            warnings.warn(
                f"{visible(root)} is not the {name} of the paper's Tab. 7: {'; '.join(differing)}. "
                "Results are not comparable with published ones.",
                stacklevel=2,
            )
