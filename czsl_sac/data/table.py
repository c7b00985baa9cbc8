"""Images of one's own, from a table, a folder with a split, or a Hugging Face data set."""

from pathlib import Path
from typing import Any

from czsl_sac.data.image_data import ImageData
from czsl_sac.data.sources.hub import HubSource, read_hub
from czsl_sac.data.sources.read import read_listing
from czsl_sac.words import visible


class ImageTable(ImageData):
    """A data set from a table with image, attribute, object and split of each image.

    Seen are the compositions of the rows of the training split; the compositions of another split
    are those of its own rows.

    Args:
        source: the CSV or Parquet table, a folder in which `czsl-sac split` wrote its `split.csv`,
            or a Hugging Face data set.
        **look: `image_size`, `mean` and `std`, and as you like `on_bad_image`, `exif` and
            `image_reader`; as for `ImageData`.

    Raises:
        FileNotFoundError: there is nothing at `source`.
        ValueError: the table has a fault, or images have no split.
        ImportError: a Parquet table and no pyarrow, or a Hugging Face data set and no `datasets`.
    """

    def __init__(self, source: Path | HubSource, **look: Any) -> None:
        if isinstance(source, HubSource):
            listing, name = read_hub(source), source.name
            remedy = "write a table, and pass it as --data-root, or name a --split-column."
        else:
            listing, path = read_listing(source), Path(source)
            name = path.resolve().name if path.is_dir() else path.stem
            remedy = "decide, or add a column split to a table."
        listing.require_sound()
        if not listing.has_splits:
            told = visible(listing.source)
            raise ValueError(
                f"{told} does not say which images are for training, validation and test: let "
                f"czsl-sac split {told} {remedy}"
            )
        super().__init__(listing, name=name, **look)
