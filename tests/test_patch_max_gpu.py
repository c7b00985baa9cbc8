"""`patch_max` on a GPU: `pytest -m gpu` runs these where there is one."""

import pytest
import torch
from patch_max_checks import (
    DERIVATIVES,
    FUNCTIONS,
    assert_no_worse_than_eager,
    derivatives,
    inputs,
    operators,
    run,
)

from czsl_sac.kernels import patch_max, patch_max_values
from czsl_sac.kernels.library import implementation

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0),
        reason="needs a CUDA device of compute capability 8.0",
    ),
]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize(
    ("B", "T", "C", "D"),
    [(16, 257, 5592, 768), (3, 197, 83, 512), (5, 577, 130, 768), (2, 50, 300, 80), (1, 1, 1, 16)],
)
def test_against_eager_and_float64(
    B: int, T: int, C: int, D: int, per_image: bool, dtype: torch.dtype
) -> None:
    if per_image:
        C = min(C, 400)  # the text of every image in float64 has to fit
    tokens, text, grad = (x.cuda() for x in inputs(B, T, C, D, dtype, per_image))
    assert_no_worse_than_eager(tokens, text, "triton", grad)
    assert_no_worse_than_eager(tokens, text, "chunked", grad)
    assert_no_worse_than_eager(tokens, text, "auto", grad)
    assert torch.equal(
        patch_max_values(tokens, text, impl="triton"), patch_max(tokens, text, impl="triton")[0]
    )


@pytest.mark.parametrize("impl", ["triton", "chunked"])
def test_ties_and_nan(impl: str) -> None:
    tokens = torch.randint(-1, 2, (3, 257, 32)).half().cuda()
    text = torch.randint(-1, 2, (400, 32)).half().cuda()
    got, expected = (patch_max(tokens, text, impl=each) for each in (impl, "reference"))
    exact = (tokens.float() @ text.float().mT).cpu()  # torch.max on CUDA may name any of equals
    values, first = exact.max(dim=1)
    assert torch.equal(got[0].cpu(), values)
    assert torch.equal(expected[0].cpu(), values)
    if impl == "triton":
        assert torch.equal(got[1].cpu(), first)
    tokens[1, 200, 3] = float("nan")
    values, indices = patch_max(tokens, text, impl=impl)
    assert values[1].isnan().all()
    assert not values[[0, 2]].isnan().any()
    assert 0 <= int(indices.min()) <= int(indices.max()) < 257


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("impl", ["auto", "chunked", "triton"])
@pytest.mark.parametrize("way", DERIVATIVES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_other_derivatives(name: str, way: str, impl: str, per_image: bool) -> None:
    tokens, text, _ = (x.cuda() for x in inputs(2, 6, 4, 16, torch.float32, per_image))
    exact = derivatives(tokens, text, "reference", name)[way]()
    # The same sums in another order, of up to three derivatives of a cube.
    torch.testing.assert_close(
        derivatives(tokens, text, impl, name)[way](), exact, rtol=1e-4, atol=1e-2
    )


def test_views_that_tensor_descriptors_cannot_load() -> None:
    tokens, text, grad = (x.cuda() for x in inputs(2, 60, 40, 64, torch.float16, False))
    assert_no_worse_than_eager(tokens[:, 1:], text, "triton", grad)
    assert_no_worse_than_eager(tokens[..., 8:24], text[..., 4:20], "triton", grad)
    assert_no_worse_than_eager(tokens.mT.contiguous().mT, text, "triton", grad)
    assert_no_worse_than_eager(tokens, text.expand(2, 40, 64), "triton", grad)


@pytest.mark.parametrize("impl", ["triton", "chunked"])
def test_same_result_every_time(impl: str) -> None:
    tokens, text, grad = (x.cuda() for x in inputs(8, 257, 3000, 256, torch.bfloat16, False))
    tokens[:, 7] *= 3  # many wins for one token
    once = run(tokens, text, grad, impl)
    for _ in range(5):
        for mine, theirs in zip(run(tokens, text, grad, impl), once, strict=True):
            assert torch.equal(mine, theirs)


def test_small_float16_gradients_do_not_underflow() -> None:
    tokens, text, _ = (x.cuda() for x in inputs(2, 9, 2000, 16, torch.float16, False))
    grad_tokens = run(tokens, text * 256, torch.full((2, 2000), 3e-8, device="cuda"), "triton")[2]
    assert grad_tokens.any()


def test_auto_takes_triton_where_it_serves() -> None:
    tokens = torch.empty(1, 2, 32, device="cuda")
    several = (tokens.half(), tokens.bfloat16(), tokens, tokens.half()[..., 1:], tokens.double())
    for gradient, expected in (
        (False, ["fused", "fused", "chunked", "chunked", "chunked"]),
        (True, ["fused", "fused", "fused", "chunked", "chunked"]),
    ):
        names = [
            implementation("auto", each, gradient=gradient).__name__.rsplit(".", 1)[-1]
            for each in several
        ]
        assert names == expected
    for dtype, expected in ((torch.float16, 2), (torch.float32, 1)):
        large = [x.cuda() for x in inputs(64, 257, 300, 32, dtype, False)][:2]
        with operators() as names:
            patch_max(*large)
            patch_max(large[0][:1], large[1])  # small: the plain expression in float32
        assert names.count("czsl_sac.patch_max.default") == expected


def test_autocast_and_compile() -> None:
    tokens, text, grad = (x.cuda() for x in inputs(4, 257, 5000, 64, torch.float32, False))
    plain = run(tokens.half(), text.half(), grad, "triton")
    with torch.autocast("cuda", dtype=torch.float16):
        cast = run(tokens, text, grad, "triton")
    assert torch.equal(cast[0], plain[0])
    compiled = torch.compile(lambda v, t: patch_max(v, t, impl="triton")[0] * 2, fullgraph=True)
    torch.testing.assert_close(compiled(tokens.half(), text.half()), plain[0] * 2)


def test_more_than_two_to_the_31_elements() -> None:
    if torch.cuda.mem_get_info()[0] < 12 * 2**30:
        pytest.skip("needs 12 GiB of free memory")
    text = torch.zeros(2**23 + 2**18, 256, dtype=torch.float16, device="cuda")  # 4.1 GiB
    text[-1] = 1
    tokens = torch.ones(1, 257, 256, dtype=torch.float16, device="cuda")
    tokens[0, 256] = 2
    values, indices = patch_max(tokens, text, impl="triton")
    assert (values[0, -1].item(), indices[0, -1].item()) == (512.0, 256)
    assert not values[0, :-1].any()
    assert not indices[0, :-1].any()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_on_the_second_gpu() -> None:
    tokens, text, grad = (x.cuda(1) for x in inputs(3, 257, 83, 64, torch.bfloat16, False))
    assert torch.cuda.current_device() == 0
    assert_no_worse_than_eager(tokens, text, "triton", grad)
