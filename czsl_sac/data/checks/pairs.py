"""What can be wrong with the names and compositions of a data set."""

from collections import Counter
from collections.abc import Iterator

from czsl_sac.data.counts import count_data, differences_from_tab7
from czsl_sac.data.listing import Listing, Problem
from czsl_sac.data.names import read_alike
from czsl_sac.data.protocol import SPLITS
from czsl_sac.words import visible


def check_names(listing: Listing) -> Iterator[Problem]:
    """Yield which names are read as the same words, or hold what cannot be seen."""
    listed = (listing.pair_lists or {}).values()
    pairs = [entry.pair for entry in listing.entries] + [pair for own in listed for pair in own]
    yield Problem(
        "names read as the same words",
        read_alike(pairs),
        "CLIP gets one text for different classes, and training refuses them: write each name in "
        "one way.",
    )
    names = dict.fromkeys(name for pair in pairs for name in pair)
    yield Problem(
        "names with characters that cannot be seen",
        [visible(name) for name in names if visible(name) != name],
        "They make another class of a name that looks the same: remove them.",
        spoils=False,
    )


def check_lists(listing: Listing) -> Iterator[Problem]:
    """Yield what is wrong with the pair lists of the standard layout and the images they name."""
    pairs, entries = listing.pair_lists or listing.pairs, listing.entries
    seen = set(pairs["train"])
    allowed = {split: seen.union(listed) for split, listed in pairs.items()}
    images = Counter((entry.split, entry.pair) for entry in entries)
    without = {
        split: [f"{split}: {' '.join(pair)}" for pair in pairs[split] if not images[split, pair]]
        for split in SPLITS
    }
    yield Problem(
        "training pairs without a training image",
        without["train"],
        "They count as seen but are never learned: drop them from train_pairs.txt, or take the "
        "corrected version of the data set.",
    )
    yield Problem(
        "pairs of a validation or test list without an image in that split",
        without["val"] + without["test"],
        "They are candidates that no image is of; drop them unless that is meant.",
        spoils=False,
    )
    yield Problem(
        "unseen pairs in two lists, val_pairs.txt and test_pairs.txt",
        [" ".join(pair) for pair in sorted(set(pairs["val"]) & set(pairs["test"]) - seen)],
        "What is chosen on validation has then been chosen on test's compositions: keep each in "
        "one of the two.",
    )
    yield Problem(
        "pairs twice in one list",
        [
            f"{split}: {' '.join(pair)}"
            for split in SPLITS
            for pair, times in Counter(pairs[split]).items()
            if times > 1
        ],
        "The second line is ignored; remove it.",
        spoils=False,
    )
    yield Problem(
        "images with a split whose list, and the training list, lack their pair",
        [
            f"{entry.image} ({' '.join(entry.pair)} in {entry.split})"
            for entry in entries
            if entry.split is not None and entry.pair not in allowed[entry.split]
        ],
        "Correct the record's set, or add the pair to that list.",
    )


def check_coverage(listing: Listing) -> Iterator[Problem]:
    """Yield what a run needs and does not find: images of each split, names to learn."""
    pairs, entries = listing.pairs, listing.entries
    filled = {entry.split for entry in entries}
    yield Problem(
        "splits without an image",
        [split for split in SPLITS if split not in filled],
        "A run needs training, validation and test images; czsl-sac split makes all three.",
    )
    seen = set(pairs["train"])
    kinds = {f"{entry.split}: {'seen' if entry.pair in seen else 'unseen'}" for entry in entries}
    needed = (f"{split}: {kind}" for split in ("val", "test") for kind in ("seen", "unseen"))
    yield Problem(
        "kinds of composition without an image in a split that is measured on both kinds",
        [kind for kind in needed if kind not in kinds and kind.partition(":")[0] in filled],
        "czsl-sac split makes a split with both kinds in validation and test.",
    )
    for place, kind in enumerate(("attributes", "objects")):
        learned = {pair[place] for pair in pairs["train"]}
        tested = {pair[place] for split in ("val", "test") for pair in pairs[split]}
        yield Problem(
            f"{kind} of validation or test in no training composition",
            sorted(tested - learned),
            "They cannot be learned: move compositions to training, or let czsl-sac split choose.",
        )


def check_counts(name: str, listing: Listing) -> Iterator[Problem]:
    """Yield how a data set differs from the one of its name in the paper's Tab. 7."""
    images = Counter(entry.split for entry in listing.entries if entry.split is not None)
    yield Problem(
        f"counts that differ from those of {name} in the paper's Tab. 7",
        differences_from_tab7(name, count_data(listing.pairs, images)),
        "Results are not comparable with published ones.",
        spoils=False,
    )
