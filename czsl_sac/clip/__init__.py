"""CLIP as images to tokens and prompts to text features; what is trained inside it."""

import os

import torch
from torch import nn

from czsl_sac.clip.adapters.adaptformer import apply_adaptformer
from czsl_sac.clip.adapters.files import load_adapter, save_adapter
from czsl_sac.clip.adapters.lora import apply_lora, merged_state_dict
from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.clip.config import CLIPConfig
from czsl_sac.clip.precision import store_frozen
from czsl_sac.clip.prompts import SoftPrompts, clean_name
from czsl_sac.clip.sources.open_clip import from_open_clip, load_open_clip
from czsl_sac.clip.sources.transformers import from_transformers, load_transformers
from czsl_sac.clip.text_tower import TextTower, Tokenizer

__all__ = [
    "CLIPBackbone",
    "CLIPConfig",
    "SoftPrompts",
    "TextTower",
    "Tokenizer",
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
    source: str | os.PathLike[str] | nn.Module, *, device: str | torch.device | None = None
) -> CLIPBackbone:
    """Loads a CLIP, in float32 and evaluation mode.

    Args:
        source: "tiny", the small CLIP that comes with the package, or "tiny:FILE", one of its
            size that `python -m benchmarks pretrain_tiny_clip` made; the name of one of OpenAI's
            vision transformers such as "ViT-L/14"; the path of a .pt file of theirs; a model of
            the package `clip`; "open_clip:MODEL/PRETRAINED" or "transformers:NAME". Models of
            open_clip and transformers go to `from_open_clip` and `from_transformers`.
        device: where to put it; None leaves it on the CPU.

    Returns:
        The backbone.

    Raises:
        ValueError: if the name is unknown, or the weights are not of a CLIP with a vision
            transformer.
        FileNotFoundError: if there is no such file.
        ConnectionError: if a download fails.
    """
    # Imported here: the one reads weights from disk, the other needs the package clip.
    library, _, name = source.partition(":") if isinstance(source, str) else ("", "", "")
    if source == "tiny" or library == "tiny":
        from czsl_sac.clip.sources.tiny import TINY_WEIGHTS, tiny_clip

        backbone = tiny_clip(name or TINY_WEIGHTS)
    elif library == "open_clip":
        backbone = load_open_clip(name)
    elif library == "transformers":
        backbone = load_transformers(name)
    else:
        from czsl_sac.clip.sources.openai import load_openai

        backbone = load_openai(source)
    return backbone if device is None else backbone.to(device)
