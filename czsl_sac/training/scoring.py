"""Scoring a split: a predictor over the split's candidates, an evaluator, one pass."""

from copy import copy
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from czsl_sac.blocks.alignment import Aligner, ClassTokenAligner
from czsl_sac.data import CZSLData, SplitName
from czsl_sac.evaluation import CZSLEvaluator, CZSLResult, ModalityGap, PatchShares
from czsl_sac.evaluation.curve import Protocol
from czsl_sac.methods.base import CZSLMethod
from czsl_sac.methods.predictor import Predictor
from czsl_sac.space import CompositionSpace
from czsl_sac.training.session import Session


def split_candidates(data: CZSLData, split: SplitName) -> tuple[CompositionSpace, Tensor]:
    """Return the compositions that a split is scored against, and where each one went.

    Args:
        data: the data set.
        split: `"train"`, `"val"` or `"test"`.

    Returns:
        The space of the candidates (the split's own compositions and the seen ones), and for
        each composition of `data.space` its index there, or -1; `[C]`, int64.
    """
    mask = data.candidates(split)
    chosen = [pair for pair, wanted in zip(data.space.pairs, mask.tolist(), strict=True) if wanted]
    space = CompositionSpace(data.space.attributes, data.space.objects, chosen, data.space.seen)
    position = torch.full((len(mask),), -1, dtype=torch.int64)
    position[mask] = torch.arange(len(chosen))
    return space, position


def evaluate_method(
    method: CZSLMethod,
    data: CZSLData,
    split: SplitName,
    session: Session,
    *,
    protocol: Protocol = "exact",
    stage: str | None = None,
    evaluator: CZSLEvaluator | None = None,
) -> CZSLResult:
    """Score every image of a split in the closed world, in its fixed order, and evaluate.

    Args:
        method: on the session's device; left in evaluation mode.
        data: the data set.
        split: `"val"` or `"test"`.
        session: device, precision and processes.
        protocol: `"exact"` or `"legacy"`.
        stage: during training, the stage that the method is in; None uses all of it.
        evaluator: a new one over the split's candidates, by the protocol, for who wants its
            predictions; None makes one.

    Returns:
        S, U, HM, AUC and the rest, the same in all processes.
    """
    space, position = split_candidates(data, split)
    method.eval()
    with session.autocast():
        predictor = method.predictor(space, stage)
    if evaluator is None:
        evaluator = CZSLEvaluator(space, protocol=protocol)
    measured = score_split(
        predictor,
        evaluator,
        data,
        split,
        session,
        position=position,
        aligner=None if stage else method.aligner,
    )
    return replace(evaluator.compute(), **measured)


def score_split(
    predictor: Predictor,
    evaluator: CZSLEvaluator,
    data: CZSLData,
    split: SplitName,
    session: Session,
    *,
    position: Tensor,
    aligner: Aligner | None = None,
) -> dict[str, Any]:
    """Let an evaluator see the scores of every image of a split, in its fixed order.

    A batch is shared out to the processes, and all take in what each of them found, a few numbers
    an image. So a dynamic memory bank has seen the same in all of them, and any number of
    processes that divides `batch_size` gives what one gives. Scores exist for one batch and one
    chunk of compositions at a time.

    Args:
        predictor: at the start of its stream.
        evaluator: over the predictor's space.
        data: the data set.
        split: `"val"` or `"test"`.
        session: device, precision and processes.
        position: column of each composition of `data.space`, `[C]` int64.
        aligner: the method's, whose winners are counted; None counts none, which is faster.

    Returns:
        What was measured beside the scores, fields of a `CZSLResult`: `modality_gap` and
        `patch_shares`.
    """
    loader = session.shared_loader(data.split(split))
    gather = predictor.gather = session.gather
    gaps, shares = _Gaps(predictor.gap_text), PatchShares()
    for images, targets in session.bar(loader, f"scoring {split}"):
        columns = position[targets.cpu()]
        with session.autocast():
            encoded = predictor.encode(images)
            rows = evaluator.summarize(predictor.score_chunks(encoded), columns)
            looks = (
                _looks(predictor, aligner, encoded, columns.to(images.device)) if aligner else {}
            )
        evaluator.merge_state(gather(rows))
        shares.update(**gather(looks))
        features = predictor.gap_features(encoded, columns.to(images.device))
        gaps.update(*gather((features, columns)))
    return {"modality_gap": gaps.compute(), "patch_shares": shares.compute()}


@torch.no_grad()
def _looks(
    predictor: Predictor, aligner: Aligner, encoded: Any, columns: Tensor
) -> dict[str, Tensor]:
    """What `PatchShares` takes of a batch, as far as the method has it."""
    found = {"attention": predictor.attention(encoded)}
    if predictor.says_what_it_compares and not isinstance(aligner, ClassTokenAligner):
        tokens, text = predictor.compared(encoded, columns)
        found["winners"] = aligner.winners(tokens, text)
        if found["winners"] is not None:
            units = (F.normalize(each.float(), dim=-1) for each in (tokens, text))
            found["similarity"] = torch.einsum("btd,bd->bt", *units)
    return {name: value for name, value in found.items() if value is not None}


class _Gaps:
    """The modality gap of each kind of image feature that a predictor names.

    Args:
        text: text features, `[C, D]`; None if there is no gap to measure.
    """

    def __init__(self, text: Tensor | None) -> None:
        self._start = None if text is None else ModalityGap(text)
        self._gaps: dict[str, ModalityGap] = {}

    def update(self, features: dict[str, Tensor], columns: Tensor) -> None:
        if self._start is None:
            return
        for name, rows in features.items():
            if name not in self._gaps:
                self._gaps[name] = copy(self._start)  # the sum over the texts is made once
                self._gaps[name].reset()
            self._gaps[name].update(rows, columns)

    def compute(self) -> dict[str, dict[str, float]]:
        return {
            name: {"relative_modality_gap": gap.relative(), "modality_gap_l2": gap.l2()}
            for name, gap in self._gaps.items()
        }
