"""CLIP as images to tokens and prompts to text features; what is trained inside it."""

import os
from typing import get_args

import torch
from torch import nn

from czsl_sac.checks import check_choice
from czsl_sac.clip.adapters.adaptformer import apply_adaptformer
from czsl_sac.clip.adapters.files import load_adapter, save_adapter
from czsl_sac.clip.adapters.lora import apply_lora, merged_state_dict
from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.clip.config import CLIPConfig
from czsl_sac.clip.precision import store_frozen
from czsl_sac.clip.prefix_tree import FixedPrompts
from czsl_sac.clip.prompts import SoftPrompts, clean_name
from czsl_sac.clip.sources.open_clip import from_open_clip, load_open_clip
from czsl_sac.clip.sources.transformers import from_transformers, load_transformers
from czsl_sac.clip.text_tower import TextTower, Tokenizer
from czsl_sac.clip.transformer import Activation
from czsl_sac.clip.vision import PatchFeatures, VisionTower

__all__ = [
    "CLIPBackbone",
    "CLIPConfig",
    "FixedPrompts",
    "SoftPrompts",
    "TextTower",
    "Tokenizer",
    "VisionTower",
    "apply_adaptformer",
    "apply_lora",
    "clean_name",
    "from_open_clip",
    "from_transformers",
    "load_adapter",
    "load_backbone",
    "merged_state_dict",
    "save_adapter",
    "store_frozen",
]


def load_backbone(
    source: str | os.PathLike[str] | nn.Module,
    *,
    device: str | torch.device | None = None,
    activation: Activation | None = None,
    patch_features: PatchFeatures = "last",
    patch_drop: float = 0.0,
    patch_drop_eval: bool = False,
) -> CLIPBackbone:
    """Load a CLIP, in float32 and evaluation mode.

    Args:
        source: "tiny" or "tiny-patches", the small CLIPs that come with the package, the second
            one's patches answering to text, or "tiny:FILE", one of their
            size that `python -m benchmarks pretrain_tiny_clip` made; the name of one of OpenAI's
            vision transformers such as "ViT-L/14"; the path of a .pt file of theirs, or of a
            fine-tuning of it; a model of the package `clip`; "open_clip:MODEL/PRETRAINED" or
            "transformers:NAME". Models of open_clip and transformers go to `from_open_clip` and
            `from_transformers`.
        device: where to put it; None leaves it on the CPU.
        activation: what the weights at a path were trained with, `"quick_gelu"` (OpenAI's) or
            `"gelu"` (most of open_clip's); None takes what the source says, and warns where it
            says nothing.
        patch_features: what patches are, see `VisionTower`.
        patch_drop: share of patches left out at the input, see `VisionTower`.
        patch_drop_eval: whether in evaluation mode too.

    Returns:
        The backbone.

    Raises:
        ValueError: the name is unknown, or the weights are damaged or not of a CLIP with a vision
            transformer.
        FileNotFoundError: there is no such file.
        ConnectionError: a download fails.

    Warns:
        UserWarning: nothing says which activation the weights were trained with.
    """
    if activation is not None:
        check_choice("activation", activation, get_args(Activation))
    # Imported here: the one reads weights from disk, the other needs the package clip.
    library, _, name = source.partition(":") if isinstance(source, str) else ("", "", "")
    if library in ("tiny", "tiny-patches"):
        from czsl_sac.clip.sources.tiny import BUILT_IN, tiny_clip

        backbone = tiny_clip(name or BUILT_IN[library], name=library)
    elif library == "open_clip":
        backbone = load_open_clip(name, activation=activation)
    elif library == "transformers":
        backbone = load_transformers(name)
    else:
        from czsl_sac.clip.sources.openai import load_openai

        backbone = load_openai(source, activation=activation)
    if activation not in (None, backbone.config.activation):
        raise ValueError(
            f"activation is {activation!r} but must be {backbone.config.activation!r}, which "
            f"{backbone.name} was trained with: leave it out."
        )
    visual = backbone.visual
    visual.patch_features, visual.patch_drop = patch_features, patch_drop
    visual.patch_drop_eval = patch_drop_eval
    return backbone if device is None else backbone.to(device)
