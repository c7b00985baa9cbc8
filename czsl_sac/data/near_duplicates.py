"""Images that show nearly the same: difference hashes a few bits apart."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

__all__ = ["MAX_DISTANCE", "group_near_duplicates", "near_pairs"]

MAX_DISTANCE = 8
"""Differing bits, of 64, up to which two images count as near-duplicates by default."""

_BITS = 64


def near_pairs(
    hashes: NDArray[np.uint64], max_distance: int = MAX_DISTANCE, chunk_size: int = 256
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the pairs of hashes that differ in at most `max_distance` bits, chunk by chunk.

    Memory holds `chunk_size × n` numbers at a time, whatever the number of pairs.

    Args:
        hashes: `[n]`, different or not.
        max_distance: bits, 0 to 64.
        chunk_size: hashes that are compared with all later ones at once.

    Yields:
        Indices `i` and `j` of the pairs of a chunk, `i < j`.

    Examples:
        >>> hashes = np.array([0b0001, 0b0011, 0b1100], dtype=np.uint64)
        >>> [(i.tolist(), j.tolist()) for i, j in near_pairs(hashes, 1)]
        [([0], [1])]
    """
    octets = hashes.astype(">u8").view(np.uint8).reshape(-1, 8)
    signs = np.unpackbits(octets, axis=1).astype(np.float32) * 2 - 1
    for start in range(0, len(hashes), chunk_size):
        # Of two rows of ±1, equal bits minus differing ones; float32 counts to 64 exactly.
        agreement = signs[start : start + chunk_size] @ signs[start:].T
        i, j = np.nonzero(agreement >= _BITS - 2 * max_distance)
        later = i < j
        yield i[later] + start, j[later] + start


def group_near_duplicates(
    hashes: NDArray[np.uint64], max_distance: int = MAX_DISTANCE
) -> NDArray[np.int64]:
    """Return a group number for each hash: near-duplicates, and theirs, share one.

    Args:
        hashes: `[n]`.
        max_distance: differing bits up to which two hashes are near-duplicates.

    Returns:
        `[n]`, numbers from 0 on.

    Examples:
        >>> hashes = np.array([0b0001, 0b11111, 0b0011, 0b0111], dtype=np.uint64)
        >>> group_near_duplicates(hashes, 1).tolist()
        [0, 1, 0, 0]
    """
    different, position = np.unique(hashes, return_inverse=True)
    n = len(different)
    groups = np.arange(n)
    for i, j in near_pairs(different, max_distance):
        # Groups that a pair of this chunk connects become one.
        links = coo_array((np.ones(len(i)), (groups[i], groups[j])), shape=(n, n))
        groups = connected_components(links, directed=False)[1][groups]
    first_seen: dict[int, int] = {}
    return np.array([first_seen.setdefault(int(g), len(first_seen)) for g in groups[position]])
