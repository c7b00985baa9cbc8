"""A method on a split, image by image: what it predicted, and what that says about its errors."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from czsl_sac.evaluation import CZSLResult
from czsl_sac.space import CompositionSpace, Pair


@dataclass(frozen=True)
class Scored:
    """A method's results on a split.

    Attributes:
        label: of the method.
        result: exact protocol.
        legacy: the same by the published protocol.
        predicted: composition of highest score of each image (no bias), `[n]`, of `space.pairs`.
        transductive: whether the method learned from the images it was scored on.
    """

    label: str
    result: CZSLResult
    legacy: CZSLResult
    predicted: Tensor
    transductive: bool = False


class Confusion(NamedTuple):
    """A composition taken for another.

    Attributes:
        truth: what the images show.
        predicted: what the method said.
        errors: images of `truth` so predicted.
        images: that show `truth`.
    """

    truth: Pair
    predicted: Pair
    errors: int
    images: int


class Recall(NamedTuple):
    """How often an attribute (object) is found in the images that show it.

    Attributes:
        name: the attribute or object.
        images: that show it.
        accuracy: of each method, in [0, 1].
    """

    name: str
    images: int
    accuracy: tuple[float, ...]


def confusions(
    space: CompositionSpace, targets: Tensor, predicted: Tensor, most: int
) -> list[Confusion]:
    """Return the most frequent errors, the most frequent first.

    Args:
        space: the compositions.
        targets: of each image, `[n]`.
        predicted: likewise.
        most: how many to return.

    Examples:
        >>> space = CompositionSpace.closed_world([("ripe", "fig"), ("old", "fig")])
        >>> confusions(space, torch.tensor([0, 0, 1]), torch.tensor([1, 0, 1]), most=3)
        [Confusion(truth=('old', 'fig'), predicted=('ripe', 'fig'), errors=1, images=2)]
    """
    images = Counter(targets.tolist())
    errors = Counter(
        (truth, guess)
        for truth, guess in zip(targets.tolist(), predicted.tolist(), strict=True)
        if truth != guess
    )
    return [
        Confusion(space.pairs[truth], space.pairs[guess], count, images[truth])
        for (truth, guess), count in sorted(errors.items(), key=lambda item: (-item[1], item[0]))
    ][:most]


def recalls(
    space: CompositionSpace, targets: Tensor, methods: Sequence[Scored], kind: str
) -> list[Recall]:
    """Return the accuracy of each attribute (object), the first method's worst first.

    Args:
        space: the compositions.
        targets: of each image, `[n]`.
        methods: on these images.
        kind: `"attribute"` or `"object"`.
    """
    side, names = (0, space.attributes) if kind == "attribute" else (1, space.objects)
    images = torch.bincount(space.pair_indices[targets, side], minlength=len(names)).tolist()
    found = [getattr(method.result, f"{kind}_recall") for method in methods]
    rows = [
        Recall(name, count, tuple(of_method[name] for of_method in found))
        for name, count in zip(names, images, strict=True)
        if count
    ]
    return sorted(rows, key=lambda row: (row.accuracy[0], row.name))


def error_kinds(space: CompositionSpace, targets: Tensor, predicted: Tensor) -> dict[str, Tensor]:
    """Return which images are of which kind: all right, one primitive right, or none.

    Args:
        space: the compositions.
        targets: of each image, `[n]`.
        predicted: likewise.

    Returns:
        Masks `[n]`, of which one is true for each image.
    """
    right = space.pair_indices[targets] == space.pair_indices[predicted]
    attribute, obj = right.unbind(1)
    return {
        "composition right": attribute & obj,
        "attribute alone right": attribute & ~obj,
        "object alone right": ~attribute & obj,
        "both wrong": ~attribute & ~obj,
    }
