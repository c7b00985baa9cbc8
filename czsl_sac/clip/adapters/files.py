"""Files of adapters: LoRA and AdaptFormer alone, with what they were made for."""

import json
import os
import warnings
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from czsl_sac.clip.adapters.adaptformer import AdaptFormer, attach_adaptformer
from czsl_sac.clip.adapters.lora import LoRA, attach_lora
from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.clip.checksum import is_adapter
from czsl_sac.clip.transformer import ResidualAttentionBlock
from czsl_sac.files import load_tensors, read_metadata, save_tensors

__all__ = ["load_adapter", "save_adapter"]

_Settings = dict[str, dict[str, dict[str, Any]]]


def save_adapter(path: str | os.PathLike[str], backbone: CLIPBackbone) -> None:
    """Writes LoRA and AdaptFormer's adapters of a backbone, and nothing of the backbone itself.

    The file is safetensors. Its header holds the settings (rank, α, scaling and place of every
    term; sizes of every adapter) and the name and the checksum of the base that they belong to.

    Args:
        path: the file to make or replace; written whole or not at all.
        backbone: with LoRA or adapters, or both.

    Raises:
        ValueError: if the backbone has neither.

    >>> import tempfile
    >>> from czsl_sac.clip import apply_lora, load_backbone
    >>> backbone = load_backbone("tiny")
    >>> _ = apply_lora(backbone.visual, rank=4)
    >>> path = Path(tempfile.mkdtemp()) / "adapter.safetensors"
    >>> save_adapter(path, backbone)
    >>> again = load_adapter(path, load_backbone("tiny"))
    >>> sum(p.numel() for name, p in again.named_parameters() if "lora_" in name)
    12288
    """
    tensors = _tensors(backbone)
    if not tensors:
        raise ValueError(
            "backbone has neither LoRA nor adapters to save: call apply_lora or apply_adaptformer "
            "first, or save its state_dict"
        )
    metadata = {
        "czsl_sac": "adapter",
        "settings": json.dumps(_settings(backbone)),
        "base": backbone.name,
        "base_checksum": backbone.base_checksum,
    }
    save_tensors(Path(path), tensors, metadata)


def load_adapter(
    path: str | os.PathLike[str],
    backbone: CLIPBackbone,
    *,
    other_base: Literal["refuse", "warn"] = "refuse",
) -> CLIPBackbone:
    """Adds what `save_adapter` wrote to a backbone, in place.

    Args:
        path: the file.
        backbone: plain, or with adapters of the same settings, whose weights are replaced.
        other_base: what to do where the backbone's own weights are not those that the adapter
            was trained on: refuse, or warn and go on.

    Returns:
        The same backbone.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is of another kind, belongs to another base, or does not fit.

    Warns:
        UserWarning: if it belongs to another base and `other_base` is "warn".
    """
    path = Path(path)
    metadata = read_metadata(path)
    if metadata.get("czsl_sac") != "adapter":
        raise ValueError(f"{path} is no adapter that save_adapter wrote")
    if metadata["base_checksum"] != backbone.base_checksum:
        message = (
            f"{path} belongs to the weights of {metadata['base']!r} with checksum "
            f"{metadata['base_checksum'][:12]}, but backbone {backbone.name!r} has "
            f"{backbone.base_checksum[:12]}"
        )
        if other_base == "refuse":
            raise ValueError(
                f'{message}: load the same weights, or pass other_base="warn" to go on'
            )
        warnings.warn(f"{message}; results will differ.", stacklevel=2)
    wanted: _Settings = json.loads(metadata["settings"])
    present = _settings(backbone)
    if not any(present.values()):
        _attach(backbone, wanted, path)
    elif present != wanted:
        raise ValueError(
            f"backbone has adapters of other settings than {path}: load it into a plain backbone"
        )
    tensors = load_tensors(path)
    own = _tensors(backbone)
    for key in sorted(own.keys() | tensors.keys()):
        found = [each[key].shape if key in each else None for each in (tensors, own)]
        if found[0] != found[1]:
            raise ValueError(
                f"{path} does not fit: {key} is {found[0]} there and {found[1]} in the backbone"
            )
    backbone.load_state_dict(tensors, strict=False)
    return backbone


def _tensors(backbone: nn.Module) -> dict[str, Tensor]:
    return {key: value for key, value in backbone.state_dict().items() if is_adapter(key)}


def _settings(backbone: nn.Module) -> _Settings:
    """What it takes to attach the same adapters to a plain backbone, as JSON types."""
    lora: dict[str, dict[str, Any]] = {}
    adaptformer: dict[str, dict[str, Any]] = {}
    for name, part in backbone.named_modules():
        if isinstance(part, LoRA):
            weight = name.replace("parametrizations.", "").rpartition(".")[0]
            lora[weight] = {
                "rank": part.rank,
                "alpha": part.alpha,
                "scaling": part.scaling,
                "parts": list(part.parts),
            }
        elif isinstance(part, AdaptFormer):
            adaptformer[name.rpartition(".")[0]] = {
                "bottleneck": part.down.out_features,
                "scale": part.scale,
                "dropout": part.dropout.p,
            }
    return {"lora": lora, "adaptformer": adaptformer}


def _attach(backbone: nn.Module, settings: _Settings, path: Path) -> None:
    owners = {name.rpartition(".")[0] for name in settings["lora"]}
    missing = (owners | settings["adaptformer"].keys()) - dict(backbone.named_modules()).keys()
    if missing:
        raise ValueError(
            f"{path} adapts {min(missing)}, which the backbone does not have: load the base that "
            "it was trained on"
        )
    for name, options in settings["lora"].items():
        owner, _, weight = name.rpartition(".")
        attach_lora(backbone.get_submodule(owner), weight, **options)
    for name, options in settings["adaptformer"].items():
        block = backbone.get_submodule(name)
        if isinstance(block, ResidualAttentionBlock):
            attach_adaptformer(block, **options)
