"""Images that show nearly the same: alike in coarse brightness and in colour.

A difference hash finds candidates. It looks at brightness alone, and on white ground most of its
bits say nothing, so that all shoes look alike to it; what it finds is then compared as a small
picture in colour, without the ground.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_DISTANCE = 8
"""Differing bits, of 64, up to which two images can be near-duplicates by default."""

MAX_DIFFERENCE = 12.0
"""Gray levels, of 255, by which the thumbnails of near-duplicates may differ (root mean square).

Photographs that were recompressed, scaled, or made brighter by a fifth stay below it, and most that
were cropped by a few percent.
"""

_SIDE = 8  # of hash and thumbnail
_BITS = _SIDE * _SIDE
THUMBNAIL_BYTES = 3 * _BITS
"""Bytes of a thumbnail."""

_GROUND = 8.0  # gray levels from the median colour up to which a pixel is ground
_BLOCK = 1 << 14  # pairs whose thumbnails are compared at once


def difference_hash(image: Image.Image) -> int:
    """Return the 64-bit difference hash: which of two neighbours in a row is brighter, on 9×8.

    It stays nearly the same when an image is scaled, recompressed or evenly brightened.

    Examples:
        >>> ramp = Image.linear_gradient("L").rotate(90)  # brighter to the right
        >>> f"{difference_hash(ramp):x}"
        'ffffffffffffffff'
    """
    small = image.convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.LANCZOS)
    gray = np.asarray(small, dtype=np.int16)
    return int.from_bytes(np.packbits(gray[:, 1:] > gray[:, :-1]).tobytes(), "big")


def thumbnail(image: Image.Image) -> bytes:
    """Return an RGB image in 8×8 pixels, 3 bytes each."""
    return image.resize((_SIDE, _SIDE), Image.Resampling.BOX).tobytes()


def near_pairs(
    hashes: NDArray[np.uint64],
    thumbnails: NDArray[np.uint8],
    max_distance: int = MAX_DISTANCE,
    *,
    chunk_size: int = 256,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the pairs of near-duplicates, chunk by chunk.

    Their hashes differ in at most `max_distance` bits, and their thumbnails by `MAX_DIFFERENCE`
    after brightness and contrast are evened out, where either leaves its ground. Memory holds
    `chunk_size × n` numbers at a time, whatever the number of pairs.

    Args:
        hashes: `[n]`, different or not.
        thumbnails: `[n, 192]`.
        max_distance: bits, 0 to 64.
        chunk_size: images that are compared with all later ones at once.

    Yields:
        Indices `i` and `j` of the pairs of a chunk, `i < j`.

    Examples:
        >>> hashes = np.array([0b0001, 0b0011, 0b1100], dtype=np.uint64)
        >>> alike = np.zeros((3, 192), dtype=np.uint8)
        >>> [(i.tolist(), j.tolist()) for i, j in near_pairs(hashes, alike, 1)]
        [([0], [1])]
    """
    octets = hashes.astype(">u8").view(np.uint8).reshape(-1, 8)
    signs = np.unpackbits(octets, axis=1).astype(np.float32) * 2 - 1
    colours = thumbnails.reshape(-1, _BITS, 3).astype(np.float32)
    ground = np.median(colours, axis=1, keepdims=True)
    figures = (np.abs(colours - ground) > _GROUND).any(axis=2)
    for start in range(0, len(hashes), chunk_size):
        # Of two rows of ±1, equal bits minus differing ones; float32 counts to 64 exactly.
        agreement = signs[start : start + chunk_size] @ signs[start:].T
        i, j = np.nonzero(agreement >= _BITS - 2 * max_distance)
        later = i < j
        i, j = i[later] + start, j[later] + start
        blocks = [slice(at, at + _BLOCK) for at in range(0, len(i), _BLOCK)]
        apart = [_difference(colours, figures, i[own], j[own]) for own in blocks]
        near = np.concatenate([np.empty(0), *apart]) <= MAX_DIFFERENCE
        yield i[near], j[near]


def group_near_duplicates(
    hashes: NDArray[np.uint64],
    thumbnails: NDArray[np.uint8],
    max_distance: int = MAX_DISTANCE,
) -> NDArray[np.int64]:
    """Return a group number for each image: near-duplicates, and theirs, share one.

    Args:
        hashes: `[n]`.
        thumbnails: `[n, 192]`.
        max_distance: differing bits up to which two images can be near-duplicates.

    Returns:
        `[n]`, numbers from 0 on.

    Examples:
        >>> hashes = np.array([0b0001, 0b11111, 0b0011, 0b0111], dtype=np.uint64)
        >>> group_near_duplicates(hashes, np.zeros((4, 192), dtype=np.uint8), 1).tolist()
        [0, 1, 0, 0]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # What is equal in both is compared once: a set may hold a picture thousands of times.
    whole = np.concatenate([hashes.view(np.uint8).reshape(-1, 8), thumbnails], axis=1)
    _, first, position = np.unique(whole, axis=0, return_index=True, return_inverse=True)
    n = len(first)
    groups = np.arange(n)
    for i, j in near_pairs(hashes[first], thumbnails[first], max_distance):
        # Groups that a pair of this chunk connects become one.
        links = coo_array((np.ones(len(i)), (groups[i], groups[j])), shape=(n, n))
        groups = connected_components(links, directed=False)[1][groups]
    first_seen: dict[int, int] = {}
    return np.array(
        [first_seen.setdefault(int(g), len(first_seen)) for g in groups[position.ravel()]]
    )


def _difference(
    colours: NDArray[np.float32],
    figures: NDArray[np.bool_],
    i: NDArray[np.int64],
    j: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Gray levels by which thumbnails differ, the one of more contrast fitted by the other."""
    first, second = (colours[own] - colours[own].mean(axis=(1, 2), keepdims=True) for own in (i, j))
    lengths = [(own**2).sum(axis=(1, 2)) for own in (first, second)]
    swap = (lengths[0] < lengths[1])[:, None, None]
    strong, weak = np.where(swap, second, first), np.where(swap, first, second)
    gain = (strong * weak).sum(axis=(1, 2)) / np.maximum(np.minimum(*lengths), 1e-6)
    errors = ((strong - gain.clip(min=0)[:, None, None] * weak) ** 2).mean(axis=2)
    figure = figures[i] | figures[j]
    mean: NDArray[np.float32] = (errors * figure).sum(axis=1) / figure.sum(axis=1).clip(min=1)
    return np.sqrt(mean)
