"""Evaluation in the open world: every attribute with every object, infeasible ones left out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from czsl_sac.checks import check_choice, check_range
from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.clip.prompts import clean_name
from czsl_sac.data import CZSLData, SplitName
from czsl_sac.evaluation import (
    CZSLEvaluator,
    CZSLResult,
    Feasibility,
    feasibility_scores,
    read_word_vectors,
    threshold_grid,
)
from czsl_sac.evaluation.curve import Protocol
from czsl_sac.evaluation.feasibility import InfeasibleRule
from czsl_sac.methods.base import CZSLMethod
from czsl_sac.space import CompositionSpace
from czsl_sac.training.scoring import evaluate_method, score_split
from czsl_sac.training.session import Session


@dataclass(frozen=True)
class OpenWorld:
    """How infeasible compositions are told and treated.

    Attributes:
        feasibility: what words are compared by: `"clip"`, CLIP's text features; `"none"`: all
            compositions stay; `"method"`: the method scores compositions itself, as CDS-CZSL does;
            or a file of word vectors, see `read_word_vectors`.
        rule: `"exclude"` or `"legacy"`, see `mask_infeasible`.
        threshold: unseen compositions below it are infeasible; None chooses the one of the best
            validation AUC among `num_thresholds`.
        num_thresholds: how many are tried, all in one pass over the validation images.
        aliases: what to look up in the file instead of a name.

    Raises:
        ValueError: a feasibility that is neither, a file that does not exist, or a number out of
            range.

    Examples:
        >>> OpenWorld(feasibility="glove.txt")
        Traceback (most recent call last):
        ...
        ValueError: feasibility is 'glove.txt' but must be clip, none, or an existing file of ...
    """

    feasibility: str = "clip"
    rule: InfeasibleRule = "exclude"
    threshold: float | None = None
    num_thresholds: int = 50
    aliases: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named = self.feasibility in ("clip", "none", "method")
        if not named and not Path(self.feasibility).is_file():
            raise ValueError(
                f"feasibility is {self.feasibility!r} but must be clip, none, or an existing file "
                "of word vectors, or method, for a method that says it itself."
            )
        check_choice("rule", self.rule, get_args(InfeasibleRule))
        if self.threshold is not None and self.feasibility == "none":
            raise ValueError(
                f"threshold is {self.threshold} but feasibility is none: there is nothing to "
                "compare it with."
            )
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise ValueError(f"threshold is {self.threshold} but must be finite.")
        check_range("num_thresholds", self.num_thresholds, low=1)


def evaluate_open_world(
    method: CZSLMethod,
    data: CZSLData,
    split: SplitName,
    session: Session,
    options: OpenWorld,
    *,
    protocol: Protocol = "exact",
) -> CZSLResult:
    """Score every image of a split against all A·O compositions, and evaluate.

    The feasibility threshold is chosen on the validation split, by the AUC of `protocol`, and then
    used on the test split; a memory bank begins each of the two anew. The arguments are those of
    `evaluate_method`, with the options of feasibility and threshold.

    Returns:
        The metrics, with the threshold and the number of feasible compositions.

    Raises:
        ValueError: the file of word vectors lacks words of the data set or is damaged.
    """
    space = data.space.open_world()
    scores = open_world_feasibility(method, space, options)
    method.eval()
    with session.autocast():
        predictor = method.predictor(space)

    def evaluate(name: SplitName, thresholds: Tensor | None) -> CZSLResult:
        feasibility = None
        if scores is not None and thresholds is not None:
            feasibility = Feasibility(scores, thresholds, options.rule)
        evaluator = CZSLEvaluator(space, protocol=protocol, feasibility=feasibility)
        measured = score_split(
            predictor,
            evaluator,
            data,
            name,
            session,
            position=space.indices(data.space.pairs),
            aligner=method.aligner,
        )
        return replace(evaluator.compute(), world="open", **measured)

    if scores is None:
        return evaluate(split, None)
    threshold = options.threshold
    if threshold is None:
        validation = evaluate("val", threshold_grid(scores, space, count=options.num_thresholds))
        if split == "val":
            return validation
        threshold = validation.threshold
        predictor.restart()
    return evaluate(split, torch.tensor([threshold], dtype=torch.float64))


def evaluate_split(
    method: CZSLMethod,
    data: CZSLData,
    split: SplitName,
    session: Session,
    *,
    protocol: Protocol = "exact",
    open_world: OpenWorld | None = None,
) -> CZSLResult:
    """Evaluate a split in either world, all processes together; None is the closed one.

    The other arguments are those of `evaluate_method`.
    """
    with session.together(), session.sharing_texts(method.backbone.text):
        if open_world is None:
            return evaluate_method(method, data, split, session, protocol=protocol)
        return evaluate_open_world(method, data, split, session, open_world, protocol=protocol)


@torch.no_grad()
def open_world_feasibility(
    method: CZSLMethod, space: CompositionSpace, options: OpenWorld
) -> Tensor | None:
    """Return the feasibility score of each composition, `[C]`, or None for `"none"`.

    Args:
        method: whose CLIP, untrained on the text side, gives the text features of `"clip"`.
        space: all A·O compositions.
        options: what words are compared by.

    Raises:
        ValueError: as for `read_word_vectors`, or the method says nothing of feasibility.
    """
    if options.feasibility == "none":
        return None
    if options.feasibility == "method":
        scores = method.feasibility(space).double().cpu()
        return torch.where(space.seen_mask, 0.0, scores)  # as `feasibility_scores` has it
    names = (space.attributes, space.objects)
    if options.feasibility == "clip":
        features = [_clip_features(method.backbone, side) for side in names]
    else:
        file, aliases = options.feasibility, options.aliases
        features = [read_word_vectors(file, side, aliases=aliases) for side in names]
    return feasibility_scores(space, *features)


def _clip_features(backbone: CLIPBackbone, names: Sequence[str]) -> Tensor:
    ids = backbone.tokenizer([f"a photo of {clean_name(name)}" for name in names])
    return backbone.encode_text(ids.to(next(backbone.parameters()).device))
