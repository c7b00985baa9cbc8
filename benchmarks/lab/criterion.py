"""The criterion for the built-in CLIP, as `docs/laboratory.md` wrote it down, applied to rows."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmarks.lab.clips import CSV

TODAY = "today"
CLUTTERS = (0.5, 0.75)
TIMES_CHANCE = 2.0


@dataclass(frozen=True)
class ChooseOptions:
    """Apply the criterion for the built-in CLIP to the measured candidates."""

    csv: Path = CSV
    """Rows of `laboratory clips`."""
    folder: Path | None = None
    """Print the file of the chosen weights in this folder, and nothing else; for scripts."""


def verdicts(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what the criterion says of each candidate.

    Args:
        rows: of `laboratory clips`.

    Returns:
        One row a policy: `class_token` and `points`, whether it passes the two conditions, and
        `auc_patches` at clutter 0.75, by which one of those that pass both is chosen.
    """
    rows = rows[(rows["context"] == "labels") & (rows["features"] == "last")]
    at = {clutter: rows[rows["clutter"] == clutter].set_index("policy") for clutter in CLUTTERS}
    busy = at[0.75]
    class_token = pd.concat(
        [frame["auc_class_token"] >= frame.loc[TODAY, "auc_class_token"] for frame in at.values()],
        axis=1,
    ).all(axis=1)
    points = pd.concat(
        [busy[name] >= TIMES_CHANCE * busy[f"{name}_chance"] for name in ("point", "small")],
        axis=1,
    ).all(axis=1)
    return pd.DataFrame(
        {"class_token": class_token, "points": points, "auc_patches": busy["auc_patches"]}
    )


def chosen_policy(rows: pd.DataFrame) -> str:
    """Return the candidate that the criterion chooses, or "today".

    Args:
        rows: of `laboratory clips`, each policy measured once.
    """
    found = verdicts(rows)
    passed = found[found["class_token"] & found["points"]].drop(TODAY, errors="ignore")
    return TODAY if passed.empty else str(passed["auc_patches"].idxmax())


def run_choose(options: ChooseOptions) -> None:
    """Print the verdicts and the choice.

    Args:
        options: of the command line.
    """
    rows = pd.read_csv(options.csv)
    chosen = chosen_policy(rows)
    if options.folder is not None:
        seed = rows.loc[rows["policy"] == chosen, "seed"].iloc[0]
        print(options.folder / f"{chosen}-{seed}.safetensors")
        return
    print(verdicts(rows).to_markdown())
    print(f"\nchosen: {chosen}")
