"""What every data set of image files shares: its splits, compositions, candidates and counts."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from torch import Tensor

from czsl_sac.data.counts import count_data
from czsl_sac.data.images import ImageDataset, image_transform
from czsl_sac.data.listing import some
from czsl_sac.data.protocol import SplitName
from czsl_sac.data.scan import scan_images
from czsl_sac.space import CompositionSpace, Pair

__all__ = ["ImageData", "OnBadImage"]

OnBadImage = Literal["stop", "skip"]


class ImageData:
    """Images on disk, each with a composition and a split.

    Args:
        name: for printouts.
        source: the file that lists the images, for messages.
        folder: what the images' paths are relative to.
        pairs: compositions of each split; those of `"train"` are seen.
        records: path and composition of each image, by split.
        image_size: height and width after cropping; take the backbone's.
        mean: subtracted from each colour of an image in [0, 1]; take the backbone's.
        std: what each colour is divided by afterwards; take the backbone's.
        on_bad_image: `"stop"`: reading a missing or damaged image is an error. `"skip"`: every
            image is opened now, and the bad ones are left out of their split.

    Attributes:
        name: as given.
        folder: as given.
        pairs: as given.
        space: the closed world: sorted union of all compositions, those of training seen.
        records: `(path below folder, index into space.pairs)` by split.
        skipped: reason for each path that was left out.

    Raises:
        ValueError: a split has no image, validation or test none of a seen or of an unseen
            composition, or a split one of a composition that is not its own.

    Warns:
        UserWarning: images are left out; the message counts them and names the first.
    """

    def __init__(
        self,
        *,
        name: str,
        source: Path,
        folder: Path,
        pairs: Mapping[SplitName, Sequence[Pair]],
        records: Mapping[SplitName, Sequence[tuple[str, Pair]]],
        image_size: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        on_bad_image: OnBadImage = "stop",
    ) -> None:
        self.name = name
        self.source = source
        self.folder = folder
        self.pairs = pairs
        self.space = CompositionSpace.closed_world(*(pairs[split] for split in get_args(SplitName)))
        self._look = (image_size, mean, std)
        self.skipped: dict[str, str] = {}
        if on_bad_image == "skip":
            paths = [path for items in records.values() for path, _ in items]
            self.skipped = {
                found.path: found.problem
                for found in scan_images(folder, paths, hashes=False)
                if found.problem
            }
            self._tell_skipped(len(paths))
        columns = {pair: column for column, pair in enumerate(self.space.pairs)}
        self.records: dict[str, list[tuple[str, int]]] = {}
        for split in get_args(SplitName):
            items = [item for item in records[split] if item[0] not in self.skipped]
            _check_items(split, items, pairs, source)
            self.records[split] = [(path, columns[pair]) for path, pair in items]

    def split(self, name: SplitName, *, augment: bool = False) -> ImageDataset:
        """Return the items of a split.

        Args:
            name: `"train"`, `"val"` or `"test"`.
            augment: mirror, tilt and turn the images at random, as the published loaders do.

        Raises:
            ValueError: there is no such split.
        """
        self._check_name(name)
        transform = image_transform(*self._look, augment=augment)
        return ImageDataset(self.folder, self.records[name], transform)

    def candidates(self, name: SplitName) -> Tensor:
        """Return the compositions of a split or of the training split, `[C]` bool.

        Raises:
            ValueError: there is no such split.
        """
        self._check_name(name)
        return self.space.mask(self.pairs[name]) | self.space.seen_mask

    def counts(self) -> dict[str, int]:
        """Return the counts that the paper's Tab. 7 gives, by its headings."""
        images = {split: len(self.records[split]) for split in get_args(SplitName)}
        return count_data(self.pairs, images)

    def _tell_skipped(self, total: int) -> None:
        if self.skipped:
            reasons = [f"{path} ({reason})" for path, reason in self.skipped.items()]
            warnings.warn(
                f"{len(self.skipped)} of {total} images of {self.source} cannot be read and are "
                f"left out, evaluation included: {some(reasons)}",
                stacklevel=4,
            )

    def _check_name(self, name: str) -> None:
        if name not in self.pairs:
            raise ValueError(f"name is {name!r} but must be 'train', 'val' or 'test'.")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.source)!r}, name={self.name!r})"


def _check_items(
    split: SplitName,
    items: Sequence[tuple[str, Pair]],
    pairs: Mapping[SplitName, Sequence[Pair]],
    source: Path,
) -> None:
    if not items:
        raise ValueError(
            f"{source} has no {split} image whose composition is one of the data set's: "
            "images and compositions must belong together."
        )
    seen = set(pairs["train"])
    for kind, wanted in (("seen", True), ("unseen", False)):
        if split != "train" and not any((pair in seen) == wanted for _, pair in items):
            raise ValueError(
                f"{source} has no {split} image of {'a' if wanted else 'an'} {kind} composition, "
                "and the metrics need some of both kinds: czsl-sac split makes such a split."
            )
    own = seen.union(pairs[split])
    foreign = [f"{path} ({' '.join(pair)})" for path, pair in items if pair not in own]
    if foreign:
        raise ValueError(
            f"{source} puts {len(foreign)} images into the {split} split whose composition is "
            f"neither one of that split nor seen in training: {some(foreign)}. No prediction of "
            "them could be right; correct the split of these images or the list of compositions."
        )
