"""`patch_max` as an operator: autograd, `torch.compile`, autocast, the choice and the messages."""

import subprocess
import sys

import pytest
import torch
from patch_max_checks import IMPLS, inputs, operators, run
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from czsl_sac.kernels import patch_max, patch_max_values


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype: torch.dtype, per_image: bool) -> None:
    tokens, text, grad = inputs(2, 9, 11, 4, dtype, per_image)
    _, indices = patch_max(tokens, text, impl="chunked")
    ops = torch.ops.czsl_sac
    for wanted in (False, True):
        tokens.requires_grad_(wanted)
        text.requires_grad_(wanted)
        for maximum in (ops.patch_max, ops.patch_max_values):
            torch.library.opcheck(maximum, (tokens, text, "chunked"))
        for part in (ops.patch_max_at, ops.patch_max_grad_tokens, ops.patch_max_grad_text):
            torch.library.opcheck(part, (grad, indices, tokens, text, "chunked"))


@pytest.mark.parametrize("impl", ["reference", "chunked"])
def test_gradients_of_both_sides_pass_a_checkpoint(impl: str) -> None:
    """As where texts of each image come in chunks that are made again."""
    tokens, text, _ = inputs(2, 9, 11, 4, torch.float32, True)
    tokens.requires_grad_()
    text.requires_grad_()

    def values(tokens: Tensor, text: Tensor) -> Tensor:
        return patch_max_values(tokens, text, impl=impl).sum()

    again = checkpoint(values, tokens, text, use_reentrant=False)
    got = torch.autograd.grad(again, (tokens, text))
    torch.testing.assert_close(got, torch.autograd.grad(values(tokens, text), (tokens, text)))


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


@pytest.mark.parametrize(
    ("C", "plain", "plain_with_gradients"),
    [(100, True, True), (1000, True, False), (10_000, False, False)],
)
def test_auto_takes_the_plain_expression_for_small_sizes_alone(
    C: int, plain: bool, plain_with_gradients: bool
) -> None:
    tokens, text, _ = inputs(2, 60, C, 8, torch.float32, False)
    for values in (patch_max, patch_max_values):
        with operators() as names:
            values(tokens, text)
        assert (f"czsl_sac.{values.__name__}.default" not in names) == plain
    for wanted in (tokens, text):
        wanted.requires_grad_()
        with operators() as names:
            patch_max(tokens, text)
        assert ("czsl_sac.patch_max.default" not in names) == plain_with_gradients
        with torch.no_grad(), operators() as names:
            patch_max(tokens, text)
        assert ("czsl_sac.patch_max.default" not in names) == plain
        wanted.requires_grad_(False)


def test_messages() -> None:
    tokens, text = torch.ones(2, 3, 4), torch.ones(5, 4)
    with pytest.raises(ValueError, match=r"\[2, 0, 4\] but must hold a token to reduce over"):
        patch_max(tokens[:, :0], text)
    with pytest.raises(ValueError, match=r"text has D = 4 but must have 3 as tokens: project"):
        patch_max(tokens[..., 1:], text)
    with pytest.raises(ValueError, match=r"impl is 'cuda' but must be one of auto, reference"):
        patch_max(tokens, text, impl="cuda")
    with pytest.raises(ValueError, match=r"dtype torch.int64 but must have float32, .*: cast it"):
        patch_max(tokens.long(), text.long())
    with pytest.raises(ValueError, match=r"float32 and text torch.float64 but they must have one"):
        patch_max_values(tokens, text.double())
    with pytest.raises(ValueError, match=r"on cpu and text on meta but they must be on one device"):
        patch_max(tokens, text.to("meta"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton can serve some of these")
def test_an_explicit_request_that_cannot_be_served_says_why() -> None:
    tokens, text = torch.ones(2, 3, 16), torch.ones(5, 16)
    for call in (patch_max, patch_max_values):
        with pytest.raises(ValueError, match=r"'triton' but must be 'auto' or 'chunked' for this"):
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
