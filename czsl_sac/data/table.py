"""Images of one's own, from a table, a folder with a split, or a Hugging Face data set."""

from pathlib import Path

from czsl_sac.data.image_data import ImageData
from czsl_sac.data.reading import Exif, OnBadImage
from czsl_sac.data.sources.hub import HubSource, read_hub
from czsl_sac.data.sources.read import read_listing
from czsl_sac.data.transforms import ImageReader
from czsl_sac.words import visible


class ImageTable(ImageData):
    """A data set from a table with image, attribute, object and split of each image.

    Seen are the compositions of the rows of the training split; the compositions of another split
    are those of its own rows.

    Args:
        source: the CSV or Parquet table, a folder in which `czsl-sac split` wrote its `split.csv`,
            or a Hugging Face data set.
        image_size: height and width after cropping; take the backbone's.
        mean: subtracted from each colour of an image in [0, 1]; take the backbone's.
        std: what each colour is divided by afterwards; take the backbone's.
        on_bad_image: `"stop"`: reading a missing or damaged image is an error. `"skip"`: every
            image is opened now, and the bad ones are left out of their split.
        exif: turn photographs as their EXIF orientation says, or leave the pixels as stored.
        image_reader: who resizes: Pillow, as the published loaders do, or torch, which is faster.

    Raises:
        FileNotFoundError: there is nothing at `source`.
        ValueError: the table has a fault, or images have no split.
        ImportError: a Parquet table and no pyarrow, or a Hugging Face data set and no `datasets`.
    """

    def __init__(
        self,
        source: Path | HubSource,
        *,
        image_size: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        on_bad_image: OnBadImage = "stop",
        exif: Exif = "follow",
        image_reader: ImageReader = "pil",
    ) -> None:
        hub = isinstance(source, HubSource)
        listing = read_hub(source) if isinstance(source, HubSource) else read_listing(source)
        listing.require_sound()
        if not listing.has_splits:
            told = visible(listing.source)
            remedy = (
                "write a table, and pass it as --data-root, or name a --split-column."
                if hub
                else "decide, or add a column split to a table."
            )
            raise ValueError(
                f"{told} does not say which images are for training, validation and test: let "
                f"czsl-sac split {told} {remedy}"
            )
        super().__init__(
            listing,
            name=_name(source),
            image_size=image_size,
            mean=mean,
            std=std,
            on_bad_image=on_bad_image,
            exif=exif,
            image_reader=image_reader,
        )


def _name(source: Path | HubSource) -> str:
    if isinstance(source, HubSource):
        return source.name
    return Path(source).resolve().name if Path(source).is_dir() else Path(source).stem
