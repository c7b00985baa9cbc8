"""Generated scenes: a data set for compositional zero-shot learning without a download.

An image shows one large labelled object with one attribute among smaller objects that the label
does not mention. Images are drawn when asked for, at more than a thousand a second on one core,
and are the same on every machine, in every order and in every worker.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import get_args

import torch
from torch import Tensor
from torch.utils.data import Dataset

from czsl_sac._version import __version__
from czsl_sac.data.protocol import SplitName
from czsl_sac.data.scenes.drawing import (
    ATTRIBUTES,
    MAX_DISTRACTORS,
    Scene,
    Uniforms,
    draw_scenes,
    scene_keys,
)
from czsl_sac.data.scenes.shapes import OUTLINES
from czsl_sac.space import CompositionSpace

__all__ = ["SCENES_MEAN", "SCENES_STD", "SceneDataset", "Scenes", "mask_boxes"]

SCENES_MEAN = (0.5, 0.5, 0.5)
SCENES_STD = (0.25, 0.25, 0.25)

OBJECTS: tuple[str, ...] = tuple(OUTLINES)
"""The scenes' objects, in the order in which `draw_scenes` counts them."""

_STREAMS = {name: number for number, name in enumerate(get_args(SplitName))}
_CHUNK = 64  # images drawn at once: their pixels stay in the processor's cache

Pair = tuple[str, str]


class Scenes:
    """Scenes of 12 objects × 12 attributes (8 colours, 4 textures): 144 compositions.

    96 compositions are seen; of the others, 24 come in the validation split and 24 in the test
    split, each beside 24 seen ones with fresh images. Every attribute and every object stands in
    8 seen compositions and in 2 unseen ones of either split. The small objects are of seen
    compositions in all splits, and of another attribute and another object than the labelled one,
    so no pixel of an unseen composition occurs in training.

    Args:
        seed: Chooses the images; the compositions of the splits do not depend on it.
        split_seed: Chooses which compositions are unseen. The built-in tiny CLIP was pretrained
            without the unseen compositions of split seed 0: with another, they are not unseen
            to it.
        image_size: Height and width of the images in pixels, 32 or more.
        clutter: Between 0 and 1: how much of an image its label does not speak of. The more,
            the smaller the labelled object, the more and larger the others (none at 0, 7 or 8
            at 1), and the busier the background.
        images_per_pair: Training images of each seen composition.
        eval_images_per_pair: Validation and test images of each of their compositions.
        mean: What is subtracted from each colour of an image in [0, 1]; take the backbone's.
        std: What each colour is divided by afterwards; take the backbone's.

    Raises:
        ValueError: If a number is out of its range.

    >>> data = Scenes(seed=0)
    >>> data.space
    CompositionSpace(attributes=12, objects=12, pairs=144, seen=96)
    >>> test = data.split("test")
    >>> image, target = test[7]
    >>> image.shape, data.space.pairs[target], len(test)
    (torch.Size([3, 64, 64]), ('dotted', 'umbrella'), 960)
    """

    name = "scenes"

    def __init__(
        self,
        seed: int = 0,
        *,
        split_seed: int = 0,
        image_size: int = 64,
        clutter: float = 0.75,
        images_per_pair: int = 24,
        eval_images_per_pair: int = 20,
        mean: tuple[float, float, float] = SCENES_MEAN,
        std: tuple[float, float, float] = SCENES_STD,
    ) -> None:
        if not 0 <= clutter <= 1:
            raise ValueError(f"clutter must lie in [0, 1], got {clutter}")
        if image_size < 32:
            raise ValueError(
                f"image_size must be at least 32 pixels, got {image_size}: smaller objects cannot "
                "be told apart"
            )
        for argument, value in (
            ("images_per_pair", images_per_pair),
            ("eval_images_per_pair", eval_images_per_pair),
        ):
            if value < 1:
                raise ValueError(f"{argument} must be at least 1, got {value}")
        self.seed = seed
        self.split_seed = split_seed
        self.image_size = image_size
        self.clutter = clutter
        self.images_per_pair = images_per_pair
        self.eval_images_per_pair = eval_images_per_pair
        self.mean = mean
        self.std = std
        self.pairs = _split_pairs(split_seed)
        self.space = CompositionSpace.closed_world(*self.pairs.values())
        self._allowed = _distractor_table(self.space)

    def split(self, name: SplitName, *, augment: bool = False) -> "SceneDataset":
        """The items of a split; the compositions take turns in it.

        Args:
            name: "train", "val" or "test".
            augment: Whether each image is mirrored with probability 1/2, by torch's generator.

        Raises:
            ValueError: If there is no such split.
        """
        pairs = self._pairs_of(name)
        per_pair = self.images_per_pair if name == "train" else self.eval_images_per_pair
        targets = self.space.indices(pairs).repeat(per_pair)
        return SceneDataset(self, _STREAMS[name], targets, augment=augment)

    def candidates(self, name: SplitName) -> Tensor:
        """Compositions of a split or of the training split, [C] bool: the closed world.

        Raises:
            ValueError: If there is no such split.
        """
        return self.space.mask(self._pairs_of(name)) | self.space.seen_mask

    def distractors(self, keys: Tensor, targets: Tensor) -> Tensor:
        """Compositions of the small objects of B images, [B, MAX_DISTRACTORS] indices of pairs.

        Args:
            keys: [B] int64, the images' keys.
            targets: [B] int64, index into `space.pairs` of the labelled objects.
        """
        allowed = self._allowed[targets]
        number = (allowed >= 0).sum(1, keepdim=True)
        choice = (Uniforms(keys, purpose=1)(MAX_DISTRACTORS) * number).long()
        return allowed.gather(1, choice)

    def draw(
        self, stream: int, indices: Tensor, targets: Tensor, clutter: Tensor | None = None
    ) -> Scene:
        """Draws scenes of given compositions, not normalised.

        Args:
            stream: Which of the seed's streams of images: 0, 1, 2 are those of the splits.
            indices: [B] int64, the images' places in the stream.
            targets: [B] int64, index into `space.pairs` of the labelled objects.
            clutter: [B] in [0, 1]; by default the data set's.
        """
        if clutter is None:
            clutter = torch.full(targets.shape, self.clutter)
        keys = scene_keys(self.seed, stream, indices)
        # every primitive is seen and both lists are sorted: the space counts as the drawing does
        primitives = self.space.pair_indices
        small = primitives[self.distractors(keys, targets)]
        return draw_scenes(keys, primitives[targets], small, clutter, self.image_size)

    def normalise(self, images: Tensor) -> Tensor:
        """Subtracts the mean of images [B, 3, H, W] in [0, 1] and divides by the deviation."""
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return (images - mean[:, None, None]) / std[:, None, None]

    def __repr__(self) -> str:
        return (
            f"Scenes(seed={self.seed}, split_seed={self.split_seed}, "
            f"image_size={self.image_size}, clutter={self.clutter})"
        )

    def _pairs_of(self, name: str) -> tuple[Pair, ...]:
        if name not in self.pairs:
            raise ValueError(f"name must be 'train', 'val' or 'test', got {name!r}")
        return self.pairs[name]


class SceneDataset(Dataset[tuple[Tensor, int]]):
    """Items of `Scenes`: (image [3, H, W] float32, normalised; target, index into the pairs).

    A `DataLoader` draws a whole batch at once. Made by `Scenes.split`.

    Args:
        scenes: The data set.
        stream: Which of the seed's streams of images.
        targets: [n] int64, index into `scenes.space.pairs` of each item.
        augment: Whether each image is mirrored with probability 1/2.

    Attributes:
        space: The compositions.
        targets: [n] int64.
    """

    def __init__(self, scenes: Scenes, stream: int, targets: Tensor, *, augment: bool) -> None:
        self.space = scenes.space
        self.targets = targets
        self._scenes = scenes
        self._stream = stream
        self._augment = augment

    def __len__(self) -> int:
        return self.targets.shape[0]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} items")
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """The items at the given indices, drawn together."""
        items: list[tuple[Tensor, int]] = []
        for chunk in torch.as_tensor(indices).split(_CHUNK):
            targets = self.targets[chunk]
            images = self._scenes.draw(self._stream, chunk, targets).images
            images = self._scenes.normalise(images)
            if self._augment:
                mirrored = torch.rand(len(chunk)) < 0.5
                images[mirrored] = images[mirrored].flip(-1)
            items += zip(images.unbind(), targets.tolist(), strict=True)
        return items

    def fingerprint(self) -> str:
        """Names all that decides the items: the options of the scenes, and this version's drawing.

        Features that are cached on disk are known again by it.
        """
        scenes = self._scenes
        look = f"{__version__} {scenes!r} {scenes.mean} {scenes.std} {self._stream}"
        digest = sha256(look.encode())
        digest.update(str(self.targets.tolist()).encode())
        return digest.hexdigest()

    def identity(self) -> str:
        """Return a checksum of the images and labels, whatever a backbone makes of them."""
        scenes = self._scenes
        digest = sha256(f"{__version__} {scenes!r} {self._stream}".encode())
        digest.update(str(self.targets.tolist()).encode())
        return digest.hexdigest()

    def masks(self, indices: Sequence[int]) -> Tensor:
        """Where the labelled objects are, before augmentation: [B, H, W] bool."""
        chosen = torch.as_tensor(indices)
        return self._scenes.draw(self._stream, chosen, self.targets[chosen]).masks > 0.5


def mask_boxes(masks: Tensor) -> Tensor:
    """Smallest boxes around masks, in pixels.

    Args:
        masks: [B, H, W] bool, none of them empty.

    Returns:
        [B, 4] int64: left, top, right, bottom; right and bottom lie one pixel past the mask.

    >>> mask = torch.zeros(1, 5, 5, dtype=torch.bool)
    >>> mask[0, 1, 2:4] = True
    >>> mask_boxes(mask).tolist()
    [[2, 1, 4, 2]]
    """
    columns, rows = masks.any(1).int(), masks.any(2).int()
    left, top = columns.argmax(1), rows.argmax(1)
    right = masks.shape[2] - columns.flip(1).argmax(1)
    bottom = masks.shape[1] - rows.flip(1).argmax(1)
    return torch.stack([left, top, right, bottom], 1)


def _split_pairs(split_seed: int) -> dict[str, tuple[Pair, ...]]:
    # In a Latin square every symbol stands once in each row and column. Of its 12 symbols, over
    # rows (attributes) and columns (objects) in random order, 8 are seen, 2 are unseen of
    # validation and 2 of test; 2 seen ones each join the latter two.
    uniforms = Uniforms(scene_keys(split_seed, 0, torch.zeros(1, dtype=torch.int64)), purpose=2)
    n = len(ATTRIBUTES)
    rows, columns, symbols = (uniforms(n)[0].argsort().tolist() for _ in range(3))
    by_symbol: list[list[Pair]] = [[] for _ in range(n)]
    for i, attribute in enumerate(ATTRIBUTES):
        for j, obj in enumerate(OBJECTS):
            by_symbol[symbols[(rows[i] + columns[j]) % n]].append((attribute, obj))

    def pairs(*chosen: int) -> tuple[Pair, ...]:
        return tuple(sorted(pair for symbol in chosen for pair in by_symbol[symbol]))

    return {"train": pairs(*range(8)), "val": pairs(0, 1, 8, 9), "test": pairs(2, 3, 10, 11)}


def _distractor_table(space: CompositionSpace) -> Tensor:
    # row c: the seen pairs that share neither primitive with pair c, then -1 up to the width
    primitives = space.pair_indices
    differ = (primitives[:, None] != primitives[None]).all(-1) & space.seen_mask
    width = int(differ.sum(1).max())
    table = torch.full((len(space), width), -1)
    for c, row in enumerate(differ):
        allowed = row.nonzero().flatten()
        table[c, : len(allowed)] = allowed
    return table
