"""Products with a weight in whatever precision it is kept."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from czsl_sac.functional.precision import autocasts


class _StoredLinear(torch.autograd.Function):
    """x Wᵀ + b with W frozen and of another dtype than x; only W as it is kept is saved."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(x, weight.to(x.dtype), bias.to(x.dtype))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return gradient @ weight.to(gradient.dtype), None, None


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Multiply in the precision of x, or of autocast, whatever precision the weight is kept in.

    A frozen weight of another precision is cast for the product, and again in the backward pass,
    so that no cast copy outlives the product: neither of a weight kept in half precision
    (`czsl_sac.clip.store_frozen`), nor of a float32 weight under autocast, of which autograd would
    keep one copy for each chunk of prompts.

    Args:
        x: `[..., in]`.
        weight: `[out, in]`.
        bias: `[out]`.

    Returns:
        `[..., out]`, of the dtype of x or of autocast.

    Examples:
        >>> half = torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16)
        >>> linear(torch.ones(1, 2), half, torch.zeros(1))
        tensor([[3.]])
    """
    x = in_autocast(x)
    if weight.dtype == x.dtype:
        return F.linear(x, weight, bias)
    if not (weight.requires_grad or bias.requires_grad):
        return _StoredLinear.apply(x, weight, bias)
    if autocasts(x.device):  # which keeps the cast of a trained weight
        return F.linear(x, weight, bias)
    return F.linear(x, weight.to(x.dtype), bias.to(x.dtype))


def in_autocast(x: Tensor) -> Tensor:
    """Cast to autocast's dtype, where autocast is on and would do so; otherwise return x."""
    if autocasts(x.device) and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x
