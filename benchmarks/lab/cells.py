"""The cells of the map: one training each, and what is measured of it."""

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.lab.measures import Views, measure_tokens
from czsl_sac.data import Scenes
from czsl_sac.data.scenes.scenes import Context
from czsl_sac.run import TrainedRun
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.presets import preset_for
from czsl_sac.training.run import train
from czsl_sac.training.run_folder import RunFolder

SEEN = 96  # seen compositions of the scenes
BUDGETS: dict[int, tuple[int, int]] = {
    11_520: (24, 5),  # the preset's
    46_080: (96, 5),
    92_160: (96, 10),
    368_640: (96, 40),  # the paper's, nearly
}
"""Presentations of an image in training: images a composition, epochs."""

_PLAIN = {"condense": False, "bank": "off"}
WAYS: dict[str, dict[str, Any]] = {
    "class token": {"alignment": "cls", **_PLAIN},
    "patch max": {"alignment": "patch_max", **_PLAIN},
    "patches alone": {"alignment": "patch_max", "token_choice": "patches", **_PLAIN},
    "value features": {"alignment": "patch_max", "patch_features": "value", **_PLAIN},
    "SAC": {},
}
"""How images and texts are compared: options of a run. The first is what the others are paired
with."""


@dataclass(frozen=True)
class Cell:
    """One training of the map.

    Attributes:
        clip: name of the CLIP.
        context: where the small objects' shapes come from.
        clutter: of the scenes.
        budget: presentations of an image in training, a key of `BUDGETS`.
        way: how images and texts are compared, a key of `WAYS`.
        seed: of initialisation and order.
    """

    clip: str
    context: Context
    clutter: float
    budget: int
    way: str
    seed: int

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return "_".join(str(value).replace(" ", "-") for value in asdict(self).values())

    @property
    def key(self) -> tuple[str, ...]:
        """What names the cell's row in the CSV."""
        return tuple(str(value) for value in asdict(self).values())

    def configuration(self, weights: Path | None) -> TrainConfig:
        """Return the configuration of the training: the preset's, but for the cell's own.

        Args:
            weights: the CLIP's file; None: the built-in one.
        """
        images, epochs = BUDGETS[self.budget]
        preset = preset_for("scenes", "sac")
        # as many cuts of the learning rate as the preset has, whatever the epochs
        lr_step = math.ceil(epochs * preset.optim.lr_step / preset.optim.epochs)
        return preset.with_options(
            context=self.context,
            clutter=self.clutter,
            images_per_pair=images,
            keep_images=True,
            backbone=f"tiny:{weights}" if weights else "tiny",
            epochs=epochs,
            lr_step=lr_step,
            seed=self.seed,
            **WAYS[self.way],
        )


def grid(
    clips: tuple[str, ...],
    contexts: tuple[Context, ...],
    clutters: tuple[float, ...],
    budgets: tuple[int, ...],
    ways: tuple[str, ...],
    seeds: int,
) -> list[Cell]:
    """Return the cells, seed by seed, so that whatever is done is a whole map of fewer seeds.

    Args:
        clips: names of the CLIPs.
        contexts: where small objects come from.
        clutters: of the scenes.
        budgets: presentations.
        ways: keys of `WAYS`.
        seeds: 0, 1, ...
    """
    return [
        Cell(clip, context, clutter, budget, way, seed)
        for seed, budget, clip, context, clutter, way in product(
            range(seeds), budgets, clips, contexts, clutters, ways
        )
    ]


@lru_cache(maxsize=4)
def validation_views(context: Context, clutter: float) -> Views:
    """Return the validation images of a kind of scene, drawn once a process.

    Args:
        context: where small objects come from.
        clutter: of the scenes.
    """
    return Views.draw(Scenes(context=context, clutter=clutter, keep=True), "val")


def finish_cell(cell: Cell, weights: Path | None, runs: Path) -> dict[str, str]:
    """Train a cell unless that is done, and return its row.

    Args:
        cell: which.
        weights: the CLIP's file; None: the built-in one.
        runs: folder of the runs.

    Returns:
        The cell's axes, metrics on the test split (weights of the best epoch on validation), and
        what its tokens answer to on validation, as text.
    """
    folder = runs / cell.name
    config = cell.configuration(weights)
    summary = train(config, folder, resume=RunFolder(folder).holds_run)
    best = max(record["val"]["auc"] for record in summary.records)
    test = {name: getattr(summary.test, name) for name in ("seen", "unseen", "hm", "auc")}
    run = TrainedRun.load(folder)
    measured = measure_run(run, validation_views(cell.context, cell.clutter))
    numbers = {"val_auc": best, **{f"test_{name}": value for name, value in test.items()}}
    numbers |= measured
    return {
        **dict(zip(asdict(cell), cell.key, strict=True)),
        **{name: f"{value:.5f}" for name, value in numbers.items()},
        "seconds": f"{summary.seconds:.1f}",
    }


def measure_run(run: TrainedRun, views: Views) -> dict[str, float]:
    """Measure what the tokens of a trained run answer to.

    Args:
        run: of a method with one text a composition.
        views: the images.

    Returns:
        What `measure_tokens` returns, and `attention`, the share of the condenser's attention
        that goes to patches; NaN where there is no condenser.
    """
    device = run.session.device
    predictor = run.method.predictor(views.data.space)
    looked: list[Tensor] = []

    def encode(images: Tensor) -> Tensor:
        encoded = predictor.encode(images)
        attention = predictor.attention(encoded)
        if attention is not None:
            looked.append(attention[:, 1:].sum(1))
        columns = torch.zeros(len(images), dtype=torch.int64, device=device)
        return predictor.compared(encoded, columns)[0]

    text = predictor.gap_text
    if text is None:
        raise ValueError(f"{run.method} has no text of its own for a composition: take another.")
    measured = measure_tokens(encode, text, views)
    share = float(torch.cat(looked).mean()) if looked else float("nan")
    return measured | {"attention": share}
