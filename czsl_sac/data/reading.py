"""Image files to RGB pixels: right for every depth, upright if asked, refused by name otherwise."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from czsl_sac.checks import check_choice
from czsl_sac.data.stores import StoredImage
from czsl_sac.words import visible

Exif = Literal["follow", "ignore"]
"""What to do with a photograph's EXIF orientation."""

MAX_MEGAPIXELS = 120
"""Larger images are refused before they are decoded: a file of kilobytes can fill the memory."""

OnBadImage = Literal["stop", "skip"]
"""A missing or damaged image is an error, or is left out."""

_PALETTE, _DEEP = "P", ("I;16", "I;16L", "I;16B", "I;16N")

# Pillow's own limit, lower and without the file's name; ours stands in its place.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class UnreadableImageError(ValueError):
    """An image file is missing or damaged; the message has its path and the reason.

    Attributes:
        reason: what is wrong, without the path.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)  # its one argument: processes that read images send it on
        self.reason = reason


def read_image(path: Path | StoredImage, *, exif: Exif = "follow") -> Image.Image:
    """Return an image file as RGB, all of it decoded.

    Args:
        path: the file, of any format that Pillow reads, whatever its suffix; or its content.
        exif: turn the image as its EXIF orientation says, or leave the pixels as they are stored.

    Raises:
        UnreadableImageError: the file is missing, cut short, too large, or no image.
        ValueError: `exif` is unknown.

    Examples:
        >>> read_image(Path("nowhere/apple.jpg"))
        Traceback (most recent call last):
            ...
        czsl_sac.data.reading.UnreadableImageError: nowhere/apple.jpg is missing
    """
    check_choice("exif", exif, get_args(Exif))
    with opened(path) as image:
        return rgb(image, exif=exif)


@contextmanager
def opened(path: Path | StoredImage) -> Iterator[Image.Image]:
    """Open an image file; what goes wrong with it, now or while it is used, is told by its path.

    Yields:
        The image, its header read and its size within `MAX_MEGAPIXELS`, not yet decoded.

    Raises:
        UnreadableImageError: the file is missing, cut short, too large, no image, or holds 32-bit
            integers or floating point, whose black and white are not known.
    """
    try:
        with Image.open(path if isinstance(path, Path) else io.BytesIO(path.data)) as image:
            if image.width * image.height > MAX_MEGAPIXELS * 1e6:
                raise Image.DecompressionBombError
            if bits_of(image) == 32:
                raise _UnknownRangeError
            yield image
    except Exception as error:  # a damaged file makes Pillow's decoders raise many types
        reason = _reason(error, path)
        raise UnreadableImageError(f"{visible(path)} is {reason}", reason) from error


def bits_of(image: Image.Image) -> int:
    """Return how many bits a value of an image has, not yet decoded, and 8 for those of fewer."""
    if image.mode in _DEEP:
        # TIFF may hold 12 bits of the 16; tag 258 is BitsPerSample.
        return int(getattr(image, "tag_v2", {}).get(258, (16,))[0])
    if image.mode == "I" and image.format in ("PNG", "PPM"):
        return 16
    return 32 if image.mode in ("I", "F") else 8


def rgb(image: Image.Image, *, exif: Exif = "follow") -> Image.Image:
    """Return an opened image as RGB with 8 bits a colour.

    Gray values of 12 or 16 bits are scaled to 8, black to black and white to white.

    Args:
        image: as `opened` yields it.
        exif: turn the image as its EXIF orientation says, or leave the pixels as they are stored.
    """
    bits = bits_of(image)
    image.load()
    if exif == "follow":
        # Pillow raises many types for damaged EXIF, which says nothing then.
        with suppress(Exception):
            ImageOps.exif_transpose(image, in_place=True)
    if bits > 8:
        gray = np.asarray(image).astype(np.float32) * (255 / (2**bits - 1))
        image = Image.fromarray(gray.round().clip(0, 255).astype(np.uint8))
    elif image.mode == _PALETTE and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # or Pillow warns, without a file's name
    return image.convert("RGB")


class _UnknownRangeError(Exception):
    """Pixels whose black and white are not known."""


def _reason(error: Exception, path: Path | StoredImage) -> str:
    """Tell what is wrong with a file, as it follows "PATH is"."""
    if isinstance(error, FileNotFoundError) and isinstance(path, Path):
        return f"missing{_elsewhere(path)}"
    if isinstance(error, IsADirectoryError):
        return "a folder, not an image"
    if isinstance(error, Image.DecompressionBombError):
        return (
            f"an image of more than {MAX_MEGAPIXELS} megapixels, which is not decoded: "
            "scale it down"
        )
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, _UnknownRangeError):
        text = "32-bit integers or floating point of unknown range: save it with 8 or 16 bits"
    elif "\0" in str(path):
        text = "its path holds a NUL character"
    elif isinstance(error, UnidentifiedImageError):
        size = path.stat().st_size if isinstance(path, Path) else len(path.data)
        text = "of no known format" if size else "empty"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror.lower()
    return f"no readable image ({text})"


def _elsewhere(path: Path) -> str:
    """Tell where a missing file is, if its name differs by spaces or by case alone."""
    spaced = path.parent.with_name(path.parent.name.replace("_", " ")) / path.name
    if spaced.parent != path.parent and spaced.is_file():
        return f", but stands in {visible(spaced.parent)}: write the folder's name with underscores"
    other = path.with_suffix(path.suffix.swapcase()) if path.suffix else path
    if other != path and other.is_file():
        return f", but {visible(other.name)} is there: write small and capital letters alike"
    return ""
