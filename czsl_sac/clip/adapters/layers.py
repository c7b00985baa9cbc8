"""Which layers of a tower are adapted: one choice for LoRA and AdaptFormer."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from torch import nn

_Layer = TypeVar("_Layer")


def choose_layers(
    found: Sequence[_Layer], layers: Iterable[int] | None, what: str, module: nn.Module
) -> list[_Layer]:
    """Pick layers by number, in their order.

    Args:
        found: the layers that there are, first to last.
        layers: their numbers, counted from 0; None for all.
        what: what `found` holds, for the message.
        module: whose layers they are, for the message.

    Returns:
        The chosen ones.

    Raises:
        ValueError: there are no layers, no number is given, or one is out of range.

    Examples:
        >>> choose_layers(["a", "b", "c"], [2, 0], "letters", nn.Identity())
        ['a', 'c']
    """
    if not found:
        raise ValueError(
            f"module is a {type(module).__name__} without {what} but must hold some: give a tower "
            "such as backbone.visual."
        )
    if layers is None:
        return list(found)
    chosen = sorted(set(layers))
    if not chosen or chosen[0] < 0 or chosen[-1] >= len(found):
        raise ValueError(
            f"layers is {chosen} but must be some of 0 to {len(found) - 1}, the {what} of the "
            "module: choose among them."
        )
    return [found[number] for number in chosen]
