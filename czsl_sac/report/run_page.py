"""The page about a run: what its template is given."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from markupsafe import Markup

from czsl_sac.data.protocol import SplitName
from czsl_sac.evaluation.result import COLUMNS
from czsl_sac.report.page import curve_plot, page, percent, shares_table, shown
from czsl_sac.report.plots import Series, line_plot
from czsl_sac.report.run_report import RunReport
from czsl_sac.report.scored import Scored, confusions, error_kinds, recalls
from czsl_sac.words import counted

CONFUSIONS = 15
"""Rows of the table of confusions."""

SHOWN = 20
"""Attributes and objects that are seen without a click, the worst first."""


def render(report: RunReport) -> str:
    """Return the page about a run."""
    space, run = report.data.space, report.methods[0]
    return page(
        "report.html",
        title=f"{run.label} on {report.data.name}: {report.run_dir.name}",
        report=report,
        results=_results(report.methods),
        curve=curve_plot(
            [(scored.label, scored.result) for scored in report.methods],
        ),
        gaps=_gaps(report.methods),
        shares=shares_table((scored.label, [scored.result]) for scored in report.methods),
        training=_training(report.records) if report.records else None,
        shown=SHOWN,
        recalls={
            kind: recalls(space, report.targets, report.methods, kind)
            for kind in ("attribute", "object")
        },
        errors=_errors(report),
        confusions=confusions(space, report.targets, run.predicted, CONFUSIONS),
        facts=_facts(report),
        splits=_splits(report),
        options=_options(report.config.to_dict()),
        versions=", ".join(f"{name} {version}" for name, version in report.record.versions.items()),
    )


def _results(methods: Sequence[Scored]) -> list[list[str]]:
    rows = []
    for scored in methods:
        for result in (scored.result, scored.legacy):
            values = [percent(getattr(result, name)) for name in COLUMNS.values()]
            rows.append([scored.label, result.protocol, *values])
    for result in (methods[0].result, methods[0].legacy):
        chance = result.chance()
        if chance is not None:
            values = [percent(getattr(chance, name, 0.0)) for name in COLUMNS.values()]
            rows.append(["chance", chance.protocol, *values[:4], "", ""])
    return rows


def _gaps(methods: Sequence[Scored]) -> list[list[str]]:
    return [
        [scored.label, feature.replace("_", " "), *(f"{value:.4f}" for value in gap.values())]
        for scored in methods
        for feature, gap in scored.result.modality_gap.items()
    ]


class _Training(NamedTuple):
    losses: Markup
    validation: Markup
    summary: str


def _training(records: list[dict[str, Any]]) -> _Training:
    epochs = list(range(1, len(records) + 1))
    starts = [
        position - 0.5
        for position, (last, this) in enumerate(pairwise(records), start=2)
        if last["stage"] != this["stage"]
    ]
    names = dict.fromkeys(name for record in records for name in record["losses"])
    losses = [
        Series(
            name,
            *zip(
                *[
                    (epoch, record["losses"][name])
                    for epoch, record in zip(epochs, records, strict=True)
                    if name in record["losses"]
                ],
                strict=True,
            ),
        )
        for name in names
    ]
    validation = [
        Series(label, epochs, [100 * record["val"][name] for record in records])
        for label, name in COLUMNS.items()
    ]
    plots = [
        line_plot(name, series, x_label="epoch", y_label=unit, bounds=starts, whole_steps=True)
        for name, series, unit in (("losses", losses, "loss"), ("validation", validation, "%"))
    ]
    best = max(records, key=lambda record: record["val"]["auc"])
    seconds = sum(record["seconds"] for record in records)
    stages = " and ".join(dict.fromkeys(record["stage"] for record in records))
    summary = (
        f"{counted(len(records), 'epoch')} ({stages}) in {seconds:,.0f} s. Best validation AUC "
        f"{percent(best['val']['auc'])} in epoch {best['epoch']}"
        f"{' of stage ' + best['stage'] if starts else ''}."
    )
    return _Training(plots[0], plots[1], summary)


def _errors(report: RunReport) -> list[list[str]]:
    space, targets = report.data.space, report.targets
    seen, rows = space.seen_mask[targets], []
    for scored in report.methods:
        kinds = error_kinds(space, targets, scored.predicted).values()
        for name, images in (("seen", seen), ("unseen", ~seen)):
            shares = [percent(float(mask[images].double().mean())) for mask in kinds]
            rows.append([scored.label, name, *shares])
    return rows


def _facts(report: RunReport) -> list[tuple[str, str]]:
    space = report.data.space
    counts = {
        "attributes": len(space.attributes),
        "objects": len(space.objects),
        "compositions": len(space),
        "seen": int(space.seen_mask.sum()),
    }
    return [("data set", report.data.name), *((n, f"{c:,}") for n, c in counts.items())]


def _splits(report: RunReport) -> list[list[str]]:
    splits: tuple[SplitName, ...] = ("train", "val", "test")
    rows = []
    for split in splits:
        unseen = int((report.data.candidates(split) & ~report.data.space.seen_mask).sum())
        images = len(report.data.split(split))  # type: ignore[arg-type]
        rows.append([split, f"{images:,}", f"{unseen:,}"])
    return rows


def _options(config: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Options by group; those of the run itself, such as its seed, come first, under no name."""
    groups = {"": {n: value for n, value in config.items() if not isinstance(value, dict)}}
    groups |= {n: value for n, value in config.items() if isinstance(value, dict)}
    return {
        group: [(name, shown(value)) for name, value in options.items()]
        for group, options in groups.items()
    }
