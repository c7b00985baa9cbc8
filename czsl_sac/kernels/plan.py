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

# From this many tokens on one product of 256 columns in persistent programs is the faster.
FEWEST_PERSISTENT = 161

# Of the product for one token an image: images, texts and features of a step, stages; warps.
LAST_TOKEN_BLOCK = (16, 32, 128, 3)
LAST_TOKEN_WARPS = 4

# Texts, features and images of a step of the text gradient's program, stages, warps: a gather,
# bound by memory.
TEXT_GRAD_BLOCK = (8, 256, 2, 3)
TEXT_GRAD_WARPS = 4

# Up to this many texts a program of the token gradient takes 64 tokens rather than 16.
FEW_TEXTS = 2048

# Wins that a program of the token gradient's ordering reads at a time; its warps.
ORDER_BLOCK = 1024
ORDER_WARPS = 4


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
        persistent: as many programs as the GPU has multiprocessors, each with many tiles.
        last: the last token of each image has a product of its own, one for all images.
        images: programs that run together take so many images and as many tiles of texts as
            fit: the tokens stay in the L2 cache while the texts stream through it.
    """

    texts: int
    depth: int
    full: int
    passes: int
    widths: tuple[int, ...]
    warps: int
    stages: int
    descriptors: bool
    persistent: bool = False
    last: bool = False
    images: int = 16


@dataclass(frozen=True)
class TokenGradPlan:
    """How one program of the token gradient walks over the texts that its tokens won.

    Args:
        tokens: tokens of a program.
        features: features of a program.
        depth: texts of a step.
        warps: warps of a program.
        stages: steps whose loads are in flight.
    """

    tokens: int
    features: int
    depth: int
    warps: int
    stages: int


@lru_cache(maxsize=256)
def forward_plan(
    T: int, dtype: torch.dtype, *, descriptors: bool, waves: bool = False, per_image: bool = False
) -> ForwardPlan:
    """Return the forward plan for `T` tokens.

    Args:
        T: tokens per image.
        dtype: of the inputs.
        descriptors: tiles can be loaded by TMA, so the GPU also has 227 KiB of shared memory.
        waves: there are more tiles than multiprocessors, and the GPU is one on which persistent
            programs have been measured.
        per_image: the images have texts of their own.
    """
    if dtype == torch.float32:  # exact products, without tensor cores
        return _cover(ForwardPlan(64, 16, 64, 0, (), 4, 1, descriptors=False), T)
    if not descriptors:
        return _cover(ForwardPlan(128, 32, 128, 0, (), 8, 4, descriptors=False), T)
    plan = _cover(ForwardPlan(128, 64, 256, 0, (), 8, 3, descriptors=True), T)
    # One wide product keeps persistent programs busy; with several, or a narrow one, they lose.
    if waves and FEWEST_PERSISTENT <= T <= plan.full:
        return replace(plan, widths=(plan.full,), persistent=True, stages=4, images=8)
    if waves and plan.full + 1 == T and not per_image:
        # 16 columns in every step for the class token would cost a fifth of the time.
        return replace(plan, widths=(plan.full,), persistent=True, stages=4, images=8, last=True)
    return plan


def token_grad_plan(C: int, dtype: torch.dtype) -> TokenGradPlan:
    """Return the plan of the token gradient.

    Args:
        C: texts; few make few wins a token, and take more tokens to a program.
        dtype: of the inputs.
    """
    if dtype == torch.float32:  # exact products, without tensor cores
        return TokenGradPlan(16, 64, 32, 4, 1)
    if C <= FEW_TEXTS:
        return TokenGradPlan(64, 128, 64, 4, 3)
    return TokenGradPlan(16, 128, 128, 4, 3)


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
