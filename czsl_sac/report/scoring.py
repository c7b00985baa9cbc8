"""A run, and the CLIP that it started from, scored on a split image by image."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from czsl_sac.clip import CLIPBackbone
from czsl_sac.data import CZSLData
from czsl_sac.evaluation import CZSLEvaluator
from czsl_sac.methods import CZSLMethod
from czsl_sac.report.scored import Scored
from czsl_sac.training.build import build_backbone, build_method
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.run import load_run
from czsl_sac.training.scoring import candidate_space, score_split

Split = Literal["val", "test"]
Checkpoint = Literal["best", "last"]

LABELS = {
    "sac": "SAC",
    "troika": "Troika",
    "csp": "CSP",
    "coop": "CoOp",
    "dfsp": "DFSP",
    "zero-shot": "Zero-shot CLIP",
}
"""What the methods are called."""


@dataclass(frozen=True)
class ScoredRun:
    """A run on a split.

    Attributes:
        run_dir: folder of the run.
        config: of the run.
        data: its data set.
        backbone: its CLIP.
        accelerator: where it was scored.
        scored: what it predicted, and its figures.
        targets: composition of each image of the split, `[n]`, of `data.space.pairs`.
    """

    run_dir: Path
    config: TrainConfig
    data: CZSLData
    backbone: CLIPBackbone
    accelerator: Accelerator
    scored: Scored
    targets: Tensor


def score_run(run_dir: Path, split: Split, checkpoint: Checkpoint = "best") -> ScoredRun:
    """Score a run in the closed world.

    Args:
        run_dir: folder that `czsl-sac train` wrote.
        split: part of the data set.
        checkpoint: `"best"` by validation AUC, or `"last"`.

    Raises:
        FileNotFoundError: the folder holds no run, or the data is not there.
    """
    method, data, config, accelerator = load_run(run_dir, checkpoint=checkpoint)
    scored, targets = _score(method, data, split, config, accelerator)
    return ScoredRun(run_dir, config, data, method.backbone, accelerator, scored, targets)


def score_zero_shot(run: ScoredRun, split: Split) -> Scored | None:
    """Score zero-shot CLIP with the backbone that a run started from; None if the run is that.

    Args:
        run: gives backbone and data.
        split: part of the data set.
    """
    config, method = run.config, run.config.model
    if (method.method, method.alignment) == ("zero-shot", "cls"):
        return None
    backbone = build_backbone(replace(config.backbone, train_backbone="none"))
    plain = config.with_model(method="zero-shot", alignment="cls")
    zero_shot = build_method(plain, backbone, run.data.space).to(run.accelerator.device)
    return _score(zero_shot, run.data, split, plain, run.accelerator)[0]


def check_same_images(run: ScoredRun, other: ScoredRun, name: str) -> None:
    """Refuse to put two runs side by side that were not scored on the same images.

    Args:
        run: the first.
        other: the one to refuse.
        name: what the message calls it.

    Raises:
        ValueError: compositions or images differ.
    """
    if other.data.space != run.data.space:
        raise ValueError(
            f"{name} {other.run_dir} was trained on other compositions ({other.data.name}, "
            f"{other.data.space}) than {run.run_dir} ({run.data.name}, {run.data.space}): give a "
            "run on the same data."
        )
    if not torch.equal(other.targets, run.targets):
        raise ValueError(
            f"{name} {other.run_dir} has another split ({len(other.targets)} images) than "
            f"{run.run_dir} ({len(run.targets)} images): give a run on the same data."
        )


def _score(
    method: CZSLMethod, data: CZSLData, split: Split, config: TrainConfig, accelerator: Accelerator
) -> tuple[Scored, Tensor]:
    space, position = candidate_space(data, split)
    evaluator = CZSLEvaluator(space)
    method.eval()
    with accelerator.autocast():
        predictor = method.predictor(space)
    gap = score_split(
        predictor,
        evaluator,
        data,
        split,
        accelerator,
        position=position,
        batch_size=config.optim.eval_batch_size,
        num_workers=config.data.num_workers,
    )
    columns = data.space.indices(space.pairs)
    targets, predicted = evaluator.predictions()
    result = replace(evaluator.compute(), modality_gap=gap)
    legacy = evaluator.compute("legacy")
    label = LABELS[config.model.method]
    scored = Scored(label, result, legacy, columns[predicted], config.is_transductive)
    return scored, columns[targets]
