"""What a page about a run says: its configuration, scores, errors and examples, collected."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from czsl_sac.data import CZSLData
from czsl_sac.report.examples import ExampleGroup, example_groups
from czsl_sac.report.scored import Scored, error_kinds
from czsl_sac.report.scoring import (
    Checkpoint,
    Split,
    check_same_images,
    score_run,
    score_zero_shot,
)
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.loop import METRICS


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
        targets: composition of each image of the split, `[n]`, of `data.space.pairs`.
        methods: the run's method, and the baseline if there is one.
        groups: examples.
    """

    run_dir: Path
    config: TrainConfig
    data: CZSLData
    split: Split
    checkpoint: Checkpoint
    records: list[dict[str, Any]]
    targets: Tensor
    methods: list[Scored]
    groups: list[ExampleGroup]


def collect_report(
    run_dir: Path,
    *,
    split: Split = "test",
    checkpoint: Checkpoint = "best",
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
    run = score_run(run_dir, split, checkpoint)
    if baseline is None:
        beside = score_zero_shot(run, split)
    else:
        other = score_run(baseline, split)
        check_same_images(run, other, "baseline")
        beside = replace(other.scored, label=f"{other.scored.label} ({baseline.name})")
    methods = [run.scored] if beside is None else [run.scored, beside]
    return RunReport(
        run_dir,
        run.config,
        run.data,
        split,
        checkpoint,
        training_records(run_dir),
        run.targets,
        methods,
        example_groups(
            _kinds(run.data, run.targets, methods),
            run.data,
            split,
            run.backbone,
            run.targets,
            [scored.predicted for scored in methods],
            examples,
        ),
    )


def training_records(run_dir: Path) -> list[dict[str, Any]]:
    """Return what a run recorded of its epochs; nothing for a method without training.

    Args:
        run_dir: folder of the run.
    """
    path = run_dir / METRICS
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _kinds(data: CZSLData, targets: Tensor, methods: list[Scored]) -> dict[str, Tensor]:
    """Which images are of which kind, `[n]` each."""
    right = [scored.predicted == targets for scored in methods]
    if len(methods) == 1:
        kinds = error_kinds(data.space, targets, methods[0].predicted)
        return {title[0].upper() + title[1:]: mask for title, mask in kinds.items()}
    run, baseline = right
    return {
        "Right where the baseline is wrong": run & ~baseline,
        "Wrong where the baseline is right": ~run & baseline,
        "Both right": run & baseline,
        "Both wrong": ~run & ~baseline,
    }
