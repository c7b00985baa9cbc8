"""One look at every image file of a data set: readable or not, of what format, and its hashes."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from czsl_sac.data.near_duplicates import THUMBNAIL_BYTES, difference_hash, thumbnail
from czsl_sac.data.reading import UnreadableImageError, bits_of, opened, rgb
from czsl_sac.data.stores import ImageStore, StoredImage, image_in


@dataclass(frozen=True)
class ImageFacts:
    """What a scan found out about a file.

    Attributes:
        path: as given to the scan.
        problem: why the image cannot be used, or None.
        format: what the content is by Pillow's name, such as `"JPEG"`; None if unknown.
        bits: of a colour's value; more than 8 are scaled down when the image is read.
        digest: of the file's bytes; None if not asked for, or missing.
        hash: difference hash; None if not asked for, or the image cannot be read.
        thumbnail: small picture in colour, likewise.
    """

    path: str
    problem: str | None = None
    format: str | None = None
    bits: int = 8
    digest: bytes | None = None
    hash: int | None = None
    thumbnail: bytes = b""


def scan_images(
    folder: Path | ImageStore,
    paths: Sequence[str],
    *,
    decode: bool = True,
    hashes: bool = True,
    workers: int | None = None,
) -> list[ImageFacts]:
    """Look at image files, several at a time, behind a progress bar.

    Args:
        folder: what the paths are relative to, or the store that has images by name.
        paths: the files; one that comes twice is looked at once.
        decode: decode every image, which finds those that are cut short; without, only the
            header is read.
        hashes: also compute the digest, and with `decode` difference hash and thumbnail.
        workers: threads; None takes one per core. Pillow decodes outside Python's lock.

    Returns:
        One entry for every different path, in the order of its first occurrence.
    """
    different = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        found = pool.map(lambda path: _look(folder, path, decode, hashes), different)
        return list(tqdm(found, total=len(different), desc="images", leave=False, disable=None))


def hashes_of(facts: Sequence[ImageFacts]) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """Return hashes `[n]` and thumbnails `[n, 192]` of images that a scan could read and hash."""
    hashes = np.array([fact.hash for fact in facts], dtype=np.uint64)
    thumbnails = np.frombuffer(b"".join(fact.thumbnail for fact in facts), dtype=np.uint8)
    return hashes, thumbnails.reshape(len(facts), THUMBNAIL_BYTES)


def _look(folder: Path | ImageStore, path: str, decode: bool, hashes: bool) -> ImageFacts:
    file = image_in(folder, path)
    try:
        digest = hashlib.sha256(_content(file)).digest() if hashes else None
    except (OSError, ValueError):
        digest = None  # reading the image says what is wrong
    try:
        with opened(file) as image:
            kind, bits = image.format, bits_of(image)
            picture = rgb(image) if decode else None
    except UnreadableImageError as error:
        return ImageFacts(path, problem=error.reason, digest=digest)
    if picture is None or not hashes:
        return ImageFacts(path, format=kind, bits=bits, digest=digest)
    return ImageFacts(
        path,
        format=kind,
        bits=bits,
        digest=digest,
        hash=difference_hash(picture),
        thumbnail=thumbnail(picture),
    )


def _content(file: Path | StoredImage) -> bytes:
    return file.data if isinstance(file, StoredImage) else file.read_bytes()
