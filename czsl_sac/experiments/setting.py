"""On what a study is measured, and which run each of its rows needs."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from czsl_sac.experiments.plan import Row
from czsl_sac.methods.registry import reference
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.presets import preset_for
from czsl_sac.training.record import differences

QUICK_IMAGES = 1
"""Images of each composition in each split that a quick run uses."""


@dataclass(frozen=True)
class Setting:
    """On what all rows of a study are measured.

    Attributes:
        dataset: name of the preset.
        seeds: how many, from 0.
        out: folder of runs and results.
        data_root: folder of the data set; None for scenes.
        quick: one epoch on few images: shows that everything runs, and measures nothing.
        options: of data, backbone and optimisation that differ from every preset.
    """

    dataset: str
    seeds: int
    out: Path
    data_root: Path | None = None
    quick: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def quick_data(self) -> Path | None:
        """Where the few images of a quick run are listed; None if all are used, or drawn."""
        if not self.quick or self.data_root is None:
            return None
        return self.out / "quick-data" / self.dataset

    def page(self, study: str) -> Path:
        """Return what the files of a study are called, without their ending."""
        quick = "-quick" if self.quick else ""
        return self.out / f"{study}-{self.dataset}{quick}"


def configuration(row: Row, setting: Setting, seed: int) -> TrainConfig:
    """Return what a row trains."""
    config = preset_for(setting.dataset, row.method)
    root = setting.quick_data or setting.data_root
    if root is not None:
        config = replace(config, data=replace(config.data, data_root=root.resolve()))
    if setting.options.get("backbone", config.backbone.backbone) != config.backbone.backbone:
        # The layers that a preset names are those of its own CLIP.
        config = config.with_options(
            **{
                option.name: None
                for group in (config.backbone, config.method)
                for option in fields(group)
                if option.name.endswith("_layers") and option.default is None
            }
        )
    if setting.quick:
        config = config.with_options(epochs=1, num_workers=0)
        if setting.dataset == "scenes":
            config = config.with_options(
                images_per_pair=QUICK_IMAGES, eval_images_per_pair=QUICK_IMAGES
            )
    return config.with_options(**{**setting.options, **row.training}, seed=seed)


def run_dir(config: TrainConfig, setting: Setting) -> Path:
    """Return the folder of a run: the same for the same figures, whatever asks for them.

    Where the data set lies, and how its images are read, makes no other run.
    """
    runs = "quick-runs" if setting.quick else "runs"
    name = f"{setting.dataset}-{config.method.name}-{config.seed}-{digest(config)}"
    return setting.out / runs / name


def digest(config: TrainConfig) -> str:
    """Return ten letters that are the same for configurations of the same figures.

    Examples:
        >>> config = preset_for("scenes")
        >>> digest(config) == digest(config.with_options(num_workers=2))
        True
        >>> digest(config) == digest(config.with_options(lr=1.0))
        False
    """
    text = json.dumps(elsewhere(config).to_dict(), sort_keys=True)
    return sha256(text.encode()).hexdigest()[:10]


def elsewhere(config: TrainConfig) -> TrainConfig:
    """Return a configuration without what changes from place to place, and no figure."""
    data = replace(config.data, data_root=None, num_workers=0, feature_cache=None)
    backbone = replace(config.backbone, checkpoint_vision=False)
    optim = replace(config.optim, compile=False)
    return replace(config, data=data, backbone=backbone, optim=optim)


def command(config: TrainConfig, setting: Setting) -> str:
    """Return the command that trains a run.

    Examples:
        >>> setting = Setting("scenes", 1, Path("out"))
        >>> print(command(preset_for("scenes").with_options(beta=0.5, seed=2), setting))
        czsl-sac train --preset scenes --method sac --run-dir ... --beta 0.5 --seed 2
    """
    return train_command(config, setting.dataset, run_dir(config, setting))


def train_command(config: TrainConfig, name: str, folder: Path) -> str:
    """Return the command that trains a configuration."""
    method = reference(config.method)
    preset = preset_for(name, method)
    words = ["czsl-sac", "train", "--preset", name, "--method", method, "--run-dir", str(folder)]
    for option, (_, value) in differences(preset, config).items():
        flag = option.rpartition(".")[2].replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)
