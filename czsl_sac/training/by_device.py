"""What is chosen by the device that computes: how batches get there, and which Adam steps."""

from typing import Any

import torch


def copies_overlap(device: torch.device) -> bool:
    """Tell whether the device computes while a batch is copied to it.

    It does so from memory that the system cannot move, which a loader then has to use.

    Args:
        device: where batches go.
    """
    return device.type == "cuda"


def loader_options(device: torch.device, workers: int) -> dict[str, Any]:
    """Return options of a `torch.utils.data.DataLoader`.

    Args:
        device: where its batches go.
        workers: processes that read; they stay from epoch to epoch, and each is two batches ahead.

    Examples:
        >>> loader_options(torch.device("cpu"), 0)
        {'num_workers': 0, 'pin_memory': False, 'persistent_workers': False}
    """
    return {
        "num_workers": workers,
        "pin_memory": copies_overlap(device),
        "persistent_workers": workers > 0,
    }


def adam_options(device: torch.device, precision: str) -> dict[str, Any]:
    """Return options of `torch.optim.Adam`: one kernel for all parameters on a GPU.

    Not in float16, whose scaled gradients are left to the ordinary step.

    Args:
        device: of the parameters.
        precision: of the session.

    Examples:
        >>> adam_options(torch.device("cpu"), "no"), adam_options(torch.device("cuda"), "bf16")
        ({'fused': None}, {'fused': True})
    """
    return {"fused": True if device.type == "cuda" and precision != "fp16" else None}
