"""What decides each prediction under any bias, made from the kept statistics."""

from dataclasses import dataclass

import torch
from torch import Tensor

from czsl_sac.evaluation.statistics import NO_COLUMN, SampleStatistics


@dataclass(frozen=True)
class Contest:
    """The label against its strongest rivals, for n samples; scores float64, -inf for none.

    Attributes:
        target_seen: `[n]` bool, whether the label is a seen composition.
        target_score: `[n]`, score of the label.
        seen_rival: `[n]`, best seen candidate other than the label.
        seen_before: `[n]`, best of those in a column before the label's (they win ties).
        unseen_rival: `[n]`, best unseen candidate other than the label.
        unseen_before: `[n]`, best of those in a column before the label's.
        seen_any: `[n]`, best seen column, candidate or not.
        predicted: `[n]` int64, column of the best candidate at bias 0, the lowest at ties.
    """

    target_seen: Tensor
    target_score: Tensor
    seen_rival: Tensor
    seen_before: Tensor
    unseen_rival: Tensor
    unseen_before: Tensor
    seen_any: Tensor
    predicted: Tensor


def make_contest(
    statistics: SampleStatistics,
    target_seen: Tensor,
    *,
    first_group: int = 0,
    target_dropped: Tensor | None = None,
    zeroed: Tensor | None = None,
    seen_factor: float = 1.0,
) -> Contest:
    """Settle which columns compete: those of seen candidates and of some groups of unseen ones.

    Args:
        statistics: of n samples, G groups.
        target_seen: `[n]` bool, whether the label is a seen composition.
        first_group: unseen candidates of earlier groups are dropped.
        target_dropped: `[n]` bool, whether the label is among the dropped; None: none is.
        zeroed: ascending columns of the dropped candidates, if these go on competing with a score
            of 0; None: they are out.
        seen_factor: positive number that multiplies the scores of seen columns.
    """
    target = statistics.target
    score = torch.where(target_seen, seen_factor * statistics.target_score, statistics.target_score)
    rival, column, before = _best_of_groups(statistics, first_group)
    if target_dropped is not None:
        score = torch.where(target_dropped, -torch.inf if zeroed is None else 0.0, score)
    if zeroed is not None:
        first, second = [*zeroed[:2].tolist(), NO_COLUMN, NO_COLUMN][:2]
        zero_column = torch.where(target == first, second, first)
        zero = torch.where(zero_column < NO_COLUMN, 0.0, -torch.inf).double()
        rival, column = _better((rival, column), (zero, zero_column))
        before = torch.where(zero_column < target, torch.maximum(before, zero), before)

    seen = (seen_factor * statistics.seen_rival, statistics.seen_column)
    _, predicted = _better(_better(seen, (rival, column)), (score, target))
    return Contest(
        target_seen=target_seen,
        target_score=score,
        seen_rival=seen[0],
        seen_before=seen_factor * statistics.seen_before,
        unseen_rival=rival,
        unseen_before=before,
        seen_any=seen_factor * statistics.seen_any,
        predicted=predicted,
    )


def _best_of_groups(statistics: SampleStatistics, first: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return score and column of the best unseen rival, and the best score before the label."""
    rivals = statistics.unseen_rival[:, first:]
    if rivals.shape[1] == 0:
        nothing = torch.full_like(statistics.target_score, -torch.inf)
        return nothing, torch.full_like(statistics.target, NO_COLUMN), nothing
    best = rivals.amax(1)
    columns = statistics.unseen_column[:, first:]
    column = torch.where(rivals == best[:, None], columns, NO_COLUMN).amin(1)
    return best, column, statistics.unseen_before[:, first:].amax(1)


def _better(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return score and column of the higher score, of the lower column at ties."""
    wins = (one[0] > other[0]) | ((one[0] == other[0]) & (one[1] < other[1]))
    return torch.where(wins, one[0], other[0]), torch.where(wins, one[1], other[1])
