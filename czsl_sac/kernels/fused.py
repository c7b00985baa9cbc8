"""The Triton kernels behind the same functions as `chunked`.

Triton is imported here when a kernel first runs, not before.
"""

import importlib.util
import os

import torch
from torch import Tensor

from czsl_sac.kernels import chunked
from czsl_sac.kernels.plan import forward_plan, token_grad_plan

# What the kernels are compiled and gated for, by compute capability (docs/kernels.md).
OLDEST = (8, 0)
HOPPER, BLACKWELL = 9, 10
WITH_DESCRIPTORS = (HOPPER, BLACKWELL)
# Elements between rows, of which a tile has at most 256: its offsets stay below 2³¹.
FARTHEST_ROWS = 2**22
# Texts whose number and token fit one 32-bit key of the token gradient's ordering.
MOST_KEYS = 2**26


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
    if capability[0] == BLACKWELL and not _knows_descriptors():
        return "on compute capability 10 it needs Triton 3.4 or newer"
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

    descriptors = _takes_descriptors(tokens)
    tokens, text = _rows(tokens, aligned=descriptors), _rows(_shared(text), aligned=descriptors)
    T, dtype = tokens.shape[1], tokens.dtype
    plan = forward_plan(T, dtype, descriptors=descriptors)
    processors = _multiprocessors(tokens)
    if len(tokens) * -(-text.shape[-2] // plan.texts) > processors and _persists(tokens):
        plan = forward_plan(
            T, dtype, descriptors=descriptors, waves=True, per_image=text.dim() == 3
        )
    with torch.cuda.device_of(tokens):
        return triton_forward.launch(
            tokens, text, plan, with_indices=with_indices, processors=processors
        )


def at(indices: Tensor, tokens: Tensor, text: Tensor) -> Tensor:
    """Return the inner product of each text with the token named, by `chunked`'s gathers.

    Args:
        indices: tokens, `[B, C]`.
        tokens: `[B, T, D]`.
        text: `[C, D]` or `[B, C, D]`.
    """
    return chunked.at(indices, tokens, text)


def grad_tokens(grad: Tensor, indices: Tensor, tokens: Tensor, text: Tensor) -> Tensor:
    """Return the gradient of the tokens, `[B, T, D]`.

    Args:
        grad: gradient of the values, `[B, C]`.
        indices: the winning tokens, `[B, C]`.
        tokens: `[B, T, D]`.
        text: `[C, D]` or `[B, C, D]`.
    """
    from czsl_sac.kernels import triton_backward

    if text.shape[-2] > MOST_KEYS:
        return chunked.grad_tokens(grad, indices, tokens, text)
    with torch.cuda.device_of(tokens):
        return triton_backward.launch_token_grad(
            grad.contiguous(),
            indices.contiguous(),
            tokens,
            _rows(_shared(text), aligned=False),
            token_grad_plan(text.shape[-2], tokens.dtype),
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
            grad.contiguous(), indices.contiguous(), _rows(tokens, aligned=False), text
        )


def _shared(text: Tensor) -> Tensor:
    """Return `[C, D]` in place of the same texts expanded to every image."""
    return text[0] if text.dim() == 3 and len(text) and text.stride(0) == 0 else text


def _rows(x: Tensor, *, aligned: bool) -> Tensor:
    """Return `x` as the kernels load it, copied where its strides do not allow that.

    Rows are contiguous, and near enough for 32-bit offsets within a tile. `aligned`, as TMA
    wants: the base and the strides are multiples of 16 bytes.
    """
    loadable = x.stride(-1) == 1 and x.stride(-2) <= FARTHEST_ROWS
    if aligned:
        strides = [stride * x.itemsize for stride in x.stride()[:-1]]
        loadable &= x.data_ptr() % 16 == 0
        loadable &= all(stride > 0 and stride % 16 == 0 for stride in strides)
    return x if loadable else x.clone(memory_format=torch.contiguous_format)


def _multiprocessors(x: Tensor) -> int:
    """Return how many multiprocessors the GPU has; two where the kernels are interpreted."""
    if interpreted():
        return 2
    return torch.cuda.get_device_properties(x.device).multi_processor_count


def _persists(x: Tensor) -> bool:
    """Say whether persistent programs have been measured, and are faster, on this GPU."""
    return interpreted() or torch.cuda.get_device_capability(x.device)[0] == HOPPER


def _takes_descriptors(x: Tensor) -> bool:
    """Say whether TMA loads tiles of `x`: its dtype, Triton and the GPU allow it."""
    if x.dtype == torch.float32 or not _knows_descriptors():
        return False
    return interpreted() or torch.cuda.get_device_capability(x.device)[0] in WITH_DESCRIPTORS


def _knows_descriptors() -> bool:
    """Say whether this Triton has tensor descriptors."""
    from czsl_sac.kernels.triton_load import knows_descriptors

    return knows_descriptors()
