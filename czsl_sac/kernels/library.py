"""`patch_max` as `torch.library` operators: fake tensors, autograd, `torch.compile`.

The operators take `impl` in `"auto" | "chunked" | "triton"` and settle `"auto"` when they
run, since the choice looks at the hardware. They are defined schema by schema: the decorator
`torch.library.custom_op` imports torch's compiler, and Triton with it, at the first call.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from czsl_sac.kernels import chunked, fused

# The dtypes for which the fused kernel uses tensor cores.
TENSOR_CORE_DTYPES = (torch.bfloat16, torch.float16)

_LIBRARY = torch.library.Library("czsl_sac", "DEF")


def implementation(impl: str, tokens: Tensor, *, gradient: bool = False) -> ModuleType:
    """Return the module that serves `impl`, with `forward`, `grad_tokens`, `grad_text`.

    Args:
        impl: `"auto"`, `"chunked"` or `"triton"`.
        tokens: `[B, T, D]`.
        gradient: it is one of the two gradients. They gather rows, at any dtype; the forward pass
            multiplies matrices, which in float32 the library does faster.

    Raises:
        ValueError: `"triton"` cannot serve these tokens.
    """
    if impl == "auto" and not (tokens.is_cuda and (gradient or tokens.dtype in TENSOR_CORE_DTYPES)):
        impl = "chunked"
    if impl == "chunked":
        return chunked
    reason = fused.refusal(tokens)
    if reason is None:
        return fused
    if impl == "triton":
        raise ValueError(
            f"impl is 'triton' but must be 'auto' or 'chunked' for this call: {reason}."
        )
    return chunked


def patch_max(tokens: Tensor, text: Tensor, impl: str) -> tuple[Tensor, Tensor]:
    """Values `[B, C]` and token indices `[B, C]` of the largest inner product."""
    values, indices = implementation(impl, tokens).forward(tokens, text, with_indices=True)
    return values, indices


def patch_max_values(tokens: Tensor, text: Tensor, impl: str) -> Tensor:
    """Values `[B, C]` of the largest inner product, without a gradient."""
    return implementation(impl, tokens).forward(tokens, text, with_indices=False)[0]


def patch_max_grad_tokens(
    grad: Tensor, indices: Tensor, tokens: Tensor, text: Tensor, impl: str
) -> Tensor:
    """Gradient `[B, T, D]` of the tokens from the gradient `[B, C]` of the values."""
    module = implementation(impl, tokens, gradient=True)
    return module.grad_tokens(grad, indices, tokens, text)


def patch_max_grad_text(
    grad: Tensor, indices: Tensor, tokens: Tensor, text: Tensor, impl: str
) -> Tensor:
    """Gradient of the text, in its shape, from the gradient `[B, C]` of the values."""
    module = implementation(impl, tokens, gradient=True)
    return module.grad_text(grad, indices, tokens, text)


def _fake(tokens: Tensor, text: Tensor, impl: str) -> tuple[Tensor, Tensor]:
    values = _fake_values(tokens, text, impl)
    return values, torch.empty_like(values, dtype=torch.int64)


def _fake_values(tokens: Tensor, text: Tensor, impl: str) -> Tensor:
    dtype = torch.float64 if tokens.dtype == torch.float64 else torch.float32
    return tokens.new_empty((tokens.shape[0], text.shape[-2]), dtype=dtype)


def _fake_grad_tokens(
    grad: Tensor, indices: Tensor, tokens: Tensor, text: Tensor, impl: str
) -> Tensor:
    return torch.empty_like(tokens, memory_format=torch.contiguous_format)


def _fake_grad_text(
    grad: Tensor, indices: Tensor, tokens: Tensor, text: Tensor, impl: str
) -> Tensor:
    return torch.empty_like(text, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: Any) -> None:
    tokens, text, ctx.impl = inputs
    _, indices = output
    ctx.mark_non_differentiable(indices)
    ctx.save_for_backward(indices, tokens, text)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    ops = torch.ops.czsl_sac
    saved = ctx.saved_tensors  # once: what a checkpoint made again is given out a single time
    grad_tokens = grad_text = None
    if ctx.needs_input_grad[0]:
        grad_tokens = ops.patch_max_grad_tokens(grad, *saved, ctx.impl)
    if ctx.needs_input_grad[1]:
        grad_text = ops.patch_max_grad_text(grad, *saved, ctx.impl)
    return grad_tokens, grad_text, None


def _refuse(ctx: Any, grad: Tensor) -> None:
    raise RuntimeError(
        "impl is not 'reference' but must be for second derivatives of patch_max: pass "
        "impl='reference'."
    )


_FORWARD = "(Tensor tokens, Tensor text, str impl)"
_BACKWARD = "(Tensor grad, Tensor indices, Tensor tokens, Tensor text, str impl)"
for _run, _shape, _schema in (
    (patch_max, _fake, f"{_FORWARD} -> (Tensor, Tensor)"),
    (patch_max_values, _fake_values, f"{_FORWARD} -> Tensor"),
    (patch_max_grad_tokens, _fake_grad_tokens, f"{_BACKWARD} -> Tensor"),
    (patch_max_grad_text, _fake_grad_text, f"{_BACKWARD} -> Tensor"),
):
    _LIBRARY.define(f"{_run.__name__}{_schema}", tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(_run.__name__, _run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"czsl_sac::{_run.__name__}", _shape)
torch.library.register_autograd("czsl_sac::patch_max", _backward, setup_context=_setup_context)
torch.library.register_autograd("czsl_sac::patch_max_grad_tokens", _refuse)
torch.library.register_autograd("czsl_sac::patch_max_grad_text", _refuse)
