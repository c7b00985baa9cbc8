"""Every method with the class token and with sparse alignment, on generated scenes.

    python -m benchmarks methods_table

Same backbone, same images, same epochs for all; each method trains of the backbone what its paper
trains, at a learning rate chosen on the validation split for its class-token form. Prints the table
and writes one CSV row per run. Runs that are already in the folder are continued, not repeated.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import tyro
from scipy import stats
from tabulate import tabulate

from benchmarks.runs import finish_run
from czsl_sac.files import write_atomically
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.loop import METRICS as METRICS_FILE
from czsl_sac.training.presets import PRESETS
from czsl_sac.training.run import evaluate

METRICS = {"S": "seen", "U": "unseen", "HM": "hm", "AUC": "auc"}
ALIGNMENTS = ("cls", "patch_max")

# Name in the table: (what of the backbone learns, learning rate, options of the model).
METHODS: dict[str, tuple[str, float, dict[str, Any]]] = {
    "zero-shot CLIP": ("none", 1e-3, {"method": "zero-shot"}),
    "CoOp": ("none", 1e-3, {"method": "coop"}),
    "CSP": ("none", 1e-3, {"method": "csp"}),
    "DFSP (txt2img)": ("none", 1e-3, {"method": "dfsp", "fusion": "txt2img"}),
    "DFSP (img2txt)": ("none", 1e-3, {"method": "dfsp", "fusion": "img2txt"}),
    "Troika": ("adaptformer", 1e-3, {"method": "troika", "traction_layers": 1}),
    "SAC": ("lora", 1e-3, {"method": "sac"}),
}


@dataclass(frozen=True)
class Options:
    """Which runs, and where they go."""

    seeds: int = 3
    """Seeds 0, 1, ... of initialisation and order."""
    epochs: int = PRESETS["scenes"].optim.epochs
    """Epochs of every run."""
    images_per_pair: int = PRESETS["scenes"].data.images_per_pair
    """Training images of each seen composition."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Rows of the table."""
    runs: Path = Path("runs/methods")
    """Folder of the runs."""
    csv: Path = Path("docs/results/methods.csv")
    """Measured rows, one a run."""


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark.

    Args:
        argv: options; None takes them from the command line.
    """
    options = tyro.cli(Options, args=argv)
    frame = measure(options)
    write_atomically(options.csv, lambda path: frame.to_csv(path, index=False))
    print(
        f"\nGenerated scenes, {options.seeds} seeds, {options.epochs} epochs, "
        f"{options.images_per_pair} images a composition, test split, best validation epoch, "
        "exact protocol, in %: mean ± standard deviation.\n"
    )
    print(table(frame))


def configuration(options: Options, name: str, alignment: str, seed: int) -> TrainConfig:
    """Return the configuration of one run.

    Args:
        options: of the command line.
        name: row of the table.
        alignment: `"cls"` or `"patch_max"`.
        seed: of initialisation and order.
    """
    preset = PRESETS["scenes"]
    train_backbone, lr, model = METHODS[name]
    return replace(
        preset,
        data=replace(preset.data, images_per_pair=options.images_per_pair),
        backbone=replace(preset.backbone, train_backbone=train_backbone),
        model=replace(preset.model, alignment=alignment, **model),
        optim=replace(preset.optim, epochs=options.epochs, lr=lr),
        seed=seed,
    )


def measure(options: Options) -> pd.DataFrame:
    """Train what is missing and return one row per run; metrics are fractions of the test split.

    Args:
        options: of the command line.

    Raises:
        ValueError: a method is unknown, or a folder holds a run of other settings.
    """
    unknown = [name for name in options.methods if name not in METHODS]
    if unknown:
        raise ValueError(f"methods has {unknown[0]!r}: known are {', '.join(METHODS)}")
    records = []
    for seed in range(options.seeds):
        for name in options.methods:
            for alignment in ALIGNMENTS:
                config = configuration(options, name, alignment, seed)
                run_dir = options.runs / f"{name}-{alignment}-{seed}".replace(" ", "-")
                finish_run(config, run_dir)
                test, epochs = evaluate(run_dir), _epochs(run_dir)
                print(f"{name}, {alignment}, seed {seed}: {test}", flush=True)
                records.append(
                    {
                        "method": name,
                        "alignment": alignment,
                        "seed": seed,
                        **{field: getattr(test, field) for field in METRICS.values()},
                        "attribute": test.attribute,
                        "object": test.object,
                        "val_auc": max((r["val"]["auc"] for r in epochs), default=None),
                        "seconds": round(sum(r["seconds"] for r in epochs), 1),
                        "epochs": options.epochs,
                        "images_per_pair": options.images_per_pair,
                        "lr": config.optim.lr,
                        "train_backbone": config.backbone.train_backbone,
                    }
                )
    return pd.DataFrame(records)


def _epochs(run_dir: Path) -> list[dict[str, Any]]:
    path = run_dir / METRICS_FILE  # not there where nothing is trained
    return (
        [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        if path.is_file()
        else []
    )


def table(frame: pd.DataFrame) -> str:
    """Return the table in Markdown, with the paired difference in AUC of each method.

    Args:
        frame: what `measure` returned.
    """
    rows = []
    for name, runs in frame.groupby("method", sort=False):
        by_alignment = {a: runs[runs["alignment"] == a].set_index("seed") for a in ALIGNMENTS}
        for alignment, group in by_alignment.items():
            cells = [
                f"{100 * group[field].mean():.1f} ± {100 * group[field].std(ddof=1):.1f}"
                for field in METRICS.values()
            ]
            rows.append([name, alignment, *cells, ""])
        rows[-1][-1] = _difference(*(by_alignment[a]["auc"] for a in ALIGNMENTS))
    headers = ["method", "alignment", *METRICS, "AUC, patch_max − cls [95 % t-interval]"]
    return tabulate(rows, headers=headers, tablefmt="github")


def _difference(cls: "pd.Series[float]", patch_max: "pd.Series[float]") -> str:
    mean = 100 * (patch_max - cls).mean()
    if len(cls) < 2 or (patch_max - cls).std() == 0:  # zero-shot CLIP has no seed
        return f"{mean:+.2f}"
    low, high = stats.ttest_rel(patch_max, cls).confidence_interval(0.95)
    return f"{mean:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"


if __name__ == "__main__":
    main()
