"""What can be wrong with the names of attributes and objects."""

from collections.abc import Iterator

from czsl_sac.data.listing import Listing, Problem
from czsl_sac.data.names import read_alike
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
