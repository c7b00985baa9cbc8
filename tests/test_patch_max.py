"""The values and gradients of `patch_max` on a CPU, against loops and float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from patch_max_checks import (
    DTYPES,
    IMPLS,
    assert_no_worse_than_eager,
    error,
    exact_gradients,
    inputs,
    loops,
    operators,
    run,
)

from czsl_sac.functional.alignment import patch_max_reference
from czsl_sac.kernels import chunked, patch_max, patch_max_values


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
    ("B", "T", "C", "D"), [(12, 256, 1024, 16), (9, 257, 1100, 24), (3, 1030, 513, 8)]
)
def test_several_tiles(B: int, T: int, C: int, D: int, dtype: torch.dtype, per_image: bool) -> None:
    tokens, text, grad = inputs(B, T, C, D, dtype, per_image)
    images, columns = chunked.tile_shape(tokens, C, torch.float32)
    assert images < B
    assert columns < C
    assert_no_worse_than_eager(tokens, text, "chunked", grad)
    assert torch.equal(
        patch_max_values(tokens, text, impl="chunked"), patch_max(tokens, text, impl="chunked")[0]
    )


@pytest.mark.parametrize("per_image", [False, True])
def test_few_images_on_many_threads(per_image: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, text, _ = inputs(3, 40, 600, 16, torch.float32, per_image)
    found = []
    for threads, kernel in ((9, "max_pool2d"), (10, "max.dim_max")):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        with operators() as names:
            found.append(chunked.forward(tokens, text, with_indices=True))
        assert any(kernel in name for name in names)
    expected = patch_max_reference(tokens, text)
    for values, indices in found:
        torch.testing.assert_close(values, expected[0])
        assert torch.equal(indices, expected[1])


@pytest.mark.parametrize(
    ("l2", "images"), [(None, 4), (2**19, 4), (2**20, 4), (3 * 2**19, 6), (2**21, 8), (2**24, 8)]
)
def test_tiles_follow_the_cache(
    l2: int | None, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {} if l2 is None else {"l2_cache_size": l2}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    tokens = torch.zeros(64, 257, 1)
    assert chunked.tile_shape(tokens, 1000, torch.float32) == (images, 512)
    assert chunked.tile_shape(tokens, 83, torch.float32) == (16, 83)
    assert chunked.tile_shape(tokens[:2], 0, torch.float32) == (2, 1)
    assert chunked.tile_shape(torch.zeros(3, 5000, 1), 600, torch.float32) == (1, 512)


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
