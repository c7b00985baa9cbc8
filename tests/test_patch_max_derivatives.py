"""`patch_max` under torch.func, forward-mode differentiation, the meta device and torch.export.

Each works, or says which `impl` does.
"""

from collections.abc import Callable

import pytest
import torch
from patch_max_checks import inputs
from torch import Tensor
from torch.autograd import forward_ad

from czsl_sac.kernels import patch_max, patch_max_values

FUNCTIONS = {
    "patch_max": lambda tokens, text, impl: patch_max(tokens, text, impl=impl)[0],
    "patch_max_values": lambda tokens, text, impl: patch_max_values(tokens, text, impl=impl),
}
MESSAGE = r"impl is 'chunked' but must be 'reference' or 'auto' under torch.func"


def taken_by(tokens: Tensor, text: Tensor, impl: str, name: str) -> dict[str, Callable[[], Tensor]]:
    """Derivatives of the weighted sum, or of its parts, in every way torch knows."""

    def weighted(tokens: Tensor) -> Tensor:
        values = FUNCTIONS[name](tokens, text, impl)
        return (values * torch.arange(values.numel()).view(values.shape)).sum()

    def dual() -> Tensor:
        with forward_ad.dual_level():
            made = forward_ad.make_dual(tokens, torch.cos(tokens))
            return forward_ad.unpack_dual(weighted(made)).tangent

    def each(image: Tensor) -> Tensor:
        return FUNCTIONS[name](image.unsqueeze(0), text, impl).square().sum()

    return {
        "dual": dual,
        "jvp": lambda: torch.func.jvp(weighted, (tokens,), (torch.cos(tokens),))[1],
        "grad": lambda: torch.func.grad(weighted)(tokens),
        "vmap of grad": lambda: torch.vmap(torch.func.grad(each))(tokens),
        "jacfwd": lambda: torch.func.jacfwd(lambda t: FUNCTIONS[name](t, text, impl))(tokens),
        "jacrev": lambda: torch.func.jacrev(lambda t: FUNCTIONS[name](t, text, impl))(tokens),
        "hessian": lambda: torch.func.hessian(lambda t: weighted(t).square())(tokens),
    }


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("way", ["dual", "jvp", "grad", "vmap of grad", "jacfwd", "jacrev"])
def test_other_derivatives_are_right_or_refused(
    name: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("czsl_sac.kernels.dispatch.SMALL", {})  # auto would take chunked
    tokens, text, _ = inputs(2, 5, 4, 3, torch.float64, False)
    exact = taken_by(tokens, text, "reference", name)[way]()
    assert exact.any()
    torch.testing.assert_close(taken_by(tokens, text, "auto", name)[way](), exact)
    with pytest.raises(ValueError, match=MESSAGE):
        taken_by(tokens, text, "chunked", name)[way]()


def test_second_derivatives_by_torch_func() -> None:
    tokens, text, _ = inputs(2, 3, 4, 2, torch.float64, False)
    got = taken_by(tokens, text, "auto", "patch_max")["hessian"]()
    torch.testing.assert_close(got, taken_by(tokens, text, "reference", "patch_max")["hessian"]())


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_alone_is_served() -> None:
    tokens, text, _ = inputs(3, 5, 4, 8, torch.float32, False)
    expected = patch_max(tokens, text, impl="reference")
    for impl in ("auto", "chunked"):
        got = torch.vmap(lambda t, impl=impl: patch_max(t[None], text, impl=impl))(tokens)
        torch.testing.assert_close(got[0].squeeze(1), expected[0])
        assert torch.equal(got[1].squeeze(1), expected[1])


def test_the_meta_device_knows_no_autocast() -> None:
    for B, C in ((2, 3), (200, 5000)):
        tokens, text = torch.empty(B, 257, 64, device="meta"), torch.empty(C, 64, device="meta")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            values, indices = patch_max(tokens, text)
            alone = patch_max_values(tokens, text)
        assert values.shape == indices.shape == alone.shape == (B, C)
        assert (values.device.type, values.dtype, indices.dtype) == (
            *("meta", torch.float32, torch.int64),
        )


@pytest.mark.skipif(
    not hasattr(torch.compiler, "is_exporting"), reason="torch cannot tell that it exports"
)
def test_an_exported_program_serves_every_size() -> None:
    class Alignment(torch.nn.Module):
        def forward(self, tokens: Tensor, text: Tensor) -> Tensor:
            return patch_max(tokens, text)[0] + patch_max_values(tokens, text)

    auto = torch.export.Dim.DYNAMIC
    tokens, text, _ = inputs(2, 9, 7, 8, torch.float32, False)
    program = torch.export.export(
        Alignment(), (tokens, text), dynamic_shapes=({0: auto, 1: auto}, {0: auto})
    )
    for B, T, C in ((2, 9, 7), (40, 60, 800)):  # on either side of the threshold of auto
        tokens, text, _ = inputs(B, T, C, 8, torch.float32, False)
        expected = 2 * patch_max(tokens, text, impl="reference")[0]
        torch.testing.assert_close(program.module()(tokens, text), expected)
