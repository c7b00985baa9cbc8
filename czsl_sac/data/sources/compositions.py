"""The compositions of a data set, without its images."""

from pathlib import Path

from czsl_sac.data.names import refuse_read_alike
from czsl_sac.data.sources.read import read_listing
from czsl_sac.data.sources.standard import is_standard_layout, read_standard_layout
from czsl_sac.space import CompositionSpace


def read_compositions(source: Path) -> CompositionSpace:
    """Return the compositions of a data set; its images are not opened, and may be elsewhere.

    Args:
        source: folder in the standard layout, folder of folders `attribute_object`, or table.

    Returns:
        The compositions; without a split all are seen.

    Raises:
        FileNotFoundError: there is nothing at `source`.
        ValueError: it is no data set, has a fault, or two names end in the same prompt.
        ImportError: a Parquet table, and no pyarrow is installed.
    """
    if is_standard_layout(source):
        listing, errors = read_standard_layout(source)
        if errors:
            raise errors[0]
    else:
        listing = read_listing(source)
    listing.require_sound()
    split = listing.pairs.values() if listing.has_splits else [[e.pair for e in listing.entries]]
    space = CompositionSpace.closed_world(*split)
    refuse_read_alike(space.pairs, listing.source)
    return space
