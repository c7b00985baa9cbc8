"""Generated scenes: a data set for compositional zero-shot learning without a download.

An image shows one large labelled object with one attribute among smaller objects that the label
does not mention. Images are drawn when asked for, at more than a thousand a second on one core,
and are the same on every machine, in every order and in every worker.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from czsl_sac.checks import check_choice, check_range
from czsl_sac.data.protocol import SPLITS, SplitName
from czsl_sac.data.scenes.drawing import (
    ATTRIBUTES,
    MAX_DISTRACTORS,
    Scene,
    Uniforms,
    draw_scenes,
    scene_keys,
)
from czsl_sac.data.scenes.items import SceneDataset
from czsl_sac.data.scenes.shapes import FOREIGN_OUTLINES, OUTLINES
from czsl_sac.space import CompositionSpace, Pair

OBJECTS: tuple[str, ...] = tuple(OUTLINES)
"""The scenes' objects, in the order in which `draw_scenes` counts them."""

SCENES_MEAN = (0.5, 0.5, 0.5)
SCENES_STD = (0.25, 0.25, 0.25)

Context = Literal["labels", "foreign"]
"""Where the small objects' shapes come from, as `Scenes` takes it."""

_STREAMS = {name: number for number, name in enumerate(SPLITS)}


class Scenes:
    """Scenes of 12 objects × 12 attributes (8 colours, 4 textures): 144 compositions.

    96 compositions are seen; of the others, 24 come in the validation split and 24 in the test
    split, each beside 24 seen ones with fresh images. Every attribute and every object stands in
    8 seen compositions and in 2 unseen ones of either split. The small objects are of seen
    compositions in all splits, and of another attribute and another object than the labelled one,
    so no pixel of an unseen composition occurs in training.

    Args:
        seed: chooses the images; the compositions of the splits do not depend on it.
        split_seed: chooses which compositions are unseen. The built-in tiny CLIP was pretrained
            without the unseen compositions of split seed 0: with another, they are not unseen
            to it.
        image_size: height and width of the images in pixels, 32 or more.
        clutter: between 0 and 1: how much of an image its label does not speak of. The more,
            the smaller the labelled object, the more and larger the others (none at 0, 7 or 8
            at 1), and the busier the background.
        context: where the small objects' shapes come from: "labels", the twelve objects of the
            labels, so that a text can speak of a small object as well as of the large one; or
            "foreign", eight other shapes, with the labels' attributes, that no text speaks of.
        context_objects: how many small objects an image has, 0 to 8; None: `clutter` decides.
        images_per_pair: training images of each seen composition.
        eval_images_per_pair: validation and test images of each of their compositions.
        keep: whether drawn images stay in memory, 12 kB each at 64×64, so that later epochs, and
            other data sets of this process with the same options, draw nothing.
        mean: what is subtracted from each colour of an image in [0, 1]; take the backbone's.
        std: what each colour is divided by afterwards; take the backbone's.

    Raises:
        ValueError: an option is out of its range.

    Examples:
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
        context: Context = "labels",
        context_objects: int | None = None,
        images_per_pair: int = 24,
        eval_images_per_pair: int = 20,
        keep: bool = False,
        mean: tuple[float, float, float] = SCENES_MEAN,
        std: tuple[float, float, float] = SCENES_STD,
    ) -> None:
        check_range("clutter", clutter, low=0, high=1)
        check_choice("context", context, get_args(Context))
        check_range("context_objects", context_objects, low=0, high=MAX_DISTRACTORS)
        # smaller objects cannot be told apart
        check_range("image_size", image_size, low=32)
        check_range("images_per_pair", images_per_pair, low=1)
        check_range("eval_images_per_pair", eval_images_per_pair, low=1)
        self.seed = seed
        self.split_seed = split_seed
        self.image_size = image_size
        self.clutter = clutter
        self.context = context
        self.context_objects = context_objects
        self.images_per_pair = images_per_pair
        self.eval_images_per_pair = eval_images_per_pair
        self.keep = keep
        self.mean = mean
        self.std = std
        self.pairs = _split_pairs(split_seed)
        self.space = CompositionSpace.closed_world(*self.pairs.values())
        self._allowed = _distractor_table(self.space)

    def split(self, name: SplitName, *, augment: bool = False) -> SceneDataset:
        """Return the items of a split; the compositions take turns in it.

        Args:
            name: "train", "val" or "test".
            augment: whether each image is mirrored with probability 1/2, by torch's generator.

        Raises:
            ValueError: there is no such split.
        """
        pairs = self._pairs_of(name)
        per_pair = self.images_per_pair if name == "train" else self.eval_images_per_pair
        targets = self.space.indices(pairs).repeat(per_pair)
        return SceneDataset(self, _STREAMS[name], targets, augment=augment)

    def candidates(self, name: SplitName) -> Tensor:
        """Return those of a split and of the training split, `[C]` bool: the closed world.

        Raises:
            ValueError: there is no such split.
        """
        return self.space.mask(self._pairs_of(name)) | self.space.seen_mask

    def distractors(self, keys: Tensor, targets: Tensor) -> Tensor:
        """Return what the small objects are: seen compositions that share nothing with the label.

        With `context="foreign"` only their attributes are taken.

        Args:
            keys: the images' keys, `[B]` int64.
            targets: the labelled objects, indices into `space.pairs`, `[B]` int64.

        Returns:
            Indices of pairs, `[B, MAX_DISTRACTORS]`.
        """
        allowed = self._allowed.to(keys.device)[targets]
        number = (allowed >= 0).sum(1, keepdim=True)
        choice = (Uniforms(keys, purpose=1)(MAX_DISTRACTORS) * number).long()
        return allowed.gather(1, choice)

    def draw(
        self, stream: int, indices: Tensor, targets: Tensor, clutter: Tensor | None = None
    ) -> Scene:
        """Draw scenes of given compositions, not normalised, on the device of the indices.

        Args:
            stream: which of the seed's streams of images: 0, 1, 2 are those of the splits.
            indices: the images' places in the stream, `[B]` int64.
            targets: the labelled objects, indices into `space.pairs`, `[B]` int64.
            clutter: `[B]` in [0, 1]; None: the data set's.
        """
        device = indices.device
        if clutter is None:
            clutter = torch.full(targets.shape, self.clutter, device=device)
        keys = scene_keys(self.seed, stream, indices)
        # every primitive is seen and both lists are sorted: the space counts as the drawing does
        primitives = self.space.pair_indices.to(device)
        small = primitives[self.distractors(keys, targets)]
        if self.context == "foreign":
            foreign = Uniforms(keys, purpose=3)(MAX_DISTRACTORS) * len(FOREIGN_OUTLINES)
            small = torch.stack([small[..., 0], len(OBJECTS) + foreign.long()], -1)
        return draw_scenes(
            keys,
            primitives[targets],
            small,
            clutter,
            self.image_size,
            small_objects=self.context_objects,
        )

    def normalise(self, images: Tensor) -> Tensor:
        """Subtract the mean of images `[B, 3, H, W]` in [0, 1] and divide by the deviation."""
        mean, std = images.new_tensor(self.mean), images.new_tensor(self.std)
        return (images - mean[:, None, None]) / std[:, None, None]

    def __repr__(self) -> str:
        return (
            f"Scenes(seed={self.seed}, split_seed={self.split_seed}, "
            f"image_size={self.image_size}, clutter={self.clutter}, context={self.context!r}, "
            f"context_objects={self.context_objects})"
        )

    def _pairs_of(self, name: str) -> tuple[Pair, ...]:
        check_choice("name", name, SPLITS)
        return self.pairs[name]


def _split_pairs(split_seed: int) -> dict[str, tuple[Pair, ...]]:
    """Return the compositions of the three splits, each sorted; the seed chooses the unseen."""
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
    """Return which compositions may stand small beside each labelled one, `[C, n]` int64.

    Row c holds the seen pairs that share neither primitive with pair c, then -1 up to the width.
    """
    primitives = space.pair_indices
    differ = (primitives[:, None] != primitives[None]).all(-1) & space.seen_mask
    width = int(differ.sum(1).max())
    table = torch.full((len(space), width), -1)
    for c, row in enumerate(differ):
        allowed = row.nonzero().flatten()
        table[c, : len(allowed)] = allowed
    return table
