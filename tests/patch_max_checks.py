"""What the tests of `patch_max` compare with: loops, float64 and eager PyTorch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from czsl_sac.kernels import patch_max

IMPLS = ("reference", "chunked")
HALF = (torch.bfloat16, torch.float16)
DTYPES = (torch.float64, torch.float32, *HALF)
# What rounding adds beyond eager's own error: sums of another order, the result's own dtype.
SLACK = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def loops(tokens: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """The maximum over tokens, one number at a time."""
    B, C = len(tokens), text.shape[-2]
    values, indices = torch.empty(B, C, dtype=tokens.dtype), torch.empty(B, C, dtype=torch.int64)
    for b in range(B):
        texts = text if text.dim() == 2 else text[b]
        for c in range(C):
            best, where = float("-inf"), 0
            for position, token in enumerate(tokens[b]):
                similarity = float(token @ texts[c])
                if similarity > best:
                    best, where = similarity, position
            values[b, c], indices[b, c] = best, where
    return values, indices


def exact_gradients(
    grad: Tensor, indices: Tensor, tokens: Tensor, text: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients in float64 when these tokens won."""
    tokens = tokens.detach().double().requires_grad_()
    text = text.detach().double().requires_grad_()
    similarities = (tokens @ text.mT).gather(1, indices.unsqueeze(1)).squeeze(1)
    return torch.autograd.grad(similarities, (tokens, text), grad.double())


def run(tokens: Tensor, text: Tensor, grad: Tensor, impl: str) -> tuple[Tensor, ...]:
    """Values, indices and both gradients."""
    tokens = tokens.detach().requires_grad_()
    text = text.detach().requires_grad_()
    values, indices = patch_max(tokens, text, impl=impl)
    return values, indices, *torch.autograd.grad(values, (tokens, text), grad.to(values.dtype))


def error(got: Tensor, exact: Tensor) -> float:
    """Largest distance, by the largest exact number."""
    return float((got.detach().double() - exact).abs().max() / exact.abs().max().clamp_min(1e-30))


def assert_no_worse_than_eager(tokens: Tensor, text: Tensor, impl: str, grad: Tensor) -> None:
    """The error against float64 is at most that of eager PyTorch in the same dtype + slack."""
    slack = SLACK[tokens.dtype]
    exact = (tokens.double() @ text.double().mT).max(dim=1).values
    values, indices, grad_tokens, grad_text = run(tokens, text, grad, impl)
    eager = run(tokens, text, grad, "reference")
    assert values.dtype == (torch.float64 if tokens.dtype == torch.float64 else torch.float32)
    assert grad_tokens.dtype == grad_text.dtype == tokens.dtype
    assert error(values, exact) <= error(eager[0], exact) + slack
    # the token named as winner has the largest similarity, to rounding
    of_winner = (tokens.double() @ text.double().mT).gather(1, indices.unsqueeze(1)).squeeze(1)
    assert error(of_winner, exact) <= error(eager[0], exact) + slack
    mine = exact_gradients(grad, indices, tokens, text)
    theirs = exact_gradients(grad, eager[1], tokens, text)
    assert error(grad_tokens, mine[0]) <= error(eager[2], theirs[0]) + slack
    assert error(grad_text, mine[1]) <= error(eager[3], theirs[1]) + slack


def inputs(
    B: int, T: int, C: int, D: int, dtype: torch.dtype, per_image: bool, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(B, T, D, generator=generator).to(dtype)
    text = torch.randn(*((B,) if per_image else ()), C, D, generator=generator).to(dtype)
    return tokens, text, torch.randn(B, C, generator=generator)


@contextmanager
def operators() -> Iterator[list[str]]:
    """Record the names of the operators that run."""
    names: list[str] = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(str(func))
            return func(*args, **(kwargs or {}))

    with Recorder():
        yield names
