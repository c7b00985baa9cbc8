"""How the Triton kernels cover an image's tokens, and the limits of their launches."""

import pytest
import torch

from czsl_sac.kernels.plan import COVERS, forward_plan


@pytest.mark.parametrize("descriptors", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_plans_cover_every_token_once_with_little_waste(
    dtype: torch.dtype, descriptors: bool
) -> None:
    for T in range(1, 1200):
        plan = forward_plan(T, dtype, descriptors=descriptors)
        covered = plan.passes * plan.full + sum(plan.widths)
        assert plan.widths in COVERS
        # all widths but the last are full: only the last product is masked
        assert covered - plan.widths[-1] < T <= covered
        assert covered - T < 64
    # with and without the class token: B/32, B/16, L/14, L/14 at 336 pixels
    for T, columns in (
        *((50, 64), (49, 64), (197, 208), (196, 208)),
        *((257, 272), (256, 256), (577, 592), (576, 576)),
    ):
        plan = forward_plan(T, dtype, descriptors=descriptors)
        assert plan.passes * plan.full + sum(plan.widths) == columns


@pytest.mark.parametrize("B", [1, 70_000])
def test_many_images_fit_the_grid(B: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from czsl_sac.kernels import triton_backward, triton_forward
    from czsl_sac.kernels.plan import token_grad_plan

    grids = []

    class Recorder:
        def __getitem__(self, grid: tuple[int, ...]):
            grids.append(grid)
            return lambda *arguments, **options: None

    monkeypatch.setattr(triton_forward, "forward_kernel", Recorder())
    monkeypatch.setattr(triton_backward, "text_grad_kernel", Recorder())
    monkeypatch.setattr(triton_backward, "token_grad_kernel", Recorder())
    monkeypatch.setattr(triton_backward, "order_kernel", Recorder())
    tokens, grad = torch.empty(B, 2, 16), torch.empty(B, 20)
    indices = torch.empty(B, 20, dtype=torch.int64)
    for text in (torch.empty(20, 16), torch.empty(B, 20, 16)):
        plan = forward_plan(2, tokens.dtype, descriptors=False)
        triton_forward.launch(tokens, text, plan, with_indices=True, processors=2)
        triton_backward.launch_text_grad(grad, indices, tokens, text)
        triton_backward.launch_token_grad(
            grad, indices, tokens, text, token_grad_plan(20, tokens.dtype)
        )
    assert len(grids) == 8
    # what CUDA allows: 2³¹ − 1 programs in the first dimension, 65,535 in the others
    assert all(grid[0] < 2**31 and max(grid[1:], default=0) <= 65_535 for grid in grids)


def test_blackwell_needs_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from torch._subclasses.fake_tensor import FakeTensorMode

    from czsl_sac.kernels import fused, triton_load

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (10, 0))
    with FakeTensorMode():
        tokens = torch.empty(2, 3, 16, dtype=torch.bfloat16, device="cuda")
    assert fused.refusal(tokens) is None
    monkeypatch.setattr(triton_load, "TensorDescriptor", None)
    assert "Triton 3.4" in str(fused.refusal(tokens))


def test_persistent_programs_make_one_wide_product() -> None:
    for T, per_image in ((161, False), (197, True), (256, False), (256, True), (257, False)):
        plan = forward_plan(T, torch.bfloat16, descriptors=True, waves=True, per_image=per_image)
        assert plan.persistent
        assert (plan.passes, plan.widths, plan.last) == (0, (256,), T == 257)
    for T, per_image in ((50, False), (160, False), (257, True), (258, False), (577, False)):
        plan = forward_plan(T, torch.bfloat16, descriptors=True, waves=True, per_image=per_image)
        assert plan == forward_plan(T, torch.bfloat16, descriptors=True)
        assert not plan.persistent
