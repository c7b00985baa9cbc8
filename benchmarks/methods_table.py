"""Every method with the class token and with sparse alignment, on generated scenes.

    python -m benchmarks methods_table

Same backbone, same images, same epochs for all; the rest is each method's own, as
`czsl-sac train --preset scenes --method NAME` has it. A run is trained in its folder, and
continued there if it was interrupted; its result is a row of the CSV, from which the table is
printed. What has a row already is not measured again, so that two calls with other `--methods`
can run side by side.

    python -m benchmarks methods_table --learning-rates 1e-3 2e-3 4e-3

compares learning rates instead, with seed 0 and by validation AUC alone: how the presets' were
chosen.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import tyro
from scipy import stats
from tabulate import tabulate

from benchmarks.measure import RESULTS, append_rows, environment
from benchmarks.runs import finish_run
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.presets import preset_for
from czsl_sac.training.run_folder import RunFolder

METRICS = {"S": "seen", "U": "unseen", "HM": "hm", "AUC": "auc"}
ALIGNMENTS: tuple[Literal["cls", "patch_max"], ...] = ("cls", "patch_max")

# Name in the table: (method, its options).
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "zero-shot CLIP": ("zero-shot", {}),
    "CoOp": ("coop", {}),
    "CSP": ("csp", {}),
    "DFSP (txt2img)": ("dfsp", {"fusion": "txt2img"}),
    "DFSP (img2txt)": ("dfsp", {"fusion": "img2txt"}),
    "Troika": ("troika", {}),
    "SAC": ("sac", {}),
}
KEY = ["method", "alignment", "seed", "epochs", "images_per_pair", "lr"]
"""Columns that name a run."""


@dataclass(frozen=True)
class Options:
    """Which runs, and where they go."""

    seeds: int = 3
    """Seeds 0, 1, ... of initialisation and order."""
    epochs: int = 3
    """Epochs of every run."""
    images_per_pair: int = 8
    """Training images of each seen composition."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Rows of the table."""
    learning_rates: tuple[float, ...] = ()
    """Compare these with seed 0 by validation AUC, instead of printing the table."""
    runs: Path = Path("runs/methods")
    """Folder of the runs."""
    csv: Path = RESULTS / "methods_table.csv"
    """Measured rows, one a run."""


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark.

    Args:
        argv: options; None takes them from the command line.

    Raises:
        ValueError: a method is unknown, or a folder holds a run of other settings.
    """
    options = tyro.cli(Options, args=argv)
    unknown = [name for name in options.methods if name not in METHODS]
    if unknown:
        raise ValueError(f"methods has {unknown[0]!r}: known are {', '.join(METHODS)}")
    if options.learning_rates:
        print(learning_rate_table(options))
        return
    frame = measure(options)
    print(
        f"\nGenerated scenes, {options.seeds} seeds, {options.epochs} epochs, "
        f"{options.images_per_pair} images a composition, test split, best validation epoch, "
        "exact protocol, in %: mean ± standard deviation.\n"
    )
    print(table(frame))


def configuration(
    options: Options,
    name: str,
    alignment: Literal["cls", "patch_max"],
    seed: int,
    lr: float | None = None,
) -> TrainConfig:
    """Return the configuration of one run.

    Args:
        options: of the command line.
        name: row of the table.
        alignment: of the method.
        seed: of initialisation and order.
        lr: learning rate; None takes the preset's.
    """
    method, own = METHODS[name]
    preset = preset_for("scenes", method).with_options(alignment=alignment, **own)
    return replace(
        preset,
        data=replace(preset.data, images_per_pair=options.images_per_pair),
        optim=replace(
            preset.optim, epochs=options.epochs, lr=preset.optim.lr if lr is None else lr
        ),
        seed=seed,
    )


def measure(options: Options) -> pd.DataFrame:
    """Train and score what has no row in the CSV yet, and return the rows of the table.

    Args:
        options: of the command line.

    Returns:
        The columns of the CSV; metrics are fractions of the test split.

    Raises:
        ValueError: a folder holds a run of other settings.
    """
    wanted = [
        (name, alignment, configuration(options, name, alignment, seed))
        for seed in range(options.seeds)
        for name in options.methods
        for alignment in ALIGNMENTS
        if seed == 0 or METHODS[name][0] != "zero-shot"  # without training there is no seed
    ]
    for name, alignment, config in wanted:
        if _key(name, config) in _measured(options.csv):
            continue
        run_dir = folder(options, name, config)
        result = finish_run(config, run_dir)
        print(f"{name}, {alignment}, seed {config.seed}: {result}", flush=True)
        row = dict(zip(KEY, _key(name, config), strict=True)) | {
            "train_backbone": config.backbone.train_backbone,
            **{field: getattr(result, field) for field in METRICS.values()},
            "attribute": result.attribute,
            "object": result.object,
            "val_auc": max((epoch["val"]["auc"] for epoch in _epochs(run_dir)), default=""),
        }
        append_rows(options.csv, [{**environment(), **row}])
    keys = [_key(name, config) for name, _, config in wanted]
    frame = pd.read_csv(options.csv)
    # Runs that were made side by side have their rows in any order.
    return frame.set_index(KEY, drop=False).loc[keys].reset_index(drop=True)


def learning_rate_table(options: Options) -> str:
    """Return the best validation AUC by learning rate, in Markdown; the test split is not used.

    Args:
        options: of the command line.
    """
    rows = []
    for name in options.methods:
        if METHODS[name][0] == "zero-shot":
            continue
        for alignment in ALIGNMENTS:
            cells = []
            for lr in options.learning_rates:
                config = configuration(options, name, alignment, 0, lr)
                run_dir = folder(options, name, config)
                finish_run(config, run_dir)
                best = max(epoch["val"]["auc"] for epoch in _epochs(run_dir))
                cells.append(f"{100 * best:.1f}")
            rows.append([name, alignment, *cells])
    headers = ["method", "alignment", *(f"{lr:g}" for lr in options.learning_rates)]
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def folder(options: Options, name: str, config: TrainConfig) -> Path:
    """Return the folder of a run.

    Args:
        options: of the command line.
        name: row of the table.
        config: of the run.
    """
    run = f"{name}-{config.method.alignment}-{config.optim.lr:g}-{config.seed}"
    return options.runs / run.replace(" ", "-")


def table(frame: pd.DataFrame) -> str:
    """Return the table in Markdown, with the paired difference in AUC of each method.

    Args:
        frame: what `measure` returned.
    """
    rows = []
    for name, runs in frame.groupby("method", sort=False):
        by_alignment = {a: runs[runs["alignment"] == a].set_index("seed") for a in ALIGNMENTS}
        for alignment, group in by_alignment.items():
            cells = [_mean(100 * group[field]) for field in METRICS.values()]
            rows.append([name, alignment, *cells, ""])
        rows[-1][-1] = _difference(*(by_alignment[a]["auc"] for a in ALIGNMENTS))
    headers = ["method", "alignment", *METRICS, "AUC, patch_max − cls [95 % t-interval]"]
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def _mean(values: "pd.Series[float]") -> str:
    if len(values) < 2:
        return f"{values.mean():.1f}"
    return f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"


def _difference(cls: "pd.Series[float]", patch_max: "pd.Series[float]") -> str:
    mean = 100 * (patch_max - cls).mean()
    if len(cls) < 2:
        return f"{mean:+.2f}"
    low, high = stats.ttest_rel(patch_max, cls).confidence_interval(0.95)
    return f"{mean:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"


def _key(name: str, config: TrainConfig) -> tuple[object, ...]:
    optim = config.optim
    return (
        *(name, config.method.alignment, config.seed),
        *(optim.epochs, config.data.images_per_pair, optim.lr),
    )


def _measured(path: Path) -> set[tuple[object, ...]]:
    if not path.is_file():
        return set()
    return set(pd.read_csv(path)[KEY].itertuples(index=False, name=None))


def _epochs(run_dir: Path) -> list[dict[str, Any]]:
    return RunFolder(run_dir).records()


if __name__ == "__main__":
    main()
