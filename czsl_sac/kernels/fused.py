"""The Triton kernels behind the same three functions as `chunked`.

Triton is imported here when a kernel first runs, not before.
"""

import importlib.util
import os

import torch
from torch import Tensor

from czsl_sac.kernels.plan import forward_plan, token_grad_plan

# What the kernels are compiled and gated for, by compute capability (docs/kernels.md).
OLDEST = (8, 0)
WITH_DESCRIPTORS = (9, 10)
# Elements between rows, of which a tile has at most 256: its offsets stay below 2³¹.
FARTHEST_ROWS = 2**22


def refusal(tokens: Tensor) -> str | None:
    """Return why the kernels cannot serve these tokens, or None if they can.

    Args:
        tokens: `[B, T, D]`.
    """
    if tokens.dtype == torch.float64:
        return "it computes in float32 and tokens is float64"
    D = tokens.shape[-1]
    if D == 0 or D % 16:
        return f"it needs D to be a positive multiple of 16 and D is {D}"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if interpreted():
        return None
    if tokens.device.type != "cuda" or torch.version.hip is not None:
        return f"it needs an NVIDIA GPU and tokens is on {tokens.device}"
    capability = torch.cuda.get_device_capability(tokens.device)
    if capability < OLDEST:
        return f"it needs compute capability 8.0 and {tokens.device} has {capability}"
    return None


def interpreted() -> bool:
    """Say whether Triton interprets kernels, on tensors of any device (its own switch)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def forward(tokens: Tensor, text: Tensor, *, with_indices: bool) -> tuple[Tensor, Tensor | None]:
    """Return the values `[B, C]` and, if asked for, the token indices `[B, C]`.

    Args:
        tokens: `[B, T, D]`.
        text: `[C, D]` or `[B, C, D]`.
        with_indices: also return the indices; without them the kernel is shorter.
    """
    from czsl_sac.kernels import triton_forward

    tokens, text = _rows(tokens), _rows(text)
    descriptors = _takes_descriptors(tokens, text)
    plan = forward_plan(tokens.shape[1], tokens.dtype, descriptors=descriptors)
    with torch.cuda.device_of(tokens):
        return triton_forward.launch(tokens, text, plan, with_indices=with_indices)


def grad_tokens(grad: Tensor, indices: Tensor, tokens: Tensor, text: Tensor) -> Tensor:
    """Return the gradient of the tokens, `[B, T, D]`.

    Args:
        grad: gradient of the values, `[B, C]`.
        indices: the winning tokens, `[B, C]`.
        tokens: `[B, T, D]`.
        text: `[C, D]` or `[B, C, D]`.
    """
    from czsl_sac.kernels import triton_backward

    text = _rows(text)
    plan = token_grad_plan(tokens.dtype, descriptors=_takes_descriptors(text))
    with torch.cuda.device_of(tokens):
        return triton_backward.launch_token_grad(
            grad.contiguous(), indices.contiguous(), tokens, text, plan
        )


def grad_text(grad: Tensor, indices: Tensor, tokens: Tensor, text: Tensor) -> Tensor:
    """Return the gradient of the text, in its shape.

    Args:
        grad: gradient of the values, `[B, C]`.
        indices: the winning tokens, `[B, C]`.
        tokens: `[B, T, D]`.
        text: `[C, D]` or `[B, C, D]`.
    """
    from czsl_sac.kernels import triton_backward

    with torch.cuda.device_of(tokens):
        return triton_backward.launch_text_grad(
            grad.contiguous(), indices.contiguous(), _rows(tokens), text
        )


def _rows(x: Tensor) -> Tensor:
    """Return `x` with contiguous rows, near enough for 32-bit offsets within a tile."""
    near = x.stride(-2) <= FARTHEST_ROWS
    return x if x.stride(-1) == 1 and near else x.contiguous()


def _takes_descriptors(*sources: Tensor) -> bool:
    """Say whether TMA loads these: Triton and the GPU know it, bases and strides are aligned."""
    from czsl_sac.kernels.triton_load import knows_descriptors

    if not knows_descriptors() or sources[0].dtype == torch.float32:
        return False
    if not interpreted():
        major, _ = torch.cuda.get_device_capability(sources[0].device)
        if major not in WITH_DESCRIPTORS:
            return False
    return all(
        source.data_ptr() % 16 == 0
        and all(
            stride > 0 and stride * source.itemsize % 16 == 0 for stride in source.stride()[:-1]
        )
        for source in sources
    )
