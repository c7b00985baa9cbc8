"""The one rule on precision: what ranks or is summed is computed in float32 or better."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in float32, or unchanged where it is float64.

    Args:
        x: a floating-point tensor of any shape.

    Returns:
        The same values, float32 or float64.

    Examples:
        >>> at_least_float32(torch.zeros(1, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return x if x.dtype == torch.float64 else x.float()


def autocasts(device: torch.device) -> bool:
    """Tell whether autocast is on for a device, which torch cannot be asked of "meta".

    Not by `torch.amp.is_autocast_available`, which torch.compile of torch 2.11 cannot trace.

    Args:
        device: of what is computed.

    Examples:
        >>> with torch.autocast("cpu", dtype=torch.bfloat16):
        ...     autocasts(torch.device("cpu")), autocasts(torch.device("meta"))
        (True, False)
    """
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def without_autocast(x: Tensor) -> AbstractContextManager[None]:
    """Return a context in which autocast leaves the dtype of what is computed from `x` alone.

    Args:
        x: on any device; torch knows no autocast of `"meta"` and refuses to be asked.

    Examples:
        >>> with torch.autocast("cpu", dtype=torch.bfloat16), without_autocast(torch.ones(2, 2)):
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.float32
    """
    device = x.device.type
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)
