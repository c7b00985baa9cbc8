"""CLIP's weights as others keep them: wrapped, prefixed, damaged."""

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_HOLDERS = ("model_state_dict", "state_dict", "model")


def plain_model(model: nn.Module) -> nn.Module:
    """Return the model inside `DataParallel`, `DistributedDataParallel` or `torch.compile`.

    Args:
        model: wrapped any number of times, or not at all.

    Examples:
        >>> layer = nn.Linear(1, 1)
        >>> plain_model(torch.compile(nn.DataParallel(layer))) is layer
        True
    """
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def plain_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the state dict inside a checkpoint, under the names of the plain model.

    Args:
        checkpoint: a state dict, or a dictionary that holds one as `"model_state_dict"`,
            `"state_dict"` or `"model"`; its names may have the prefixes of `DataParallel` and
            `torch.compile`.

    Raises:
        ValueError: it is neither.

    Examples:
        >>> plain_weights({"epoch": 3, "state_dict": {"module._orig_mod.w": torch.ones(1)}})
        {'w': tensor([1.])}
    """
    holder = next((key for key in _HOLDERS if isinstance(checkpoint.get(key), Mapping)), None)
    if holder is not None:
        return plain_weights(checkpoint[holder])
    weights = {str(key).replace("_orig_mod.", ""): value for key, value in checkpoint.items()}
    while weights and all(key.startswith("module.") for key in weights):
        weights = {key.removeprefix("module."): value for key, value in weights.items()}
    others = [key for key, value in weights.items() if not isinstance(value, Tensor)]
    if others:
        raise ValueError(
            f"checkpoint holds {others[0]!r}, which is no tensor, but must be a state dict or hold "
            f"one as {', '.join(_HOLDERS)}: save model.state_dict()."
        )
    return weights


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], bool]:
    """Read CLIP's weights from a file of OpenAI's or of a fine-tuning.

    Args:
        path: OpenAI's archive (TorchScript), or what `torch.save` wrote, as for `plain_weights`.

    Returns:
        The weights, and whether they are an archive.

    Raises:
        ValueError: the file is damaged or holds something else.
    """
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty but must hold CLIP's weights: fetch or save it again.")
    try:
        if _is_torchscript(path):
            # Torch deprecates the format, but OpenAI's files stay what they are.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                archive: Any = torch.jit.load(path, map_location="cpu")
            return dict(archive.state_dict()), True
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged file makes of torch's readers has no end
        foreign = "holds Python objects beside tensors"
        reason = foreign if "Unsupported global" in str(error) else "is damaged or of another kind"
        raise ValueError(
            f"{path} {reason} but must be an archive of OpenAI's CLIP or a state dict saved by "
            "torch.save: fetch it again, or save model.state_dict() alone."
        ) from error
    if not isinstance(checkpoint, Mapping):
        raise ValueError(
            f"{path} holds a {type(checkpoint).__name__} but must hold a state dict: save "
            "model.state_dict()."
        )
    try:
        return plain_weights(checkpoint), False
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
