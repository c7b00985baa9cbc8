"""A fingerprint of weights, to know again what an adapter or a cached feature belongs to."""

from hashlib import sha256

import torch
from torch import nn


def is_adapter(key: str) -> bool:
    """Tell whether a key of a state dict is LoRA's or AdaptFormer's, not the base model's.

    Args:
        key: as `state_dict` has it.

    Examples:
        >>> is_adapter("visual.transformer.resblocks.0.attn_adapter.up.bias")
        True
    """
    name = key.rpartition(".")[2]
    return name in ("lora_A", "lora_B") or "attn_adapter." in key or "mlp_adapter." in key


def weights_checksum(module: nn.Module) -> str:
    """Return the SHA-256 of a module's weights without adapters, as hexadecimal digits.

    It does not depend on LoRA or adapters, nor on the precision that a number is kept in as long
    as it is the same number.

    Examples:
        >>> layer = nn.Linear(2, 2).half()
        >>> weights_checksum(layer) == weights_checksum(layer.float())
        True
    """
    plain = {
        key.replace("parametrizations.", "").removesuffix(".original"): value
        for key, value in module.state_dict().items()
        if not is_adapter(key)
    }
    digest = sha256()
    for key in sorted(plain):
        values = plain[key].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{key} {tuple(values.shape)}\n".encode())
        digest.update(memoryview(values.numpy()).cast("B") if values.numel() else b"")
    return digest.hexdigest()
