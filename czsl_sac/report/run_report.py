"""What a page about a run says: its configuration, scores, errors and examples, collected."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from czsl_sac.data import CZSLData
from czsl_sac.evaluation import CZSLEvaluator
from czsl_sac.methods import CZSLMethod
from czsl_sac.pictures import visible
from czsl_sac.report.scored import Scored, error_kinds, spread
from czsl_sac.training.build import build_backbone, build_method
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.loop import METRICS
from czsl_sac.training.run import load_run
from czsl_sac.training.scoring import candidate_space, score_split

Split = Literal["val", "test"]

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
    method, data, config, accelerator = load_run(run_dir, checkpoint=checkpoint)
    run, targets = _score(LABELS[config.model.method], method, data, split, config, accelerator)
    methods = [run]
    if baseline is not None:
        methods.append(_score_run(baseline, split, data, targets))
    elif (config.model.method, config.model.alignment) != ("zero-shot", "cls"):
        methods.append(_score_zero_shot(config, data, split, accelerator))
    return RunReport(
        run_dir,
        config,
        data,
        split,
        checkpoint,
        _records(run_dir),
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
    accelerator: Accelerator,
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
    scored = Scored(label, result, legacy, columns[predicted], config.is_transductive)
    return scored, columns[targets]


def _score_zero_shot(
    config: TrainConfig, data: CZSLData, split: Split, accelerator: Accelerator
) -> Scored:
    """Zero-shot CLIP, on the backbone that the run started from."""
    backbone = build_backbone(replace(config.backbone, train_backbone="none"))
    plain = config.with_model(method="zero-shot", alignment="cls")
    method = build_method(plain, backbone, data.space).to(accelerator.device)
    return _score(LABELS["zero-shot"], method, data, split, plain, accelerator)[0]


def _score_run(run_dir: Path, split: Split, data: CZSLData, targets: Tensor) -> Scored:
    method, other, config, accelerator = load_run(run_dir)
    if other.space != data.space:
        raise ValueError(
            f"baseline {run_dir} was trained on other compositions ({other.name}, {other.space}) "
            f"than the run ({data.name}, {data.space}): give a run on the same data"
        )
    label = f"{LABELS[config.model.method]} ({run_dir.name})"
    scored, others = _score(label, method, other, split, config, accelerator)
    if not torch.equal(others, targets):
        raise ValueError(
            f"baseline {run_dir} has another {split} split ({len(others)} images) than the run "
            f"({len(targets)} images): give a run on the same data"
        )
    return scored


def _records(run_dir: Path) -> list[dict[str, Any]]:
    path = run_dir / METRICS
    if not path.is_file():  # a method without training has none
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


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
            image, backbone = images[index][0][None], method.backbone
            picture = visible(image, mean=backbone.mean, std=backbone.std)[0]
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
