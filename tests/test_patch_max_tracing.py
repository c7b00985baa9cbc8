"""`patch_max` and the aligner without numbers: the meta device, torch.export, torch.compile."""

import pytest
import torch
from patch_max_checks import inputs
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import forward_ad

from czsl_sac.blocks import PatchMaxAligner
from czsl_sac.kernels import patch_max, patch_max_values

IMPLS = ("auto", "reference", "chunked", "triton")
SIZES = ((2, 3), (200, 5000))  # on either side of the threshold of auto


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("B", "C"), SIZES)
def test_the_meta_device_gives_shapes(B: int, C: int, impl: str) -> None:
    tokens = torch.empty(B, 257, 64, device="meta", requires_grad=True)
    text = torch.empty(C, 64, device="meta", requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # which meta knows nothing of
        values, indices = patch_max(tokens, text, impl=impl)
        with torch.no_grad():
            alone = patch_max_values(tokens, text, impl=impl)
        logits = PatchMaxAligner(impl=impl)(tokens, text)
    for x in (values, indices, alone, logits):
        assert (x.device.type, x.shape) == ("meta", (B, C))
    assert (values.dtype, alone.dtype, indices.dtype) == (
        *(torch.float32, torch.float32, torch.int64),
    )
    once = torch.autograd.grad(logits.sum(), (tokens, text), create_graph=True)
    again = torch.autograd.grad(sum(x.square().sum() for x in once), (tokens, text))
    for made in (once, again):
        assert [x.shape for x in made] == [tokens.shape, text.shape]
    moved = torch.func.jvp(PatchMaxAligner(impl=impl), (tokens, text), (tokens, text))[1]
    assert moved.shape == (B, C)


class WithWinners(nn.Module):
    """Logits, similarities and winning tokens of an aligner, and what `patch_max` gives alone."""

    def __init__(self, impl: str) -> None:
        super().__init__()
        self.aligner = PatchMaxAligner(impl=impl)

    def forward(self, tokens: Tensor, text: Tensor) -> tuple[Tensor, ...]:
        found = self.aligner.similarity(tokens, text, return_indices=True)
        plain = patch_max(tokens, text, impl=self.aligner.impl)[0]
        alone = patch_max_values(tokens, text, impl=self.aligner.impl)
        return self.aligner(tokens, text), *found, plain, alone


REFERENCE = WithWinners("reference")


def check_at_every_size(served: nn.Module, *, per_image: bool) -> None:
    for B, T, C in ((1, 1, 1), (2, 9, 7), (40, 60, 800)):  # on either side of auto's threshold
        tokens, text, _ = inputs(B, T, C, 8, torch.float64, per_image)
        torch.testing.assert_close(served(tokens, text), REFERENCE(tokens, text))


@pytest.mark.skipif(
    not hasattr(torch.compiler, "is_exporting"), reason="torch cannot tell that it exports"
)
@pytest.mark.parametrize(
    ("impl", "traced", "strict"),
    [
        ("auto", (2, 9, 7), True),
        ("auto", (2, 9, 7), False),
        ("auto", (40, 60, 800), False),
        ("chunked", (2, 9, 7), False),
    ],
)
def test_an_exported_program_serves_every_size(
    impl: str, traced: tuple[int, int, int], strict: bool
) -> None:
    B, T, C = (torch.export.Dim(name) for name in "BTC")
    for per_image in (False, True):
        tokens, text, _ = inputs(*traced, 8, torch.float64, per_image)
        sizes = ({0: B, 1: T}, {0: B, 1: C} if per_image else {0: C})
        program = torch.export.export(
            WithWinners(impl), (tokens, text), dynamic_shapes=sizes, strict=strict
        )
        check_at_every_size(program.module(), per_image=per_image)


def test_an_exported_program_can_be_trained() -> None:
    tokens, text, _ = inputs(2, 9, 7, 8, torch.float64, False)
    program = torch.export.export(PatchMaxAligner(), (tokens, text))  # no gradient is wanted here
    both = tokens.requires_grad_(), text.requires_grad_()
    got, exact = (
        torch.autograd.grad(each(*both).square().sum(), both)
        for each in (program.module(), PatchMaxAligner(impl="reference"))
    )
    torch.testing.assert_close(got, exact)


def test_an_exported_program_loses_no_tangent_in_silence() -> None:
    tokens, text, _ = inputs(2, 9, 7, 8, torch.float64, False)

    def moved(aligner: nn.Module) -> Tensor:
        return torch.func.jvp(lambda x: aligner(x, text), (tokens,), (tokens.cos(),))[1]

    plain, auto = (
        torch.export.export(PatchMaxAligner(impl=impl), (tokens, text)).module()
        for impl in ("reference", "auto")
    )
    torch.testing.assert_close(moved(plain), moved(PatchMaxAligner(impl="chunked")))
    with pytest.raises(ValueError, match="'auto' but must be 'reference' in an exported program"):
        moved(auto)


def test_the_aligner_compiles_as_one_graph_for_every_size() -> None:
    """One for each side of auto's threshold, and with gradients one more each."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    aligner = PatchMaxAligner(token_choice="patches", class_weight=0.2)
    compiled = torch.compile(aligner, backend=counter, fullgraph=True, dynamic=True)
    made = []
    for with_gradients in (False, True):
        for B, T, C in ((2, 9, 7), (3, 5, 6), (40, 60, 800), (41, 61, 801)):
            tokens, text, _ = inputs(B, T, C, 8, torch.float64, False)
            both = tokens.requires_grad_(with_gradients), text.requires_grad_(with_gradients)
            found = [each(*both) for each in (compiled, aligner)]
            torch.testing.assert_close(*found)
            if with_gradients:
                torch.testing.assert_close(
                    *(torch.autograd.grad(x.square().sum(), both) for x in found)
                )
            made.append(counter.frame_count)
    assert [count - made[0] for count in made] == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("way", ["jvp", "grad", "vmap"])
def test_torch_func_inside_torch_compile(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("czsl_sac.kernels.dispatch.SMALL", {})
    torch._dynamo.reset()
    tokens, text, _ = inputs(2, 5, 4, 3, torch.float64, False)

    def taken(tokens: Tensor, impl: str) -> Tensor:
        def values(tokens: Tensor) -> Tensor:
            return patch_max_values(tokens, text, impl=impl)

        if way == "jvp":
            return torch.func.jvp(values, (tokens,), (tokens.cos(),))[1]
        if way == "vmap":
            return torch.vmap(lambda image: values(image.unsqueeze(0)))(tokens)
        return torch.func.grad(lambda x: values(x).square().sum())(tokens)

    exact = taken(tokens, "reference")
    whole = torch.compile(taken, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(whole(tokens, "auto"), exact)
    with pytest.raises(Exception, match="'chunked' but must be 'auto' or 'reference' where torch"):
        whole(tokens, "chunked")
    broken = torch.compile(taken, backend="aot_eager")
    torch.testing.assert_close(broken(tokens, "chunked"), exact)


def test_a_compiled_function_keeps_the_tangent() -> None:
    torch._dynamo.reset()
    tokens, text, _ = inputs(2, 5, 4, 3, torch.float64, False)

    def moved(impl: str, *, compiled: bool) -> Tensor:
        def values(tokens: Tensor) -> Tensor:
            return patch_max(tokens, text, impl=impl)[0]

        taken = torch.compile(values, backend="aot_eager") if compiled else values
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(taken(forward_ad.make_dual(tokens, tokens.cos()))).tangent

    torch.testing.assert_close(moved("chunked", compiled=True), moved("reference", compiled=False))
