"""Check of what is handed to the evaluator: candidates, targets, scores."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from czsl_sac.evaluation.statistics import SampleStatistics
from czsl_sac.space import CompositionSpace


def as_tensor(name: str, values: Tensor | ArrayLike) -> Tensor:
    """Return a tensor as it is; make one, on the CPU, of a NumPy array, a list or the like.

    Raises:
        TypeError: the values are no numbers, or their rows differ in length.

    Examples:
        >>> as_tensor("scores", [[0.5, 0.25]])
        tensor([[0.5000, 0.2500]], dtype=torch.float64)
    """
    if isinstance(values, Tensor):
        return values
    try:
        return torch.tensor(np.asarray(values))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} is a {type(values).__name__} that NumPy does not read as numbers ({error}) "
            "but must be a tensor, an array or a list of rows: convert it."
        ) from None


def candidate_mask(
    space: CompositionSpace, candidates: Tensor | Sequence[tuple[str, str]] | None
) -> Tensor:
    """Return `[C]` bool for candidates given as a mask, columns, a list of pairs, or None: all.

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
                f"candidates is a mask of shape {list(candidates.shape)} but must be [{size}]: "
                "give one entry a composition."
            )
        return candidates.clone()
    if candidates.is_floating_point() or candidates.ndim != 1:
        raise ValueError(
            f"candidates is {candidates.dtype} of shape {list(candidates.shape)} but must be a "
            "bool mask [C] or integer columns [K]: convert it, or give a list of pairs."
        )
    if bool(((candidates < 0) | (candidates >= size)).any()):
        raise ValueError(
            f"candidates hold a column outside 0 … {size - 1} but must not: check the space."
        )
    mask = torch.zeros(size, dtype=torch.bool)
    mask[candidates.long()] = True
    return mask


def check_targets(targets: Tensor, candidates: Tensor, space: CompositionSpace) -> Tensor:
    """Return the targets as `[B]` int64 on the CPU.

    Raises:
        TypeError: they are not integers.
        ValueError: another shape, or a target outside the space or the candidates.
    """
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise TypeError(
            f"targets are {targets.dtype} but must be integers: give columns of space.pairs."
        )
    if targets.ndim != 1:
        raise ValueError(
            f"targets have shape {list(targets.shape)} but must be [B]: give a column an image."
        )
    targets = targets.detach().cpu().long()
    outside = (targets < 0) | (targets >= len(space))
    if bool(outside.any()):
        raise ValueError(
            f"targets hold {int(targets[outside][0])} but must lie in 0 … {len(space) - 1}: give "
            "columns of space.pairs."
        )
    others = ~candidates[targets]
    if bool(others.any()):
        pair = space.pairs[int(targets[others][0])]
        raise ValueError(
            f"targets hold {pair} but must be candidates, as it could never be predicted: add it "
            "to candidates, or leave such samples out."
        )
    return targets


def check_scores(scores: Tensor, batch: int) -> None:
    """Check the kind and shape of a chunk of scores.

    Raises:
        TypeError: they are not floating point.
        ValueError: they are not `[batch, ...]`.
    """
    if not scores.is_floating_point():
        raise TypeError(f"scores are {scores.dtype} but must be floating point: convert them.")
    if scores.ndim != 2 or scores.shape[0] != batch:
        raise ValueError(
            f"scores have shape {list(scores.shape)} but must be [{batch}, C]: give a row a target."
        )


def check_values(statistics: SampleStatistics, target_seen: Tensor) -> None:
    """Check the scores by what is kept of them: the maxima carry NaN and +inf on.

    Raises:
        ValueError: NaN, +inf, or -inf at every seen candidate of a sample.
    """
    best_unseen = statistics.unseen_rival.amax(1)
    for values in (statistics.target_score, statistics.seen_any, best_unseen):
        for wrong, name in ((values.isnan(), "NaN"), (values == torch.inf, "+inf")):
            if bool(wrong.any()):
                raise ValueError(
                    f"scores hold {name} in {int(wrong.sum())} of {len(wrong)} samples but must be "
                    "finite or -inf: look for a division by zero or an overflow in what made them."
                )
    masked = statistics.seen_rival == -torch.inf
    masked &= ~target_seen | (statistics.target_score == -torch.inf)
    if bool(masked.any()):
        raise ValueError(
            f"scores of all seen candidates are -inf in {int(masked.sum())} samples but one at "
            "least must be finite: mask unseen compositions alone."
        )
