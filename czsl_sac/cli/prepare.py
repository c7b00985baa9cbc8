"""`czsl-sac prepare`: the field's data sets as they are downloaded, in the standard layout."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from czsl_sac.cli.options import parse_options
from czsl_sac.words import counted, some, visible


@dataclass(frozen=True)
class PrepareOptions:
    """Bring a downloaded data set into the standard layout and compare it with the paper's Tab. 7.

    Nothing is downloaded; docs/data.md says where the archives are. The exit code is 1 if images
    are missing or counts differ, else 0.
    """

    dataset: tyro.conf.Positional[Literal["ut-zappos", "mit-states", "cgqa"]]
    """Which data set it is."""
    root: tyro.conf.Positional[Path]
    """Folder in which the archive of the images was unpacked; becomes the data set's folder."""
    splits: Path | None = None
    """Archive compositional_split_natural.tar.gz; None if its files are in the folder already."""


def run(arguments: list[str]) -> int:
    """Run the command with its options."""
    options = parse_options(PrepareOptions, "prepare", arguments)

    from czsl_sac.cli.tables import data_table
    from czsl_sac.data.counts import count_data, differences_from_tab7
    from czsl_sac.data.preparing import prepare
    from czsl_sac.data.sources.standard import read_standard_layout

    for sentence in prepare(options.dataset, options.root, splits=options.splits):
        print(sentence)
    listing, errors = read_standard_layout(options.root)
    if errors:
        raise errors[0]
    listing.require_sound()
    print(f"\n{data_table(listing.entries, listing.pairs)}\n")
    counts = {split: sum(e.split == split for e in listing.entries) for split in listing.pairs}
    different = differences_from_tab7(options.dataset, count_data(listing.pairs, counts))
    images = options.root / "images"
    missing = [e.image for e in listing.entries if not (images / e.image).is_file()]
    if missing:
        print(f"Missing: {counted(len(missing), 'image')}, {some(missing)}.")
    if different:
        print(f"Not the {options.dataset} of the paper's Tab. 7: {'; '.join(different)}.")
    else:
        print(f"All counts are those of {options.dataset} in the paper's Tab. 7.")
    print(f"To look at every image: czsl-sac check-data {visible(options.root)}")
    return int(bool(missing or different))
