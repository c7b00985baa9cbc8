"""A run, and the CLIP that it started from, scored on a split image by image."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from czsl_sac.data import CZSLData
from czsl_sac.evaluation import CZSLEvaluator
from czsl_sac.methods.base import CZSLMethod
from czsl_sac.methods.options import MethodOptions
from czsl_sac.methods.zero_shot.options import ZeroShotOptions
from czsl_sac.report.scored import Scored
from czsl_sac.training.build import build_backbone, build_method
from czsl_sac.training.scoring import evaluate_method, split_candidates
from czsl_sac.training.session import Session
from czsl_sac.training.trained import TrainedRun

Split = Literal["val", "test"]
Checkpoint = Literal["best", "last"]


@dataclass(frozen=True)
class ScoredRun:
    """A run on a split.

    Attributes:
        run: its folder, configuration, data and method.
        scored: what it predicted, and its figures.
        targets: composition of each image of the split, `[n]`, of `run.data.space.pairs`.
    """

    run: TrainedRun
    scored: Scored
    targets: Tensor

    @property
    def path(self) -> Path:
        """Folder of the run."""
        return self.run.folder.path


def score_run(
    run_dir: Path, split: Split, checkpoint: Checkpoint = "best", data_root: Path | None = None
) -> ScoredRun:
    """Score a run in the closed world.

    Args:
        run_dir: folder that `czsl-sac train` wrote.
        split: part of the data set.
        checkpoint: `"best"` by validation AUC, or `"last"`.
        data_root: where the data set is now; None: where it was.

    Raises:
        FileNotFoundError: the folder holds no run, or the data is not there.
        ValueError: a file of the run is damaged, or its data has changed.
    """
    run = TrainedRun.load(run_dir, checkpoint=checkpoint, data_root=data_root)
    scored, targets = _score(run.method, run.data, split, run.config.method, run.session)
    return ScoredRun(run, scored, targets)


def score_zero_shot(scored: ScoredRun, split: Split) -> Scored | None:
    """Score CLIP as it comes, on the backbone that a run started from; None if the run is that."""
    run, plain = scored.run, ZeroShotOptions()
    if run.config.method == plain:
        return None
    plain_config = replace(run.config.backbone, train_backbone="none")
    backbone = build_backbone(plain_config, precision=run.session.precision)
    config = replace(run.config, method=plain)
    method = build_method(config, backbone, run.data.space).to(run.session.device)
    return _score(method, run.data, split, plain, run.session)[0]


def check_same_images(first: ScoredRun, other: ScoredRun, name: str) -> None:
    """Refuse to put two runs side by side that were not scored on the same images.

    Args:
        first: one run.
        other: the one to refuse.
        name: what the message calls it.

    Raises:
        ValueError: compositions or images differ.
    """
    data, own = first.run.data, other.run.data
    if own.space != data.space:
        raise ValueError(
            f"{name} is {other.path} ({own.name}, {own.space}) but must be on the compositions of "
            f"{first.path} ({data.name}, {data.space}): give a run on the same data."
        )
    if not torch.equal(other.targets, first.targets):
        raise ValueError(
            f"{name} is {other.path} with {len(other.targets)} images but must be on the "
            f"{len(first.targets)} images of {first.path}: give a run on the same data."
        )


def _score(
    method: CZSLMethod, data: CZSLData, split: Split, options: MethodOptions, session: Session
) -> tuple[Scored, Tensor]:
    space, _ = split_candidates(data, split)
    evaluator = CZSLEvaluator(space)
    result = evaluate_method(method, data, split, session, evaluator=evaluator)
    columns = data.space.indices(space.pairs)
    targets, predicted = evaluator.predictions()
    legacy = evaluator.compute(protocol="legacy")
    scored = Scored(options.label, result, legacy, columns[predicted], options.is_transductive)
    return scored, columns[targets]
