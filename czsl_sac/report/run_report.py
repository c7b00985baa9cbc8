"""What a page about a run says: its configuration, scores, errors and examples, collected."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from czsl_sac.data import CZSLData
from czsl_sac.evaluation import CZSLEvaluator
from czsl_sac.methods.base import CZSLMethod
from czsl_sac.methods.zero_shot.options import ZeroShotOptions
from czsl_sac.predict.pictures import visible
from czsl_sac.report.scored import Scored, error_kinds, spread
from czsl_sac.training.build import build_backbone, build_method
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.scoring import score_split, split_candidates
from czsl_sac.training.session import Session
from czsl_sac.training.trained import TrainedRun

Split = Literal["val", "test"]


@dataclass(frozen=True)
class Example:
    """An image of the split with what is said of it.

    Attributes:
        picture: `[H, W, 3]` in [0, 1].
        truth: its composition, of `space.pairs`.
        predicted: composition that each method names.
    """

    picture: Tensor
    truth: int
    predicted: tuple[int, ...]


@dataclass(frozen=True)
class ExampleGroup:
    """Images on which the methods are right or wrong alike.

    Attributes:
        title: what they have in common.
        images: how many of the split there are.
        examples: some of them, spread evenly over the split.
    """

    title: str
    images: int
    examples: list[Example]


@dataclass(frozen=True)
class RunReport:
    """All that the page shows.

    Attributes:
        run_dir: folder of the run.
        config: of the run.
        data: its data set.
        split: that was scored.
        checkpoint: that was scored.
        records: of the training's epochs.
        candidates: number of compositions that the split is scored against.
        targets: composition of each image of the split, `[n]`, of `data.space.pairs`.
        methods: the run's method, and the baseline if there is one.
        groups: examples.
    """

    run_dir: Path
    config: TrainConfig
    data: CZSLData
    split: Split
    checkpoint: str
    records: list[dict[str, Any]]
    candidates: int
    targets: Tensor
    methods: list[Scored]
    groups: list[ExampleGroup]


def collect_report(
    run_dir: Path,
    *,
    split: Split = "test",
    checkpoint: Literal["best", "last"] = "best",
    baseline: Path | None = None,
    examples: int = 6,
) -> RunReport:
    """Score a run and a baseline on a split, and collect what there is to say.

    Args:
        run_dir: folder that `czsl-sac train` wrote.
        split: part of the data set.
        checkpoint: `"best"` by validation AUC, or `"last"`.
        baseline: folder of another run on the same data; None takes zero-shot CLIP with the
            backbone that the run started from.
        examples: images of each group.

    Raises:
        FileNotFoundError: a folder holds no run, or the data is not there.
        ValueError: the baseline was made on other data.
    """
    trained = TrainedRun.load(run_dir, checkpoint=checkpoint)
    method, data, config = trained.method, trained.data, trained.config
    plain = plain_clip(config)
    run, targets = _score(config.method.label, method, data, split, config, trained.session)
    methods = [run]
    if baseline is not None:
        methods.append(_score_run(baseline, split, data, targets))
    elif config.method != plain.method:
        methods.append(_score_zero_shot(plain, data, split, trained.session))
    return RunReport(
        run_dir,
        config,
        data,
        split,
        checkpoint,
        trained.folder.records(),
        int(data.candidates(split).sum()),
        targets,
        methods,
        _groups(method, data, split, targets, methods, examples),
    )


def _score(
    label: str,
    method: CZSLMethod,
    data: CZSLData,
    split: Split,
    config: TrainConfig,
    session: Session,
) -> tuple[Scored, Tensor]:
    space, position = split_candidates(data, split)
    evaluator = CZSLEvaluator(space)
    method.eval()
    with session.autocast():
        predictor = method.predictor(space)
    gap = score_split(predictor, evaluator, data, split, session, position=position)
    columns = data.space.indices(space.pairs)
    targets, predicted = evaluator.predictions()
    result = replace(evaluator.compute(), modality_gap=gap)
    legacy = evaluator.compute("legacy")
    scored = Scored(label, result, legacy, columns[predicted], config.method.is_transductive)
    return scored, columns[targets]


def plain_clip(config: TrainConfig) -> TrainConfig:
    """Return the configuration of CLIP as it comes, on the backbone that a run started from."""
    backbone = replace(config.backbone, train_backbone="none")
    return replace(config, backbone=backbone, method=ZeroShotOptions())


def _score_zero_shot(plain: TrainConfig, data: CZSLData, split: Split, session: Session) -> Scored:
    method = build_method(plain, build_backbone(plain.backbone), data.space).to(session.device)
    return _score(plain.method.label, method, data, split, plain, session)[0]


def _score_run(run_dir: Path, split: Split, data: CZSLData, targets: Tensor) -> Scored:
    trained = TrainedRun.load(run_dir)
    other, config = trained.data, trained.config
    if other.space != data.space:
        raise ValueError(
            f"baseline {run_dir} was trained on other compositions ({other.name}, {other.space}) "
            f"than the run ({data.name}, {data.space}): give a run on the same data"
        )
    label = f"{config.method.label} ({run_dir.name})"
    scored, others = _score(label, trained.method, other, split, config, trained.session)
    if not torch.equal(others, targets):
        raise ValueError(
            f"baseline {run_dir} has another {split} split ({len(others)} images) than the run "
            f"({len(targets)} images): give a run on the same data"
        )
    return scored


def _groups(
    method: CZSLMethod,
    data: CZSLData,
    split: Split,
    targets: Tensor,
    methods: list[Scored],
    examples: int,
) -> list[ExampleGroup]:
    images = data.split(split)

    def group(title: str, mask: Tensor) -> ExampleGroup:
        chosen = []
        for index in spread(mask, examples):
            picture = visible(images[index][0][None], method.backbone)[0]
            predicted = tuple(int(scored.predicted[index]) for scored in methods)
            chosen.append(Example(picture, int(targets[index]), predicted))
        return ExampleGroup(title, int(mask.sum()), chosen)

    right = [scored.predicted == targets for scored in methods]
    if len(methods) == 1:
        partly = error_kinds(data.space, targets, methods[0].predicted)
        return [group(title[0].upper() + title[1:], mask) for title, mask in partly.items()]
    run, baseline = right
    return [
        group("Right where the baseline is wrong", run & ~baseline),
        group("Wrong where the baseline is right", ~run & baseline),
        group("Both right", run & baseline),
        group("Both wrong", ~run & ~baseline),
    ]
