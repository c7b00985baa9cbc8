"""Every derivative of `patch_max` that torch can take, by every `impl`, against the reference."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from patch_max_checks import DERIVATIVES, FUNCTIONS, derivatives, inputs, operators
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from czsl_sac.kernels import chunked, patch_max


@pytest.fixture
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `auto` take the operators at the sizes of these tests, too."""
    monkeypatch.setattr("czsl_sac.kernels.dispatch.SMALL", {})


@pytest.mark.usefixtures("nothing_is_small")
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("way", DERIVATIVES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_torch_func_and_forward_mode(name: str, way: str, per_image: bool) -> None:
    tokens, text, _ = inputs(2, 4, 3, 3, torch.float64, per_image)
    exact = derivatives(tokens, text, "reference", name)[way]()
    assert all(x.any() for x in tree_leaves(exact))
    for impl in ("auto", "chunked"):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # of a batch taken one by one
            torch.testing.assert_close(derivatives(tokens, text, impl, name)[way](), exact)


@pytest.mark.parametrize("per_image", [False, True])
def test_numerically_in_every_order_and_direction(per_image: bool) -> None:
    """Backward, forward, over one another, for batches of both, by finite differences."""
    tokens, text, _ = (x.requires_grad_() for x in inputs(2, 4, 3, 3, torch.float64, per_image))

    def values(tokens: Tensor, text: Tensor) -> Tensor:
        return patch_max(tokens, text, impl="chunked")[0].sin()

    checks = {"check_batched_grad": True, "atol": 1e-6}
    ways = {"check_forward_ad": True, "check_batched_forward_grad": True}
    assert gradcheck(values, (tokens, text), **checks, **ways)
    assert gradgradcheck(values, (tokens, text), check_fwd_over_rev=True, **checks)


def test_second_derivatives_by_backward() -> None:
    tokens, text, _ = inputs(3, 5, 4, 8, torch.float64, False)

    def twice(impl: str) -> tuple[Tensor, ...]:
        both = tokens.clone().requires_grad_(), text.clone().requires_grad_()
        number = patch_max(*both, impl=impl)[0].pow(3).sum()
        once = torch.autograd.grad(number, both, create_graph=True)
        return torch.autograd.grad(sum(x.square().sum() for x in once), both)

    torch.testing.assert_close(twice("chunked"), twice("reference"))


def test_no_derivative_holds_all_similarities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither `[B, T, C]` nor the gathered rows `[B, C, D]` is ever there."""
    B, T, C, D = 16, 20, 200, 40
    monkeypatch.setattr(chunked, "tile_shape", lambda *_: (4, 64))
    monkeypatch.setattr(chunked, "PAIRED", 2**12)
    tokens, text, _ = inputs(B, T, C, D, torch.float64, False)

    def moved_gradients(impl: str) -> tuple[Tensor, Tensor]:
        def number(tokens: Tensor, text: Tensor) -> Tensor:
            return patch_max(tokens, text, impl=impl)[0].square().sum()

        return torch.func.jvp(torch.func.grad(number, (0, 1)), (tokens, text), (tokens, text))[1]

    with largest_result() as largest:
        got = moved_gradients("chunked")
    assert largest[0] <= B * T * D
    torch.testing.assert_close(got, moved_gradients("reference"))
    with largest_result() as largest:
        moved_gradients("reference")
    assert largest[0] == B * T * C
    indices = patch_max(tokens, text, impl="reference")[1]
    with largest_result() as largest:  # inside of an operator it sees nothing
        chunked.at(indices, tokens, text)
    assert largest[0] <= 2**12


def test_vmap_over_texts_copies_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "tile_shape", lambda *_: (4, 64))
    tokens, _, _ = inputs(8, 20, 1, 40, torch.float64, False)
    text = inputs(10, 1, 30, 40, torch.float64, True)[1]
    with largest_result() as largest:
        got = torch.vmap(lambda y: patch_max(tokens, y, impl="chunked")[0])(text)
    assert largest[0] <= 4 * 20 * 64 < tokens.numel()
    torch.testing.assert_close(got[7], patch_max(tokens, text[7], impl="reference")[0])


@contextmanager
def largest_result() -> Iterator[list[int]]:
    """Record how many numbers the largest tensor holds that is made; views are none."""
    largest = [0]

    def storages(of: object) -> dict[int, int]:
        found = [x for x in tree_leaves(of) if isinstance(x, Tensor)]
        return {x.untyped_storage()._cdata: x.numel() for x in found}

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result, given = func(*args, **(kwargs or {})), storages((args, kwargs))
            made = [size for key, size in storages(result).items() if key not in given]
            largest[0] = max(largest[0], *made, 0)
            return result

    with Recorder():
        yield largest


@pytest.mark.usefixtures("nothing_is_small")
@pytest.mark.parametrize("impl", ["auto", "chunked"])
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("batched", [(0, None), (1, None), (None, 1), (1, 0)])
def test_vmap_is_one_call(batched: tuple, per_image: bool, impl: str) -> None:
    tokens, text, _ = inputs(10, 4, 3, 8, torch.float64, True)
    tokens, text = tokens.view(5, 2, 4, 8), text.view(5, 2, 3, 8)
    text = text if per_image else text[:, 0]
    tokens, text = (
        x[:1].expand_as(x) if at is None else x
        for x, at in zip((tokens, text), batched, strict=True)
    )
    expected = [patch_max(x, y, impl="reference") for x, y in zip(tokens, text, strict=True)]
    tokens, text = (
        x[0] if at is None else x.movedim(0, at)
        for x, at in zip((tokens, text), batched, strict=True)
    )
    with operators() as names:
        got = torch.vmap(lambda x, y: patch_max(x, y, impl=impl), batched)(tokens, text)
    assert names.count("czsl_sac.patch_max.default") == 1
    torch.testing.assert_close(got[0], torch.stack([values for values, _ in expected]))
    assert torch.equal(got[1], torch.stack([indices for _, indices in expected]))


def test_nothing_to_batch_or_differentiate() -> None:
    tokens, text, _ = inputs(2, 4, 3, 8, torch.float32, False)
    for B, C in ((0, 3), (2, 0)):
        both = (tokens[:B], text[:C])
        jacobians = torch.func.jacfwd(lambda x, y: patch_max(x, y, impl="chunked")[0], (0, 1))
        assert [x.shape for x in jacobians(*both)] == [(B, C, *x.shape) for x in both]
    none = torch.vmap(lambda x: patch_max(x, text, impl="chunked")[0])(tokens.new_zeros(0, 2, 4, 8))
    assert none.shape == (0, 2, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    tokens, text, _ = inputs(2, 6, 9, 64, dtype, False)
    moves = tuple(x.roll(1, 0) for x in (tokens, text))

    def moved(tokens: Tensor, text: Tensor, *moves: Tensor) -> Tensor:
        function = FUNCTIONS["patch_max"]
        return torch.func.jvp(lambda x, y: function(x, y, "chunked"), (tokens, text), moves)[1]

    got, exact = (
        moved(*(x.to(kind) for x in (tokens, text, *moves))) for kind in (dtype, torch.float32)
    )
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, exact)


def test_functionalize_leaves_the_operator() -> None:
    tokens, text, _ = inputs(2, 4, 3, 8, torch.float32, False)
    got = torch.func.functionalize(lambda x: patch_max(x, text, impl="chunked")[0])(tokens)
    torch.testing.assert_close(got, patch_max(tokens, text, impl="reference")[0])
