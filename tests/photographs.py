"""Small data sets of image files for tests: pictures that differ, in every layout."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from czsl_sac.data.sources.standard import METADATA, PAIR_LISTS

LOOK = {"image_size": 32, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
"""What every data set of image files needs to know of the backbone."""


def write_image(path: Path, number: int, **options: object) -> None:
    """Write a picture of coarse noise; another number is another picture, and no near-duplicate."""
    pixels = np.random.default_rng(number).integers(0, 256, (9, 10, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize((60, 40), Image.Resampling.BICUBIC).save(path, **options)


def write_folders(root: Path, pairs: Sequence[tuple[str, str]], images: int) -> None:
    """Write `images` pictures of each pair into folders attribute_object."""
    for row, (attribute, obj) in enumerate(pairs):
        for number in range(images):
            path = root / f"{attribute}_{obj}" / f"{number:02}.jpg"
            write_image(path, row * images + number)


def write_standard_layout(
    root: Path, pairs: Mapping[str, Sequence[str]], records: Sequence[tuple[str, str]]
) -> None:
    """Write the standard layout: pair lists, and a picture for each (pair, split) of `records`."""
    (root / PAIR_LISTS).mkdir(parents=True)
    for split, listed in pairs.items():
        (root / PAIR_LISTS / f"{split}_pairs.txt").write_text("\n".join(listed) + "\n")
    rows = []
    for number, (pair, split) in enumerate(records):
        attribute, obj = pair.split()
        image = f"{attribute}_{obj}/{number}.jpg"
        write_image(root / "images" / image, number)
        rows.append({"image": image, "attr": attribute, "obj": obj, "set": split})
    torch.save(rows, root / METADATA)
