"""The paper's Tab. 4 on generated scenes: what each part of SAC adds, as measured.

    python -m benchmarks ablation --seeds 3

Trains the preset `scenes` in five variants per seed, evaluates the eight rows of the table on
the test split (weights chosen on validation, exact protocol), prints the table and the paired
difference over seeds between sparse alignment and the class token, and writes one CSV row per
seed and row. Runs that are already in the folder are not trained again.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import tyro
from scipy import stats
from tabulate import tabulate

from benchmarks.runs import finish_run
from czsl_sac.evaluation import CZSLResult
from czsl_sac.files import write_atomically
from czsl_sac.training.presets import preset_for
from czsl_sac.training.trained import TrainedRun

METRICS = ("seen", "unseen", "hm", "auc")

# Row of the table: (variant that is trained, options of evaluation).
VARIANTS: dict[str, dict[str, Any]] = {
    "zero-shot": {},
    "baseline": {"alignment": "cls", "condense": False, "bank": "off"},
    "base": {"condense": False, "bank": "off"},
    "no-distillation": {"alpha": 0.0, "bank": "off"},
    "sac": {},
    "sac-cls": {"alignment": "cls"},
}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "zero-shot CLIP": ("zero-shot", {}),
    "Baseline (class token)": ("baseline", {}),
    "+ L_base (sparse alignment)": ("base", {}),
    "+ L_base^vac": ("no-distillation", {}),
    "+ L_kl": ("sac", {"bank": "off"}),
    "+ Memory Bank": ("sac", {"bank": "train"}),
    "+ Dynamically Update (SAC)": ("sac", {"bank": "dynamic"}),
    "SAC trained on the class token": ("sac-cls", {}),
}


@dataclass(frozen=True)
class Options:
    """Which runs, and where they go."""

    seeds: int = 3
    """Seeds 0, 1, ... of initialisation and order."""
    runs: Path = Path("runs/ablation")
    """Folder of the runs."""
    csv: Path = Path("docs/results/ablation_scenes.csv")
    """Measured rows, one a seed."""


def main(argv: list[str] | None = None) -> None:
    """Run the ablation.

    Args:
        argv: options; None takes them from the command line.
    """
    options = tyro.cli(Options, args=argv)
    frame = measure(options)
    write_atomically(options.csv, lambda path: frame.to_csv(path, index=False))
    print(f"\nGenerated scenes, {options.seeds} seeds, test split, exact protocol, in %:\n")
    print(table(frame))
    print(f"\n{paired_difference(frame)}")


def measure(options: Options) -> pd.DataFrame:
    """Train what is missing and evaluate every row for every seed.

    Args:
        options: of the command line.

    Returns:
        Columns row, seed and the metrics as fractions.
    """
    records = []
    for seed in range(options.seeds):
        for name, (variant, evaluation) in ROWS.items():
            run_dir = options.runs / f"{variant}-{seed}"
            result = _result(variant, seed, run_dir, evaluation)
            metrics = {metric: getattr(result, metric) for metric in METRICS}
            records.append({"row": name, "seed": seed, **metrics})
            print(f"seed {seed}, {name}: {result}", flush=True)
    return pd.DataFrame(records)


def table(frame: pd.DataFrame) -> str:
    """Return the table in Markdown: mean ± standard deviation over seeds, in percent.

    Args:
        frame: what `measure` returned.
    """
    grouped = frame.groupby("row", sort=False)[list(METRICS)]
    mean, deviation = 100 * grouped.mean(), 100 * grouped.std(ddof=1)
    cells = [
        [row, *(f"{mean.loc[row, m]:.1f} ± {deviation.loc[row, m]:.1f}" for m in METRICS)]
        for row in mean.index
    ]
    return tabulate(cells, headers=["", "S", "U", "HM", "AUC"], tablefmt="github")


def paired_difference(frame: pd.DataFrame) -> str:
    """Return the sentence on SAC against the same model trained on the class token.

    Args:
        frame: what `measure` returned.
    """
    by_row = frame.pivot(index="seed", columns="row", values="auc")
    ours, other = "+ Dynamically Update (SAC)", "SAC trained on the class token"
    differences = 100 * (by_row[ours] - by_row[other])
    mean, error = differences.mean(), stats.sem(differences)
    low, high = stats.t.interval(0.95, len(differences) - 1, loc=mean, scale=error)
    return (
        f"AUC of SAC minus AUC of SAC trained on the class token, paired over {len(differences)} "
        f"seeds: {mean:+.2f} points, 95 % t-interval [{low:+.2f}, {high:+.2f}]."
    )


def _result(variant: str, seed: int, run_dir: Path, evaluation: dict[str, Any]) -> CZSLResult:
    preset = preset_for("scenes", "zero-shot" if variant == "zero-shot" else "sac")
    finish_run(replace(preset, seed=seed).with_options(**VARIANTS[variant]), run_dir)
    return TrainedRun.load(run_dir, **evaluation).evaluate()
