"""What the tests of `patch_max` compare with: loops, float64 and eager PyTorch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from czsl_sac.blocks import PatchMaxAligner
from czsl_sac.kernels import patch_max, patch_max_values

IMPLS = ("reference", "chunked")
HALF = (torch.bfloat16, torch.float16)
DTYPES = (torch.float64, torch.float32, *HALF)
# What rounding adds beyond eager's own error: sums of another order, the result's own dtype.
SLACK = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
FUNCTIONS = {
    "patch_max": lambda tokens, text, impl: patch_max(tokens, text, impl=impl)[0],
    "patch_max_values": lambda tokens, text, impl: patch_max_values(tokens, text, impl=impl),
    "aligner": lambda tokens, text, impl: PatchMaxAligner(1.0, impl=impl)(tokens, text),
}
DERIVATIVES = ("dual", "jvp", "grad", "vmap of grad", "jacfwd", "jacrev", "hessian", "third")


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


def derivatives(
    tokens: Tensor, text: Tensor, impl: str, name: str
) -> dict[str, Callable[[], object]]:
    """Derivatives in tokens and text of the values, or of a number made of them."""
    both = (tokens, text)
    moves = (torch.cos(tokens), torch.sin(text))

    def values(tokens: Tensor, text: Tensor) -> Tensor:
        return FUNCTIONS[name](tokens, text, impl)

    def number(tokens: Tensor, text: Tensor) -> Tensor:
        return values(tokens, text).pow(3).sum()

    def dual() -> Tensor:
        with forward_ad.dual_level():
            made = (forward_ad.make_dual(*pair) for pair in zip(both, moves, strict=True))
            return forward_ad.unpack_dual(values(*made)).tangent

    def each(image: Tensor, text: Tensor) -> Tensor:
        return number(image.unsqueeze(0), text)

    func, at = torch.func, (0, 1)
    of_one, where = (text.unsqueeze(1), 0) if text.dim() == 3 else (text, None)
    return {
        "dual": dual,
        "jvp": lambda: func.jvp(values, both, moves)[1],
        "grad": lambda: func.grad(number, at)(*both),
        "vmap of grad": lambda: torch.vmap(func.grad(each, at), (0, where))(tokens, of_one),
        "jacfwd": lambda: func.jacfwd(values, at)(*both),
        "jacrev": lambda: func.jacrev(values, at)(*both),
        "hessian": lambda: func.hessian(number, at)(*both),
        "third": lambda: func.jacrev(func.jacfwd(func.grad(number)), 1)(*both),
    }
