"""The standard layout of UT-Zappos, MIT-States, C-GQA and data sets made like them.

ROOT/images/<path of the record>
ROOT/metadata_compositional-split-natural.t7
ROOT/compositional-split-natural/{train,val,test}_pairs.txt
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms

from czsl_sac.data.protocol import SplitName
from czsl_sac.space import CompositionSpace, Pair

__all__ = ["TAB7_COUNTS", "ImageDataset", "StandardLayout", "image_transform"]

SPLIT = "compositional-split-natural"

TAB7_COUNTS: dict[str, dict[str, int]] = {
    name: dict(
        zip(
            (
                "attributes",
                "objects",
                "seen pairs",
                "train images",
                "val seen pairs",
                "val unseen pairs",
                "val images",
                "test seen pairs",
                "test unseen pairs",
                "test images",
            ),
            counts,
            strict=True,
        )
    )
    for name, counts in {
        "ut-zappos": (16, 12, 83, 22998, 15, 15, 3214, 18, 18, 2914),
        "mit-states": (115, 245, 1262, 30338, 300, 300, 10420, 400, 400, 12995),
        "cgqa": (413, 674, 5592, 26920, 1252, 1040, 7280, 888, 923, 5098),
    }.items()
}
"""Counts of the paper's Tab. 7 by data set."""


class StandardLayout:
    """A data set in the field's standard layout, split by each record's `set`.

    Records without attribute, object or split (`NA`), or whose pair stands in no list, are
    dropped, as the published loaders do. The counts of a data set that Tab. 7 names are checked.

    Args:
        root: folder of the data set.
        name: for printouts; `"ut-zappos"`, `"mit-states"` and `"cgqa"` are checked against Tab. 7.
        image_size: height and width after cropping; take the backbone's.
        mean: subtracted from each colour of an image in [0, 1]; take the backbone's.
        std: what each colour is divided by afterwards; take the backbone's.

    Attributes:
        name: as given.
        space: the closed world: sorted union of the three pair lists, training pairs seen.
        records: `(image path below images/, index into space.pairs)` by split.

    Raises:
        FileNotFoundError: the folder, a pair list or the metadata is missing.
        ValueError: a file is damaged, or a split has no record.

    Warns:
        UserWarning: a count differs from Tab. 7; the message says which, and by how much.
    """

    def __init__(
        self,
        root: Path,
        *,
        name: str,
        image_size: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        self.name = name
        self.root = Path(root)
        self._look = (image_size, mean, std)
        self.pairs: dict[str, tuple[Pair, ...]] = {
            split: _read_pairs(self.root / SPLIT / f"{split}_pairs.txt")
            for split in get_args(SplitName)
        }
        self.space = CompositionSpace.closed_world(*self.pairs.values())
        metadata = self.root / f"metadata_{SPLIT}.t7"
        self.records = _split_records(_read_metadata(metadata), self.space, metadata)
        if name in TAB7_COUNTS:
            self._compare(TAB7_COUNTS[name])

    def split(self, name: SplitName, *, augment: bool = False) -> "ImageDataset":
        """Return the items of a split.

        Args:
            name: `"train"`, `"val"` or `"test"`.
            augment: mirror, tilt and turn the images at random, as the published loaders do.

        Raises:
            ValueError: there is no such split.
        """
        self._check(name)
        transform = image_transform(*self._look, augment=augment)
        return ImageDataset(self.root / "images", self.records[name], transform)

    def candidates(self, name: SplitName) -> Tensor:
        """Return the compositions of a split or of the training split, `[C]` bool.

        Raises:
            ValueError: there is no such split.
        """
        self._check(name)
        return self.space.mask(self.pairs[name]) | self.space.seen_mask

    def counts(self) -> dict[str, int]:
        """Return the counts that Tab. 7 gives, by its headings."""
        seen = set(self.pairs["train"])
        counts = {
            "attributes": len(self.space.attributes),
            "objects": len(self.space.objects),
            "seen pairs": len(seen),
            "train images": len(self.records["train"]),
        }
        for split in ("val", "test"):
            pairs = set(self.pairs[split])
            counts[f"{split} seen pairs"] = len(pairs & seen)
            counts[f"{split} unseen pairs"] = len(pairs - seen)
            counts[f"{split} images"] = len(self.records[split])
        return counts

    def _compare(self, expected: dict[str, int]) -> None:
        found = self.counts()
        differing = [
            f"{key} {found[key]} instead of {expected[key]} ({found[key] - expected[key]:+d})"
            for key in expected
            if found[key] != expected[key]
        ]
        if differing:
            warnings.warn(
                f"{self.root} is not the {self.name} of the paper's Tab. 7: "
                f"{'; '.join(differing)}. Results are not comparable with published ones.",
                stacklevel=3,
            )

    def _check(self, name: str) -> None:
        if name not in self.pairs:
            raise ValueError(f"name is {name!r} but must be 'train', 'val' or 'test'.")

    def __repr__(self) -> str:
        return f"StandardLayout({str(self.root)!r}, name={self.name!r})"


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Images from files: (image `[3, H, W]` float32, normalised; target).

    Args:
        folder: what the paths are relative to.
        records: path and target of each item.
        transform: from an RGB image to a tensor.

    Raises:
        ValueError: on access, if a file is missing or no readable image; the message has its path.
    """

    def __init__(
        self, folder: Path, records: Sequence[tuple[str, int]], transform: transforms.Compose
    ) -> None:
        self.folder = folder
        self.records = records
        self.transform = transform

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, target = self.records[index]
        try:
            with Image.open(self.folder / path) as image:
                pixels: Tensor = self.transform(image.convert("RGB"))
        except (OSError, UnidentifiedImageError) as error:
            raise ValueError(
                f"{self.folder / path} is missing or no readable image ({error}): "
                "restore the file, or drop its record from the metadata."
            ) from error
        return pixels, target


def image_transform(
    image_size: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    *,
    augment: bool = False,
) -> transforms.Compose:
    """Return the published methods' transform of an RGB image to a normalised tensor.

    Resize the shorter side (bicubic), crop the centre; with `augment` also mirror, tilt
    (`RandomPerspective`, its defaults) and turn by up to 5 degrees.

    Args:
        image_size: height and width of the result.
        mean: subtracted from each colour in [0, 1].
        std: divides each colour afterwards.
        augment: for training.

    Example:
        >>> transform = image_transform(224, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        >>> transform(Image.new("RGB", (300, 260))).shape
        torch.Size([3, 224, 224])
    """
    size = [
        transforms.Resize(image_size, interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(image_size),
    ]
    random = [
        transforms.RandomHorizontalFlip(),
        transforms.RandomPerspective(),
        transforms.RandomRotation(5),
    ]
    last = [transforms.ToTensor(), transforms.Normalize(mean, std)]
    return transforms.Compose([*size, *(random if augment else []), *last])


def _read_pairs(path: Path) -> tuple[Pair, ...]:
    if not path.is_file():
        raise FileNotFoundError(
            f"no pair list at {path}: data_root must be the folder that holds images/ and {SPLIT}/"
        )
    pairs = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2:
            raise ValueError(
                f"{path}, line {number} is {line!r} but must be an attribute and an object, "
                "separated by a space."
            )
        pairs.append((words[0], words[1]))
    return tuple(dict.fromkeys(pairs))


def _read_metadata(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"no metadata at {path}: it lists the images and their labels")
    try:
        records = torch.load(path, weights_only=True)
    except Exception as error:  # torch raises many types for a file that is none of its own
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read ({reason}): fetch it again.") from error
    required = {"image", "attr", "obj", "set"}
    if not isinstance(records, list) or not all(
        isinstance(record, dict) and required <= record.keys() for record in records
    ):
        raise ValueError(
            f"{path} must hold a list of records with image, attr, obj and set: fetch it again."
        )
    return records


def _split_records(
    records: list[dict[str, Any]], space: CompositionSpace, source: Path
) -> dict[str, list[tuple[str, int]]]:
    columns = {pair: column for column, pair in enumerate(space.pairs)}
    split: dict[str, list[tuple[str, int]]] = {name: [] for name in get_args(SplitName)}
    for record in records:
        column = columns.get((record["attr"], record["obj"]))
        if column is None or "NA" in (record["attr"], record["obj"], record["set"]):
            continue
        # The published loaders take anything that is neither train nor val for test.
        name = record["set"] if record["set"] in ("train", "val") else "test"
        split[name].append((record["image"], column))
    for name, items in split.items():
        if not items:
            raise ValueError(
                f"{source} has no {name} record whose pair stands in a pair list: "
                "metadata and pair lists must belong together."
            )
    return split
