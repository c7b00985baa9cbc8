"""Learning rates of the methods on the generated scenes, compared on validation.

    python -m benchmarks learning_rates
    python -m benchmarks learning_rates --methods caila hpl --rates 5e-4

Seed 0, the class token, and the budget of the table of all methods (docs/methods.md): 3 epochs of 8
images a composition; the rest is each method's own. A run is trained in its folder, and continued
there if it was interrupted; its best validation AUC is a row of the CSV, from which the table is
printed. What has a row already is not measured again. The test split decides nothing: its figures
are not in the rows.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import tyro
from tabulate import tabulate

from benchmarks.measure import RESULTS, append_rows, environment
from benchmarks.runs import finish_run
from czsl_sac.methods.registry import method_class, method_names, method_options
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.presets import preset_for
from czsl_sac.training.run_folder import RunFolder

KEY = ["method", "alignment", "lr", "epochs", "images_per_pair"]
"""Columns that name a run."""


@dataclass(frozen=True)
class Options:
    """Which runs, and where they go."""

    methods: tuple[str, ...] = ()
    """Methods to compare the rates of; none named: all that are trained."""
    rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3)
    """Learning rates."""
    alignment: Literal["cls", "patch_max"] = "cls"
    """Alignment of each method."""
    epochs: int = 3
    """Epochs of every run."""
    images_per_pair: int = 8
    """Training images of each seen composition."""
    runs: Path = Path("runs/learning-rates")
    """Folder of the runs."""
    csv: Path = RESULTS / "learning_rates.csv"
    """Measured rows, one a run."""


def main(argv: list[str] | None = None) -> None:
    """Train and score what has no row yet, and print all rows of this budget as a table.

    Args:
        argv: options; None takes them from the command line.

    Raises:
        ValueError: a method is unknown, or a folder holds a run of other settings.
    """
    options = tyro.cli(Options, args=argv)
    for name in options.methods or trained_methods():
        for rate in options.rates:
            measure(name, rate, options)
    print(table(pd.read_csv(options.csv), options))


def trained_methods() -> list[str]:
    """Return the names of the methods that are trained."""
    return [name for name in method_names() if method_class(method_options(name)()).stages]


def configuration(name: str, rate: float, options: Options) -> TrainConfig:
    """Return what is trained.

    Args:
        name: of the method.
        rate: learning rate.
        options: of the command line.
    """
    return preset_for("scenes", name).with_options(
        alignment=options.alignment,
        lr=rate,
        epochs=options.epochs,
        images_per_pair=options.images_per_pair,
        precision="no",
        seed=0,
    )


def measure(name: str, rate: float, options: Options) -> None:
    """Train a method with a rate and append its row, unless it has one.

    Args:
        name: of the method.
        rate: learning rate.
        options: of the command line.

    Raises:
        ValueError: the method is unknown, or the folder holds a run of other settings.
    """
    config = configuration(name, rate, options)
    key = (name, options.alignment, rate, options.epochs, options.images_per_pair)
    if options.csv.is_file() and key in set(_keys(pd.read_csv(options.csv))):
        return
    run_dir = options.runs / "-".join(map(str, key))
    finish_run(config, run_dir)
    validation = [epoch["val"]["auc"] for epoch in RunFolder(run_dir).records()]
    best = max(validation)
    print(f"{name}, {options.alignment}, {rate:g}: {100 * best:.2f}", flush=True)
    values = {"val_auc": best, "best_epoch": validation.index(best) + 1}
    append_rows(options.csv, [environment() | dict(zip(KEY, key, strict=True)) | values])


def table(rows: pd.DataFrame, options: Options) -> str:
    """Return the best validation AUC of each method and rate, in Markdown and percent.

    Args:
        rows: of the CSV.
        options: of the command line: its alignment and budget are shown.
    """
    own = rows[
        (rows["alignment"] == options.alignment)
        & (rows["epochs"] == options.epochs)
        & (rows["images_per_pair"] == options.images_per_pair)
    ]
    by_rate = (100 * own.pivot(index="method", columns="lr", values="val_auc")).round(1)
    cells = [
        [name, *("" if pd.isna(value) else f"{value:.1f}" for value in values)]
        for name, values in zip(by_rate.index, by_rate.to_numpy(), strict=True)
    ]
    headers = ["method", *(f"{rate:g}" for rate in by_rate.columns)]
    return tabulate(cells, headers=headers, tablefmt="github", disable_numparse=True)


def _keys(rows: pd.DataFrame) -> list[tuple[object, ...]]:
    return list(rows[KEY].itertuples(index=False, name=None))


if __name__ == "__main__":
    main()
