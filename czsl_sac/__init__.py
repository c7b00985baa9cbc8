"""Compositional zero-shot learning with CLIP: sparse alignment, its blocks, one evaluator.

Every public name is here and is loaded when first used: importing the package imports nothing
else, and the four blocks need torch alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from czsl_sac._version import __version__

if TYPE_CHECKING:
    from czsl_sac.blocks import (
        ClassTokenAligner,
        EntropyMemoryBank,
        PatchMaxAligner,
        VisualCondenser,
    )
    from czsl_sac.clip import (
        CLIPBackbone,
        SoftPrompts,
        TextTower,
        apply_adaptformer,
        apply_lora,
        from_open_clip,
        from_transformers,
        load_adapter,
        load_backbone,
        merged_state_dict,
        save_adapter,
        store_frozen,
    )
    from czsl_sac.data import Scenes
    from czsl_sac.evaluation import (
        CZSLEvaluator,
        CZSLResult,
        modality_gap_l2,
        relative_modality_gap,
    )
    from czsl_sac.functional import PathProbabilities, fuse_predictions
    from czsl_sac.kernels import patch_max
    from czsl_sac.methods.base import CZSLMethod
    from czsl_sac.methods.coop.method import CoOp
    from czsl_sac.methods.csp.method import CSP
    from czsl_sac.methods.dfsp.method import DFSP
    from czsl_sac.methods.options import MethodOptions
    from czsl_sac.methods.sac.method import SAC
    from czsl_sac.methods.troika.method import Troika
    from czsl_sac.methods.zero_shot.method import ZeroShotCLIP
    from czsl_sac.run import Run, load_run, train
    from czsl_sac.space import CompositionSpace
    from czsl_sac.training.config import TrainConfig
    from czsl_sac.training.presets import preset_for

__all__ = [
    "CSP",
    "DFSP",
    "SAC",
    "CLIPBackbone",
    "CZSLEvaluator",
    "CZSLMethod",
    "CZSLResult",
    "ClassTokenAligner",
    "CoOp",
    "CompositionSpace",
    "EntropyMemoryBank",
    "MethodOptions",
    "PatchMaxAligner",
    "PathProbabilities",
    "Run",
    "Scenes",
    "SoftPrompts",
    "TextTower",
    "TrainConfig",
    "Troika",
    "VisualCondenser",
    "ZeroShotCLIP",
    "__version__",
    "apply_adaptformer",
    "apply_lora",
    "from_open_clip",
    "from_transformers",
    "fuse_predictions",
    "load_adapter",
    "load_backbone",
    "load_run",
    "merged_state_dict",
    "modality_gap_l2",
    "patch_max",
    "preset_for",
    "relative_modality_gap",
    "save_adapter",
    "store_frozen",
    "train",
]

# Module of every name above; a test holds this table and the imports for type checkers equal.
_MODULES = {
    "clip": (
        "CLIPBackbone",
        "SoftPrompts",
        "TextTower",
        "apply_adaptformer",
        "apply_lora",
        "from_open_clip",
        "from_transformers",
        "load_adapter",
        "load_backbone",
        "merged_state_dict",
        "save_adapter",
        "store_frozen",
    ),
    "data": ("Scenes",),
    "evaluation": ("CZSLEvaluator", "CZSLResult", "modality_gap_l2", "relative_modality_gap"),
    "functional": ("PathProbabilities", "fuse_predictions"),
    "kernels": ("patch_max",),
    "methods.base": ("CZSLMethod",),
    "methods.coop.method": ("CoOp",),
    "methods.csp.method": ("CSP",),
    "methods.dfsp.method": ("DFSP",),
    "methods.options": ("MethodOptions",),
    "methods.sac.method": ("SAC",),
    "methods.troika.method": ("Troika",),
    "methods.zero_shot.method": ("ZeroShotCLIP",),
    "run": ("Run", "load_run", "train"),
    "blocks": ("ClassTokenAligner", "EntropyMemoryBank", "PatchMaxAligner", "VisualCondenser"),
    "space": ("CompositionSpace",),
    "training.config": ("TrainConfig",),
    "training.presets": ("preset_for",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    """Load a public name from its module (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
