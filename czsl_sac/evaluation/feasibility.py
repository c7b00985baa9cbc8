"""Feasibility of compositions in the open world: scores, thresholds, masking."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from czsl_sac.checks import check_choice
from czsl_sac.deprecation import keyword_options
from czsl_sac.evaluation.modality_gap import unit_rows
from czsl_sac.space import CompositionSpace

InfeasibleRule = Literal["exclude", "legacy"]


def feasibility_scores(
    space: CompositionSpace, attribute_features: Tensor, object_features: Tensor
) -> Tensor:
    """Score how plausible each unseen composition is, after Karthik et al. (KG-SP, CVPR 2022).

    An unseen composition (a, o) is plausible if a is seen on objects like o, and attributes like
    a are seen on o:

        s_o = max over o' ≠ o with (a, o') seen of cos(o, o'),   -1 if there is none
        s_a = max over a' ≠ a with (a', o) seen of cos(a, a'),   -1 if there is none
        score = (s_o + s_a) / 2

    Args:
        space: the compositions, usually `space.open_world()`.
        attribute_features: `[A, E]`, a word vector or text feature of each attribute, in order.
        object_features: `[O, E']`, likewise of each object.

    Returns:
        `[C]` float64 in [-1, 1]; 0 at seen compositions, as published.

    Raises:
        ValueError: the features do not fit the space, are not finite, or hold a zero vector.

    Examples:
        >>> space = CompositionSpace.closed_world(
        ...     [("ripe", "apple"), ("ripe", "pear"), ("old", "apple"), ("old", "car")]
        ... ).open_world()
        >>> attributes = torch.tensor([[1.0, 0.0], [0.6, 0.8]])            # old, ripe
        >>> objects = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]])   # apple, car, pear
        >>> scores = feasibility_scores(space, attributes, objects)
        >>> [(*pair, round(float(s), 2)) for pair, s in zip(space.pairs, scores)
        ...  if pair not in space.seen]
        [('old', 'pear', 0.7), ('ripe', 'car', 0.6)]
    """
    attributes = _similarities(attribute_features, len(space.attributes), "attribute")
    objects = _similarities(object_features, len(space.objects), "object")
    seen = torch.zeros(len(space.attributes), len(space.objects), dtype=torch.bool)
    seen[tuple(space.pair_indices[space.seen_mask].T)] = True
    by_object = torch.stack([_nearest(objects, row) for row in seen])  # [A, O]
    by_attribute = torch.stack([_nearest(attributes, column) for column in seen.T])  # [O, A]
    scores = (by_object + by_attribute.T) / 2
    return torch.where(seen, 0.0, scores)[tuple(space.pair_indices.T)]


@keyword_options
def threshold_grid(scores: Tensor, space: CompositionSpace, *, count: int = 50) -> Tensor:
    """Return `count` thresholds, evenly from the least to the greatest score of unseen pairs.

    Args:
        scores: `[C]`, feasibility of each composition.
        space: the compositions.
        count: number of thresholds.

    Returns:
        `[count]`, ascending, in the scores' dtype.

    Raises:
        ValueError: `scores` does not fit the space, or the space has no unseen composition.

    Examples:
        >>> space = CompositionSpace.closed_world([("x", "p"), ("y", "q")]).open_world()
        >>> threshold_grid(torch.tensor([0.0, 0.2, 0.6, 0.0]), space, count=3)
        tensor([0.2000, 0.4000, 0.6000])
    """
    _check_scores(scores)
    if len(scores) != len(space):
        raise ValueError(
            f"scores has {len(scores)} entries but must have {len(space)}: give one a composition."
        )
    unseen = scores[~space.seen_mask]
    if not len(unseen):
        raise ValueError(
            "space has 0 unseen compositions but must have one to take thresholds from: use "
            "space.open_world()."
        )
    return torch.linspace(float(unseen.min()), float(unseen.max()), count, dtype=scores.dtype)


@keyword_options
def mask_infeasible(
    logits: Tensor,
    scores: Tensor,
    threshold: float,
    seen_mask: Tensor,
    *,
    rule: InfeasibleRule = "exclude",
) -> Tensor:
    """Take unseen compositions of feasibility below a threshold out of the prediction.

    Args:
        logits: `[B, C]`.
        scores: `[C]`, feasibility; 0 at seen compositions.
        threshold: unseen compositions with a score below it are infeasible.
        seen_mask: `[C]` bool.
        rule: "exclude" sets infeasible logits to -inf. "legacy" is the published rule: logits are
            multiplied by [score ≥ threshold] + [seen], so that infeasible ones become 0 (no mask
            unless the others are positive), and seen ones double if the threshold is ≤ 0.

    Returns:
        `[B, C]`, a new tensor.

    Examples:
        >>> logits, scores = torch.tensor([[2.0, 3.0, 4.0]]), torch.tensor([0.0, 0.3, -0.1])
        >>> seen = torch.tensor([True, False, False])
        >>> mask_infeasible(logits, scores, 0.2, seen)
        tensor([[2., 3., -inf]])
        >>> mask_infeasible(logits, scores, -0.05, seen, rule="legacy")
        tensor([[4., 3., 0.]])
    """
    kept = (scores >= threshold).to(logits.device)
    seen = seen_mask.to(logits.device)
    check_choice("rule", rule, get_args(InfeasibleRule))
    if rule == "exclude":
        return logits.masked_fill(~(kept | seen), -torch.inf)
    return logits * (kept.to(logits.dtype) + seen.to(logits.dtype))


@dataclass(frozen=True, eq=False)
class Feasibility:
    """Feasibility thresholds for `CZSLEvaluator` to try, all in one pass over the scores.

    Attributes:
        scores: `[C]` feasibility of each composition, 0 at seen ones: `feasibility_scores`.
        thresholds: `[K]` ascending: `threshold_grid`, or the one chosen on validation.
        rule: how infeasible compositions are treated, see `mask_infeasible`.

    Raises:
        ValueError: a tensor has the wrong shape, is not finite, or the thresholds fall.

    Examples:
        >>> Feasibility(torch.tensor([0.0, 0.2, 0.6]), torch.tensor([0.1, 0.5])).buckets
        tensor([0, 1, 2])
    """

    scores: Tensor
    thresholds: Tensor
    rule: InfeasibleRule = "exclude"

    def __post_init__(self) -> None:
        _check_scores(self.scores)
        check_choice("rule", self.rule, get_args(InfeasibleRule))
        thresholds = self.thresholds
        if thresholds.ndim != 1 or not len(thresholds) or not bool(thresholds.isfinite().all()):
            raise ValueError(
                f"thresholds has shape {list(thresholds.shape)} but must be at least one finite "
                "number, [K]: use threshold_grid(scores, space)."
            )
        if bool((thresholds.diff() < 0).any()):
            raise ValueError("thresholds fall somewhere but must ascend: sort them.")

    def check_space(self, space: CompositionSpace) -> None:
        """Refuse a space that the scores were not made for.

        Raises:
            ValueError: their number differs, or a seen composition has another score than 0.
        """
        if self.scores.shape != (len(space),):
            raise ValueError(
                f"feasibility has {len(self.scores)} scores but must have {len(space)}, one a "
                "composition: make it for this space."
            )
        if bool(self.scores[space.seen_mask].any()):
            raise ValueError(
                "feasibility has scores at seen compositions but they must be 0: set them so."
            )

    @property
    def buckets(self) -> Tensor:
        """`[C]` int64: how many of the thresholds each composition passes, 0 to K."""
        return torch.searchsorted(
            self.thresholds.double(), self.scores.double().contiguous(), right=True
        )


def _similarities(features: Tensor, count: int, kind: str) -> Tensor:
    """Return the cosines `[count, count]` in float64, -inf on the diagonal."""
    if features.ndim != 2 or features.shape[0] != count:
        raise ValueError(
            f"{kind}_features has shape {list(features.shape)} but must be [{count}, E]: give one "
            f"row for each of space.{kind}s."
        )
    features = unit_rows(features.cpu().double(), f"{kind}_features")
    return (features @ features.T).fill_diagonal_(-torch.inf)


def _nearest(similarities: Tensor, seen: Tensor) -> Tensor:
    """Return the greatest of the seen columns in each row `[count]`, -1 where there is none."""
    if not bool(seen.any()):
        return torch.full_like(similarities[0], -1.0)
    nearest = similarities[:, seen].amax(1)
    return torch.where(nearest == -torch.inf, -1.0, nearest)


def _check_scores(scores: Tensor) -> None:
    if scores.ndim != 1 or not scores.is_floating_point() or not bool(scores.isfinite().all()):
        raise ValueError(
            f"scores is {scores.dtype} of shape {list(scores.shape)} but must be finite floating "
            "point numbers, [C]: use feasibility_scores(space, ...)."
        )
