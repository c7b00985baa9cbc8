"""What lets a result be tested on images that were trained on."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from czsl_sac.data.listing import Entry, Problem
from czsl_sac.data.near_duplicates import near_pairs
from czsl_sac.data.protocol import SPLITS
from czsl_sac.data.scan import ImageFacts, hashes_of


def check_overlap(
    entries: Sequence[Entry], facts: Sequence[ImageFacts], max_distance: int | None
) -> Iterator[Problem]:
    """Yield what lets a result be tested on images that were trained on.

    Near-duplicates differ in at most `max_distance` bits; None leaves their search out.
    """
    splits: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        splits[entry.image].add(entry.split or "")
    yield Problem(
        "images in two splits",
        [f"{path} ({', '.join(sorted(own))})" for path, own in splits.items() if len(own) > 1],
        "Seen images are then tested on. Split by each record's set, never by the pair lists: "
        "those of val and test hold seen pairs too.",
    )
    times = Counter((entry.image, entry.split) for entry in entries)
    yield Problem(
        "images listed twice in one split",
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
        "byte-identical copies in two splits",
        [
            " = ".join(f"{path} ({'/'.join(sorted(splits[path]))})" for path in p)
            for p in straddling
        ],
        "Keep one of them, or all in one split; czsl-sac split does.",
    )
    if max_distance is not None:
        identical = {path for paths in straddling for path in paths}
        yield Problem(
            "near-duplicates of an image in an earlier split",
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
    used = [fact for fact in facts if fact.hash is not None and fact.path not in identical]
    rank = np.array([min(SPLITS.index(s) for s in splits[fact.path]) for fact in used])
    twin: dict[int, int] = {}
    for i, j in near_pairs(*hashes_of(used), max_distance):
        apart = rank[i] != rank[j]
        late, first = np.unique(np.where(rank[i] > rank[j], i, j)[apart], return_index=True)
        early = np.where(rank[i] > rank[j], j, i)[apart][first]
        for image, other in zip(late.tolist(), early.tolist(), strict=True):
            twin.setdefault(image, other)
    return [
        f"{used[late].path} ({SPLITS[rank[late]]}) ~ {used[early].path} ({SPLITS[rank[early]]})"
        for late, early in sorted(twin.items())
    ]
