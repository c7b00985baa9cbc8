"""Named configurations: the paper's three data sets, and the two that run on a laptop.

UT-Zappos, MIT-States and C-GQA carry the settings of the paper's supplement (Sec. A); weight
decay, prompt dropout and StepLR, which the paper leaves open, are Troika's. The other methods
come with the settings that they were published with, listed in `SETTINGS`.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from czsl_sac.training.config import (
    BackboneConfig,
    DataConfig,
    MethodName,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)

__all__ = [
    "PRESETS",
    "SETTINGS",
    "BackboneConfig",
    "DataConfig",
    "MethodName",
    "ModelConfig",
    "OptimConfig",
    "PresetName",
    "TrainConfig",
    "preset_for",
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
"""SAC's configurations by name; `czsl-sac train --preset NAME` starts from one of them."""

Settings: TypeAlias = dict[str, Any]
"""Options by name, whatever their group, as on the command line."""

# One learning rate for all of training (no StepLR).
_CSP: Settings = {"train_backbone": "none", "epochs": 20, "batch_size": 128, "lr_step": 20}
_DFSP: Settings = {"train_backbone": "none", "epochs": 20, "batch_size": 256, "lr_step": 3}
_TROIKA: Settings = {"train_backbone": "adaptformer"}

SETTINGS: Mapping[MethodName, Mapping[PresetName, Settings]] = MappingProxyType(
    {
        "zero-shot": {
            name: {"train_backbone": "none"}
            for name in ("scenes", "ut-zappos", "mit-states", "cgqa")
        },
        "csp": {
            "scenes": {"train_backbone": "none", "lr": 1e-3},
            "ut-zappos": {**_CSP, "lr": 5e-4, "prompt_dropout": 0.2},
            "mit-states": {**_CSP, "lr": 5e-5, "prompt_dropout": 0.3},
            "cgqa": {**_CSP, "lr": 5e-5, "prompt_dropout": 0.3},
        },
        "coop": {
            "scenes": {"train_backbone": "none", "lr": 4e-3},
            "ut-zappos": {**_CSP, "lr": 5e-4},
            "mit-states": {**_CSP, "lr": 5e-5},
            "cgqa": {**_CSP, "lr": 5e-5},
        },
        "dfsp": {
            "scenes": {"train_backbone": "none", "lr": 2e-3},
            "ut-zappos": {**_DFSP, "lr": 5e-4, "prompt_dropout": 0.3, "fusion": "img2txt"},
            "mit-states": {**_DFSP, "lr": 1e-4, "prompt_dropout": 0.3},
            "cgqa": {**_DFSP, "lr": 5e-5, "prompt_dropout": 0.3},
        },
        "troika": {
            "scenes": {
                **_TROIKA,
                "lr": 4e-3,
                "prompt_dropout": 0.1,
                "traction_layers": 1,
                "traction_dropout": 0.0,
            },
            "ut-zappos": {
                **_TROIKA,
                "lr": 5e-4,
                "batch_size": 128,
                "traction_layers": 2,
                "traction_dropout": 0.0,
            },
            "mit-states": {
                **_TROIKA,
                "lr": 1e-4,
                "eval_batch_size": 32,
                "traction_layers": 3,
                "traction_dropout": 0.1,
            },
            "cgqa": {
                **_TROIKA,
                "lr": 3.125e-6,
                "eval_batch_size": 4,
                "traction_layers": 2,
                "traction_dropout": 0.0,
                "primitive_loss_weight": 0.1,
            },
        },
    }
)
"""What the methods other than SAC set on top of a preset: as published for ViT-L/14, and on the
scenes as chosen on validation (docs/methods.md). CoOp has CSP's; CSP's for C-GQA are those for
MIT-States."""


def preset_for(name: PresetName, method: MethodName = "sac") -> TrainConfig:
    """Return the settings of a method for a data set.

    A method other than SAC comes as published: with the class token (`alignment="cls"`), what it
    trains of the backbone, and its own optimisation. Where it has no settings of its own, as for
    fruit ripeness, SAC's stay.

    Args:
        name: of the data set.
        method: whose settings.

    Examples:
        >>> config = preset_for("mit-states", "troika")
        >>> config.backbone.train_backbone, config.model.traction_layers, config.optim.lr
        ('adaptformer', 3, 0.0001)
    """
    config = PRESETS[name]
    if method == "sac":
        return config
    options = {"method": method, "alignment": "cls", **SETTINGS.get(method, {}).get(name, {})}
    groups = {}
    for group in ("data", "backbone", "model", "optim"):
        current = getattr(config, group)
        own = {field.name for field in fields(current)}
        groups[group] = replace(current, **{k: v for k, v in options.items() if k in own})
    return replace(config, **groups)
