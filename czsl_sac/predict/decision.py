"""What is named under a bias for unseen compositions, as the evaluator decides it."""

from math import inf
from typing import NamedTuple

from torch import Tensor


class Decision(NamedTuple):
    """What an image is called under a bias.

    Attributes:
        named: column of the composition that is named.
        best_seen: column of the best seen candidate; None if no candidate is seen.
        best_unseen: likewise unseen.
        turns_at: the bias above which the best unseen candidate is named and up to which the best
            seen one is; -inf or inf where there is one kind alone.
    """

    named: int
    best_seen: int | None
    best_unseen: int | None
    turns_at: float


def decide(scores: Tensor, seen: Tensor, bias: float = 0.0) -> Decision:
    """Return what is named if a bias is added to the scores of unseen compositions.

    The exact protocol of `CZSLEvaluator` decides so: in float64, the seen one where both are equal,
    the first of equals among those of one kind.

    Args:
        scores: of one image, `[C]`.
        seen: which of the compositions were seen in training, `[C]` bool.
        bias: added to unseen scores, in the unit of the scores; negative favours what was seen.

    Examples:
        >>> import torch
        >>> scores, seen = torch.tensor([0.75, 0.5, 0.25]), torch.tensor([True, False, False])
        >>> [decide(scores, seen, bias).named for bias in (0.0, 0.25, 0.5)]
        [0, 0, 1]
        >>> decide(scores, seen).turns_at
        0.25
    """
    values = scores.double()
    best_seen, best_unseen = (_first_best(values, kind) for kind in (seen, ~seen))
    if best_seen is None or best_unseen is None:
        (only,) = (column for column in (best_seen, best_unseen) if column is not None)
        return Decision(only, best_seen, best_unseen, inf if best_unseen is None else -inf)
    turns_at = float(values[best_seen] - values[best_unseen])
    named = best_unseen if bias > turns_at else best_seen
    return Decision(named, best_seen, best_unseen, turns_at)


def _first_best(values: Tensor, among: Tensor) -> int | None:
    """The first column of the greatest value among some columns; None if there are none."""
    columns = among.nonzero()[:, 0]
    if not len(columns):
        return None
    of_kind = values[columns]
    return int(columns[(of_kind == of_kind.max()).nonzero()[0, 0]])
