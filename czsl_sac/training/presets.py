"""Named configurations: the paper's three data sets, and the two that run on a laptop.

UT-Zappos, MIT-States and C-GQA carry the settings of the paper's supplement (Sec. A); weight
decay, prompt dropout and StepLR, which the paper leaves open, are Troika's.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

from czsl_sac.training.config import (
    BackboneConfig,
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)

__all__ = [
    "PRESETS",
    "BackboneConfig",
    "DataConfig",
    "ModelConfig",
    "OptimConfig",
    "PresetName",
    "TrainConfig",
]

PresetName: TypeAlias = Literal["scenes", "ut-zappos", "mit-states", "cgqa", "fruit-ripeness"]
"""Names of the presets, which are also the names of their data sets."""

_VIT_L = BackboneConfig(backbone="ViT-L/14")

PRESETS: Mapping[str, TrainConfig] = MappingProxyType(
    {
        # Chosen on validation (docs/scenes.md).
        "scenes": TrainConfig(
            data=DataConfig(dataset="scenes"),
            backbone=BackboneConfig(backbone="tiny", lora_rank=16, lora_alpha=32.0),
            model=ModelConfig(num_blocks=1, alpha=0.5, beta=0.7, gamma=0.1, capacity=16),
            optim=OptimConfig(epochs=5, batch_size=64, lr=2e-3, lr_step=2, eval_batch_size=256),
        ),
        "ut-zappos": TrainConfig(
            data=DataConfig(dataset="ut-zappos", augment=True, num_workers=4),
            backbone=_VIT_L,
            model=ModelConfig(num_blocks=3, alpha=0.5, beta=0.3, gamma=0.5, capacity=16),
            optim=OptimConfig(epochs=15, batch_size=64, lr=2e-4),
        ),
        "mit-states": TrainConfig(
            data=DataConfig(dataset="mit-states", augment=True, num_workers=4),
            backbone=_VIT_L,
            model=ModelConfig(num_blocks=3, alpha=0.9, beta=0.7, gamma=0.4, capacity=24),
            optim=OptimConfig(epochs=10, batch_size=64, lr=5e-5),
        ),
        "cgqa": TrainConfig(
            data=DataConfig(dataset="cgqa", augment=True, num_workers=4),
            backbone=_VIT_L,
            model=ModelConfig(
                num_blocks=1, alpha=0.5, beta=0.7, gamma=0.1, capacity=16, prompt_dropout=0.0
            ),
            optim=OptimConfig(epochs=15, batch_size=16, lr=5e-4, eval_batch_size=32),
        ),
        # A small set of photographs, foreign to the tiny CLIP, so that every weight learns.
        "fruit-ripeness": TrainConfig(
            data=DataConfig(dataset="fruit-ripeness", augment=True),
            backbone=BackboneConfig(backbone="tiny", train_backbone="full"),
            model=ModelConfig(num_blocks=1, beta=0.5, gamma=0.1, prompt_dropout=0.1),
            optim=OptimConfig(epochs=15, batch_size=32, lr=5e-4, eval_batch_size=128),
        ),
    }
)
"""Configurations by name; `czsl-sac train --preset NAME` starts from one of them."""
