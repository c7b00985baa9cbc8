"""`patch_max` and the parts of its derivatives as `torch.library` operators, with fake tensors.

The operators take `impl` in `"auto" | "chunked" | "triton"` and settle `"auto"` when they
run, since the choice looks at the hardware. They are defined schema by schema: the decorator
`torch.library.custom_op` imports torch's compiler, and Triton with it, at the first call.
"""

from types import ModuleType

import torch
from torch import Tensor
from torch.autograd import forward_ad

from czsl_sac.kernels import chunked, fused

# The dtypes for which the fused kernel uses tensor cores.
TENSOR_CORE_DTYPES = (torch.bfloat16, torch.float16)

# The operators that derivatives are made of, by what they are a derivative by
# (`czsl_sac.kernels.derivatives`).
PARTS = {
    "grad": "patch_max_at",
    "tokens": "patch_max_grad_tokens",
    "text": "patch_max_grad_text",
}

_LIBRARY = torch.library.Library("czsl_sac", "DEF")


def implementation(impl: str, tokens: Tensor, *, gradient: bool = False) -> ModuleType:
    """Return the module that serves `impl`, with `forward`, `at`, `grad_tokens`, `grad_text`.

    Args:
        impl: `"auto"`, `"chunked"` or `"triton"`.
        tokens: `[B, T, D]`.
        gradient: it is a part of a derivative. They gather rows, at any dtype; the forward pass
            multiplies matrices, which in float32 the library does faster.

    Raises:
        ValueError: `"triton"` cannot serve these tokens, or a tangent would be lost.
    """
    # In a `torch.autograd.Function`, as `czsl_sac.kernels.derivatives` has, forward mode is off.
    if forward_ad._current_level >= 0 and torch._C._is_fwd_grad_enabled():
        raise ValueError(
            f"impl is {impl!r} but must be 'reference' in an exported program that is "
            "differentiated in forward mode: export with impl='reference'."
        )
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


def patch_max_at(
    grad: Tensor | None, indices: Tensor, tokens: Tensor, text: Tensor, impl: str
) -> Tensor:
    """Inner product `[B, C]` of each text with the token named; `grad` is not read."""
    return implementation(impl, tokens, gradient=True).at(indices, tokens, text)


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


def _fake_at(
    grad: Tensor | None, indices: Tensor, tokens: Tensor, text: Tensor, impl: str
) -> Tensor:
    return _fake_values(tokens, text, impl)


def _fake_grad_tokens(
    grad: Tensor, indices: Tensor, tokens: Tensor, text: Tensor, impl: str
) -> Tensor:
    return torch.empty_like(tokens, memory_format=torch.contiguous_format)


def _fake_grad_text(
    grad: Tensor, indices: Tensor, tokens: Tensor, text: Tensor, impl: str
) -> Tensor:
    return torch.empty_like(text, memory_format=torch.contiguous_format)


_FORWARD = "(Tensor tokens, Tensor text, str impl)"
_PART = "Tensor indices, Tensor tokens, Tensor text, str impl) -> Tensor"
for _run, _shape, _schema in (
    (patch_max, _fake, f"{_FORWARD} -> (Tensor, Tensor)"),
    (patch_max_values, _fake_values, f"{_FORWARD} -> Tensor"),
    (patch_max_at, _fake_at, f"(Tensor? grad, {_PART}"),
    (patch_max_grad_tokens, _fake_grad_tokens, f"(Tensor grad, {_PART}"),
    (patch_max_grad_text, _fake_grad_text, f"(Tensor grad, {_PART}"),
):
    _LIBRARY.define(f"{_run.__name__}{_schema}", tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(_run.__name__, _run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"czsl_sac::{_run.__name__}", _shape)
