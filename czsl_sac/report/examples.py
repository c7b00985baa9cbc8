"""Images to show on a page, with what is said of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from czsl_sac.clip import CLIPBackbone
from czsl_sac.data import CZSLData, SplitName
from czsl_sac.pictures import colours


@dataclass(frozen=True)
class Example:
    """An image of the split with what is said of it.

    Attributes:
        picture: `[H, W, 3]` in [0, 1].
        truth: its composition, of `space.pairs`.
        predicted: composition that each method names.
    """

    picture: Tensor
    truth: int
    predicted: tuple[int, ...]


@dataclass(frozen=True)
class ExampleGroup:
    """Images on which the methods are right or wrong alike.

    Attributes:
        title: what they have in common.
        images: how many of the split there are.
        examples: some of them, spread evenly over the split.
    """

    title: str
    images: int
    examples: list[Example]


def example_groups(
    masks: dict[str, Tensor],
    data: CZSLData,
    split: SplitName,
    backbone: CLIPBackbone,
    targets: Tensor,
    predicted: Sequence[Tensor],
    most: int,
) -> list[ExampleGroup]:
    """Return some images of each kind.

    Args:
        masks: images of a kind `[n]`, by its title.
        data: the data set.
        split: part of it.
        backbone: who looked at the images.
        targets: composition of each image, `[n]`.
        predicted: composition that each method names, `[n]` each.
        most: examples of each group.
    """
    images = data.split(split)

    def example(index: int) -> Example:
        pixels = images[index][0][None]
        picture = colours(pixels, mean=backbone.mean, std=backbone.std)[0]
        return Example(picture, int(targets[index]), tuple(int(p[index]) for p in predicted))

    return [
        ExampleGroup(title, int(mask.sum()), [example(index) for index in spread(mask, most)])
        for title, mask in masks.items()
    ]


def spread(mask: Tensor, most: int) -> list[int]:
    """Return at most `most` of the places where a mask is true, spread evenly over them.

    Args:
        mask: `[n]` bool.
        most: how many.

    Examples:
        >>> spread(torch.tensor([False, True, True, True, True, True]), 3)
        [1, 3, 5]
    """
    places = mask.nonzero().flatten()
    if len(places) <= most:
        return [int(place) for place in places]
    return [int(places[round(i)]) for i in torch.linspace(0, len(places) - 1, most).tolist()]
