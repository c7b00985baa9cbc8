"""What a page about a run says: its configuration, scores, errors and examples, collected."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from czsl_sac.data import CZSLData
from czsl_sac.report.examples import ExampleGroup, example_groups
from czsl_sac.report.scored import Scored, error_kinds
from czsl_sac.report.scoring import Checkpoint, Split, check_same_images, score_run, score_zero_shot
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.record import RunRecord


@dataclass(frozen=True)
class RunReport:
    """All that the page shows.

    Attributes:
        run_dir: folder of the run.
        config: of the run.
        record: what the run is: versions, date, and what a resumed run changed.
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
    record: RunRecord
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
    data_root: Path | None = None,
) -> RunReport:
    """Score a run and a baseline on a split, and collect what there is to say.

    The baseline is the folder of another run on the same data; None takes zero-shot CLIP with the
    backbone that the run started from. The other arguments are those of `score_run`, and how many
    examples to show of a kind.

    Raises:
        FileNotFoundError: a folder holds no run, or the data is not there.
        ValueError: the baseline was made on other data.
    """
    first = score_run(run_dir, split, checkpoint, data_root)
    if baseline is None:
        beside = score_zero_shot(first, split)
    else:
        other = score_run(baseline, split, data_root=data_root)
        check_same_images(first, other, "baseline")
        beside = replace(other.scored, label=f"{other.scored.label} ({baseline.name})")
    methods = [first.scored] if beside is None else [first.scored, beside]
    run = first.run
    return RunReport(
        run_dir,
        run.config,
        run.record,
        run.data,
        split,
        checkpoint,
        run.folder.records(),
        first.targets,
        methods,
        example_groups(
            _kinds(run.data, first.targets, methods),
            run.data,
            split,
            run.method.backbone,
            first.targets,
            [scored.predicted for scored in methods],
            examples,
        ),
    )


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
