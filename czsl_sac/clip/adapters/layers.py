"""Which layers of a tower are adapted: one choice for LoRA and AdaptFormer."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

__all__ = ["choose_layers"]

_Layer = TypeVar("_Layer")


def choose_layers(found: Sequence[_Layer], layers: Iterable[int] | None, what: str) -> list[_Layer]:
    """Picks layers by number, in their order.

    Args:
        found: the layers that there are, first to last.
        layers: their numbers, counted from 0; None for all.
        what: what `found` holds, for the message.

    Returns:
        The chosen ones.

    Raises:
        ValueError: if no number is given, or one is out of range.

    >>> choose_layers(["a", "b", "c"], [2, 0], "letters")
    ['a', 'c']
    """
    if layers is None:
        return list(found)
    chosen = sorted(set(layers))
    if not chosen or chosen[0] < 0 or chosen[-1] >= len(found):
        raise ValueError(
            f"layers must be some of 0..{len(found) - 1}, the {what} of the module, got {chosen}"
        )
    return [found[i] for i in chosen]
