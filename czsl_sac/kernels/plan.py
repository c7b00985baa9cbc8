"""Tile shapes of the Triton kernels, chosen by GPU generation, dtype and token count.

A few fixed shapes instead of an autotune: each is compiled ahead of time in the tests, where its
registers, spills and shared memory are gated (docs/kernels.md). This file imports no Triton.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch

# Widths that together cover the last tokens of an image, widest first: one matrix product each,
# on the same loaded texts. So the odd class token costs 16 columns, not another 256.
COVERS = (
    (16,),
    (32,),
    (32, 16),
    (64,),
    (64, 16),
    (128,),
    (128, 16),
    (128, 64),
    (128, 64, 16),
    (256,),
    (256, 16),
)


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
def forward_plan(capability: tuple[int, int], dtype: torch.dtype, T: int) -> ForwardPlan:
    """Return the forward plan for ``T`` tokens.

    Args:
        capability: CUDA compute capability.
        dtype: of the inputs.
        T: tokens per image.
    """
    if dtype == torch.float32:  # exact products, without tensor cores
        return _cover(ForwardPlan(64, 32, 64, 0, (), 4, 2, False), T)
    if data_centre(capability):
        return _cover(ForwardPlan(128, 64, 256, 0, (), 8, 3, True), T)
    return _cover(ForwardPlan(128, 64, 128, 0, (), 8, 2, False), T)


@lru_cache(maxsize=256)
def token_grad_plan(capability: tuple[int, int], dtype: torch.dtype) -> TokenGradPlan:
    """Return the plan of the token gradient.

    Args:
        capability: CUDA compute capability.
        dtype: of the inputs.
    """
    if dtype == torch.float32:
        return TokenGradPlan(64, 64, 32, 4, 2, False)
    if data_centre(capability):
        return TokenGradPlan(64, 256, 64, 4, 3, True)
    return TokenGradPlan(64, 128, 64, 4, 3, False)


def data_centre(capability: tuple[int, int]) -> bool:
    """Say whether the GPU is of the Hopper or data-centre Blackwell kind: TMA and 227 KiB."""
    return capability[0] in (9, 10)


def _cover(plan: ForwardPlan, T: int) -> ForwardPlan:
    """Fill in how many full passes and which last pass take ``T`` tokens with the least waste."""
    covers = [widths for widths in COVERS if widths[0] <= plan.full]
    passes = max(0, -(-(T - sum(covers[-1])) // plan.full))
    rest = T - passes * plan.full
    widths = next(widths for widths in covers if sum(widths) >= rest)
    fields = plan.__dict__ | {"passes": passes, "widths": widths}
    return ForwardPlan(**fields)
