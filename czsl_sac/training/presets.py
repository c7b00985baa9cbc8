"""Presets: the data sets with their backbone and optimisation, and the settings of each method.

UT-Zappos, MIT-States and C-GQA carry the settings of the paper's supplement (Sec. A); weight
decay and StepLR, which the paper leaves open, are Troika's. What a method sets on top of them
stands with the method, in the `settings` of its options.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

from czsl_sac.checks import check_choice
from czsl_sac.methods.registry import method_options
from czsl_sac.training.config import BackboneConfig, DataConfig, OptimConfig, TrainConfig

PresetName: TypeAlias = Literal["scenes", "ut-zappos", "mit-states", "cgqa", "fruit-ripeness"]
"""Names of the presets, which are also the names of their data sets."""


@dataclass(frozen=True)
class DataSetPreset:
    """What a data set is trained with, whatever the method."""

    data: DataConfig
    backbone: BackboneConfig
    optim: OptimConfig


_VIT_L = BackboneConfig(backbone="ViT-L/14")

DATA_SETS: Mapping[str, DataSetPreset] = MappingProxyType(
    {
        # Chosen on validation (docs/scenes.md).
        "scenes": DataSetPreset(
            DataConfig(dataset="scenes"),
            BackboneConfig(backbone="tiny", lora_rank=16, lora_alpha=32.0),
            OptimConfig(epochs=5, batch_size=64, lr=2e-3, lr_step=2, eval_batch_size=256),
        ),
        "ut-zappos": DataSetPreset(
            DataConfig(dataset="ut-zappos", augment=True),
            _VIT_L,
            OptimConfig(epochs=15, batch_size=64, lr=2e-4),
        ),
        "mit-states": DataSetPreset(
            DataConfig(dataset="mit-states", augment=True),
            _VIT_L,
            OptimConfig(epochs=10, batch_size=64, lr=5e-5),
        ),
        "cgqa": DataSetPreset(
            DataConfig(dataset="cgqa", augment=True),
            _VIT_L,
            OptimConfig(epochs=15, batch_size=16, lr=5e-4, eval_batch_size=32),
        ),
        # A small set of photographs, foreign to the tiny CLIP, so that every weight learns.
        "fruit-ripeness": DataSetPreset(
            DataConfig(dataset="fruit-ripeness", augment=True),
            BackboneConfig(backbone="tiny", train_backbone="full"),
            OptimConfig(epochs=15, batch_size=32, lr=5e-4, eval_batch_size=128),
        ),
    }
)
"""The data sets with a preset, by name."""


def preset_for(name: str, method: str = "sac") -> TrainConfig:
    """Return the settings of a method for a data set.

    A method comes as published, with what it trains of the backbone and its own optimisation;
    methods other than SAC with the class token (`alignment="cls"`). Where it has no settings of
    its own, the data set's stay.

    Args:
        name: of the data set.
        method: its name, or `MODULE:CLASS`.

    Raises:
        ValueError: there is no such preset or method.

    Examples:
        >>> config = preset_for("mit-states", "troika")
        >>> config.backbone.train_backbone, config.method.traction_layers, config.optim.lr
        ('adaptformer', 3, 0.0001)
    """
    check_choice("preset", name, DATA_SETS)
    preset, options = DATA_SETS[name], method_options(method)
    config = TrainConfig(preset.data, preset.backbone, options(), preset.optim)
    return config.with_options(**options.settings.get(name, {}))
