"""What the evaluator keeps of each sample's scores: a few numbers, gathered chunk by chunk.

The top-1 prediction under a bias b on the unseen columns is right when the label's own score beats
every rival's. Rounding is monotone, so of all rivals only the strongest of each kind matter: seen
or unseen (only the latter move with b), standing anywhere or before the label (a tie goes to the
lowest column, so an equal rival wins only from there). These maxima need one look at each score
and can be taken over any chunks of columns.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

NO_COLUMN = torch.iinfo(torch.int64).max
"""Stands for the column of a rival that does not exist; greater than any column."""


@dataclass(frozen=True)
class SampleStatistics:
    """What is kept of the scores of n samples; the unseen columns may stand in G groups.

    Attributes:
        target: `[n]` int64, column of the label.
        target_score: `[n]` float64, score of the label.
        seen_rival: `[n]` float64, best score of a seen candidate other than the label.
        seen_column: `[n]` int64, the lowest column with that score.
        seen_before: `[n]` float64, best score of a seen candidate in a column before the label's.
        unseen_rival: `[n, G]` float64, as `seen_rival`, for each group of unseen candidates.
        unseen_column: `[n, G]` int64.
        unseen_before: `[n, G]` float64.
        seen_any: `[n]` float64, best score of any seen column, candidate or not, label or not.

    A maximum over nothing is -inf, its column `NO_COLUMN`.
    """

    target: Tensor
    target_score: Tensor
    seen_rival: Tensor
    seen_column: Tensor
    seen_before: Tensor
    unseen_rival: Tensor
    unseen_column: Tensor
    unseen_before: Tensor
    seen_any: Tensor

    def state(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def cat(cls, parts: "list[SampleStatistics]") -> "SampleStatistics":
        """Join the statistics of several batches."""
        return cls(
            **{
                field.name: torch.cat([getattr(part, field.name) for part in parts])
                for field in fields(cls)
            }
        )


@dataclass(frozen=True)
class ColumnGroups:
    """Which columns compete, each group as ascending int64 columns.

    Attributes:
        seen: seen candidates.
        unseen: G groups of unseen candidates.
        seen_others: seen columns that are no candidates.
    """

    seen: Tensor
    unseen: list[Tensor]
    seen_others: Tensor


class ScoreAccumulator:
    """Gather the statistics of one batch from chunks of columns.

    Args:
        groups: which columns compete.
        targets: `[B]` int64 columns of the labels, every one a candidate.
        device: where the scores are.
    """

    def __init__(self, groups: ColumnGroups, targets: Tensor, device: torch.device) -> None:
        self._targets = targets.to(device)
        self._target_score = torch.full(targets.shape, -torch.inf, device=device)
        self._seen = _Rivals(groups.seen, self._targets)
        self._unseen = [_Rivals(columns, self._targets) for columns in groups.unseen]
        self._seen_others = _Rivals(groups.seen_others, self._targets)

    def add(self, scores: Tensor, start: int) -> None:
        """Take the scores `[B, c]` of the columns start, …, start + c - 1."""
        position = self._targets - start
        rows = ((position >= 0) & (position < scores.shape[1])).nonzero().flatten()
        if len(rows):
            dtype = torch.promote_types(scores.dtype, torch.float32)
            self._target_score = self._target_score.to(dtype)
            self._target_score[rows] = scores[rows, position[rows]].to(dtype)
        for rivals in (self._seen, self._seen_others, *self._unseen):
            rivals.add(scores, start)

    def finish(self) -> SampleStatistics:
        """Return the statistics, in float64 on the CPU."""
        targets, score = self._targets.cpu(), self._target_score.cpu().double()
        seen, others = self._seen.finish(), self._seen_others.finish()
        unseen = [rivals.finish() for rivals in self._unseen]
        own_score = torch.where(self._seen.holds_target.cpu(), score, -torch.inf)
        return SampleStatistics(
            target=targets,
            target_score=score,
            seen_rival=seen[0],
            seen_column=seen[1],
            seen_before=seen[2],
            unseen_rival=torch.stack([group[0] for group in unseen], dim=1),
            unseen_column=torch.stack([group[1] for group in unseen], dim=1),
            unseen_before=torch.stack([group[2] for group in unseen], dim=1),
            seen_any=torch.stack([seen[0], others[0], own_score]).amax(0),
        )


class _Rivals:
    """The strongest rivals of each label among one group of columns."""

    def __init__(self, columns: Tensor, targets: Tensor) -> None:
        self._host_columns = columns
        self._columns = columns.to(targets.device)
        self._targets = targets
        self._best = torch.full(targets.shape, -torch.inf, device=targets.device)
        self._before = self._best.clone()
        self._best_column = torch.full_like(targets, NO_COLUMN)

    @property
    def holds_target(self) -> Tensor:
        return torch.isin(self._targets, self._columns)

    def add(self, scores: Tensor, start: int) -> None:
        ends = torch.tensor([start, start + scores.shape[1]])
        first, last = torch.searchsorted(self._host_columns, ends).tolist()
        if first == last:
            return
        columns = self._columns[first:last]
        rivals = scores.index_select(1, columns - start)  # a copy: written to below
        split = torch.searchsorted(columns, self._targets)  # columns before the label's
        at = split.clamp(max=len(columns) - 1)
        own = (columns[at] == self._targets).nonzero().flatten()
        rivals[own, at[own]] = -torch.inf

        best, at_best = rivals.max(dim=1)  # the lowest column at ties
        before = torch.where(split > 0, best, -torch.inf)
        # A second look is needed only where columns stand before the label and the best one after.
        hidden = ((split > 0) & (at_best >= split)).nonzero().flatten()
        if len(hidden):
            after = torch.arange(len(columns), device=scores.device) >= split[hidden, None]
            before[hidden] = rivals[hidden].masked_fill_(after, -torch.inf).amax(1)

        # Chunks come in ascending order: the older column keeps a tie.
        better = best > self._best
        self._best_column = torch.where(better, columns[at_best], self._best_column)
        self._best = torch.maximum(self._best, best)  # both propagate NaN
        self._before = torch.maximum(self._before, before)

    def finish(self) -> tuple[Tensor, Tensor, Tensor]:
        return self._best.cpu().double(), self._best_column.cpu(), self._before.cpu().double()
