"""Items of the generated scenes, drawn when asked for, and where their objects are."""

from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from czsl_sac.data.scenes.drawing import MAX_DISTRACTORS, Scene, scene_keys

if TYPE_CHECKING:
    from czsl_sac.data.scenes.scenes import Scenes

_CHUNK = 64  # images drawn at once: their pixels stay in the processor's cache


DRAWING = "drawing 1"
"""Version of the drawing, to be raised when the default scenes' pixels change: a test notices."""


class SmallObjects(NamedTuple):
    """The small objects of B images: what they are and where they show.

    Attributes:
        compositions: `[B, K]` int64, indices into the pairs; -1 where there is no object, or a
            foreign one, which no text names.
        masks: `[B, K, H, W]` bool: the pixels at which each shows; empty where it is covered.
    """

    compositions: Tensor
    masks: Tensor


class SceneDataset(Dataset[tuple[Tensor, int]]):
    """Items of `Scenes`: (image `[3, H, W]` float32, normalised; target, index into the pairs).

    A `DataLoader` draws a whole batch at once. Made by `Scenes.split`.

    Args:
        scenes: the data set.
        stream: which of the seed's streams of images.
        targets: index into `scenes.space.pairs` of each item, `[n]` int64.
        augment: whether each image is mirrored with probability 1/2.

    Attributes:
        space: the compositions.
        targets: `[n]` int64.
    """

    def __init__(self, scenes: "Scenes", stream: int, targets: Tensor, *, augment: bool) -> None:
        self.space = scenes.space
        self.targets = targets
        self._scenes = scenes
        self._stream = stream
        self._augment = augment
        self._kept = _kept(self.fingerprint()) if scenes.keep else None

    def __len__(self) -> int:
        return self.targets.shape[0]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} items")
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Return the items at the given indices, drawn together."""
        items: list[tuple[Tensor, int]] = []
        for chunk in torch.as_tensor(indices).split(_CHUNK):
            images = self._scenes.normalise(self._images(chunk))
            if self._augment:
                mirrored = torch.rand(len(chunk)) < 0.5
                images[mirrored] = images[mirrored].flip(-1)
            items += zip(images.unbind(), self.targets[chunk].tolist(), strict=True)
        return items

    def fingerprint(self) -> str:
        """Return what names all that decides the items: the scenes' options, and this drawing.

        Features that are cached on disk are known again by it.
        """
        return self._digest(f"{self._scenes!r} {self._scenes.mean} {self._scenes.std}")

    def identity(self) -> str:
        """Return a checksum of the images and labels, whatever a backbone makes of them."""
        return self._digest(repr(self._scenes))

    def masks(self, indices: Sequence[int]) -> Tensor:
        """Return where the labelled objects are, before augmentation: `[B, H, W]` bool."""
        return self._draw(torch.as_tensor(indices)).masks > 0.5

    def small_objects(self, indices: Sequence[int]) -> SmallObjects:
        """Return what the small objects are and where they show, before augmentation."""
        chosen = torch.as_tensor(indices)
        owners = self._draw(chosen).owners
        numbers = torch.arange(2, 2 + MAX_DISTRACTORS)[:, None, None]
        masks = owners[:, None] == numbers
        keys = scene_keys(self._scenes.seed, self._stream, chosen)
        compositions = self._scenes.distractors(keys, self.targets[chosen])
        nameless = ~masks.any(-1).any(-1)
        if self._scenes.context == "foreign":
            nameless = torch.ones_like(nameless)
        return SmallObjects(compositions.masked_fill(nameless, -1), masks)

    def _digest(self, look: str) -> str:
        told = f"{DRAWING} {look} {self._stream}{self.targets.tolist()}"
        return sha256(told.encode()).hexdigest()

    def _draw(self, indices: Tensor) -> Scene:
        return self._scenes.draw(self._stream, indices, self.targets[indices])

    def _images(self, indices: Tensor) -> Tensor:
        """Images `[B, 3, H, W]` in [0, 1]; from memory where they are kept and known."""
        if self._kept is None:
            return self._draw(indices).images
        missing = [i for i in indices.tolist() if i not in self._kept]
        if missing:
            drawn = self._draw(torch.tensor(missing)).images
            # the images are on the 256 levels of a byte, so nothing is lost
            self._kept.update(zip(missing, drawn.mul(255).round().byte().unbind(), strict=True))
        return torch.stack([self._kept[i] for i in indices.tolist()]) / 255


@cache
def _kept(fingerprint: str) -> dict[int, Tensor]:
    """Return the kept images by item, of all data sets of this process with this fingerprint."""
    return {}
