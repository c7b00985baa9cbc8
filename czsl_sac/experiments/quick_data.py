"""A few images of each composition of a data set in the standard layout, for quick runs."""

from collections import Counter
from pathlib import Path
from shutil import copyfile

import torch

from czsl_sac.data.protocol import SPLITS
from czsl_sac.data.sources.standard import METADATA, PAIR_LISTS, read_records
from czsl_sac.files import write_atomically


def write_quick_data(root: Path, folder: Path, images: int) -> None:
    """Write a data set of the same compositions with the first images of each, unless it is there.

    Images are not copied: the new folder links to those of the old one.

    Args:
        root: the data set, in the standard layout.
        folder: of the new one.
        images: of each composition in each split.

    Raises:
        FileNotFoundError: a file of the data set is missing.
        ValueError: its metadata is damaged.
    """
    if (folder / METADATA).is_file():  # written last
        return
    records = first_records(root, images)
    (folder / PAIR_LISTS).mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        name = f"{PAIR_LISTS}/{split}_pairs.txt"
        copyfile(root / name, folder / name)
    link = folder / "images"
    if not link.exists():
        link.symlink_to((root / "images").resolve(), target_is_directory=True)
    write_atomically(folder / METADATA, lambda path: torch.save(records, path))


def first_records(root: Path, images: int) -> list[dict[str, str]]:
    """Return the records of the first images of each composition in each split.

    Args:
        root: the data set, in the standard layout.
        images: of each composition in each split.
    """
    taken: Counter[tuple[str, ...]] = Counter()
    kept = []
    for record in read_records(root / METADATA):
        key = (record["attr"], record["obj"], record["set"])
        taken[key] += 1
        if taken[key] <= images:
            kept.append(record)
    return kept
