"""Pictures and tables of the laboratory's rows, for `docs/laboratory.md`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from tabulate import tabulate

from benchmarks.draw import save
from benchmarks.lab.cells import WAYS
from benchmarks.lab.clips import CSV as CLIPS_CSV
from benchmarks.lab.map import CSV as MAP_CSV

BASE, *OTHERS = WAYS
PLACE = ["clip", "context", "clutter", "budget"]
"""What names a place on the map: its ways are compared there."""


@dataclass(frozen=True)
class DrawOptions:
    """Draw the pictures and print the tables of the rows that are there."""

    clips: Path = CLIPS_CSV
    """Rows of the CLIPs."""
    map: Path = MAP_CSV
    """Rows of the map."""
    folder: Path = Path("docs/images")
    """Folder of the pictures."""


def run_draw(options: DrawOptions) -> None:
    """Draw what has rows.

    Args:
        options: of the command line.
    """
    import matplotlib

    matplotlib.use("Agg")
    if options.clips.is_file():
        rows = pd.read_csv(options.clips)
        print(clip_table(rows))
        save(draw_clips(rows), options.folder / "laboratory_clips.png")
    if options.map.is_file():
        rows = pd.read_csv(options.map)
        print(f"\n{map_table(rows)}\n\n{answer_table(rows)}")
        save(draw_map(rows), options.folder / "laboratory_map.png")
        save(draw_answers(rows), options.folder / "laboratory_pointing.png")


def differences(rows: pd.DataFrame, metric: str = "test_auc") -> pd.DataFrame:
    """Return how each way differs from the class token, paired over seeds.

    Args:
        rows: of the map.
        metric: column to compare.

    Returns:
        One row a place and way: `mean` of the differences, `low` and `high` of the 95 %
        t-interval, and `seeds`, how many pairs there are; NaN limits for a single pair.
    """
    by_way = rows.pivot_table(index=[*PLACE, "seed"], columns="way", values=metric)
    records = []
    for place, group in by_way.groupby(level=PLACE):
        for way in OTHERS:
            if way not in group or BASE not in group:
                continue
            paired = (group[way] - group[BASE]).dropna().to_numpy()
            if not len(paired):
                continue
            low = high = float("nan")
            if len(paired) > 1:
                error = paired.std(ddof=1) / np.sqrt(len(paired))
                reach = stats.t.ppf(0.975, len(paired) - 1) * error
                low, high = paired.mean() - reach, paired.mean() + reach
            found = dict(zip(PLACE, place, strict=True))
            records.append(
                {**found, "way": way, "mean": paired.mean(), "low": low, "high": high}
                | {"seeds": len(paired)}
            )
    return pd.DataFrame(records)


def clip_table(rows: pd.DataFrame) -> str:
    """Return the CLIPs' measures as Markdown, in percent; chance in brackets.

    Args:
        rows: of `laboratory clips`.
    """
    cells = []
    for (clutter, context), here in rows.groupby(["clutter", "context"], sort=True):
        value = here[here["features"] == "value"].set_index("policy")
        for policy, row in here[here["features"] == "last"].set_index("policy").iterrows():
            aucs = [row["auc_class_token"], row["auc_tokens"], row["auc_patches"]]
            of_values = value.loc[policy]
            pointed = [(row, "point"), (row, "small"), (of_values, "point"), (of_values, "small")]
            cells.append(
                [
                    f"`{policy}`",
                    f"{clutter:.2f}",
                    context,
                    *(f"{100 * auc:.1f}" for auc in aucs),
                    *(_beside_chance(source, name) for source, name in pointed),
                    f"{100 * row['wins']:.0f}",
                    f"{row['rmg_class_token']:.2f}",
                    f"{row['rmg_patches']:.2f}",
                ]
            )
    headers = ["policy", "clutter", "small objects", "AUC class token", "AUC all tokens"]
    headers += ["AUC patches", "pointing", "small ones", "pointing, value features"]
    headers += ["small ones, value features", "a patch wins", "RMG class token", "RMG patch"]
    return tabulate(cells, headers=headers, tablefmt="github", disable_numparse=True)


def _beside_chance(row: Any, name: str) -> str:
    if np.isnan(row[name]):
        return "–"
    return f"{100 * row[name]:.0f} ({100 * row[f'{name}_chance']:.0f})"


def map_table(rows: pd.DataFrame) -> str:
    """Return the map as Markdown: test AUC of the class token, and the paired differences.

    Each with its 95 % t-interval, in bold where that leaves out zero, and the number of seeds.

    Args:
        rows: of `laboratory map`.
    """
    found = differences(rows).set_index([*PLACE, "way"])
    base = rows[rows["way"] == BASE].groupby(PLACE)["test_auc"].mean()
    cells = []
    for place, auc in base.items():
        line = [*map_place(place), f"{100 * auc:.1f}"]
        for way in OTHERS:
            if (*place, way) not in found.index:
                line.append("–")
                continue
            gain = found.loc[(*place, way)]
            mean, low, high = (100 * gain[name] for name in ("mean", "low", "high"))
            text = f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
            text = f"**{text}**" if low > 0 or high < 0 else text
            line.append(f"{text} ({gain['seeds']:.0f})")
        cells.append(line)
    headers = ["CLIP", "small objects", "clutter", "presentations", BASE]
    return tabulate(cells, headers=[*headers, *OTHERS], tablefmt="github", disable_numparse=True)


def answer_table(rows: pd.DataFrame) -> str:
    """Return what tokens answer to after training, as Markdown, in percent: means over seeds.

    Args:
        rows: of `laboratory map`.
    """
    names = ["point", "point_chance", "wins", "attention", "auc_class_token", "auc_patches"]
    means = rows.groupby([*PLACE, "way"])[names].mean()
    cells = []
    for place in rows.groupby(PLACE).groups:
        for way in WAYS:
            if (*place, way) in means.index:
                row = 100 * means.loc[(*place, way)]
                shares = ["–" if np.isnan(row[name]) else f"{row[name]:.0f}" for name in names[:4]]
                aucs = [f"{row[name]:.1f}" for name in names[4:]]
                cells.append([*map_place(place), way, *shares, *aucs])
    headers = ["CLIP", "small objects", "clutter", "presentations", "trained with", "pointing"]
    headers += ["chance", "a patch wins", "condenser on patches", "AUC class token", "AUC patches"]
    return tabulate(cells, headers=headers, tablefmt="github", disable_numparse=True)


def map_place(place: tuple[Any, ...]) -> list[str]:
    """Return a place's names as they are printed.

    Args:
        place: values of `PLACE`.
    """
    clip, context, clutter, budget = place
    return [f"`{clip}`", str(context), f"{clutter:.2f}", f"{budget:,}"]


def draw_clips(rows: pd.DataFrame) -> Any:
    """Draw AUC by kind of token and pointing of each CLIP, at clutter 0.75.

    Args:
        rows: of `laboratory clips`.
    """
    import matplotlib.pyplot as plt

    rows = rows[(rows["clutter"] == 0.75) & (rows["context"] == "labels")]
    value = rows[rows["features"] == "value"]
    rows = rows[rows["features"] == "last"]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
    places = np.arange(len(rows))
    aucs = {"auc_class_token": "class token", "auc_tokens": "all tokens", "auc_patches": "patches"}
    pointing = {"point": "labelled object", "small": "small objects"}
    for axis, bars, title in (
        (axes[0], aucs, "zero-shot AUC in %"),
        (axes[1], pointing, "pointing accuracy in %"),
    ):
        height = 0.8 / len(bars)
        for number, (name, label) in enumerate(bars.items()):
            spots = places + (number + 0.5) * height - 0.4
            axis.barh(spots, 100 * rows[name], height, color=f"C{number}", label=label)
            if f"{name}_chance" in rows:
                last = number + 1 == len(bars)
                chance = 100 * rows[f"{name}_chance"]
                ends = spots - height / 2, spots + height / 2
                axis.vlines(chance, *ends, color="black", label="chance" if last else None)
                axis.plot(
                    *(100 * value[name], spots, "kx"),
                    label="of value features" if last else None,
                )
        axis.set_title(title, fontsize=10)
        axis.legend(fontsize=8)
        axis.set_xlim(0, 100)
    axes[0].set_yticks(places, rows["policy"], fontsize=8)
    axes[0].invert_yaxis()
    return figure


def draw_map(rows: pd.DataFrame) -> Any:
    """Draw the paired differences to the class token, a panel for a CLIP and its small objects.

    Args:
        rows: of `laboratory map`.
    """
    import matplotlib.pyplot as plt

    found = differences(rows)
    places = found[["clutter", "budget"]].drop_duplicates().sort_values(["budget", "clutter"])
    spots = {place: spot for spot, place in enumerate(places.itertuples(index=False, name=None))}
    lines, columns = sorted(found["clip"].unique()), sorted(found["context"].unique())
    figure, axes = plt.subplots(
        len(lines),
        len(columns),
        figsize=(4.8 * len(columns), 2.1 * len(lines)),
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    for line, clip in zip(axes, lines, strict=True):
        for axis, context in zip(line, columns, strict=True):
            _draw_places(
                axis, found[(found["context"] == context) & (found["clip"] == clip)], spots
            )
            axis.set_title(f"{clip}; small objects: {context}", fontsize=9)
        line[0].set_ylabel("test AUC minus\nthe class token's", fontsize=8)
    sure = found[found["seeds"] > 2]  # an interval of two seeds would flatten all others
    if len(sure):
        axes[0, 0].set_ylim(100 * sure["low"].min() - 1, 100 * sure["high"].max() + 1)
    names = [f"clutter {clutter}\n{budget:,} shown" for clutter, budget in spots]
    for axis in axes[-1]:
        axis.set_xticks(range(len(spots)), names, fontsize=7)
    handles = {
        label: handle
        for axis in axes.flat
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    ways = [way for way in OTHERS if way in handles]
    figure.legend(
        [handles[way] for way in ways],
        ways,
        fontsize=8,
        ncols=len(ways),
        loc="outside lower center",
    )
    return figure


def _draw_places(axis: Any, here: pd.DataFrame, spots: dict[Any, int]) -> None:
    """Draw the differences of one CLIP with one kind of small objects."""
    for number, way in enumerate(OTHERS):
        of_way = here[here["way"] == way]
        if of_way.empty:
            continue
        places = of_way[["clutter", "budget"]].itertuples(index=False, name=None)
        axis.errorbar(
            [spots[place] + 0.16 * (number - 1.5) for place in places],
            100 * of_way["mean"],
            100 * (of_way["high"] - of_way["mean"]).fillna(0.0),
            fmt="o",
            markersize=4,
            capsize=3,
            color=f"C{number}",
            label=way,
        )
    axis.axhline(0, color="black", linewidth=0.8)


def draw_answers(rows: pd.DataFrame) -> Any:
    """Draw each training's gain over the class token against where its patches point.

    Args:
        rows: of `laboratory map`.
    """
    import matplotlib.pyplot as plt

    keys = [*PLACE, "seed"]
    base = rows[rows["way"] == BASE].set_index(keys)["test_auc"]
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for number, way in enumerate(OTHERS):
        of_way = rows[rows["way"] == way].set_index(keys)
        gain = 100 * (of_way["test_auc"] - base).dropna()
        lift = (of_way["point"] / of_way["point_chance"]).loc[gain.index]
        axis.scatter(lift, gain, s=12, color=f"C{number}", label=way, alpha=0.7)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.axvline(1, color="black", linewidth=0.8, linestyle=":")
    axis.set_xlabel("pointing accuracy after training, in times chance (validation)")
    axis.set_ylabel("test AUC minus the class token's (points)")
    axis.legend(fontsize=8)
    return figure
