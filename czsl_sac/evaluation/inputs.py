"""Checks of what is handed to the evaluator: candidates, targets, scores."""

from collections.abc import Sequence

import torch
from torch import Tensor

from czsl_sac.evaluation.statistics import SampleStatistics
from czsl_sac.space import CompositionSpace


def candidate_mask(
    space: CompositionSpace, candidates: Tensor | Sequence[tuple[str, str]] | None
) -> Tensor:
    """Returns `[C]` bool for candidates given as a mask, columns, a list of pairs, or None: all.

    Raises:
        ValueError: a tensor of another shape or dtype, or a composition outside the space.
    """
    size = len(space)
    if candidates is None:
        return torch.ones(size, dtype=torch.bool)
    if not isinstance(candidates, Tensor):
        return space.mask(candidates)
    candidates = candidates.detach().cpu()
    if candidates.dtype == torch.bool:
        if candidates.shape != (size,):
            raise ValueError(
                f"candidates is a mask of shape {list(candidates.shape)}: expected [{size}], one "
                "entry a composition."
            )
        return candidates.clone()
    if candidates.is_floating_point() or candidates.ndim != 1:
        raise ValueError(
            f"candidates is a {candidates.dtype} tensor of shape {list(candidates.shape)}: give a "
            "bool mask [C], integer columns [K], or a list of (attribute, object)."
        )
    if bool(((candidates < 0) | (candidates >= size)).any()):
        raise ValueError(f"candidates hold a column outside 0 … {size - 1}: check the space.")
    mask = torch.zeros(size, dtype=torch.bool)
    mask[candidates.long()] = True
    return mask


def check_targets(targets: Tensor, candidates: Tensor, space: CompositionSpace) -> Tensor:
    """Returns the targets as `[B]` int64 on the CPU.

    Raises:
        TypeError: they are not integers.
        ValueError: another shape, or a target outside the space or the candidates.
    """
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise TypeError(f"targets are {targets.dtype}: give integer columns of the labels.")
    if targets.ndim != 1:
        raise ValueError(f"targets have shape {list(targets.shape)}: give [B] columns.")
    targets = targets.detach().cpu().long()
    outside = (targets < 0) | (targets >= len(space))
    if bool(outside.any()):
        raise ValueError(
            f"target {int(targets[outside][0])} is outside the space of {len(space)} "
            "compositions: give columns of space.pairs."
        )
    others = ~candidates[targets]
    if bool(others.any()):
        pair = space.pairs[int(targets[others][0])]
        raise ValueError(
            f"target {pair} is not among the candidates, so it could never be predicted: add it "
            "to candidates, or leave such samples out."
        )
    return targets


def check_scores(scores: Tensor, batch: int) -> None:
    """Checks the kind and shape of a chunk of scores.

    Raises:
        TypeError: they are not floating point.
        ValueError: they are not `[batch, ...]`.
    """
    if not scores.is_floating_point():
        raise TypeError(f"scores are {scores.dtype}: give floating point numbers.")
    if scores.ndim != 2 or scores.shape[0] != batch:
        raise ValueError(
            f"scores have shape {list(scores.shape)} for {batch} targets: give [{batch}, C]."
        )


def check_values(statistics: SampleStatistics, target_seen: Tensor) -> None:
    """Checks the scores by what is kept of them: the maxima carry NaN and +inf on.

    Raises:
        ValueError: NaN, +inf, or -inf at every seen candidate of a sample.
    """
    best_unseen = statistics.unseen_rival.amax(1)
    for values in (statistics.target_score, statistics.seen_any, best_unseen):
        for wrong, name in ((values.isnan(), "NaN"), (values == torch.inf, "+inf")):
            if bool(wrong.any()):
                raise ValueError(
                    f"scores hold {name} in {int(wrong.sum())} of {len(wrong)} samples: look for "
                    "a division by zero or an overflow where they are made."
                )
    masked = statistics.seen_rival == -torch.inf
    masked &= ~target_seen | (statistics.target_score == -torch.inf)
    if bool(masked.any()):
        raise ValueError(
            f"scores of all seen candidates are -inf in {int(masked.sum())} samples: at least one "
            "must be finite."
        )
