"""Images of one's own, from a table or from a folder with a split."""

from pathlib import Path

from czsl_sac.data.image_data import ImageData
from czsl_sac.data.reading import Exif, OnBadImage
from czsl_sac.data.sources.read import read_listing
from czsl_sac.words import visible

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
        exif: turn photographs as their EXIF orientation says, or leave the pixels as stored.

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
        exif: Exif = "follow",
    ) -> None:
        source = Path(source)
        listing = read_listing(source)
        listing.require_sound()
        if not listing.has_splits:
            raise ValueError(
                f"{visible(source)} does not say which images are for training, validation and "
                f"test: let czsl-sac split {visible(source)} decide, or add a column split to a "
                "table."
            )
        super().__init__(
            listing,
            name=source.resolve().name if source.is_dir() else source.stem,
            image_size=image_size,
            mean=mean,
            std=std,
            on_bad_image=on_bad_image,
            exif=exif,
        )
