"""Files of adapters: LoRA and AdaptFormer alone, with what they were made for."""

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from loralib import lora_state_dict
from torch import Tensor, nn

from czsl_sac.checks import check_choice
from czsl_sac.clip.adapters.adaptformer import AdaptFormer, attach_adaptformer
from czsl_sac.clip.adapters.lora import attach_lora
from czsl_sac.clip.adapters.low_rank import LoRA
from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.clip.checksum import is_adapter
from czsl_sac.clip.transformer import ResidualAttentionBlock
from czsl_sac.clip.unfilled import unfilled
from czsl_sac.files import load_tensors, read_metadata, save_tensors

OtherBase = Literal["refuse", "warn"]
_Settings = dict[str, dict[str, dict[str, Any]]]


def save_adapter(path: str | os.PathLike[str], backbone: CLIPBackbone) -> None:
    """Write LoRA and AdaptFormer's adapters of a backbone, and nothing of the backbone itself.

    The file is safetensors. Its header holds the settings (rank, α, scaling and place of every
    term; sizes of every adapter) and the name and the checksum of the base that they belong to.

    Args:
        path: the file to make or replace; written whole or not at all.
        backbone: with LoRA or adapters, or both, in either tower.

    Raises:
        ValueError: the backbone has neither.

    Examples:
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
            "backbone has neither LoRA nor adapters but must have some to save: call apply_lora or "
            "apply_adaptformer first, or save its state_dict."
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
    other_base: OtherBase = "refuse",
) -> CLIPBackbone:
    """Add what `save_adapter` wrote to a backbone, in place.

    Args:
        path: the file.
        backbone: plain, or with adapters of the same settings, whose weights are replaced.
        other_base: what to do where the backbone's own weights are not those that the adapter
            was trained on: refuse, or warn and go on.

    Returns:
        The same backbone.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or of another kind, belongs to another base, or does not
            fit; the backbone is then unchanged.

    Warns:
        UserWarning: it belongs to another base and `other_base` is `"warn"`.
    """
    check_choice("other_base", other_base, get_args(OtherBase))
    path = Path(path)
    metadata = read_metadata(path)
    names = ("settings", "base", "base_checksum")
    if metadata.get("czsl_sac") != "adapter" or not metadata.keys() >= set(names):
        raise ValueError(
            f"{path} is no adapter that save_adapter wrote: give one, or save it again."
        )
    settings, base, checksum = (metadata[name] for name in names)
    if checksum != backbone.base_checksum:
        message = (
            f"{path} belongs to the weights of {base!r} with checksum {checksum[:12]}, but "
            f"backbone {backbone.name!r} has {backbone.base_checksum[:12]}"
        )
        if other_base == "refuse":
            raise ValueError(
                f'{message}: load the same weights, or pass other_base="warn" to go on.'
            )
        warnings.warn(f"{message}; results will differ.", stacklevel=2)
    try:
        wanted: _Settings = json.loads(settings)
        expected = _expected(backbone, wanted)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} does not fit the backbone, or its settings are damaged "
            f"({type(error).__name__}: {error}): load the base that it was trained on, or save it "
            "again."
        ) from error
    tensors = load_tensors(path)
    for key in sorted(expected.keys() | tensors.keys()):
        shapes = [list(each[key].shape) if key in each else None for each in (tensors, expected)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{path} does not fit: {key} is {shapes[0]} there but must be {shapes[1]}: load "
                "the base that it was trained on."
            )
    present = _settings(backbone)
    if not any(present.values()):
        _attach(backbone, wanted)
    elif present != wanted:
        raise ValueError(
            f"backbone has adapters of other settings than {path} but must have the same or none: "
            "load it into a plain backbone."
        )
    backbone.load_state_dict(tensors, strict=False)
    return backbone


def _tensors(backbone: nn.Module) -> dict[str, Tensor]:
    adapters = {key: value for key, value in backbone.state_dict().items() if is_adapter(key)}
    return {**adapters, **lora_state_dict(backbone)}


def _settings(backbone: nn.Module) -> _Settings:
    """Return what it takes to attach the same adapters to a plain backbone, as JSON types."""
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


def _expected(backbone: CLIPBackbone, settings: _Settings) -> Mapping[str, Tensor]:
    """Return the tensors, without values, that a file of these settings must hold."""
    missing = {
        *(name.rpartition(".")[0] for name in settings["lora"]),
        *settings["adaptformer"],
    } - dict(backbone.named_modules()).keys()
    if missing:
        raise ValueError(f"it adapts {min(missing)} but the backbone has no such part")
    with unfilled():
        twin = CLIPBackbone(backbone.config, backbone.tokenizer)
        _attach(twin, settings)
    return _tensors(twin)


def _attach(backbone: nn.Module, settings: _Settings) -> None:
    for name, options in settings["lora"].items():
        owner, _, weight = name.rpartition(".")
        attach_lora(backbone.get_submodule(owner), weight, **options)
    for name, options in settings["adaptformer"].items():
        block = backbone.get_submodule(name)
        if not isinstance(block, ResidualAttentionBlock):
            raise ValueError(f"it adapts {name} but that is no block")
        attach_adaptformer(block, **options)
