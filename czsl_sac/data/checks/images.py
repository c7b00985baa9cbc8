"""What can be wrong with the image files of a data set, and with files in several splits."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import get_args

import numpy as np

from czsl_sac.data.listing import IMAGE_SUFFIXES, Entry, Listing, Problem
from czsl_sac.data.near_duplicates import near_pairs
from czsl_sac.data.protocol import SplitName
from czsl_sac.data.scan import ImageFacts

_SPLITS: tuple[SplitName, ...] = get_args(SplitName)


def check_files(listing: Listing, facts: Sequence[ImageFacts]) -> Iterator[Problem]:
    """Yield what is wrong with files: absent, damaged, misnamed, or in no list.

    Args:
        listing: the images.
        facts: what a scan found out about each of them.
    """
    yield Problem(
        "images are missing or damaged",
        [f"{fact.path} ({fact.problem})" for fact in facts if fact.problem],
        "Restore them, drop them from the list, or train with --on-bad-image skip.",
    )
    yield Problem(
        "images have the wrong suffix",
        [
            f"{fact.path} (holds {fact.format})"
            for fact in facts
            if fact.format and IMAGE_SUFFIXES.get(Path(fact.path).suffix.lower()) != fact.format
        ],
        "They are read by their content all the same; rename them for other programs.",
        spoils=False,
    )
    listed = {fact.path for fact in facts}
    found = _files(listing)
    yield Problem(
        "image files are in no list",
        [path for path in found if path not in listed and _is_image(path)],
        "They are not used.",
        spoils=False,
    )
    # Tables, lists of words and the like may stand at the top.
    yield Problem(
        "files among the images have no suffix of an image",
        [path for path in found if path not in listed and "/" in path and not _is_image(path)],
        f"They are not used; images end in {', '.join(IMAGE_SUFFIXES)}.",
        spoils=False,
    )
    yield Problem(
        "folders have spaces in their names",
        sorted({folder for path in found if " " in (folder := path.rpartition("/")[0])}),
        "The standard layout writes attribute_object: rename them, spaces to underscores.",
        spoils=False,
    )


def _files(listing: Listing) -> list[str]:
    """Files of an image folder; for a table, those beside its images, wherever it may stand."""
    if listing.source.is_dir():
        below = (path.relative_to(listing.folder) for path in listing.folder.rglob("*"))
        paths = [path for path in below if not any(part[0] == "." for part in path.parts)]
    else:
        folders = {PurePosixPath(entry.image).parent for entry in listing.entries}
        paths = [
            Path(folder / path.name)
            for folder in folders
            if (listing.folder / folder).is_dir()
            for path in (listing.folder / folder).iterdir()
            if path.name[0] != "."
        ]
    return sorted(path.as_posix() for path in paths if (listing.folder / path).is_file())


def _is_image(path: str) -> bool:
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def check_straddling(
    entries: Sequence[Entry], facts: Sequence[ImageFacts], max_distance: int | None
) -> Iterator[Problem]:
    """Yield what lets a result be tested on images that were trained on.

    Args:
        entries: images with their split.
        facts: what a scan found out about each of them.
        max_distance: differing bits up to which two images are near-duplicates; None: no search.
    """
    splits: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        splits[entry.image].add(entry.split or "")
    yield Problem(
        "images stand in two splits",
        [f"{path} ({', '.join(sorted(own))})" for path, own in splits.items() if len(own) > 1],
        "Seen images are then tested on. Split by each record's set, never by the pair lists: "
        "those of val and test hold seen pairs too.",
    )
    times = Counter((entry.image, entry.split) for entry in entries)
    yield Problem(
        "images are listed twice in one split",
        [f"{image} ({split})" for (image, split), number in times.items() if number > 1],
        "They count twice; drop one of the two.",
        spoils=False,
    )
    copies: dict[bytes, list[str]] = defaultdict(list)
    for fact in facts:
        if fact.digest is not None:
            copies[fact.digest].append(fact.path)
    straddling = [
        paths
        for paths in copies.values()
        if len(paths) > 1 and len(set().union(*(splits[path] for path in paths))) > 1
    ]
    yield Problem(
        "images stand in two splits as byte-identical copies",
        [
            " = ".join(f"{path} ({'/'.join(sorted(splits[path]))})" for path in p)
            for p in straddling
        ],
        "Keep one of them, or all in one split; czsl-sac split does.",
    )
    if max_distance is not None:
        identical = {path for paths in straddling for path in paths}
        yield Problem(
            f"images have a near-duplicate in an earlier split (at most {max_distance} of 64 bits "
            "of the difference hash differ)",
            _near(facts, splits, identical, max_distance),
            "Look at them: what was trained on may be tested on. czsl-sac split keeps them on one "
            "side.",
            spoils=False,
        )


def _near(
    facts: Sequence[ImageFacts],
    splits: Mapping[str, set[str]],
    identical: set[str],
    max_distance: int,
) -> list[str]:
    """Each image beside one that it nearly equals and that stands in an earlier split."""
    used = [fact for fact in facts if fact.bits is not None and fact.path not in identical]
    rank = np.array([min(_SPLITS.index(s) for s in splits[fact.path]) for fact in used])
    twin: dict[int, int] = {}
    hashes = np.array([fact.bits for fact in used], dtype=np.uint64)
    for i, j in near_pairs(hashes, max_distance):
        apart = rank[i] != rank[j]
        late, first = np.unique(np.where(rank[i] > rank[j], i, j)[apart], return_index=True)
        early = np.where(rank[i] > rank[j], j, i)[apart][first]
        for image, other in zip(late.tolist(), early.tolist(), strict=True):
            twin.setdefault(image, other)
    return [
        f"{used[late].path} ({_SPLITS[rank[late]]}) ~ {used[early].path} ({_SPLITS[rank[early]]})"
        for late, early in sorted(twin.items())
    ]
