"""The Triton kernels' values in Triton's interpreter, against the reference: no GPU is needed.

    TRITON_INTERPRET=1 pytest tests/patch_max_interpreted.py

Triton decides when a kernel is defined whether it will be interpreted. So this file is none of
those that pytest finds: `test_patch_max_interpreted.py` runs it in a process of its own.
"""

import pytest
import torch
from patch_max_checks import assert_no_worse_than_eager, error, exact_gradients, inputs, run

from czsl_sac.kernels import patch_max, patch_max_values
from czsl_sac.kernels.plan import forward_plan

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@pytest.fixture
def fast_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the interpreter take the NaN-keeping maximum by numpy, and multiply bfloat16.

    It runs a reduction it does not know element by element, in minutes, and multiplies the bit
    patterns of bfloat16 (triton-lang/triton issue 11584).
    """
    import numpy as np
    from triton.runtime import interpreter

    from czsl_sac.kernels import triton_forward

    reduce, dot = interpreter.ReduceOps.apply_impl, interpreter.InterpreterBuilder.create_dot

    def apply_impl(self, given):
        if self.combine_fn is triton_forward.nan_maximum:
            return self.min_max(given[0], val_reduce_op=np.max)
        return reduce(self, given)

    def create_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        def widened(x):
            if x.data.dtype != np.uint16:
                return x
            wide = (x.data.astype(np.uint32) << 16).view(np.float32)
            return interpreter.TensorHandle(wide, interpreter.tl.float32)

        return dot(self, widened(a), widened(b), d, input_precision, max_num_imprecise_acc)

    monkeypatch.setattr(interpreter.ReduceOps, "apply_impl", apply_impl)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


@pytest.mark.usefixtures("fast_interpreter")
class TestInterpreted:
    """Values and gradients of the kernels, through the same door as on a GPU."""

    @pytest.fixture(autouse=True, params=["descriptors", "pointers"])
    def loads(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
        from czsl_sac.kernels import triton_load

        if request.param == "pointers":
            monkeypatch.setattr(triton_load, "TensorDescriptor", None)
        return request.param

    @pytest.mark.parametrize(
        ("B", "T", "C", "D", "per_image", "dtypes"),
        [
            (1, 257, 65, 64, False, "bf16 fp16 fp32"),  # ViT-L/14: the class token on its own
            (1, 300, 130, 16, True, "bf16 fp32"),  # a full pass, a ragged tile of texts
            (18, 5, 3, 16, False, "fp16"),  # more images than a group holds
            (1, 50, 9, 272, True, "bf16 fp16 fp32"),  # features left over in a step and in a tile
            (2, 1, 1, 32, False, "bf16 fp16 fp32"),
        ],
    )
    def test_against_eager_and_float64(
        self, loads: str, B: int, T: int, C: int, D: int, per_image: bool, dtypes: str
    ) -> None:
        for dtype in dtypes.split():
            if loads == "descriptors" and dtype == "fp32":
                continue  # always by pointers
            tokens, text, grad = inputs(B, T, C, D, DTYPES[dtype], per_image)
            assert_no_worse_than_eager(tokens, text, "triton", grad)
            assert torch.equal(
                patch_max_values(tokens, text, impl="triton"),
                patch_max(tokens, text, impl="triton")[0],
            )

    @pytest.mark.parametrize(
        ("B", "T", "C", "D", "per_image"),
        [
            (2, 257, 150, 80, False),  # the class token on its own
            (17, 257, 3, 16, False),  # more images than its product has rows
            (2, 200, 150, 48, True),  # a product wider than what there is
        ],
    )
    def test_persistent_programs(
        self, loads: str, B: int, T: int, C: int, D: int, per_image: bool
    ) -> None:
        if loads == "pointers":
            return  # they have none
        tokens, text, grad = inputs(B, T, C, D, torch.float16, per_image)
        plan = forward_plan(T, torch.float16, descriptors=True, waves=True, per_image=per_image)
        assert plan.persistent
        assert B * -(-C // plan.texts) > 2  # tiles, for the two multiprocessors of the interpreter
        assert_no_worse_than_eager(tokens, text, "triton", grad)
        assert torch.equal(
            patch_max_values(tokens, text, impl="triton"), patch_max(tokens, text, impl="triton")[0]
        )
        tokens[0] = -tokens[0].abs()
        tokens[0, -1] *= 1e-3
        text = text.abs()
        assert torch.equal(  # the last token wins, in its own product or before the padding
            patch_max(tokens, text, impl="triton")[1][0], torch.full((C,), T - 1)
        )

    @pytest.mark.parametrize("T", [16, 30, 70, 100, 150, 200, 250, 260, 513])
    def test_every_way_to_cover_the_last_tokens(self, T: int) -> None:
        generator = torch.Generator().manual_seed(T)
        # all products negative: a column past the last token would win
        tokens = -torch.rand(1, T, 16, generator=generator).half()
        text = torch.rand(3, 16, generator=generator).half()
        tokens[0, -1] *= 1e-2  # so that the last token wins
        got = patch_max(tokens, text, impl="triton")
        expected = patch_max(tokens.float(), text.float(), impl="reference")
        torch.testing.assert_close(got[0], expected[0], rtol=1e-3, atol=1e-4)
        assert torch.equal(got[1], torch.full((1, 3), T - 1))

    def test_ties_go_to_the_lowest_index(self) -> None:
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(-1, 2, (2, 90, 16), generator=generator).half()
        text = torch.randint(-1, 2, (40, 16), generator=generator).half()
        got = patch_max(tokens, text, impl="triton")
        expected = patch_max(tokens, text, impl="reference")
        assert torch.equal(got[0], expected[0])
        assert torch.equal(got[1], expected[1])
        everywhere = patch_max(torch.ones(1, 273, 16), torch.ones(2, 16), impl="triton")
        assert torch.equal(everywhere[1], torch.zeros(1, 2, dtype=torch.int64))

    def test_nan_gives_nan_and_an_index_in_range(self) -> None:
        tokens, text = torch.randn(3, 90, 16).half(), torch.randn(5, 16).half()
        tokens[0, 3, 2] = tokens[1, 88, 0] = float("nan")
        text[4, 1] = float("nan")
        values, indices = patch_max(tokens, text, impl="triton")
        expected = patch_max(tokens, text, impl="reference")[0]
        assert torch.equal(values.isnan(), expected.isnan())
        assert torch.equal(patch_max_values(tokens, text, impl="triton").isnan(), expected.isnan())
        assert indices.min() >= 0
        assert indices.max() < 90

    def test_infinities(self) -> None:
        tokens = torch.full((1, 20, 16), float("-inf")).half()
        values, indices = patch_max(tokens, torch.ones(1, 16).half(), impl="triton")
        assert (values.item(), indices.item()) == (float("-inf"), 0)

    def test_empty_sizes(self) -> None:
        for B, C in ((0, 3), (2, 0)):
            tokens = torch.ones(B, 5, 16, requires_grad=True)
            text = torch.ones(C, 16, requires_grad=True)
            values, indices = patch_max(tokens, text, impl="triton")
            grads = torch.autograd.grad(values.sum(), (tokens, text))
            assert values.shape == indices.shape == (B, C)
            assert not any(grad.any() for grad in grads)

    def test_views(self) -> None:
        tokens, text, grad = inputs(2, 40, 20, 32, torch.float16, False)
        assert_no_worse_than_eager(tokens[:, 1:], text, "triton", grad)  # patches alone
        assert_no_worse_than_eager(tokens[..., 8:24], text[..., 4:20], "triton", grad)  # unaligned
        assert_no_worse_than_eager(tokens.mT.contiguous().mT, text, "triton", grad)
        assert_no_worse_than_eager(tokens, text.expand(2, 20, 32), "triton", grad)

    def test_a_token_that_never_wins_gets_exactly_zero(self) -> None:
        tokens, text, grad = inputs(2, 70, 5, 16, torch.float16, False)
        _, indices, grad_tokens, _ = run(tokens, text, grad, "triton")
        lost = torch.ones(2, 70, dtype=torch.bool).scatter(1, indices, False)
        assert not grad_tokens[lost].any()
        assert grad_tokens[~lost].any()

    def test_small_half_precision_gradients_do_not_underflow(self) -> None:
        tokens, text = torch.randn(2, 9, 16).half(), 256 * torch.randn(1100, 16).half()
        grad = torch.full((2, 1100), 3e-8)
        text[1090] *= 1e-4
        grad[1, 1090] = 1e5  # past the first gradients that are scanned, and past float16
        _, indices, grad_tokens, _ = run(tokens, text, grad, "triton")
        exact = exact_gradients(grad, indices, tokens, text)[0]
        assert error(grad_tokens[0], exact[0]) < 2e-2
        assert error(grad_tokens[1], exact[1]) < 2e-2
        for size in (0.0, 1e-42, 1e38):  # zero, subnormal, large: the scale stays a power of two
            values = run(tokens, text[:20], torch.full((2, 20), size), "triton")[2]
            assert not values.isnan().any()

    @pytest.mark.parametrize("per_image", [False, True])
    def test_other_derivatives(self, loads: str, per_image: bool) -> None:
        if loads == "descriptors":
            return  # float32 is loaded by pointers
        tokens, text, _ = inputs(2, 6, 5, 16, torch.float32, per_image)

        def taken(impl: str) -> tuple:
            def number(tokens: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
                return patch_max_values(tokens, text, impl=impl).pow(3).sum()

            gradients = torch.func.grad(number, (0, 1))
            each = torch.vmap(gradients, (0, None if per_image else 0))
            moved = torch.func.jvp(gradients, (tokens, text), (tokens, text))
            return moved, each(
                torch.stack([tokens, -tokens]), text if per_image else text[:2, None]
            )

        torch.testing.assert_close(taken("triton"), taken("reference"), rtol=1e-4, atol=1e-3)

    def test_offsets_beyond_32_bits(self) -> None:
        # Four GiB of address space of which few pages are touched. The images lie 2³¹ elements
        # apart, and so do the first and last tile of texts.
        storage = torch.empty(2**31 + 2**28, dtype=torch.float16)
        tokens = storage.as_strided((2, 3, 16), (2**31 + 64, 16, 1))
        text = storage.as_strided((520, 16), (2**22, 1), 1024)
        # Rows too far apart for offsets of 32 bits within a tile are brought together.
        far = storage.as_strided((34, 16), (2**26, 1), 4096)
        tokens.copy_(torch.randn(2, 3, 16))
        text.copy_(torch.randn(520, 16))
        far.copy_(torch.randn(34, 16))
        with pytest.MonkeyPatch.context() as patch:
            # the interpreter would copy the storage back onto itself, all of it
            from triton.runtime.interpreter import GridExecutor

            patch.setattr(GridExecutor, "_restore_args_dev", lambda *arguments: None)
            for t in (text, far):
                got = patch_max(tokens, t, impl="triton")
                expected = patch_max(tokens.float(), t.float(), impl="reference")
                torch.testing.assert_close(got[0], expected[0], atol=1e-4, rtol=1e-4)
                assert torch.equal(got[1], expected[1])


class TestInterpretedPlainly:
    """Without the shortcut of `fast_interpreter`: the kernel's own reduction."""

    def test_the_nan_keeping_maximum(self) -> None:
        tokens, text = torch.randn(1, 5, 16).half(), torch.randn(2, 16).half()
        tokens[0, 3, 2] = float("nan")
        assert patch_max(tokens, text, impl="triton")[0].isnan().all()
        got = patch_max(tokens[:, :3], text, impl="triton")
        expected = patch_max(tokens[:, :3].float(), text.float(), impl="reference")
        torch.testing.assert_close(got[0], expected[0])
        assert torch.equal(got[1], expected[1])
