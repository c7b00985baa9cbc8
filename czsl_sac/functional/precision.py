"""The one rule on precision: what ranks or is summed is computed in float32 or better."""

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
