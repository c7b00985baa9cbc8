"""What becomes of the patches: value features, patches left out, and the states of inner layers."""

import pytest
import torch
from plain_parts import block, layer_norm, linear, random_backbone, randomize
from torch import Tensor, nn
from torch.testing import assert_close

from czsl_sac.clip import apply_adaptformer, apply_lora, load_backbone
from czsl_sac.clip.vision import VisionTower


def images(count: int = 2, side: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, 3, side, side, dtype=torch.float64, generator=generator)


def shaken(side: int = 2) -> VisionTower:
    torch.manual_seed(0)
    visual = random_backbone(side=side).visual.requires_grad_()
    randomize(visual)
    return visual


def entering(visual: VisionTower, image: Tensor, kept: list[int] | None = None) -> list[Tensor]:
    """Of one image, class token first, position by position; `kept` are numbers of patches."""
    size = visual.conv1.kernel_size[0]
    side = image.shape[-1] // size
    tokens = [visual.class_embedding + visual.positional_embedding[0]]
    for number in range(side * side) if kept is None else kept:
        y, x = divmod(number, side)
        patch = image[:, y * size : (y + 1) * size, x * size : (x + 1) * size]
        embedded = torch.stack([(kernel * patch).sum() for kernel in visual.conv1.weight])
        tokens.append(embedded + visual.positional_embedding[1 + number])
    return [layer_norm(visual.ln_pre, token) for token in tokens]


def joint(visual: VisionTower, states: list[Tensor]) -> Tensor:
    return torch.stack([layer_norm(visual.ln_post, state) @ visual.proj for state in states])


def test_value_features_are_the_last_blocks_values_without_attention():
    visual = shaken()
    visual.patch_features = "value"
    for image, tokens in zip(images(), visual(images()), strict=True):
        states = entering(visual, image)
        for part in visual.transformer.resblocks[:-1]:
            states = block(part, states)
        last = visual.transformer.resblocks[-1]
        width = len(states[0])
        found = block(last, states)[:1]
        for state in states[1:]:
            normed = layer_norm(last.ln_1, state)
            value = last.attn.in_proj_weight[2 * width :] @ normed
            value = value + last.attn.in_proj_bias[2 * width :]
            found.append(linear(last.attn.out_proj, value))
        assert_close(tokens, joint(visual, found))


def test_value_features_leave_the_class_token_as_it_is_and_can_be_trained():
    visual = shaken()
    plain = visual(images())
    visual.patch_features = "value"
    tokens = visual(images())
    assert torch.equal(tokens[:, 0], plain[:, 0])
    assert not torch.isclose(tokens[:, 1:], plain[:, 1:]).any(dim=-1).all()
    apply_lora(visual.requires_grad_(False), layers=[1])
    visual(images())[:, 1:].square().sum().backward()
    gradient = visual.transformer.resblocks[1].attn.parametrizations.in_proj_weight[0].lora_B.grad
    assert (gradient.unflatten(0, (3, -1)).abs().sum((1, 2)) > 0).tolist() == [False, False, True]


@pytest.mark.parametrize("rate", [0.25, 0.5, 0.9])
def test_patches_are_left_out_before_the_blocks(rate):
    """Each image keeps its own patches, in their order and with their positions."""
    visual = shaken(side=3).train()
    visual.patch_drop = rate
    batch = images(3, side=12)
    kept = 9 - round(rate * 9)
    torch.manual_seed(7)
    tokens = visual(batch)
    assert tokens.shape == (3, 1 + kept, 12)
    torch.manual_seed(7)
    places = torch.rand(3, 9).topk(kept).indices.sort().values.tolist()
    assert len({tuple(row) for row in places}) > 1
    for image, row, found in zip(batch, places, tokens, strict=True):
        states = entering(visual, image, row)
        for part in visual.transformer.resblocks:
            states = block(part, states)
        assert_close(found, joint(visual, states))


def test_patch_drop_is_seeded_and_in_training_alone_unless_asked_for():
    visual = shaken(side=3).train()
    batch = images(2, side=12)
    whole = visual(batch)
    visual.patch_drop = 0.5
    torch.manual_seed(1)
    first, second = visual(batch), visual(batch)
    torch.manual_seed(1)
    assert torch.equal(visual(batch), first)
    assert not torch.allclose(first[:, 0], second[:, 0])
    assert torch.equal(visual.eval()(batch), whole)
    visual.patch_drop_eval = True
    assert visual(batch).shape[1] == 1 + 9 - 4
    visual.patch_drop = 0.999  # at least one is kept
    assert visual(batch).shape[1] == 2
    visual.patch_drop = 0.0
    state = torch.get_rng_state()
    assert torch.equal(visual(batch), whole)
    assert torch.equal(torch.get_rng_state(), state)  # no number is drawn


def test_every_patch_is_left_out_as_often_as_any_other():
    visual = shaken(side=3).train()
    visual.patch_drop = 2 / 3
    visual.positional_embedding.data.zero_()
    visual.ln_pre = nn.Identity()
    marks = torch.arange(9.0, dtype=torch.float64).view(3, 3)  # patch i holds i in each pixel
    image = marks.repeat_interleave(4, 0).repeat_interleave(4, 1).expand(2000, 3, 12, 12)
    visual.conv1.weight.data.fill_(1 / 48)
    torch.manual_seed(0)
    kept = visual.embed(image)[:, 1:, 0].round().long()
    assert kept.shape == (2000, 3)
    counts = torch.bincount(kept.flatten(), minlength=9) / 2000
    assert_close(counts, torch.full((9,), 1 / 3), rtol=0, atol=0.05)


def test_inner_states_are_those_that_the_blocks_give():
    visual = shaken()
    apply_adaptformer(visual.requires_grad_(False))
    randomize(visual)
    given: list[Tensor] = []
    handles = [
        part.register_forward_hook(lambda *call: given.append(call[-1]))
        for part in visual.eval().transformer.resblocks
    ]
    states = visual.layer_states(images(), layers=[1, 0])
    for handle in handles:
        handle.remove()
    assert len(states) == 2
    for state, want in zip(states, given, strict=True):
        assert torch.equal(state, want)
    assert torch.equal(visual.states(images()), states[1])
    assert torch.equal(visual.project(states[1]), visual(images()))
    given.clear()
    (first,) = visual.layer_states(images(), layers=[0])
    assert torch.equal(first, states[0])
    with pytest.raises(ValueError, match=r"layers is \[2\] but must be some of 0 to 1, the blocks"):
        visual.layer_states(images(), layers=[2])


def test_any_number_of_tokens_goes_through_the_backbones_door():
    backbone = random_backbone(side=3).train()
    backbone.visual.patch_drop = 0.5
    tokens = backbone.encode_image(images(2, side=12))
    assert tokens.shape[1] == 6
    for count in (1, 6, 10):
        given = torch.zeros(2, count, 12)
        assert backbone.encode_image(given) is given
    for count in (0, 11):
        with pytest.raises(
            ValueError, match=rf"shape \[2, {count}, 12\] but .* \[B, 1 to 10, 12\]"
        ):
            backbone.encode_image(torch.zeros(2, count, 12))


def test_options_are_those_of_load_backbone_and_checked():
    backbone = load_backbone("tiny", patch_features="value", patch_drop=0.25, patch_drop_eval=True)
    visual = backbone.visual
    assert (visual.patch_features, visual.patch_drop) == ("value", 0.25)
    assert backbone.encode_image(torch.zeros(1, 3, 64, 64)).shape == (1, 49, 128)
    with pytest.raises(ValueError, match=r"patch_features is 'values' but .* did you mean value"):
        load_backbone("tiny", patch_features="values")
    for rate in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=rf"patch_drop is {rate} but must be"):
            visual.patch_drop = rate


def test_frozen_blocks_before_the_first_adapted_one_keep_nothing():
    visual = random_backbone().visual
    apply_lora(visual, layers=[1])
    kept: list[Tensor] = []
    borders: list[int] = []
    visual.transformer.resblocks[0].register_forward_hook(lambda *_: borders.append(len(kept)))
    for checkpointed in (False, True):
        kept.clear()
        visual.transformer.gradient_checkpointing = checkpointed
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            tokens = visual(images())
        assert tokens.requires_grad
        assert borders.pop() == 0
        assert kept


def test_compiles_as_one_graph():
    backbone = random_backbone(side=3).train()
    apply_lora(backbone.visual, targets=("q", "k", "v", "o", "mlp"))
    randomize(backbone)
    visual, batch = backbone.visual, images(2, side=12)
    compiled = torch.compile(visual, fullgraph=True, backend="aot_eager")
    for features in ("last", "value"):
        visual.patch_features = features
        assert_close(compiled(batch), visual(batch))
    visual.patch_drop = 0.5
    assert compiled(batch).shape == (2, 6, 12)
