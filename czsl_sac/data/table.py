"""Images of one's own, from a table or from a folder with a split."""

from pathlib import Path
from typing import get_args

from czsl_sac.data.image_data import ImageData, OnBadImage
from czsl_sac.data.listing import read_listing
from czsl_sac.data.protocol import SplitName
from czsl_sac.space import Pair

__all__ = ["ImageTable"]


class ImageTable(ImageData):
    """A data set from a CSV or Parquet table with the columns image, attribute, object and split.

    Seen are the compositions of the rows of the training split; the compositions of another split
    are those of its own rows.

    Args:
        source: the table, or a folder in which `czsl-sac split` wrote its `split.csv`.
        image_size: height and width after cropping; take the backbone's.
        mean: subtracted from each colour of an image in [0, 1]; take the backbone's.
        std: what each colour is divided by afterwards; take the backbone's.
        on_bad_image: `"stop"`: reading a missing or damaged image is an error. `"skip"`: every
            image is opened now, and the bad ones are left out of their split.

    Raises:
        FileNotFoundError: there is nothing at `source`.
        ValueError: the table has a fault, or images have no split.
        ImportError: a Parquet table, and no pyarrow is installed.
    """

    def __init__(
        self,
        source: Path,
        *,
        image_size: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        on_bad_image: OnBadImage = "stop",
    ) -> None:
        listing = read_listing(source)
        listing.require_sound()
        if not listing.has_splits:
            raise ValueError(
                f"{source} does not say which images are for training, validation and test: "
                f"let czsl-sac split {source} decide, or add a column split to a table."
            )
        records: dict[SplitName, list[tuple[str, Pair]]] = {
            split: [(e.image, e.pair) for e in listing.entries if e.split == split]
            for split in get_args(SplitName)
        }
        empty = [split for split, items in records.items() if not items]
        if empty:
            raise ValueError(
                f"{listing.source} has no image in the {empty[0]} split: training, choosing the "
                "best epoch and testing need one each; czsl-sac split makes all three."
            )
        super().__init__(
            name=listing.source.parent.name if source.is_dir() else listing.source.stem,
            source=listing.source,
            folder=listing.folder,
            pairs=listing.pairs,
            records=records,
            image_size=image_size,
            mean=mean,
            std=std,
            on_bad_image=on_bad_image,
        )
