"""Scoring a split: a predictor over the split's candidates, an evaluator, one pass."""

from typing import Literal

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from tqdm import tqdm

from czsl_sac.data import CZSLData, SplitName
from czsl_sac.evaluation import CZSLEvaluator, CZSLResult
from czsl_sac.methods import CZSLMethod
from czsl_sac.space import CompositionSpace

Protocol = Literal["exact", "legacy"]


def candidate_space(data: CZSLData, split: SplitName) -> tuple[CompositionSpace, torch.Tensor]:
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
    accelerator: Accelerator,
    *,
    batch_size: int,
    num_workers: int = 0,
    protocol: Protocol = "exact",
    stage: str | None = None,
) -> CZSLResult:
    """Score every image of a split, in its fixed order, and evaluate.

    Args:
        method: on the accelerator's device; left in evaluation mode.
        data: the data set.
        split: `"val"` or `"test"`.
        accelerator: device, precision and processes.
        batch_size: images per batch and process.
        num_workers: processes that read images.
        protocol: `"exact"` or `"legacy"`.
        stage: during training, the stage that the method is in; None uses all of it.

    Returns:
        S, U, HM, AUC and the rest.
    """
    space, position = candidate_space(data, split)
    method.eval()
    with accelerator.autocast():
        predictor = method.predictor(space, stage)
    evaluator = CZSLEvaluator(space, protocol=protocol)
    loader = accelerator.prepare(
        DataLoader(data.split(split), batch_size=batch_size, num_workers=num_workers)
    )
    hidden = None if accelerator.is_main_process else True
    for images, targets in tqdm(loader, desc=f"scoring {split}", leave=False, disable=hidden):
        with accelerator.autocast():
            scores = predictor(images)
        scores, targets = accelerator.gather_for_metrics((scores, targets))
        evaluator.update(scores.float().cpu(), position[targets.cpu()])
    return evaluator.compute()
