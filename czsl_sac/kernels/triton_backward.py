# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The backward kernels. Each element of a gradient is summed by one program, in a fixed order.

Imported only when a Triton kernel runs.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from czsl_sac.kernels.plan import TEXT_GRAD_BLOCK, TEXT_GRAD_WARPS, TokenGradPlan
from czsl_sac.kernels.triton_load import descriptor, load_rows


@triton.jit
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
):
    """Write `Σ_b g[b, c] V[b, l(b, c)]` for `[BC, BD]`, or one image's term per image."""
    # texts and images share the grid's first dimension: the others end at 65,535
    tiles = tl.cdiv(C, BC)
    c = tl.cast(tl.program_id(0) % tiles, tl.int64) * BC + tl.arange(0, BC)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    inside = (c < C)[:, None] & (d < D)[None, :]
    total = tl.zeros((BC, BD), tl.float32)
    first = tl.program_id(0) // tiles  # 0 where the text is shared
    images = 1 if PER_IMAGE else B
    for n in range(images):
        b = tl.cast(first + n, tl.int64)
        winner = tl.load(indices + b * C + c, mask=c < C, other=0)
        weight = tl.load(grad + b * C + c, mask=c < C, other=0.0)
        rows = tokens + b * token_stride_b + winner[:, None] * token_stride_t
        v = tl.load(rows + d[None, :], mask=inside, other=0.0)
        total += weight[:, None] * v.to(tl.float32)
    row = tl.cast(first, tl.int64) * C + c
    tl.store(out + row[:, None] * D + d[None, :], total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def token_grad_kernel(
    text,  # descriptor of [1 or B, C, D], or pointer
    indices,
    grad,
    out,
    T,
    C,
    D,
    text_stride_b,
    text_stride_c,
    PER_IMAGE: tl.constexpr,
    BL: tl.constexpr,
    BD: tl.constexpr,
    BK: tl.constexpr,
    SCALE: tl.constexpr,
    SCAN: tl.constexpr,  # gradients read at a time to find the scale
    DTYPE: tl.constexpr,
    TMA: tl.constexpr,
    EVEN: tl.constexpr,  # BD divides D
    STAGES: tl.constexpr,
):
    """Write `Σ_c g[b, c] [l(b, c) = l] T[c]` for `[BL, BD]` of one image.

    A matrix product with a one-hot operand made in registers: its time does not depend on how
    the wins are spread over the tokens, and a token without a win gets exact zeros.
    """
    b = tl.program_id(0)
    tokens = tl.program_id(1) * BL + tl.arange(0, BL)
    d0 = tl.program_id(2) * BD
    start = b.to(tl.int64) * C
    if SCALE:
        # float16 would flush small gradients to zero: scale the image's largest by a power of
        # two to [1, 2) and undo it in the sum. The exponent is read from the bits.
        largest = tl.zeros((SCAN,), tl.float32)
        for c0 in range(0, C, SCAN):
            c = c0 + tl.arange(0, SCAN)
            g = tl.load(grad + start + c, mask=c < C, other=0.0)
            largest = tl.maximum(largest, tl.abs(g))
        exponent = (tl.max(largest, 0).to(tl.int32, bitcast=True) >> 23) - 127
        exponent = tl.minimum(tl.maximum(exponent, -126), 126)
        shrink = ((127 - exponent) << 23).to(tl.float32, bitcast=True)
        grow = ((127 + exponent) << 23).to(tl.float32, bitcast=True)
    if TMA:
        # Features on the M axis: the one-hot operand goes through shared memory once. As the
        # first operand it would be kept in registers and go there twice.
        total = tl.zeros((BD, BL), tl.float32)
    else:
        total = tl.zeros((BL, BD), tl.float32)
    for c0 in tl.range(0, C, BK, num_stages=STAGES):
        c = c0 + tl.arange(0, BK)
        winner = tl.load(indices + start + c, mask=c < C, other=-1).to(tl.int32)
        weight = tl.load(grad + start + c, mask=c < C, other=0.0)
        if SCALE:
            weight *= shrink
        won = tl.where(winner[None, :] == tokens[:, None], weight[None, :], 0.0).to(DTYPE)
        x = load_rows(
            text, b * PER_IMAGE, c0, d0, C, D, text_stride_b, text_stride_c, BK, BD, TMA, EVEN
        )
        if TMA:
            total = tl.dot(tl.trans(x), tl.trans(won), total)
        else:
            total = tl.dot(won, x, total, input_precision="ieee")
    if TMA:
        total = tl.trans(total)
    if SCALE:
        total *= grow
    d = d0 + tl.arange(0, BD)
    row = b.to(tl.int64) * T + tokens
    inside = (tokens < T)[:, None] & (d < D)[None, :]
    tl.store(out + row[:, None] * D + d[None, :], total.to(DTYPE), mask=inside)


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
    BC, BD = TEXT_GRAD_BLOCK
    grid = (triton.cdiv(C, BC) * (B if per_image else 1), triton.cdiv(D, BD))
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
        PER_IMAGE=int(per_image),
        BC=BC,
        BD=BD,
        num_warps=TEXT_GRAD_WARPS,
    )
    return out


def token_grad_constants(
    plan: TokenGradPlan, dtype: torch.dtype, D: int, *, per_image: bool
) -> dict:
    """Return the compile-time arguments of the token gradient's kernel."""
    types = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}
    return {
        "PER_IMAGE": int(per_image),
        "BL": plan.tokens,
        "BD": plan.features,
        "BK": plan.depth,
        "SCALE": dtype == torch.float16,
        "SCAN": 1024,
        "DTYPE": types[dtype],
        "TMA": plan.descriptors,
        "EVEN": D % plan.features == 0,
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
    source = descriptor(texts, plan.depth, plan.features) if plan.descriptors else texts
    grid = (B, triton.cdiv(T, plan.tokens), triton.cdiv(D, plan.features))
    token_grad_kernel[grid](
        source,
        indices,
        grad,
        out,
        T,
        C,
        D,
        texts.stride(0),
        texts.stride(1),
        **token_grad_constants(plan, tokens.dtype, D, per_image=per_image),
        num_warps=plan.warps,
    )
    return out
