"""Pictures of the committed rows: the latest of each kind, as bars in groups."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, str]
BAR_GROUP = 0.8  # of the distance between groups


def latest_rows(path: Path, keys: Sequence[str]) -> dict[tuple[str, ...], Row]:
    """Return the last row of a CSV for each combination of values.

    Args:
        path: the file.
        keys: columns whose values name a row.
    """
    with path.open(newline="") as file:
        return {tuple(row[key] for key in keys): row for row in csv.DictReader(file)}


def grouped_bars(
    axis: Any,
    rows: Mapping[tuple[str, ...], Row],
    panel: tuple[str, ...],
    groups: Sequence[str],
    series: Sequence[str],
    column: str,
    *,
    label: Callable[[Row], str] | None = None,
) -> None:
    """Draw a bar for each row that there is, side by side in its group.

    Args:
        axis: of matplotlib.
        rows: by their names, which end in group and series.
        panel: how the names of this picture's rows begin.
        groups: from left to right.
        series: bars of a group, from left to right; each has its colour even where it is absent.
        column: its height.
        label: what stands above a bar.
    """
    width = BAR_GROUP / len(series)
    for place, name in enumerate(series):
        found = [
            (i, row) for i, group in enumerate(groups) if (row := rows.get((*panel, group, name)))
        ]
        if not found:
            continue
        spots = [i + (place + 0.5) * width - BAR_GROUP / 2 for i, _ in found]
        heights = [float(row[column]) for _, row in found]
        bars = axis.bar(spots, heights, width, color=f"C{place}", label=name)
        if label is not None:
            axis.bar_label(bars, [label(row) for _, row in found], fontsize=7)


def name_groups(axis: Any, names: Sequence[str]) -> None:
    """Write the names below the groups of bars."""
    axis.set_xticks(range(len(names)), names, fontsize=8)


def save(figure: Any, path: Path) -> None:
    """Write a picture, in a folder that need not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
