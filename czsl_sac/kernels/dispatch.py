"""The fused patch-composition similarity max: checks, autocast and the choice of implementation.

`s[b, c] = max_l ⟨V[b, l], T[c]⟩` (Eq. 2 of the paper) with the winning token, without the
`[B, T, C]` similarity in memory.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from czsl_sac.checks import check_choice
from czsl_sac.functional.alignment import check_tokens_and_text, patch_max_reference
from czsl_sac.functional.precision import autocasts
from czsl_sac.kernels.derivatives import is_transformed, maximum
from czsl_sac.kernels.library import TENSOR_CORE_DTYPES

Impl = Literal["auto", "reference", "chunked", "triton"]
_IMPLS: tuple[str, ...] = get_args(Impl)  # here, for torch.compile of torch 2.6 cannot trace it

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# Up to this many similarities (B·T·C), without gradients and with them, `auto` takes the plain
# expression: it is as fast there and needs little memory (docs/kernels.md, "The rule of auto").
# Measured on an AMD EPYC and an Intel Xeon; for float32 on a GPU it is an estimate.
SMALL = {"cpu": (2**20, 2**14), "cuda": (2**22, 2**22)}


def patch_max(tokens: Tensor, text: Tensor, *, impl: Impl = "auto") -> tuple[Tensor, Tensor]:
    """Return the largest inner product over the tokens, and which token gave it (Eq. 2).

    The same as `(tokens @ text.mT).max(dim=1)` without the `[B, T, C]` product in memory.
    Differentiable in both inputs, to every order, backward, forward and under `torch.func`. The
    gradient flows to the winning token alone and is exactly zero for a token that never wins. A
    tie goes to the lowest index. A NaN similarity makes the value NaN. Under autocast both inputs
    are cast to its dtype, as for a matrix product.

    Args:
        tokens: `[B, T, D]`, any strides.
        text: `[C, D]`, or one set of texts per image, `[B, C, D]`; same dtype and device.
        impl: `"reference"` is the plain expression, `"chunked"` goes tile by tile with
            library matrix products on any device, `"triton"` is the fused CUDA kernel.
            `"auto"` chooses by device, dtype, size, and whether a derivative is wanted.

    Returns:
        Values `[B, C]` (float32, or float64 for float64 inputs) and token indices
        `[B, C]` (int64).

    Raises:
        ValueError: a shape, dtype or device does not fit, there is no token to take the
            maximum over, or `impl` cannot serve these inputs or be traced.

    Examples:
        >>> tokens = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> patch_max(tokens, torch.tensor([[3.0, 4.0], [2.0, 1.0]]))
        (tensor([[4., 2.]]), tensor([[1, 0]]))
    """
    tokens, text = _checked(tokens, text, impl)
    if _takes_reference(tokens, text, impl):
        return patch_max_reference(tokens, text)
    return maximum(tokens, text, impl)


def patch_max_values(tokens: Tensor, text: Tensor, *, impl: Impl = "auto") -> Tensor:
    """Return the values of `patch_max` alone, faster where no gradient is needed.

    Args:
        tokens: `[B, T, D]`.
        text: `[C, D]` or `[B, C, D]`.
        impl: as for `patch_max`.

    Returns:
        `[B, C]`, float32, or float64 for float64 inputs.

    Raises:
        ValueError: as for `patch_max`.

    Examples:
        >>> tokens = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> patch_max_values(tokens, torch.tensor([[3.0, 4.0], [2.0, 1.0]]))
        tensor([[4., 2.]])
    """
    if _is_differentiated(tokens, text):
        return patch_max(tokens, text, impl=impl)[0]
    tokens, text = _checked(tokens, text, impl)
    if _takes_reference(tokens, text, impl):
        values = (tokens @ text.mT).amax(dim=1)
        return values if values.dtype == torch.float64 else values.float()
    return torch.ops.czsl_sac.patch_max_values(tokens, text, impl)


def _checked(tokens: Tensor, text: Tensor, impl: str) -> tuple[Tensor, Tensor]:
    """Check what the user passed and return the inputs in the dtype to compute in."""
    check_choice("impl", impl, _IMPLS)
    check_tokens_and_text(tokens, text)
    if tokens.device != text.device:
        raise ValueError(
            f"tokens is on {tokens.device} and text on {text.device} but they must be on one "
            "device: move one of them."
        )
    if autocasts(tokens.device):
        dtype = torch.get_autocast_dtype(tokens.device.type)
        # float64 stays, as in the matrix product under autocast
        if tokens.dtype in DTYPES and tokens.dtype != torch.float64:
            tokens = tokens.to(dtype)
        if text.dtype in DTYPES and text.dtype != torch.float64:
            text = text.to(dtype)
    if tokens.dtype not in DTYPES:
        raise ValueError(
            f"tokens has dtype {tokens.dtype} but must have float32, float64, bfloat16 or float16: "
            "cast it."
        )
    if tokens.dtype != text.dtype:
        raise ValueError(
            f"tokens has dtype {tokens.dtype} and text {text.dtype} but they must have one dtype: "
            "cast one of them."
        )
    return tokens, text


def largest_plain(tokens: Tensor, *, with_gradients: bool) -> int:
    """Return up to how many similarities (B·T·C) `auto` takes the plain expression.

    In half precision on a GPU for none: on an H100 the fused kernel took 0.4 to 0.7 of its time at
    every size. Only what `torch.compile` can trace is looked at here; what depends on the hardware
    is decided inside the registered operator.

    Args:
        tokens: `[B, T, D]`.
        with_gradients: a gradient is wanted.
    """
    if tokens.is_cuda and tokens.dtype in TENSOR_CORE_DTYPES and tokens.shape[-1] % 16 == 0:
        return 0
    return SMALL.get(tokens.device.type, (0, 0))[with_gradients]


def _takes_reference(tokens: Tensor, text: Tensor, impl: str) -> bool:
    """Say whether the plain expression serves this call.

    Raises:
        ValueError: `impl` cannot be traced here.
    """
    if torch.compiler.is_compiling() and is_transformed():
        # Its tracer takes a custom derivative for that of the code inside: zero, in silence.
        if impl in ("auto", "reference"):
            return True
        raise ValueError(
            f"impl is {impl!r} but must be 'auto' or 'reference' where torch.compile traces "
            "torch.func's transforms: the plain expression alone can be traced there."
        )
    # an exported program is to serve every size, not those on one side of the threshold
    if impl != "auto" or is_exporting():
        return impl == "reference"
    similarities = tokens.shape[0] * tokens.shape[1] * text.shape[-2]
    return similarities <= largest_plain(tokens, with_gradients=_is_differentiated(tokens, text))


def _is_differentiated(tokens: Tensor, text: Tensor) -> bool:
    """Say whether a derivative may be taken of this call's values."""
    if torch.is_grad_enabled() and (tokens.requires_grad or text.requires_grad):
        return True
    return is_transformed()


def is_exporting() -> bool:
    """Say whether `torch.export` traces this call; before torch 2.7 there is no telling."""
    return hasattr(torch.compiler, "is_exporting") and torch.compiler.is_exporting()
