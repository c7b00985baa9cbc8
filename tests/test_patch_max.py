"""`patch_max`: every implementation that runs on a CPU, against loops and float64."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from czsl_sac.functional.alignment import patch_max_reference
from czsl_sac.kernels import chunked, patch_max, patch_max_values

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


@settings(max_examples=25, deadline=None)
@given(
    b=st.integers(1, 3),
    t=st.integers(1, 6),
    c=st.integers(1, 5),
    d=st.integers(1, 4),
    per_image=st.booleans(),
    impl=st.sampled_from(IMPLS),
    seed=st.integers(0, 99),
)
def test_equals_loops_with_ties(
    b: int, t: int, c: int, d: int, per_image: bool, impl: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # small integers: products are exact and most maxima are reached more than once
    tokens = torch.randint(-1, 2, (b, t, d), generator=generator).float()
    text = torch.randint(-1, 2, (*((b,) if per_image else ()), c, d), generator=generator).float()
    values, indices = patch_max(tokens, text, impl=impl)
    expected = loops(tokens, text)
    assert torch.equal(values, expected[0])
    assert torch.equal(indices, expected[1])
    assert torch.equal(patch_max_values(tokens, text, impl=impl), expected[0])


@settings(max_examples=40, deadline=None)
@given(
    b=st.integers(1, 5),
    t=st.integers(1, 40),
    c=st.integers(1, 40),
    d=st.integers(1, 33),
    dtype=st.sampled_from(DTYPES),
    per_image=st.booleans(),
    seed=st.integers(0, 99),
)
def test_error_is_no_larger_than_eagers(
    b: int, t: int, c: int, d: int, dtype: torch.dtype, per_image: bool, seed: int
) -> None:
    tokens, text, grad = inputs(b, t, c, d, dtype, per_image, seed)
    assert_no_worse_than_eager(tokens, text, "chunked", grad)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize(
    ("B", "T", "C", "D"), [(8, 256, 1024, 32), (9, 257, 1100, 24), (3, 1030, 513, 8)]
)
def test_several_tiles(B: int, T: int, C: int, D: int, dtype: torch.dtype, per_image: bool) -> None:
    tokens, text, grad = inputs(B, T, C, D, dtype, per_image)
    images, columns = chunked.tile_shape(tokens, torch.float32)
    assert images < B
    assert columns < C
    assert_no_worse_than_eager(tokens, text, "chunked", grad)
    assert torch.equal(
        patch_max_values(tokens, text, impl="chunked"), patch_max(tokens, text, impl="chunked")[0]
    )


def test_half_precision_is_multiplied_in_float32_without_matrix_units(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens, text, grad = inputs(4, 30, 60, 64, torch.bfloat16, False)
    exact = (tokens.double() @ text.double().mT).max(dim=1).values
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {}, raising=False)
    wide = patch_max(tokens, text, impl="chunked")[0]
    assert error(wide, exact) < 1e-6 < error(patch_max_reference(tokens, text)[0], exact)
    # a CPU with matrix units multiplies in the inputs' dtype, as eager does
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert torch.equal(
        patch_max(tokens, text, impl="chunked")[0], patch_max_reference(tokens, text)[0]
    )
    assert_no_worse_than_eager(tokens, text, "chunked", grad)


def test_small_half_precision_gradients_do_not_underflow() -> None:
    tokens, text, _ = inputs(2, 9, 600, 16, torch.float16, False)
    text *= 256  # so that the sums, unlike the gradients of the values, are within float16
    grad = torch.full((2, 600), 1e-8)  # float16 has nothing between 0 and 6e-8
    _, indices, grad_tokens, _ = run(tokens, text, grad, "chunked")
    exact = exact_gradients(grad, indices, tokens, text)[0]
    assert error(grad_tokens, exact) < 2e-2
    assert run(tokens, text, grad, "reference")[2].abs().max() == 0


def test_gradcheck() -> None:
    tokens, text, _ = inputs(2, 5, 7, 3, torch.float64, False)
    tokens.requires_grad_()
    text.requires_grad_()
    assert torch.autograd.gradcheck(lambda v, t: patch_max(v, t, impl="chunked")[0], (tokens, text))


def test_a_token_that_never_wins_gets_exactly_zero() -> None:
    tokens, text, grad = inputs(2, 12, 5, 8, torch.float32, False)
    _, indices, grad_tokens, _ = run(tokens, text, grad, "chunked")
    lost = torch.ones(2, 12, dtype=torch.bool).scatter(1, indices, False)
    assert lost.any()
    assert torch.equal(grad_tokens[lost], torch.zeros(int(lost.sum()), 8))
    assert (grad_tokens[~lost].abs().sum(dim=-1) > 0).all()


def test_gradient_of_a_tie_goes_to_the_lowest_index() -> None:
    tokens = torch.ones(1, 3, 2)
    _, indices, grad_tokens, _ = run(tokens, torch.ones(4, 2), torch.ones(1, 4), "chunked")
    assert torch.equal(indices, torch.zeros(1, 4, dtype=torch.int64))
    assert torch.equal(grad_tokens, torch.tensor([[[4.0, 4.0], [0.0, 0.0], [0.0, 0.0]]]))


@pytest.mark.parametrize("impl", IMPLS)
def test_nan_in_gives_nan_out_at_its_first_token(impl: str) -> None:
    tokens, text, _ = inputs(2, 6, 4, 3, torch.float32, False)
    tokens[0, 2, 1] = tokens[0, 4, 0] = float("nan")
    text[3, 0] = float("nan")
    values, indices = patch_max(tokens, text, impl=impl)
    assert values[0].isnan().all()
    assert torch.equal(indices[0], torch.tensor([2, 2, 2, 0]))
    assert torch.equal(values[1].isnan(), torch.tensor([False, False, False, True]))
    assert torch.equal(patch_max_values(tokens, text, impl=impl).isnan(), values.isnan())


@pytest.mark.parametrize("impl", IMPLS)
def test_infinities(impl: str) -> None:
    tokens = torch.full((1, 3, 1), float("-inf"))
    values, indices = patch_max(tokens, torch.ones(1, 1), impl=impl)
    assert (values.item(), indices.item()) == (float("-inf"), 0)
    tokens[0, 2] = float("inf")
    values, indices = patch_max(tokens, torch.ones(1, 1), impl=impl)
    assert (values.item(), indices.item()) == (float("inf"), 2)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize(("B", "C", "D"), [(0, 3, 4), (2, 0, 4), (0, 0, 4), (2, 3, 0)])
def test_empty_sizes(B: int, C: int, D: int, per_image: bool, impl: str) -> None:
    tokens, text, grad = inputs(B, 5, C, D, torch.float32, per_image)
    values, indices, grad_tokens, grad_text = run(tokens, text, grad, impl)
    assert values.shape == indices.shape == (B, C)
    assert torch.equal(grad_tokens, torch.zeros_like(tokens))
    assert torch.equal(grad_text, torch.zeros_like(text))


@pytest.mark.parametrize("per_image", [False, True])
def test_inputs_that_are_not_contiguous(per_image: bool) -> None:
    tokens, text, grad = inputs(4, 10, 12, 6, torch.float32, per_image)
    plain = run(tokens[:, 1:].contiguous(), text, grad, "chunked")
    views = [
        (tokens[:, 1:], text),
        (tokens[:, 1:].mT.contiguous().mT, text.mT.contiguous().mT),
        (tokens[:, 1:], torch.stack([text, text], dim=-1)[..., 0]),
    ]
    for view_tokens, view_text in views:
        got = run(view_tokens, view_text, grad.T.contiguous().T, "chunked")
        for mine, theirs in zip(got, plain, strict=True):
            torch.testing.assert_close(mine, theirs)


def test_expanded_text_and_gradient() -> None:
    tokens, text, _ = inputs(3, 7, 5, 4, torch.float32, False)
    text.requires_grad_()
    shared = torch.autograd.grad(patch_max(tokens, text, impl="chunked")[0].sum(), text)[0]
    expanded = text.expand(3, 5, 4)  # strides of zero in the text, and in the gradient of a sum
    each = torch.autograd.grad(patch_max(tokens, expanded, impl="chunked")[0].sum(), text)[0]
    torch.testing.assert_close(each, shared)


def test_same_result_every_time() -> None:
    tokens, text, grad = inputs(6, 50, 900, 16, torch.float32, False)
    tokens[:, 7] *= 5  # many wins for one token
    once = run(tokens, text, grad, "chunked")
    for _ in range(3):
        for mine, theirs in zip(run(tokens, text, grad, "chunked"), once, strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype: torch.dtype, per_image: bool) -> None:
    tokens, text, grad = inputs(2, 9, 11, 4, dtype, per_image)
    _, indices = patch_max(tokens, text, impl="chunked")
    ops = torch.ops.czsl_sac
    torch.library.opcheck(ops.patch_max_values, (tokens, text, "chunked"))
    torch.library.opcheck(ops.patch_max_grad_tokens, (grad, indices, tokens, text, "chunked"))
    torch.library.opcheck(ops.patch_max_grad_text, (grad, indices, tokens, text, "chunked"))
    tokens.requires_grad_()
    text.requires_grad_()
    torch.library.opcheck(ops.patch_max, (tokens, text, "chunked"))


@pytest.mark.parametrize("impl", ["auto", "chunked"])
def test_compiles_as_one_graph(impl: str) -> None:
    def loss(tokens: Tensor, text: Tensor) -> Tensor:
        values, indices = patch_max(tokens * 2, text, impl=impl)
        return (values * (indices + 1)).sum() + patch_max_values(tokens, text, impl=impl).sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True, dynamic=True)
    for B, C in ((3, 9), (5, 14)):
        tokens, text, _ = inputs(B, 8, C, 4, torch.float32, False)
        tokens.requires_grad_()
        text.requires_grad_()
        got = torch.autograd.grad(compiled(tokens, text), (tokens, text))
        expected = torch.autograd.grad(loss(tokens, text), (tokens, text))
        for mine, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("impl", ["auto", *IMPLS])
def test_autocast(impl: str) -> None:
    tokens, text, grad = inputs(2, 9, 30, 16, torch.float32, False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = run(tokens, text.bfloat16(), grad, impl)
        double = patch_max(tokens.double(), text.double(), impl=impl)[0]
    plain = run(tokens.bfloat16(), text.bfloat16(), grad, impl)
    assert double.dtype == torch.float64
    assert cast[0].dtype == torch.float32
    assert torch.equal(cast[0], plain[0])
    assert cast[2].dtype == torch.float32  # the gradient of the tokens as passed
    assert torch.equal(cast[2], plain[2].float())


def test_skips_the_gradient_that_nobody_needs() -> None:
    tokens, text, _ = inputs(2, 9, 30, 16, torch.float32, False)
    for wanted, skipped in (("tokens", "text"), ("text", "tokens")):
        tokens.requires_grad_(wanted == "tokens")
        text.requires_grad_(wanted == "text")
        values = patch_max(tokens, text, impl="chunked")[0].sum()
        with operators() as names:
            values.backward()
        assert f"czsl_sac.patch_max_grad_{wanted}.default" in names
        assert f"czsl_sac.patch_max_grad_{skipped}.default" not in names


def test_values_alone_keep_the_gradient() -> None:
    tokens, text, grad = inputs(2, 9, 30, 16, torch.float32, False)
    tokens.requires_grad_()
    for impl in ("auto", *IMPLS):
        values = patch_max_values(tokens, text, impl=impl)
        got = torch.autograd.grad(values, tokens, grad)[0]
        torch.testing.assert_close(got, run(tokens, text, grad, "reference")[2])


def test_auto_takes_the_plain_expression_for_small_sizes_alone() -> None:
    for C, small in ((30, True), (3000, False)):
        tokens, text, _ = inputs(2, 60, C, 8, torch.float32, False)
        with operators() as names:
            patch_max(tokens, text)
        assert ("czsl_sac.patch_max.default" not in names) == small


def test_second_derivatives_are_refused() -> None:
    tokens, text, _ = inputs(1, 3, 4, 2, torch.float32, False)
    tokens.requires_grad_()
    text.requires_grad_()
    values = patch_max(tokens, text, impl="chunked")[0]
    grad = torch.autograd.grad((values**2).sum(), tokens, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="no second derivatives: pass impl='reference'"):
        grad.sum().backward()


def test_messages() -> None:
    tokens, text = torch.ones(2, 3, 4), torch.ones(5, 4)
    with pytest.raises(ValueError, match=r"there is no token to reduce over, pass at least one"):
        patch_max(tokens[:, :0], text)
    with pytest.raises(ValueError, match=r"text has 4 features but tokens has 3: project both"):
        patch_max(tokens[..., 1:], text)
    with pytest.raises(ValueError, match=r"impl is 'cuda': choose one of 'auto', 'reference'"):
        patch_max(tokens, text, impl="cuda")
    with pytest.raises(ValueError, match=r"tokens has dtype torch.int64: pass float32, float64"):
        patch_max(tokens.long(), text.long())
    with pytest.raises(ValueError, match=r"torch.float32 but text torch.float64: cast both to one"):
        patch_max_values(tokens, text.double())
    with pytest.raises(ValueError, match=r"tokens is on cpu but text on meta: move both"):
        patch_max(tokens, text.to("meta"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton can serve some of these")
def test_an_explicit_request_that_cannot_be_served_says_why() -> None:
    tokens, text = torch.ones(2, 3, 16), torch.ones(5, 16)
    for call in (patch_max, patch_max_values):
        with pytest.raises(ValueError, match=r"impl='triton' cannot serve.* pass impl='auto'"):
            call(tokens, text, impl="triton")
    with pytest.raises(ValueError, match=r"it computes in float32 and tokens is float64"):
        patch_max(tokens.double(), text.double(), impl="triton")
    with pytest.raises(ValueError, match=r"D to be a positive multiple of 16 and D is 15"):
        patch_max(tokens[..., 1:], text[..., 1:], impl="triton")


def test_importing_and_running_on_a_cpu_needs_torch_alone() -> None:
    code = (
        "import sys, torch; from czsl_sac.kernels import patch_max;"
        "patch_max(torch.ones(8, 200, 16), torch.ones(300, 16));"
        "print({'triton', 'torch._dynamo', 'torchvision'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.slow
def test_more_than_two_to_the_31_similarities() -> None:
    T, C = 2050, 2**20
    tokens = torch.arange(T, dtype=torch.float32).view(1, T, 1)
    text = torch.ones(C, 1)
    text[-1] = -1
    values, indices = patch_max(tokens, text, impl="chunked")
    assert values.numel() * T > 2**31
    assert torch.equal(values[0, :-1], torch.full((C - 1,), T - 1.0))
    assert (values[0, -1].item(), indices[0, -1].item(), indices[0, 0].item()) == (0, 0, T - 1)
