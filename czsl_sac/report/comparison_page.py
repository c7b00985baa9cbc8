"""The page that shows runs side by side: what its template is given."""

from collections.abc import Sequence
from dataclasses import replace

from markupsafe import Markup
from tabulate import tabulate

from czsl_sac.evaluation.curve import Protocol
from czsl_sac.evaluation.patch_shares import patch_notes
from czsl_sac.report.comparison import Comparison, Interval, Row
from czsl_sac.report.page import METRICS, curve_plot, page, percent, shares_table, shown
from czsl_sac.report.plots import Series, line_plot
from czsl_sac.words import visible


def render(comparison: Comparison, protocol: Protocol) -> str:
    """Return the page.

    Args:
        comparison: what it says.
        protocol: of the figures.
    """
    rows = comparison.rows
    return page(
        "comparison.html",
        title=f"{' / '.join(row.label for row in rows)} on {comparison.data.name}",
        comparison=comparison,
        protocol=protocol,
        figures=figures(comparison, protocol),
        ahead=_ahead(rows, protocol),
        chance=rows[0].results(protocol)[0].chance(),
        notes=_notes(rows, protocol),
        shares=shares_table((row.label, row.results(protocol)) for row in rows),
        curve=curve_plot((row.label, r) for row in rows for r in row.results(protocol)),
        validation=_validation(rows),
        options=[
            [name, *("–" if value is None else shown(value) for value in values)]
            for name, values in comparison.options.items()
        ],
        images=_image_by_image(comparison),
    )


def figures(comparison: Comparison, protocol: Protocol) -> list[list[str]]:
    """Return a row of text for each row: its label, its seeds, and its figures in percent.

    Args:
        comparison: of the runs.
        protocol: of the figures.
    """
    return [
        [
            row.label,
            ", ".join(map(str, row.seeds)),
            *(_interval(row.figure(name, protocol)) for name in METRICS.values()),
        ]
        for row in comparison.rows
    ]


def figures_table(comparison: Comparison, protocol: Protocol) -> str:
    """Return the figures as a table for a terminal.

    Args:
        comparison: of the runs.
        protocol: of the figures.
    """
    rows = [[*map(visible, row)] for row in figures(comparison, protocol)]
    headers = ["method", "seeds", *METRICS]
    align = ["left", "left", *["right"] * len(METRICS)]
    return tabulate(rows, headers=headers, colalign=align, disable_numparse=True)


def _interval(interval: Interval, sign: str = "") -> str:
    half = "" if interval.half is None else f" ± {100 * interval.half:.2f}"
    return f"{100 * interval.mean:{sign}.2f}{half}"


def _ahead(rows: Sequence[Row], protocol: Protocol) -> list[list[str]]:
    """By how much each row is ahead of the first, in points, paired by seed."""
    table = []
    for row in rows[1:]:
        gains = [row.ahead(rows[0], name, protocol) for name in METRICS.values()]
        shared = len(set(row.seeds) & set(rows[0].seeds))
        values = ["no seed in both" if gain is None else _interval(gain, "+") for gain in gains]
        table.append([row.label, str(shared), *values])
    return table


def _notes(rows: Sequence[Row], protocol: Protocol) -> list[str]:
    """Return what the figures hide: once if it holds for all rows, else after the row's label."""
    notes = []
    for row in rows:
        first = row.results(protocol)[0]
        # The shares themselves stand in a table: what follows from them is left.
        verdict = patch_notes(first.patch_shares)[len(first.patch_shares) :]
        notes.append(verdict + replace(first, patch_shares={}).notes())
    shared = [sentence for sentence in notes[0] if all(sentence in of_row for of_row in notes)]
    own = [
        f"{row.label}: {sentence}"
        for row, of_row in zip(rows, notes, strict=True)
        for sentence in of_row
        if sentence not in shared
    ]
    return shared + own


def _validation(rows: Sequence[Row]) -> Markup | None:
    series = [
        Series(
            row.label, list(range(1, len(records) + 1)), [100 * r["val"]["auc"] for r in records]
        )
        for row in rows
        for records in row.records
        if records
    ]
    if not series:
        return None
    return line_plot(
        "validation", series, x_label="epoch", y_label="validation AUC, %", whole_steps=True
    )


def _image_by_image(comparison: Comparison) -> list[list[str]]:
    """Shares of images on which each row and the first are right, and the difference."""
    first, *others = comparison.rows
    seen = comparison.data.space.seen_mask[comparison.targets]
    table = []
    for other in others:
        for name, images in (("seen", seen), ("unseen", ~seen)):
            mine, its = first.right[images], other.right[images]
            shares = (mine * its, mine * (1 - its), (1 - mine) * its, (1 - mine) * (1 - its))
            means = [percent(float(share.mean())) for share in shares]
            gain = _interval(Interval.of((its - mine).tolist()), "+") if len(mine) else ""
            table.append([other.label, name, str(len(mine)), *means, gain])
    return table
