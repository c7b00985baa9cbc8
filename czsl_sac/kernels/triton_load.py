# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Loading tiles of tokens and texts: by tensor descriptors (TMA) or by pointers.

Imported only when a Triton kernel runs.
"""

import triton
import triton.language as tl
from torch import Tensor

try:  # in Triton from 3.4 on; without it the plans fall back to pointers
    from triton.tools.tensor_descriptor import TensorDescriptor
except ImportError:
    TensorDescriptor = None


@triton.jit
def load_rows(
    source,
    b,
    r0,
    k,
    R,
    D,
    stride_b,
    stride_r,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    TMA: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Load `[ROWS, WIDTH]` of `[B, R, D]` from row r0 and column k on, zero outside."""
    if TMA:
        tile = source.load([b, r0, k]).reshape(ROWS, WIDTH)
    else:
        rows = tl.arange(0, ROWS)
        d = k + tl.arange(0, WIDTH)
        mask = (r0 + rows < R)[:, None]
        if not EVEN:
            mask = mask & (d < D)[None, :]
        # 64-bit to the tile, 32-bit inside it: few registers, and no limit on the tensor's size
        start = source + tl.cast(b, tl.int64) * stride_b + tl.cast(r0, tl.int64) * stride_r
        tile = tl.load(start + rows[:, None] * stride_r + d[None, :], mask=mask, other=0.0)
    return tile


@triton.jit
def load_columns(
    source,
    b,
    r0,
    k,
    R,
    D,
    stride_b,
    stride_r,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    TMA: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Load the transpose, `[WIDTH, ROWS]`, of what `load_rows` loads."""
    tile = load_rows(source, b, r0, k, R, D, stride_b, stride_r, ROWS, WIDTH, TMA, EVEN)
    return tl.trans(tile)  # not tile.T, which Triton 3.2 interprets wrongly


def knows_descriptors() -> bool:
    """Say whether this Triton has tensor descriptors made on the host."""
    return TensorDescriptor is not None


def descriptor(source: Tensor, rows: int, width: int) -> object:
    """Return a tensor descriptor of `[B, R, D]` that loads `[1, rows, width]`."""
    return TensorDescriptor(source, list(source.shape), list(source.stride()), [1, rows, width])
