"""One look at every image file of a data set: readable or not, of what format, and its hashes."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from czsl_sac.data.images import UnreadableImageError, read_image

__all__ = ["HASH_SIDE", "ImageFacts", "difference_hash", "scan_images"]

HASH_SIDE = 8
"""Rows and columns of a difference hash, which thus has 64 bits."""


@dataclass(frozen=True)
class ImageFacts:
    """What a scan found out about a file.

    Attributes:
        path: as given to the scan.
        problem: why the image cannot be used, or None.
        format: what the content is by Pillow's name, such as `"JPEG"`; None if unknown.
        digest: of the file's bytes; None if not asked for, or missing.
        bits: difference hash; None if not asked for, or the image cannot be read.
    """

    path: str
    problem: str | None = None
    format: str | None = None
    digest: bytes | None = None
    bits: int | None = None


def scan_images(
    folder: Path,
    paths: Sequence[str],
    *,
    decode: bool = True,
    hashes: bool = True,
    workers: int | None = None,
) -> list[ImageFacts]:
    """Look at image files, several at a time, behind a progress bar.

    Args:
        folder: what the paths are relative to.
        paths: the files; one that comes twice is looked at once.
        decode: decode every image, which finds those that are cut short; without, only the
            header is read.
        hashes: also compute digest and difference hash (the latter only with `decode`).
        workers: threads; None takes one per core. Pillow decodes outside Python's lock.

    Returns:
        One entry for every different path, in the order of its first occurrence.
    """
    different = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        found = pool.map(lambda path: _look(folder, path, decode, hashes), different)
        return list(tqdm(found, total=len(different), desc="images", leave=False, disable=None))


def difference_hash(image: Image.Image) -> int:
    """Return the 64-bit difference hash: which of two neighbours in a row is brighter, on 9×8.

    It stays nearly the same when an image is scaled, recompressed or evenly brightened.

    Args:
        image: of any size and mode.

    Examples:
        >>> ramp = Image.linear_gradient("L").rotate(90)  # brighter to the right
        >>> f"{difference_hash(ramp):x}"
        'ffffffffffffffff'
    """
    small = image.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.LANCZOS)
    gray = np.asarray(small, dtype=np.int16)
    return int.from_bytes(np.packbits(gray[:, 1:] > gray[:, :-1]).tobytes(), "big")


def _look(folder: Path, path: str, decode: bool, hashes: bool) -> ImageFacts:
    file = folder / path
    try:
        digest = hashlib.sha256(file.read_bytes()).digest() if hashes else None
    except OSError:
        digest = None  # reading the image says what is wrong
    try:
        image = read_image(file) if decode else None
        bits = difference_hash(image) if image is not None and hashes else None
        with Image.open(file) as opened:
            return ImageFacts(path, format=opened.format, digest=digest, bits=bits)
    except UnreadableImageError as error:
        return ImageFacts(path, problem=str(error).removeprefix(f"{file} is "), digest=digest)
    except OSError as error:  # the header, when nothing is decoded
        missing = "missing" if isinstance(error, FileNotFoundError) else "no readable image"
        return ImageFacts(path, problem=missing, digest=digest)
