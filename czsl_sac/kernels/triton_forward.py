# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The fused forward kernel: matrix product and maximum over tokens in one program.

Texts lie on the M axis of the product and tokens on its N axis, so that the maximum over tokens
stays inside a thread, nearly. One program owns (a tile of texts, one image), or many such tiles in
turn: nothing is shared, no atomics, the same result every time. Imported only when a Triton kernel
runs.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from czsl_sac.kernels.plan import LAST_TOKEN_BLOCK, LAST_TOKEN_WARPS, ForwardPlan
from czsl_sac.kernels.triton_load import descriptor, load_columns, load_rows


@triton.jit
def nan_maximum(a, b):
    """Return the larger of two; NaN if either is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def merge(acc, l0, T, best, where, W: tl.constexpr, MASK: tl.constexpr, INDICES: tl.constexpr):
    """Fold the similarities `[BC, W]` of the tokens from `l0` on into the running maximum."""
    tokens = l0 + tl.arange(0, W)
    if MASK:
        acc = tl.where((tokens < T)[None, :], acc, float("-inf"))
    largest = tl.reduce(acc, 1, nan_maximum)
    if INDICES:
        # The maximum, then the least index that reaches it, costs half the instructions of an
        # arg-max reduction. "Not less" rather than "equal" so that a NaN maximum, too, has one.
        first = tl.min(tl.where(acc < largest[:, None], 2147483647, tokens[None, :]), 1)
        # Earlier tokens win ties and keep an earlier NaN.
        later = (largest > best) | ((largest != largest) & (best == best))
        where = tl.where(later, first, where)
    return nan_maximum(best, largest), where


@triton.jit
def one_tile(
    text,
    full,
    part_0,
    part_1,
    part_2,
    values,
    indices,
    tile,
    B,
    T,
    C,
    D,
    passes,
    text_stride_b,
    text_stride_c,
    token_stride_b,
    token_stride_t,
    PER_IMAGE: tl.constexpr,
    BC: tl.constexpr,
    BK: tl.constexpr,
    FULL: tl.constexpr,
    W0: tl.constexpr,
    W1: tl.constexpr,
    W2: tl.constexpr,
    MASK: tl.constexpr,
    LAST: tl.constexpr,
    INDICES: tl.constexpr,
    TMA: tl.constexpr,
    EVEN: tl.constexpr,
    GROUP: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Write the maxima `[BC]` of one tile of texts and one image; arguments as `forward_kernel`."""
    per_group = GROUP * tl.cdiv(C, BC)
    first = tile // per_group * GROUP
    images = tl.minimum(B - first, GROUP)
    b = first + tile % per_group % images
    c0 = tile % per_group // images * BC
    text_b = b * PER_IMAGE
    best = tl.full((BC,), float("-inf"), tl.float32)
    where = tl.zeros((BC,), tl.int32)
    l0 = 0
    if FULL > 0:
        for _ in range(passes):
            acc = tl.zeros((BC, FULL), tl.float32)
            for k in tl.range(0, D, BK, num_stages=STAGES):
                x = load_rows(
                    text, text_b, c0, k, C, D, text_stride_b, text_stride_c, BC, BK, TMA, EVEN
                )
                v = load_columns(
                    full, b, l0, k, T, D, token_stride_b, token_stride_t, FULL, BK, TMA, EVEN
                )
                acc = tl.dot(x, v, acc, input_precision="ieee")
            best, where = merge(acc, l0, T, best, where, FULL, False, INDICES)
            l0 += FULL
    l1 = l0 + W0
    l2 = l1 + W1
    acc_0 = tl.zeros((BC, W0), tl.float32)
    if W1 > 0:
        acc_1 = tl.zeros((BC, W1), tl.float32)
    if W2 > 0:
        acc_2 = tl.zeros((BC, W2), tl.float32)
    for k in tl.range(0, D, BK, num_stages=STAGES):
        x = load_rows(text, text_b, c0, k, C, D, text_stride_b, text_stride_c, BC, BK, TMA, EVEN)
        v = load_columns(part_0, b, l0, k, T, D, token_stride_b, token_stride_t, W0, BK, TMA, EVEN)
        acc_0 = tl.dot(x, v, acc_0, input_precision="ieee")
        if W1 > 0:
            v = load_columns(
                part_1, b, l1, k, T, D, token_stride_b, token_stride_t, W1, BK, TMA, EVEN
            )
            acc_1 = tl.dot(x, v, acc_1, input_precision="ieee")
        if W2 > 0:
            v = load_columns(
                part_2, b, l2, k, T, D, token_stride_b, token_stride_t, W2, BK, TMA, EVEN
            )
            acc_2 = tl.dot(x, v, acc_2, input_precision="ieee")
    best, where = merge(acc_0, l0, T, best, where, W0, MASK and W1 == 0, INDICES)
    if W1 > 0:
        best, where = merge(acc_1, l1, T, best, where, W1, MASK, INDICES)
    if W2 > 0:
        best, where = merge(acc_2, l2, T, best, where, W2, MASK, INDICES)
    c = c0 + tl.arange(0, BC)
    out = tl.cast(b, tl.int64) * C + c
    if LAST:
        last = tl.load(values + out, mask=c < C)
        if INDICES:
            later = (last > best) | ((last != last) & (best == best))
            where = tl.where(later, T - 1, where)
        best = nan_maximum(best, last)
    tl.store(values + out, best, mask=c < C)
    if INDICES:
        tl.store(indices + out, where.to(tl.int64), mask=c < C)


# Sizes that change from batch to batch make no kernel of their own.
@triton.jit(do_not_specialize=["B", "T", "C", "passes", "tiles", "programs"])
def forward_kernel(
    text,  # descriptor of [1 or B, C, D], or pointer
    full,  # tokens as descriptors of [B, T, D] with blocks of FULL, W0, W1, W2; or the pointer
    part_0,
    part_1,
    part_2,
    values,
    indices,
    B,
    T,
    C,
    D,
    passes,
    tiles,
    programs,
    text_stride_b,
    text_stride_c,
    token_stride_b,
    token_stride_t,
    PER_IMAGE: tl.constexpr,
    BC: tl.constexpr,
    BK: tl.constexpr,
    FULL: tl.constexpr,  # 0: no full pass
    W0: tl.constexpr,
    W1: tl.constexpr,
    W2: tl.constexpr,
    MASK: tl.constexpr,  # the last pass is wider than what is left
    LAST: tl.constexpr,  # `values` holds the similarities of the last token, which is left out
    INDICES: tl.constexpr,
    TMA: tl.constexpr,
    EVEN: tl.constexpr,  # BK divides D
    PERSISTENT: tl.constexpr,  # a program works through many tiles, and loads the next in time
    GROUP: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Write the maxima `[BC]` of one image, or of many tiles in turn; see `launch`."""
    if PERSISTENT:
        for tile in tl.range(tl.program_id(0), tiles, programs, flatten=True):
            one_tile(
                text,
                full,
                part_0,
                part_1,
                part_2,
                values,
                indices,
                tile,
                B,
                T,
                C,
                D,
                passes,
                text_stride_b,
                text_stride_c,
                token_stride_b,
                token_stride_t,
                PER_IMAGE,
                BC,
                BK,
                FULL,
                W0,
                W1,
                W2,
                MASK,
                LAST,
                INDICES,
                TMA,
                EVEN,
                GROUP,
                STAGES,
            )
    else:
        one_tile(
            text,
            full,
            part_0,
            part_1,
            part_2,
            values,
            indices,
            tl.program_id(0),
            B,
            T,
            C,
            D,
            passes,
            text_stride_b,
            text_stride_c,
            token_stride_b,
            token_stride_t,
            PER_IMAGE,
            BC,
            BK,
            FULL,
            W0,
            W1,
            W2,
            MASK,
            LAST,
            INDICES,
            TMA,
            EVEN,
            GROUP,
            STAGES,
        )


@triton.jit(do_not_specialize=["B", "C"])
def last_token_kernel(
    text,
    token,
    values,
    B,
    C,
    D,
    text_stride_c,
    token_stride_b,
    BB: tl.constexpr,
    BC: tl.constexpr,
    BK: tl.constexpr,
    EVEN: tl.constexpr,  # BK divides D
    STAGES: tl.constexpr,
):
    """Write the similarities `[BB, BC]` of one token an image, as one product for all images."""
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    b = tl.program_id(1) * BB + tl.arange(0, BB)
    # 64-bit from the start: the texts may be more than 2³¹ elements
    rows = text + c.to(tl.int64)[:, None] * text_stride_c
    tokens = token + b.to(tl.int64)[:, None] * token_stride_b
    similarities = tl.zeros((BB, BC), tl.float32)
    for k in tl.range(0, D, BK, num_stages=STAGES):
        d = k + tl.arange(0, BK)
        known, wanted = (b < B)[:, None], (c < C)[:, None]
        if not EVEN:
            known = known & (d < D)[None, :]
            wanted = wanted & (d < D)[None, :]
        v = tl.load(tokens + d[None, :], mask=known, other=0.0)
        x = tl.load(rows + d[None, :], mask=wanted, other=0.0)
        similarities = tl.dot(v, tl.trans(x), similarities)
    out = values + b.to(tl.int64)[:, None] * C + c[None, :]
    tl.store(out, similarities, mask=(b < B)[:, None] & (c < C)[None, :])


def constants(plan: ForwardPlan, T: int, D: int, *, per_image: bool, with_indices: bool) -> dict:
    """Return the compile-time arguments of the kernel for a plan and these sizes."""
    widths = (*plan.widths, 0, 0)[:3]
    return {
        "PER_IMAGE": int(per_image),
        "BC": plan.texts,
        "BK": plan.depth,
        "FULL": plan.full if plan.passes else 0,
        "W0": widths[0],
        "W1": widths[1],
        "W2": widths[2],
        "MASK": plan.passes * plan.full + sum(widths) + plan.last != T,
        "LAST": plan.last,
        "INDICES": with_indices,
        "TMA": plan.descriptors,
        "EVEN": D % plan.depth == 0,
        "PERSISTENT": plan.persistent,
        "GROUP": plan.images,
        "STAGES": plan.stages,
    }


def launch(
    tokens: Tensor, text: Tensor, plan: ForwardPlan, *, with_indices: bool, processors: int
) -> tuple[Tensor, Tensor | None]:
    """Return the values `[B, C]` and, if asked for, the token indices `[B, C]`.

    Args:
        tokens: `[B, T, D]`, the last dimension contiguous.
        text: `[C, D]` or `[B, C, D]`, the last dimension contiguous.
        plan: from `czsl_sac.kernels.plan.forward_plan`.
        with_indices: also return the indices.
        processors: multiprocessors of the GPU, each of which runs one persistent program.
    """
    (B, T, D), C = tokens.shape, text.shape[-2]
    per_image = text.dim() == 3
    texts = text if per_image else text.unsqueeze(0)
    values = tokens.new_empty((B, C), dtype=torch.float32)
    indices = tokens.new_empty((B, C), dtype=torch.int64) if with_indices else None
    if values.numel() == 0:
        return values, indices
    if plan.last:
        launch_last_token(tokens[:, -1], text, values)
    meta = constants(plan, T, D, per_image=per_image, with_indices=with_indices)
    sources: list[object] = [texts, tokens, tokens, tokens, tokens]
    if plan.descriptors:
        sources[0] = descriptor(texts, plan.texts, plan.depth)
        for place, name in enumerate(("FULL", "W0", "W1", "W2"), start=1):
            width = meta[name]
            sources[place] = descriptor(tokens, width, plan.depth) if width else None
    tiles = B * triton.cdiv(C, plan.texts)
    programs = min(tiles, processors) if plan.persistent else tiles
    forward_kernel[(programs,)](
        *sources,
        values,
        indices,
        B,
        T,
        C,
        D,
        plan.passes,
        tiles,
        programs,
        texts.stride(0),
        texts.stride(1),
        tokens.stride(0),
        tokens.stride(1),
        **meta,
        num_warps=plan.warps,
    )
    return values, indices


def last_token_constants(B: int, D: int) -> dict:
    """Return the compile-time arguments of the kernel for one token an image."""
    BB, BC, BK, stages = LAST_TOKEN_BLOCK
    return {
        "BB": BB if B <= BB else 4 * BB,
        "BC": BC,
        "BK": BK,
        "EVEN": D % BK == 0,
        "STAGES": stages,
    }


def launch_last_token(token: Tensor, text: Tensor, values: Tensor) -> None:
    """Write the similarities of one token an image and every text into `values`.

    Args:
        token: `[B, D]`.
        text: `[C, D]`, the last dimension contiguous.
        values: `[B, C]`, contiguous float32.
    """
    (B, D), C = token.shape, len(text)
    meta = last_token_constants(B, D)
    last_token_kernel[(triton.cdiv(C, meta["BC"]), triton.cdiv(B, meta["BB"]))](
        text,
        token,
        values,
        B,
        C,
        D,
        text.stride(0),
        token.stride(0),
        **meta,
        num_warps=LAST_TOKEN_WARPS,
    )
