"""CLIP's architecture: blocks, towers and backbone against torch and against themselves."""

from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.clip.config import CLIPConfig
from czsl_sac.clip.text_tower import TextTower
from czsl_sac.clip.transformer import (
    Attention,
    Linear,
    QuickGELU,
    ResidualAttentionBlock,
    Transformer,
)

WORDS = SimpleNamespace(sot=18, eot=19)
SMALL = CLIPConfig(
    embed_dim=16,
    image_size=32,
    patch_size=8,
    vision_width=24,
    vision_layers=2,
    vision_heads=2,
    context_length=8,
    vocab_size=20,
    text_width=12,
    text_layers=2,
    text_heads=2,
)


def saved_elements(function) -> int:
    """Numbers that autograd keeps for the backward pass of function()."""
    count = 0

    def pack(tensor):
        nonlocal count
        count += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function()
    return count


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 9),
    heads=st.integers(1, 3),
    causal=st.booleans(),
)
@settings(max_examples=20, deadline=None)
def test_attention_equals_torch(dtype, batch, length, heads, causal):
    width = 4 * heads
    reference = nn.MultiheadAttention(width, heads, batch_first=True, dtype=dtype)
    nn.init.normal_(reference.in_proj_bias)
    nn.init.normal_(reference.out_proj.bias)
    ours = Attention(width, heads).to(dtype)
    ours.load_state_dict(reference.state_dict())
    x = torch.randn(batch, length, width, dtype=dtype, requires_grad=True)
    mask = torch.full((length, length), float("-inf"), dtype=dtype).triu(1) if causal else None
    expected = reference(x, x, x, need_weights=False, attn_mask=mask)[0]
    actual = ours(x, is_causal=causal)
    assert_close(actual, expected)
    cotangent = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, [x, *reference.parameters()], cotangent)
    named = dict(ours.named_parameters())
    parameters = [named[name] for name, _ in reference.named_parameters()]
    for gradient, want in zip(
        torch.autograd.grad(actual, [x, *parameters], cotangent), wanted, strict=True
    ):
        assert_close(gradient, want, rtol=1e-4, atol=1e-5)


def test_activations():
    x = torch.linspace(-4, 4, 9)
    assert_close(QuickGELU()(x), x / (1 + torch.exp(-1.702 * x)))
    assert isinstance(ResidualAttentionBlock(8, 2, activation="gelu").mlp.gelu, nn.GELU)
    with pytest.raises(
        ValueError, match=r"activation is 'relu' but must be one of quick_gelu, gelu"
    ):
        ResidualAttentionBlock(8, 2, activation="relu")
    with pytest.raises(ValueError, match="num_heads is 3 but must divide the width 8"):
        Attention(8, 3)


@pytest.mark.parametrize("kept", [torch.float16, torch.bfloat16])
def test_a_frozen_weight_in_half_precision_computes_in_the_input_s(kept):
    """Values and gradients are those of the weight rounded once; no cast copy is saved."""
    plain, stored = nn.Linear(6, 4), Linear(6, 4).requires_grad_(False)
    stored.load_state_dict(plain.state_dict())
    stored.weight.data = stored.weight.to(kept)
    plain.weight.data = stored.weight.float()
    x = torch.randn(2, 3, 6, requires_grad=True)
    cotangent = torch.randn(2, 3, 4)
    assert torch.equal(stored(x), plain(x))
    wanted, got = (torch.autograd.grad(layer(x), x, cotangent)[0] for layer in (plain, stored))
    assert_close(got, wanted)
    assert saved_elements(lambda: stored(x)) == 24  # the weight as it is kept
    trained = stored.requires_grad_()  # what is trained gets its gradient all the same
    gradients = torch.autograd.grad(trained(x), [trained.weight, trained.bias], cotangent)
    assert gradients[0].dtype == kept
    assert_close(gradients[1], cotangent.sum((0, 1)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert stored(x).dtype == torch.bfloat16


def test_gradient_checkpointing_changes_memory_alone():
    tower = Transformer(16, 4, 2).double()
    x = torch.randn(2, 5, 16, dtype=torch.float64, requires_grad=True)
    parameters = [x, *tower.parameters()]

    def run():
        return tower(x, is_causal=True).square().sum()

    plain = torch.autograd.grad(run(), parameters)
    kept = saved_elements(run)
    tower.gradient_checkpointing = True
    for gradient, want in zip(torch.autograd.grad(run(), parameters), plain, strict=True):
        assert torch.equal(gradient, want)
    assert saved_elements(run) < kept / 5


def text_tower(**options) -> TextTower:
    return TextTower(
        16, context_length=12, vocab_size=20, width=8, layers=2, heads=2, **options
    ).double()


def test_text_tower_ignores_what_follows_the_end():
    tower = text_tower()
    ids = torch.tensor([[18, 3, 4, 19], [18, 5, 19, 0]])
    padded = torch.zeros(2, 12, dtype=torch.int64)
    padded[:, :4] = ids
    eot = torch.tensor([3, 2])
    full = tower.encode_embeddings(tower.embed(padded), eot)
    assert_close(tower.encode_embeddings(tower.embed(ids), eot), full, rtol=0, atol=1e-14)
    assert_close(tower(padded), full, rtol=0, atol=1e-14)
    padded[:, 5:] = 7  # would be wrong as an end-of-text rule, but is not read
    assert_close(tower(padded, eot), full, rtol=0, atol=1e-14)
    assert tower(padded[:0]).shape == (0, 16)


def test_text_tower_chunks_are_exact_and_bounded():
    whole, chunked = text_tower(), text_tower(chunk_size=3)
    chunked.load_state_dict(whole.state_dict())
    embeddings = torch.randn(11, 6, 8, dtype=torch.float64, requires_grad=True)
    eot = torch.randint(0, 6, (11,))
    cotangent = torch.randn(11, 16, dtype=torch.float64)
    expected, actual = (t.encode_embeddings(embeddings, eot) for t in (whole, chunked))
    assert_close(actual, expected)
    wanted = torch.autograd.grad(
        expected, [embeddings, *whole.parameters()][:-1], cotangent, allow_unused=True
    )
    got = torch.autograd.grad(
        actual, [embeddings, *chunked.parameters()][:-1], cotangent, allow_unused=True
    )
    for gradient, want in zip(got, wanted, strict=True):
        assert_close(gradient, want)
    with torch.no_grad():
        assert_close(chunked.encode_embeddings(embeddings, eot), expected)

    frozen = chunked.requires_grad_(False)
    kept = saved_elements(lambda: frozen.encode_embeddings(embeddings, eot))
    assert kept <= embeddings.numel() + eot.numel()  # the chunks' inputs and nothing else
    frozen.chunk_size = 11
    assert saved_elements(lambda: frozen.encode_embeddings(embeddings, eot)) > 20 * kept


def test_text_tower_errors():
    tower = text_tower()
    with pytest.raises(
        ValueError, match=r"embeddings has 13 tokens a prompt but must have at most 12"
    ):
        tower.encode_embeddings(torch.zeros(2, 13, 8), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(
        ValueError, match=r"embeddings has the shape \[2, 8\] but must be \[P, n, 8\]"
    ):
        tower.encode_embeddings(torch.zeros(2, 8), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"eot has the shape \[3\] but must be \[2\]"):
        tower.encode_embeddings(torch.zeros(2, 3, 8), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="chunk_size is 0 but must be at least 1"):
        text_tower(chunk_size=0)


def test_config_is_checked():
    assert CLIPConfig(**asdict(SMALL)) == SMALL
    assert SMALL.num_patches == 16
    with pytest.raises(ValueError, match="image_size is 30 but must be a multiple of patch_size 8"):
        replace(SMALL, image_size=30)
    with pytest.raises(
        ValueError, match="patch_size is 12 but must be a power of two with stem='conv'"
    ):
        replace(SMALL, stem="conv", image_size=36, patch_size=12)
    with pytest.raises(ValueError, match="stem is 'resnet' but must be one of patch, conv"):
        replace(SMALL, stem="resnet")


@pytest.mark.parametrize("patch_size", [2, 4, 8])
def test_conv_stem_makes_the_patch_grid(patch_size):
    config = replace(SMALL, stem="conv", patch_size=patch_size, vision_width=32)
    visual = CLIPBackbone(config, WORDS).visual
    grid = 32 // patch_size
    assert visual.conv1(torch.zeros(1, 3, 32, 32)).shape == (1, 32, grid, grid)
    assert visual(torch.zeros(1, 3, 32, 32)).shape == (1, config.num_patches + 1, 16)
    convolutions = [m for m in visual.conv1 if isinstance(m, nn.Conv2d)]
    assert [c.stride for c in convolutions] == [(2, 2)] * (patch_size.bit_length() - 1)


def test_initialisation_is_clips():
    torch.manual_seed(0)
    backbone = CLIPBackbone(replace(SMALL, vision_width=96, text_width=64), WORDS)
    for tower, width in ((backbone.visual, 96), (backbone.text, 64)):
        block = tower.transformer.resblocks[1]
        assert block.attn.in_proj_weight.std().item() == pytest.approx(width**-0.5, rel=0.05)
        assert block.mlp.c_fc.weight.std().item() == pytest.approx((2 * width) ** -0.5, rel=0.05)
        for weight in (block.attn.out_proj.weight, block.mlp.c_proj.weight):
            assert weight.std().item() == pytest.approx((4 * width) ** -0.5, rel=0.05)
    assert backbone.text.token_embedding.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert backbone.temperature == pytest.approx(0.07)


def test_backbone_errors():
    backbone = CLIPBackbone(SMALL, WORDS)
    with pytest.raises(
        ValueError, match=r"images has the shape \[2, 3, 64, 64\] but must be \[B, 3, 32"
    ):
        backbone.encode_image(torch.zeros(2, 3, 64, 64))
    with pytest.raises(ValueError, match=r"ids has row 1 without the end-of-text token 19"):
        backbone.encode_text(torch.tensor([[18, 3, 19], [18, 4, 5]]))


def test_end_of_text_is_the_tokenizers():
    """The end-of-text id need not be the largest, as it is with OpenAI."""
    backbone = CLIPBackbone(SMALL, SimpleNamespace(sot=0, eot=1))
    ids = torch.tensor([[0, 7, 9, 1, 0, 0]])
    expected = backbone.text(ids, torch.tensor([3]))
    assert torch.equal(backbone.encode_text(ids), expected)


def test_freezing_and_state_dict_round_trip():
    backbone = CLIPBackbone(SMALL, WORDS).requires_grad_(False)
    assert not backbone.encode_image(torch.zeros(1, 3, 32, 32)).requires_grad
    other = CLIPBackbone(SMALL, WORDS)
    other.load_state_dict(backbone.state_dict())
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(other.encode_image(x), backbone.encode_image(x))


def test_compiles_and_runs_in_bfloat16():
    backbone = CLIPBackbone(replace(SMALL, stem="conv", vision_layers=1, text_layers=1), WORDS)
    images, ids = torch.randn(2, 3, 32, 32), torch.tensor([[18, 3, 19, 0], [18, 4, 5, 19]])
    expected, features = backbone.encode_image(images), backbone.encode_text(ids)
    for encode, inputs, want in (
        (backbone.encode_image, images, expected),
        (backbone.encode_text, ids, features),
    ):
        compiled = torch.compile(encode, fullgraph=True, backend="aot_eager")
        assert_close(compiled(inputs), want)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens, texts = backbone.encode_image(images), backbone.encode_text(ids)
        tokens.float().square().sum().backward()
    assert_close(tokens.float(), expected, rtol=0, atol=0.1)
    assert_close(texts.float(), features, rtol=0, atol=0.1)
    half = backbone.bfloat16()
    assert_close(half.encode_image(images).float(), expected, rtol=0, atol=0.15)
