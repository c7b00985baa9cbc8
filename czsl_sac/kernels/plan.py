"""Tile shapes of the Triton kernels, chosen by how tiles are loaded, dtype and token count.

A few fixed shapes instead of an autotune: the tests compile every one ahead of time and gate its
registers, spills and shared memory (docs/kernels.md). This file imports no Triton.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch

# Widths that together cover the last tokens of an image, one matrix product each on the same
# loaded texts, narrowest sum first. So the odd class token costs 16 columns, not another 256.
# No more of them than CLIP's own token counts need: each is a kernel to compile, and to gate.
COVERS = (
    (16,),
    (64,),
    (64, 16),
    (128,),
    (128, 64),
    (128, 64, 16),
    (256,),
    (256, 16),
)

# Texts and features of a program of the text gradient, and its warps: a gather, bound by memory.
TEXT_GRAD_BLOCK = (16, 256)
TEXT_GRAD_WARPS = 4


@dataclass(frozen=True)
class ForwardPlan:
    """How one program of the forward kernel walks over texts, tokens and features.

    Args:
        texts: texts of a program.
        depth: features of a step.
        full: tokens of a full pass.
        passes: full passes over tokens before the last one.
        widths: tokens of the products of the last pass.
        warps: warps of a program.
        stages: steps whose loads are in flight.
        descriptors: load by tensor descriptors (TMA) rather than by pointers.
    """

    texts: int
    depth: int
    full: int
    passes: int
    widths: tuple[int, ...]
    warps: int
    stages: int
    descriptors: bool


@dataclass(frozen=True)
class TokenGradPlan:
    """How one program of the token gradient's one-hot product walks.

    Args:
        tokens: tokens of a program.
        features: features of a program.
        depth: texts of a step.
        warps: warps of a program.
        stages: steps whose loads are in flight.
        descriptors: load by tensor descriptors (TMA) rather than by pointers.
    """

    tokens: int
    features: int
    depth: int
    warps: int
    stages: int
    descriptors: bool


@lru_cache(maxsize=256)
def forward_plan(T: int, dtype: torch.dtype, *, descriptors: bool) -> ForwardPlan:
    """Return the forward plan for `T` tokens.

    Args:
        T: tokens per image.
        dtype: of the inputs.
        descriptors: tiles can be loaded by TMA, so the GPU also has 227 KiB of shared memory.
    """
    if dtype == torch.float32:  # exact products, without tensor cores
        return _cover(ForwardPlan(64, 16, 64, 0, (), 4, 1, descriptors=False), T)
    if descriptors:
        return _cover(ForwardPlan(128, 64, 256, 0, (), 8, 3, descriptors=True), T)
    return _cover(ForwardPlan(128, 32, 128, 0, (), 8, 4, descriptors=False), T)


def token_grad_plan(dtype: torch.dtype, *, descriptors: bool) -> TokenGradPlan:
    """Return the plan of the token gradient.

    Args:
        dtype: of the inputs.
        descriptors: as for `forward_plan`.
    """
    if dtype == torch.float32:  # one stage: Triton 3.2 cannot pipeline this product
        return TokenGradPlan(64, 64, 32, 4, 1, descriptors=False)
    if descriptors:
        return TokenGradPlan(64, 256, 64, 4, 3, descriptors=True)
    return TokenGradPlan(64, 128, 64, 4, 3, descriptors=False)


def _cover(plan: ForwardPlan, T: int) -> ForwardPlan:
    """Fill in the full passes and the last pass that take `T` tokens with the least waste."""
    covers = [widths for widths in COVERS if sum(widths) <= plan.full + 16]
    # The widest covers more than a full pass, to save one; after full passes it would spill.
    passes = 0 if sum(covers[-1]) >= T else -(-(T - plan.full) // plan.full)
    rest = T - passes * plan.full
    return replace(
        plan,
        passes=passes,
        widths=next(widths for widths in covers if sum(widths) >= rest),
    )
