"""AdaptFormer: the block's equation, the untouched start, checkpointing, and refused requests."""

import copy

import pytest
import torch
from plain_parts import layer_norm, linear, mlp, random_backbone, randomize
from torch import nn
from torch.testing import assert_close

from czsl_sac.clip.adapters.adaptformer import AdaptFormer, apply_adaptformer
from czsl_sac.clip.transformer import ResidualAttentionBlock, Transformer
from czsl_sac.training.build import build_backbone
from czsl_sac.training.config import BackboneConfig


def test_a_block_adds_both_adapters_to_what_enters_attention_and_mlp() -> None:
    block = ResidualAttentionBlock(6, 2).double()
    holder = apply_adaptformer(nn.Sequential(block), bottleneck=3, scale=0.7).eval()
    randomize(holder)
    x = torch.randn(2, 5, 6, dtype=torch.float64)

    def adapter(part: nn.Module, token: torch.Tensor) -> torch.Tensor:
        return 0.7 * linear(part.up, torch.clamp(linear(part.down, token), min=0))

    for image, out in zip(x, block(x), strict=True):
        normed = torch.stack([layer_norm(block.ln_1, token) for token in image])
        attended = block.attn(normed.unsqueeze(0))[0]
        for token, gathered, result in zip(image, attended, out, strict=True):
            middle = token + gathered + adapter(block.attn_adapter, token)
            added = mlp(block.mlp, layer_norm(block.ln_2, middle))
            assert_close(result, middle + added + adapter(block.mlp_adapter, middle))


def test_the_start_changes_no_bit_and_trains_the_adapters_alone() -> None:
    backbone = random_backbone()
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    before = backbone.encode_image(images)
    apply_adaptformer(backbone.visual, bottleneck=5)
    assert torch.equal(backbone.encode_image(images), before)
    trained = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert {name.split(".")[4] for name in trained} == {"attn_adapter", "mlp_adapter"}
    # 2 blocks × 2 adapters × (8·5 + 5 + 5·8 + 8)
    assert sum(p.numel() for p in backbone.parameters() if p.requires_grad) == 4 * 93
    assert all(p.dtype == torch.float64 for p in backbone.parameters() if p.requires_grad)
    # Half precision stays with CLIP: what learns is float32.
    half = apply_adaptformer(Transformer(8, 1, 2).half()).resblocks[0].attn_adapter
    assert half.down.weight.dtype == torch.float32
    assert half(torch.zeros(1, 2, 8, dtype=torch.float16)).dtype == torch.float16


def test_gradient_checkpointing_draws_the_same_dropout_again() -> None:
    tower = apply_adaptformer(Transformer(8, 3, 2).double(), dropout=0.5).train()
    randomize(tower)
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    grads = []
    for recompute in (False, True):
        tower.gradient_checkpointing = recompute
        tower.zero_grad()
        torch.manual_seed(0)
        tower(x).square().sum().backward()
        grads.append([p.grad.clone() for p in tower.parameters()])
    for kept, recomputed in zip(*grads, strict=True):
        assert torch.equal(kept, recomputed)


def test_dropout_is_on_the_hidden_layer_in_training_alone() -> None:
    adapter = AdaptFormer(4, bottleneck=1000, dropout=0.25, scale=1.0)
    nn.init.ones_(adapter.up.weight)
    nn.init.zeros_(adapter.down.weight)
    nn.init.ones_(adapter.down.bias)
    x = torch.zeros(1, 1, 4)
    kept = adapter(x)[0, 0, 0].item() * 0.75 / 1000
    assert abs(kept - 0.75) < 0.05
    assert kept != 0.75
    assert float(adapter.eval()(x)[0, 0, 0]) == 1000


def test_layers_and_refusals_leave_the_module_as_it_was() -> None:
    tower = Transformer(8, 3, 2)
    keys = list(tower.state_dict())
    for options, message in (
        (
            {"layers": [0, 3]},
            r"layers is \[0, 3\] but must be some of 0 to 2, the blocks of the module: choose",
        ),
        ({"layers": []}, r"layers is \[\] but must be some of 0 to 2"),
        ({"bottleneck": 0}, "bottleneck is 0 but must be at least 1: raise it"),
        ({"dropout": 1.0}, r"dropout is 1.0 but must be below 1.0: lower it"),
    ):
        with pytest.raises(ValueError, match=message):
            apply_adaptformer(tower, **options)
    assert list(tower.state_dict()) == keys
    apply_adaptformer(tower, layers=[2])
    assert [block.attn_adapter is not None for block in tower.resblocks] == [False, False, True]
    with pytest.raises(ValueError, match="module has adapters already but must be plain"):
        apply_adaptformer(tower)
    assert tower.resblocks[0].attn_adapter is None
    with pytest.raises(
        ValueError, match="module is a Linear without blocks but must hold some: give a tower"
    ):
        apply_adaptformer(nn.Linear(2, 2))


def test_adapters_do_not_pass_for_plain_clip_weights() -> None:
    backbone = random_backbone()
    copied = apply_adaptformer(copy.deepcopy(backbone))
    assert backbone.openai_state_dict()
    with pytest.raises(ValueError, match=r"adapters .* cannot be merged"):
        copied.openai_state_dict()


def test_a_run_may_adapt_some_layers() -> None:
    config = BackboneConfig(train_backbone="adaptformer", adapter_layers=(1, 3))
    blocks = build_backbone(config).visual.transformer.resblocks
    assert [block.attn_adapter is not None for block in blocks] == [False, True, False, True]
    everywhere = build_backbone(BackboneConfig(train_backbone="adaptformer"))
    assert all(block.mlp_adapter for block in everywhere.visual.transformer.resblocks)
