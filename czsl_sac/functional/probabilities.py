"""One check of what is called a probability: rows that are none are refused by name."""

import torch
from torch import Tensor

_ROUNDING = 0.02
"""What half precision may leave between a row's sum and one, at a few 100,000 compositions."""


def check_probabilities(name: str, probabilities: Tensor, *, most: float = 1.0) -> None:
    """Refuse logits, NaN, negative entries, and rows that do not sum to one.

    Args:
        name: what the message calls them.
        probabilities: `[B, C]`.
        most: what a row may sum to at most, at least one: p̄ of Eq. 13 reaches 2.

    Raises:
        ValueError: a row is no distribution.

    Examples:
        >>> from torch import tensor
        >>> check_probabilities("sa", tensor([[0.5, 0.5], [3.0, -2.0]]))
        Traceback (most recent call last):
        ...
        ValueError: sa has in row 1 entries from -2 to 3 and the sum 1 but must hold
        probabilities, none negative and 1 in sum: pass the softmax of the logits.
        >>> check_probabilities("sa", tensor([[1.0, 0.8]]), most=2.0)
    """
    if 0 in probabilities.shape:
        return
    rows = probabilities.detach()
    sums = rows.sum(dim=-1, dtype=torch.promote_types(rows.dtype, torch.float32))
    usable = (sums >= 1 - _ROUNDING) & (sums <= most + _ROUNDING) & (rows.amin(dim=-1) >= 0)
    if not bool(usable.all()):
        row = int((~usable).int().argmax())
        total = "1" if most == 1 else f"1 to {most:g}"
        raise ValueError(
            f"{name} has in row {row} entries from {float(rows[row].min()):.4g} to "
            f"{float(rows[row].max()):.4g} and the sum {float(sums[row]):.4g} but must hold "
            f"probabilities, none negative and {total} in sum: pass the softmax of the logits."
        )
