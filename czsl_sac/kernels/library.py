"""``patch_max`` as ``torch.library`` operators: fake tensors, autograd, ``torch.compile``.

The operators take ``impl`` in ``"auto" | "chunked" | "triton"`` and settle ``"auto"`` when they
run, since the choice looks at the hardware.
"""

from typing import Any

import torch
from torch import Tensor

from czsl_sac.kernels import chunked


@torch.library.custom_op("czsl_sac::patch_max", mutates_args=())
def patch_max(tokens: Tensor, text: Tensor, impl: str) -> tuple[Tensor, Tensor]:
    """Values ``[B, C]`` and token indices ``[B, C]`` of the largest inner product."""
    values, indices = chunked.forward(tokens, text, with_indices=True)
    assert indices is not None
    return values, indices


@torch.library.custom_op("czsl_sac::patch_max_values", mutates_args=())
def patch_max_values(tokens: Tensor, text: Tensor, impl: str) -> Tensor:
    """Values ``[B, C]`` of the largest inner product, without a gradient."""
    return chunked.forward(tokens, text, with_indices=False)[0]


@torch.library.custom_op("czsl_sac::patch_max_grad_tokens", mutates_args=())
def patch_max_grad_tokens(
    grad: Tensor, indices: Tensor, tokens: Tensor, text: Tensor, impl: str
) -> Tensor:
    """Gradient ``[B, T, D]`` of the tokens from the gradient ``[B, C]`` of the values."""
    return chunked.grad_tokens(grad, indices, tokens, text)


@torch.library.custom_op("czsl_sac::patch_max_grad_text", mutates_args=())
def patch_max_grad_text(
    grad: Tensor, indices: Tensor, tokens: Tensor, text: Tensor, impl: str
) -> Tensor:
    """Gradient of the text, in its shape, from the gradient ``[B, C]`` of the values."""
    return chunked.grad_text(grad, indices, tokens, text)


@patch_max.register_fake
def _(tokens: Tensor, text: Tensor, impl: str) -> tuple[Tensor, Tensor]:
    values = patch_max_values_like(tokens, text)
    return values, torch.empty_like(values, dtype=torch.int64)


@patch_max_values.register_fake
def patch_max_values_like(tokens: Tensor, text: Tensor, impl: str = "auto") -> Tensor:
    """Return an uninitialised ``[B, C]`` in the dtype of the values."""
    dtype = torch.float64 if tokens.dtype == torch.float64 else torch.float32
    return tokens.new_empty((tokens.shape[0], text.shape[-2]), dtype=dtype)


@patch_max_grad_tokens.register_fake
def _(grad: Tensor, indices: Tensor, tokens: Tensor, text: Tensor, impl: str) -> Tensor:
    return torch.empty_like(tokens, memory_format=torch.contiguous_format)


@patch_max_grad_text.register_fake
def _(grad: Tensor, indices: Tensor, tokens: Tensor, text: Tensor, impl: str) -> Tensor:
    return torch.empty_like(text, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: Any) -> None:
    tokens, text, ctx.impl = inputs
    _, indices = output
    ctx.mark_non_differentiable(indices)
    ctx.save_for_backward(indices, tokens, text)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    saved = ctx.saved_tensors
    grad_tokens = grad_text = None
    if ctx.needs_input_grad[0]:
        grad_tokens = patch_max_grad_tokens(grad, *saved, ctx.impl)
    if ctx.needs_input_grad[1]:
        grad_text = patch_max_grad_text(grad, *saved, ctx.impl)
    return grad_tokens, grad_text, None


patch_max.register_autograd(_backward, setup_context=_setup_context)
