# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The backward kernels. Each element of a gradient is summed by one program, in a fixed order.

Every (image, text) pair has one winning token, so both gradients are sums of gathered rows: of
tokens for a text, of texts for a token. For the latter the wins are first brought in the order of
tokens. Imported only when a Triton kernel runs.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from czsl_sac.kernels.plan import (
    ORDER_BLOCK,
    ORDER_WARPS,
    TEXT_GRAD_BLOCK,
    TEXT_GRAD_WARPS,
    TokenGradPlan,
)


@triton.jit(do_not_specialize=["B", "C"])
def text_grad_kernel(
    tokens,
    indices,
    grad,
    out,
    B,
    C,
    D,
    token_stride_b,
    token_stride_t,
    PER_IMAGE: tl.constexpr,
    BC: tl.constexpr,
    BD: tl.constexpr,
    IMAGES: tl.constexpr,  # a step takes so many
    STAGES: tl.constexpr,
):
    """Write `Σ_b g[b, c] V[b, l(b, c)]` for `[BC, BD]`, or one image's term per image."""
    # texts and images share the grid's first dimension: the others end at 65,535
    tiles = tl.cdiv(C, BC)
    c = tl.cast(tl.program_id(0) % tiles, tl.int64) * BC + tl.arange(0, BC)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    total = tl.zeros((BC, BD), tl.float32)
    first = tl.program_id(0) // tiles  # 0 where the text is shared
    last = first + 1 if PER_IMAGE else B
    for start in tl.range(first, last, IMAGES, num_stages=STAGES):
        for i in tl.static_range(IMAGES):
            b = tl.cast(start + i, tl.int64)
            there = (c < C) & (b < last)
            winner = tl.load(indices + b * C + c, mask=there, other=0)
            weight = tl.load(grad + b * C + c, mask=there, other=0.0)
            rows = tokens + b * token_stride_b + winner[:, None] * token_stride_t
            v = tl.load(rows + d[None, :], mask=there[:, None] & (d < D)[None, :], other=0.0)
            total += weight[:, None] * v.to(tl.float32)
    row = tl.cast(first, tl.int64) * C + c
    inside = (c < C)[:, None] & (d < D)[None, :]
    tl.store(out + row[:, None] * D + d[None, :], total.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["C", "tiles"])
def order_kernel(
    indices,
    grad,
    keys,
    weights,
    starts,
    shrinks,
    C,
    tiles,
    BL: tl.constexpr,
    BLOCK: tl.constexpr,
    SCALE: tl.constexpr,
):
    """Bring the wins of `BL` tokens of one image together, in the order of texts.

    `starts[b, i]` tells where the wins of the i-th `BL` tokens begin. A key is the text's number
    times `BL`, plus the number of the token among the `BL`.
    """
    b = tl.program_id(0)
    tile = tl.program_id(1)
    low = tile * BL
    row = tl.cast(b, tl.int64) * C
    before = tl.zeros((BLOCK,), tl.int32)
    for c0 in range(0, C, BLOCK):
        c = c0 + tl.arange(0, BLOCK)
        winner = tl.load(indices + row + c, mask=c < C, other=2147483647).to(tl.int32)
        before += (winner < low).to(tl.int32)
    place = tl.sum(before, 0)
    tl.store(starts + b * (tiles + 1) + tile, place)
    largest = tl.zeros((BLOCK,), tl.float32)
    for c0 in range(0, C, BLOCK):
        c = c0 + tl.arange(0, BLOCK)
        winner = tl.load(indices + row + c, mask=c < C, other=2147483647).to(tl.int32)
        won = (winner >= low) & (winner < low + BL)
        weight = tl.load(grad + row + c, mask=won, other=0.0)
        one = won.to(tl.int32)
        to = row + place + tl.cumsum(one, 0) - one
        tl.store(keys + to, c * BL + (winner - low), mask=won)
        tl.store(weights + to, weight, mask=won)
        place += tl.sum(one, 0)
        if SCALE:
            largest = tl.maximum(largest, tl.abs(weight))
    if tile == tiles - 1:
        tl.store(starts + b * (tiles + 1) + tiles, place)
    if SCALE:
        # float16 would flush small gradients to zero: a power of two that brings the largest of
        # these tokens to [1, 2). The exponent is read from the bits.
        exponent = (tl.max(largest, 0).to(tl.int32, bitcast=True) >> 23) - 127
        exponent = tl.minimum(tl.maximum(exponent, -126), 126)
        shrink = ((127 - exponent) << 23).to(tl.float32, bitcast=True)
        tl.store(shrinks + b * tiles + tile, shrink)


@triton.jit(do_not_specialize=["T", "C", "tiles"])
def token_grad_kernel(
    text,
    keys,
    weights,
    starts,
    shrinks,
    out,
    T,
    C,
    D,
    tiles,
    text_stride_b,
    text_stride_c,
    PER_IMAGE: tl.constexpr,
    BL: tl.constexpr,
    BD: tl.constexpr,
    BK: tl.constexpr,
    SCALE: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Write `Σ_c g[b, c] [l(b, c) = l] T[c]` for `[BL, BD]` of one image.

    A product of a one-hot operand, made in registers, with the texts that these tokens won. A
    token without a win gets exact zeros.
    """
    b = tl.program_id(0)
    tile = tl.program_id(1)
    d = tl.program_id(2) * BD + tl.arange(0, BD)
    b64 = tl.cast(b, tl.int64)
    first = tl.load(starts + b * (tiles + 1) + tile)
    last = tl.load(starts + b * (tiles + 1) + tile + 1)
    if SCALE:
        shrink = tl.load(shrinks + b * tiles + tile)
    total = tl.zeros((BL, BD), tl.float32)
    for start in tl.range(first, last, BK, num_stages=STAGES):
        k = start + tl.arange(0, BK)
        key = tl.load(keys + b64 * C + k, mask=k < last, other=0)
        weight = tl.load(weights + b64 * C + k, mask=k < last, other=0.0)
        if SCALE:
            weight *= shrink
        hot = (key % BL)[None, :] == tl.arange(0, BL)[:, None]
        won = tl.where(hot, weight[None, :], 0.0).to(text.dtype.element_ty)
        rows = text + b64 * PER_IMAGE * text_stride_b + (key // BL).to(tl.int64) * text_stride_c
        inside = (k < last)[:, None] & (d < D)[None, :]
        x = tl.load(rows[:, None] + d[None, :], mask=inside, other=0.0)
        total = tl.dot(won, x, total, input_precision="ieee")
    if SCALE:
        grow = (254 << 23) - shrink.to(tl.int32, bitcast=True)  # the bits of 1 / shrink
        total *= grow.to(tl.float32, bitcast=True)
    tokens = tile * BL + tl.arange(0, BL)
    row = b64 * T + tokens
    inside = (tokens < T)[:, None] & (d < D)[None, :]
    tl.store(out + row[:, None] * D + d[None, :], total.to(out.dtype.element_ty), mask=inside)


def text_grad_constants(*, per_image: bool) -> dict:
    """Return the compile-time arguments of the text gradient's kernel."""
    BC, BD, images, stages = TEXT_GRAD_BLOCK
    return {
        "PER_IMAGE": int(per_image),
        "BC": BC,
        "BD": BD,
        "IMAGES": 1 if per_image else images,
        "STAGES": stages,
    }


def launch_text_grad(grad: Tensor, indices: Tensor, tokens: Tensor, text: Tensor) -> Tensor:
    """Return the gradient of the text, in its shape.

    Args:
        grad: gradient of the values, `[B, C]` contiguous float32.
        indices: the winning tokens, `[B, C]` contiguous.
        tokens: `[B, T, D]`, the last dimension contiguous.
        text: `[C, D]` or `[B, C, D]`.
    """
    B, C, D = tokens.shape[0], *text.shape[-2:]
    per_image = text.dim() == 3
    out = torch.empty_like(text, memory_format=torch.contiguous_format)
    if grad.numel() == 0:
        return out.zero_()
    meta = text_grad_constants(per_image=per_image)
    grid = (triton.cdiv(C, meta["BC"]) * (B if per_image else 1), triton.cdiv(D, meta["BD"]))
    text_grad_kernel[grid](
        tokens,
        indices,
        grad,
        out,
        B,
        C,
        D,
        tokens.stride(0),
        tokens.stride(1),
        **meta,
        num_warps=TEXT_GRAD_WARPS,
    )
    return out


def order_constants(plan: TokenGradPlan, dtype: torch.dtype) -> dict:
    """Return the compile-time arguments of the kernel that orders the wins."""
    return {"BL": plan.tokens, "BLOCK": ORDER_BLOCK, "SCALE": dtype == torch.float16}


def token_grad_constants(plan: TokenGradPlan, dtype: torch.dtype, *, per_image: bool) -> dict:
    """Return the compile-time arguments of the token gradient's kernel."""
    return {
        "PER_IMAGE": int(per_image),
        "BL": plan.tokens,
        "BD": plan.features,
        "BK": plan.depth,
        "SCALE": dtype == torch.float16,
        "STAGES": plan.stages,
    }


def launch_token_grad(
    grad: Tensor, indices: Tensor, tokens: Tensor, text: Tensor, plan: TokenGradPlan
) -> Tensor:
    """Return the gradient of the tokens, `[B, T, D]`.

    Args:
        grad: gradient of the values, `[B, C]` contiguous float32.
        indices: the winning tokens, `[B, C]` contiguous.
        tokens: `[B, T, D]`.
        text: `[C, D]` or `[B, C, D]`, the last dimension contiguous.
        plan: from `czsl_sac.kernels.plan.token_grad_plan`.
    """
    (B, T, D), C = tokens.shape, text.shape[-2]
    per_image = text.dim() == 3
    texts = text if per_image else text.unsqueeze(0)
    out = torch.empty_like(tokens, memory_format=torch.contiguous_format)
    if grad.numel() == 0:
        return out.zero_()
    tiles = triton.cdiv(T, plan.tokens)
    keys = indices.new_empty((B, C), dtype=torch.int32)
    starts = indices.new_empty((B, tiles + 1), dtype=torch.int32)
    weights, shrinks = torch.empty_like(grad), grad.new_empty((B, tiles))
    order_kernel[(B, tiles)](
        indices,
        grad,
        keys,
        weights,
        starts,
        shrinks,
        C,
        tiles,
        **order_constants(plan, tokens.dtype),
        num_warps=ORDER_WARPS,
    )
    token_grad_kernel[(B, tiles, triton.cdiv(D, plan.features))](
        texts,
        keys,
        weights,
        starts,
        shrinks,
        out,
        T,
        C,
        D,
        tiles,
        texts.stride(0),
        texts.stride(1),
        **token_grad_constants(plan, tokens.dtype, per_image=per_image),
        num_warps=plan.warps,
    )
    return out
