"""Runs side by side on the same images; those that differ in the seed alone are one row."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import torch
from scipy import stats
from torch import Tensor
from tqdm import tqdm

from czsl_sac.data import CZSLData
from czsl_sac.evaluation import CZSLResult
from czsl_sac.report.examples import ExampleGroup, example_groups
from czsl_sac.report.scored import Scored
from czsl_sac.report.scoring import Checkpoint, ScoredRun, Split, check_same_images, score_run
from czsl_sac.training.record import differences
from czsl_sac.training.run_folder import RunFolder

CONFIDENCE = 0.95
"""Of every interval."""

_NO_OTHER_ROW = {
    "seed",
    "data.data_root",
    "data.num_workers",
    "data.feature_cache",
    "backbone.checkpoint_vision",
    "optim.compile",
}
"""What a row averages over, and options that change no figure."""


class Interval(NamedTuple):
    """A mean with its t-interval.

    Attributes:
        mean: of the values.
        half: half of the interval's width; None for a single value, which has none.
    """

    mean: float
    half: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        """Return the mean of one value or more, with the interval that a t-test gives it.

        Examples:
            >>> mean, half = Interval.of([1.0, 2.0, 3.0])
            >>> mean, round(half, 4)
            (2.0, 2.4841)
        """
        mean = fmean(values)
        if len(values) < 2:
            return cls(mean, None)
        error = stdev(values) / len(values) ** 0.5
        return cls(mean, float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * error))


@dataclass(frozen=True)
class Row:
    """Runs of one configuration, over one seed or several.

    Attributes:
        label: the method, and what tells it from other rows of the same method.
        run_dirs: folders of the runs.
        seeds: of the runs.
        scored: of each run.
        records: of each run's epochs.
        right: share of the runs that are right on each image, `[n]`.
    """

    label: str
    run_dirs: list[Path]
    seeds: list[int]
    scored: list[Scored]
    records: list[list[dict[str, Any]]]
    right: Tensor

    @property
    def predicted(self) -> Tensor:
        """What most runs name in each image, `[n]`; at ties the lowest column."""
        return torch.stack([scored.predicted for scored in self.scored]).mode(dim=0).values

    def results(self, protocol: str) -> list[CZSLResult]:
        """Return the figures of each run by a protocol."""
        return [s.result if protocol == "exact" else s.legacy for s in self.scored]

    def figure(self, name: str, protocol: str) -> Interval:
        """Return a figure over the seeds.

        Args:
            name: field of a `CZSLResult`.
            protocol: `"exact"` or `"legacy"`.
        """
        return Interval.of([getattr(result, name) for result in self.results(protocol)])

    def ahead(self, other: "Row", name: str, protocol: str) -> Interval | None:
        """Return by how much this row is ahead of another, paired by seed.

        Args:
            other: row.
            name: field of a `CZSLResult`.
            protocol: `"exact"` or `"legacy"`.

        Returns:
            None if no seed is in both rows.
        """
        mine, others = (dict(zip(r.seeds, r.results(protocol), strict=True)) for r in (self, other))
        both = [seed for seed in self.seeds if seed in others]
        if not both:
            return None
        return Interval.of([getattr(mine[s], name) - getattr(others[s], name) for s in both])


@dataclass(frozen=True)
class Comparison:
    """All that the page shows.

    Attributes:
        data: that all runs share.
        split: that was scored.
        checkpoint: that was scored.
        targets: composition of each image, `[n]`, of `data.space.pairs`.
        rows: in the order of their first runs.
        options: those in which rows differ, "group.name": the value in each row.
        groups: examples of where they differ.
    """

    data: CZSLData
    split: Split
    checkpoint: Checkpoint
    targets: Tensor
    rows: list[Row]
    options: dict[str, list[Any]]
    groups: list[ExampleGroup]


def compare_runs(
    run_dirs: Sequence[Path],
    *,
    split: Split = "test",
    checkpoint: Checkpoint = "best",
    examples: int = 6,
    data_root: Path | None = None,
    show_progress: bool = False,
) -> Comparison:
    """Score two runs or more on the same images, and collect in what they differ.

    The arguments are those of `score_run`, how many examples to show of a kind, and whether to show
    a bar on stderr, if that is a terminal.

    Raises:
        FileNotFoundError: a folder holds no run, or the data is not there.
        ValueError: fewer than two runs, a run twice, or runs on other data.
    """
    given = [path.resolve() for path in run_dirs]
    if len(given) < 2:
        raise ValueError(
            f"runs is {len(given)} run but must be at least two: name the others, or make a page "
            "about one with czsl-sac report."
        )
    twice = [path for path in given if given.count(path) > 1]
    if twice:
        raise ValueError(f"runs has {twice[0]} twice but must be different runs: leave one out.")
    for path in run_dirs:
        RunFolder(path).read_record()  # a folder that is no run stops before anything is scored
    runs: list[ScoredRun] = []
    for path in tqdm(run_dirs, desc="runs", leave=False, disable=None if show_progress else True):
        runs.append(score_run(path, split, checkpoint, data_root))
        check_same_images(runs[0], runs[-1], "run")
    rows, options = _rows(runs)
    first = runs[0]
    return Comparison(
        first.run.data,
        split,
        checkpoint,
        first.targets,
        rows,
        options,
        example_groups(
            _disagreements(rows, first.targets),
            first.run.data,
            split,
            first.run.method.backbone,
            first.targets,
            [row.predicted for row in rows],
            examples,
        ),
    )


def _rows(runs: Sequence[ScoredRun]) -> tuple[list[Row], dict[str, list[Any]]]:
    """Return the runs by configuration, and the options in which these differ."""
    groups: list[list[ScoredRun]] = []
    for run in runs:
        own = next((group for group in groups if not _differing(group[0], run)), None)
        if own is None:
            groups.append([run])
        else:
            own.append(run)
    options = _options([group[0] for group in groups])
    rows = []
    for number, group in enumerate(groups):
        _check_seeds(group)
        label = group[0].scored.label
        alike = [n for n, other in enumerate(groups) if other[0].scored.label == label]
        rows.append(
            Row(
                label + _distinction(options, number, alike),
                [run.path for run in group],
                [run.run.config.seed for run in group],
                [run.scored for run in group],
                [run.run.folder.records() for run in group],
                torch.stack([run.scored.predicted == run.targets for run in group])
                .double()
                .mean(0),
            )
        )
    return rows, options


def _differing(one: ScoredRun, other: ScoredRun) -> dict[str, tuple[Any, Any]]:
    found = differences(one.run.config, other.run.config)
    return {name: values for name, values in found.items() if name not in _NO_OTHER_ROW}


def _options(firsts: Sequence[ScoredRun]) -> dict[str, list[Any]]:
    """Options that are not the same in all rows: the value in each."""
    found = [_differing(firsts[0], other) for other in firsts]
    before = {name: values[0] for of_row in found for name, values in of_row.items()}
    return {
        name: [of_row[name][1] if name in of_row else value for of_row in found]
        for name, value in before.items()
    }


def _check_seeds(runs: Sequence[ScoredRun]) -> None:
    first: dict[int, Path] = {}
    for run in runs:
        seed = run.run.config.seed
        if seed in first:
            raise ValueError(
                f"runs {first[seed]} and {run.path} have the same options and the same seed "
                f"({seed}) but must differ: leave one out."
            )
        first[seed] = run.path


def _distinction(options: dict[str, list[Any]], row: int, alike: Sequence[int]) -> str:
    """Return what tells a row from others of its method: the options in which they differ."""
    said = [
        f"{name.rpartition('.')[2]} {values[row]}"
        for name, values in options.items()
        if any(values[other] != values[row] for other in alike)
    ]
    return f" ({', '.join(said)})" if said else ""


def _disagreements(rows: Sequence[Row], targets: Tensor) -> dict[str, Tensor]:
    """Images on which the first row is right and another wrong, or the reverse."""
    first, *others = rows
    right = first.predicted == targets
    masks = {}
    for other in others:
        its = other.predicted == targets
        masks[f"{first.label} right, {other.label} wrong"] = right & ~its
        masks[f"{other.label} right, {first.label} wrong"] = ~right & its
    return masks
