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
from czsl_sac.report.run_report import training_records
from czsl_sac.report.scored import Scored
from czsl_sac.report.scoring import Checkpoint, ScoredRun, Split, check_same_images, score_run
from czsl_sac.training.config import TrainConfig

CONFIDENCE = 0.95
"""Of every interval."""

_IRRELEVANT = ("seed", "data.num_workers", "data.feature_cache", "data.data_root")
"""Options that make no other row: they change no figure, or are what a row averages over."""


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
        """Return the mean of some values, with the interval that a t-test gives it.

        Args:
            values: at least one.

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
        config: of the first.
        scored: of each run.
        records: of each run's epochs.
        right: share of the runs that are right on each image, `[n]`.
    """

    label: str
    run_dirs: list[Path]
    seeds: list[int]
    config: TrainConfig
    scored: list[Scored]
    records: list[list[dict[str, Any]]]
    right: Tensor

    @property
    def predicted(self) -> Tensor:
        """What most runs name in each image, `[n]`; at ties the lowest column."""
        return torch.stack([scored.predicted for scored in self.scored]).mode(dim=0).values

    def results(self, protocol: str) -> list[CZSLResult]:
        """Return the figures of each run.

        Args:
            protocol: `"exact"` or `"legacy"`.
        """
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
        differing: options in which rows differ, as "group.name".
        groups: examples of where they differ.
    """

    data: CZSLData
    split: Split
    checkpoint: Checkpoint
    targets: Tensor
    rows: list[Row]
    differing: list[str]
    groups: list[ExampleGroup]


def compare_runs(
    run_dirs: Sequence[Path],
    *,
    split: Split = "test",
    checkpoint: Checkpoint = "best",
    examples: int = 6,
    show_progress: bool = False,
) -> Comparison:
    """Score runs on the same images, and collect in what they differ.

    Args:
        run_dirs: folders of two runs or more.
        split: part of the data set.
        checkpoint: `"best"` by validation AUC, or `"last"`.
        examples: images of each kind.
        show_progress: show a bar on stderr, if that is a terminal.

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
    # Configurations are read before anything is scored: a folder that is none stops at once.
    for path in run_dirs:
        TrainConfig.load(path / "config.json")
    runs: list[ScoredRun] = []
    for path in tqdm(run_dirs, desc="runs", leave=False, disable=None if show_progress else True):
        runs.append(score_run(path, split, checkpoint))
        check_same_images(runs[0], runs[-1], "run")
    rows, differing = _rows(runs)
    return Comparison(
        runs[0].data,
        split,
        checkpoint,
        runs[0].targets,
        rows,
        differing,
        example_groups(
            _disagreements(rows, runs[0].targets),
            runs[0].data,
            split,
            runs[0].backbone,
            runs[0].targets,
            [row.predicted for row in rows],
            examples,
        ),
    )


def flat_options(config: TrainConfig) -> dict[str, str]:
    """Return the options of a run by "group.name", without those that make no other row.

    Args:
        config: of the run.
    """

    def walk(values: dict[str, Any], before: str) -> dict[str, str]:
        flat: dict[str, str] = {}
        for name, value in values.items():
            flat |= (
                walk(value, f"{before}{name}.")
                if isinstance(value, dict)
                else {f"{before}{name}": str(value)}
            )
        return flat

    return {n: v for n, v in walk(config.to_dict(), "").items() if n not in _IRRELEVANT}


def _rows(runs: Sequence[ScoredRun]) -> tuple[list[Row], list[str]]:
    """The runs by configuration, and the options in which these differ."""
    by_options: dict[tuple[tuple[str, str], ...], list[ScoredRun]] = {}
    for run in runs:
        by_options.setdefault(tuple(flat_options(run.config).items()), []).append(run)
    options = [dict(key) for key in by_options]
    names = dict.fromkeys(name for of_row in options for name in of_row)
    differing = [name for name in names if len({o.get(name) for o in options}) > 1]
    rows = []
    for of_runs, of_row in zip(by_options.values(), options, strict=True):
        _check_seeds(of_runs)
        label = of_runs[0].scored.label
        alike = [
            other
            for group, other in zip(by_options.values(), options, strict=True)
            if group[0].scored.label == label
        ]
        rows.append(
            Row(
                label + _distinction(of_row, alike),
                [run.run_dir for run in of_runs],
                [run.config.seed for run in of_runs],
                of_runs[0].config,
                [run.scored for run in of_runs],
                [training_records(run.run_dir) for run in of_runs],
                torch.stack([r.scored.predicted == r.targets for r in of_runs]).double().mean(0),
            )
        )
    return rows, differing


def _check_seeds(runs: Sequence[ScoredRun]) -> None:
    first: dict[int, Path] = {}
    for run in runs:
        if run.config.seed in first:
            raise ValueError(
                f"runs {first[run.config.seed]} and {run.run_dir} have the same options and the "
                f"same seed ({run.config.seed}) but must differ: leave one out."
            )
        first[run.config.seed] = run.run_dir


def _distinction(options: dict[str, str], alike: Sequence[dict[str, str]]) -> str:
    """What tells a row from others of its method: the options in which they differ."""
    names = [name for name in options if len({other.get(name) for other in alike}) > 1]
    said = [f"{name.rpartition('.')[2]} {options[name]}" for name in names]
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
