"""What every data set of image files shares: its splits, compositions, candidates and counts."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import get_args

from torch import Tensor

from czsl_sac.checks import check_choice
from czsl_sac.data.counts import count_data
from czsl_sac.data.images import ImageDataset
from czsl_sac.data.listing import Entry, Listing
from czsl_sac.data.names import refuse_read_alike
from czsl_sac.data.protocol import SPLITS, SplitName
from czsl_sac.data.reading import Exif, OnBadImage
from czsl_sac.data.scan import scan_images
from czsl_sac.data.sources.paths import outside
from czsl_sac.data.transforms import ImageReader, ImageTransform
from czsl_sac.space import CompositionSpace
from czsl_sac.words import some, visible


class ImageData:
    """Images on disk, each with a composition and a split.

    Args:
        listing: the images, and the compositions of each split; those of `"train"` are seen.
        name: for printouts.
        image_size: height and width after cropping; take the backbone's.
        mean: subtracted from each colour of an image in [0, 1]; take the backbone's.
        std: what each colour is divided by afterwards; take the backbone's.
        on_bad_image: `"stop"`: reading a missing or damaged image is an error. `"skip"`: every
            image is opened now, and the bad ones are left out of their split.
        exif: turn photographs as their EXIF orientation says, or leave the pixels as stored.
        image_reader: who resizes: Pillow, as the published loaders do, or torch, which is faster.

    Attributes:
        name: as given.
        source: the file that lists the images.
        folder: what the images' paths are relative to, or the store that has them by name.
        pairs: compositions of each split.
        space: the closed world: sorted union of all compositions, those of training seen.
        records: `(path below folder, index into space.pairs)` by split.
        skipped: reason for each path that was left out.
        exif: as given.

    Raises:
        ValueError: the listing has a fault, two names end in the same prompt, a split has no
            image, validation or test none of a seen or of an unseen composition, or a split one of
            a composition that is not its own.

    Warns:
        UserWarning: images are left out, or lie outside the folder; the message counts them and
            names the first.
    """

    def __init__(
        self,
        listing: Listing,
        *,
        name: str,
        image_size: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        on_bad_image: OnBadImage = "stop",
        exif: Exif = "follow",
        image_reader: ImageReader = "pil",
    ) -> None:
        check_choice("on_bad_image", on_bad_image, get_args(OnBadImage))
        check_choice("exif", exif, get_args(Exif))
        check_choice("image_reader", image_reader, get_args(ImageReader))
        listing.require_sound()
        self.name = name
        self.source = listing.source
        self.folder = listing.folder
        self.pairs = listing.pairs
        self.exif: Exif = exif
        self._look = ImageTransform(image_size, mean, std, reader=image_reader)
        paths = [entry.image for entry in listing.entries]
        far = outside(paths)
        if far:
            warnings.warn(
                f"images of {visible(self.source)} outside its folder are read ({len(far)}): "
                f"{some(far)}",
                stacklevel=3,
            )
        self.skipped = self._bad_images(paths) if on_bad_image == "skip" else {}
        items = {
            split: [e for e in listing.entries if e.split == split and e.image not in self.skipped]
            for split in SPLITS
        }
        self._check_items(items)
        refuse_read_alike((pair for own in self.pairs.values() for pair in own), listing.source)
        self.space = CompositionSpace.closed_world(*(self.pairs[split] for split in SPLITS))
        columns = {pair: column for column, pair in enumerate(self.space.pairs)}
        self.records: dict[SplitName, list[tuple[str, int]]] = {
            split: [(entry.image, columns[entry.pair]) for entry in items[split]]
            for split in SPLITS
        }

    def split(self, name: SplitName, *, augment: bool = False) -> ImageDataset:
        """Return the items of a split.

        Args:
            name: `"train"`, `"val"` or `"test"`.
            augment: mirror, tilt and turn the images at random, as the published loaders do.

        Raises:
            ValueError: there is no such split.
        """
        check_choice("name", name, SPLITS)
        transform = replace(self._look, augment=augment)
        return ImageDataset(self.folder, self.records[name], transform, exif=self.exif)

    def candidates(self, name: SplitName) -> Tensor:
        """Return the compositions of a split or of the training split, `[C]` bool.

        Raises:
            ValueError: there is no such split.
        """
        check_choice("name", name, SPLITS)
        return self.space.mask(self.pairs[name]) | self.space.seen_mask

    def counts(self) -> dict[str, int]:
        """Return the counts that the paper's Tab. 7 gives, by its headings."""
        return count_data(self.pairs, {split: len(self.records[split]) for split in SPLITS})

    def _bad_images(self, paths: Sequence[str]) -> dict[str, str]:
        facts = scan_images(self.folder, paths, hashes=False)
        bad = {fact.path: fact.problem for fact in facts if fact.problem}
        if bad:
            reasons = [f"{path} ({reason})" for path, reason in bad.items()]
            warnings.warn(
                f"{len(bad)} of {len(paths)} images of {visible(self.source)} cannot be read and "
                f"are left out, evaluation included: {some(reasons)}",
                stacklevel=4,
            )
        return bad

    def _check_items(self, items: Mapping[SplitName, Sequence[Entry]]) -> None:
        source, seen = visible(self.source), set(self.pairs["train"])
        for split, own in items.items():
            if not own:
                raise ValueError(
                    f"{source} has no {split} image whose composition is one of the data set's: "
                    "training, choosing the best epoch and testing need some each; czsl-sac split "
                    "makes all three splits."
                )
        for split, own in items.items():
            for kind, wanted in (("a seen", True), ("an unseen", False)):
                if split != "train" and not any((item.pair in seen) == wanted for item in own):
                    raise ValueError(
                        f"{source} has no {split} image of {kind} composition, and the metrics "
                        "need some of both kinds: czsl-sac split makes such a split."
                    )
            allowed = seen.union(self.pairs[split])
            foreign = [f"{e.image} ({' '.join(e.pair)})" for e in own if e.pair not in allowed]
            if foreign:
                raise ValueError(
                    f"{source} has images in the {split} split whose composition is neither one of "
                    f"that split nor seen in training ({len(foreign)}): {some(foreign)}. No "
                    "prediction of them could be right; correct the split of these images or the "
                    "list of compositions."
                )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.source)!r}, name={self.name!r})"
