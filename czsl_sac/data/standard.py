"""Data sets in the standard layout: UT-Zappos, MIT-States, C-GQA, and others made like them."""

import warnings
from pathlib import Path

from czsl_sac.data.counts import TAB7_COUNTS, differences_from_tab7
from czsl_sac.data.image_data import ImageData
from czsl_sac.data.reading import Exif, OnBadImage
from czsl_sac.data.sources.standard import is_standard_layout, read_standard_layout
from czsl_sac.data.transforms import ImageReader
from czsl_sac.words import visible

__all__ = ["StandardLayout", "is_standard_layout"]


class StandardLayout(ImageData):
    """A data set in the field's standard layout, split by each record's `set`.

    Records without attribute, object or split (`NA`), or whose pair stands in no list, are
    dropped, as the published loaders do. The counts of a data set that Tab. 7 names are checked.

    Args:
        root: folder of the data set.
        name: for printouts; `"ut-zappos"`, `"mit-states"` and `"cgqa"` are checked against Tab. 7.
        image_size: height and width after cropping; take the backbone's.
        mean: subtracted from each colour of an image in [0, 1]; take the backbone's.
        std: what each colour is divided by afterwards; take the backbone's.
        on_bad_image: `"stop"`: reading a missing or damaged image is an error. `"skip"`: every
            image is opened now, and the bad ones are left out of their split.
        exif: turn photographs as their EXIF orientation says (`"follow"`), or leave the pixels as
            they are stored (`"ignore"`). None ignores it for the data sets of Tab. 7, as the
            published loaders do, and follows it for others.
        image_reader: who resizes: Pillow, as the published loaders do, or torch, which is faster.

    Raises:
        FileNotFoundError: the folder, a pair list or the metadata is missing.
        ValueError: a file is damaged, a record's set is unknown, a split has no record, or a
            record's pair is neither one of its split nor seen.

    Warns:
        UserWarning: a count differs from Tab. 7; the message says which, and by how much. It is
            no error, since corrected versions of the three data sets are in use.
    """

    def __init__(
        self,
        root: Path,
        *,
        name: str,
        image_size: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        on_bad_image: OnBadImage = "stop",
        exif: Exif | None = None,
        image_reader: ImageReader = "pil",
    ) -> None:
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(
                f"no data set at {visible(root)}: the folder does not exist; give the one that "
                "holds images/"
            )
        listing, errors = read_standard_layout(root)
        if errors:
            raise errors[0]
        super().__init__(
            listing,
            name=name,
            image_size=image_size,
            mean=mean,
            std=std,
            on_bad_image=on_bad_image,
            exif=exif or ("ignore" if name in TAB7_COUNTS else "follow"),
            image_reader=image_reader,
        )
        differing = differences_from_tab7(name, self.counts())
        if differing:
            warnings.warn(
                f"{visible(root)} is not the {name} of the paper's Tab. 7: {'; '.join(differing)}. "
                "Results are not comparable with published ones.",
                stacklevel=2,
            )
