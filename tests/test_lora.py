"""LoRA against loralib, on our attention and on torch's, and its traps."""

import copy
import sys
from types import SimpleNamespace

import loralib
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_parts import ALL, adapters, randomise
from torch import nn
from torch.nn.utils import parametrize
from torch.testing import assert_close

from czsl_sac.clip.adapters.lora import apply_lora, merged_state_dict
from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.clip.config import CLIPConfig
from czsl_sac.clip.transformer import Attention, Transformer

CONFIG = CLIPConfig(16, 32, 8, 24, 3, 2, 8, 20, 12, 2, 2)


class TorchBlock(nn.Module):
    """OpenAI's block as to names, around torch's own attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 2 * width))
        self.mlp.add_module("c_proj", nn.Linear(2 * width, width))

    def forward(self, x):
        return self.mlp(self.attn(x, x, x, need_weights=False)[0])


def make(kind: str) -> nn.Module:
    return Transformer(12, 2, 2) if kind == "ours" else TorchBlock(12)


@given(
    on=st.tuples(st.booleans(), st.booleans(), st.booleans()).filter(any),
    rank=st.integers(1, 4),
    alpha=st.sampled_from([1.0, 0.5, 8.0]),
    torchs=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_equals_merged_linear(on, rank, alpha, torchs):
    """The fused projection with the same A and B: values and gradients of loralib."""
    attention = nn.MultiheadAttention(12, 2) if torchs else Attention(12, 2)
    targets = [target for target, chosen in zip("qkv", on, strict=True) if chosen]
    apply_lora(attention, rank=rank, alpha=alpha, targets=targets)
    randomise(attention)
    (ours,) = adapters(attention).values()
    reference = loralib.MergedLinear(12, 36, r=rank, lora_alpha=alpha, enable_lora=list(on))
    reference.load_state_dict(
        {
            "weight": attention.parametrizations.in_proj_weight.original,
            "bias": attention.in_proj_bias,
            "lora_A": ours.lora_A,
            "lora_B": ours.lora_B,
        }
    )
    x = torch.randn(5, 12)
    expected = reference(x)
    actual = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    assert_close(actual, expected)
    cotangent = torch.randn(5, 36)
    wanted = torch.autograd.grad(expected, [reference.lora_A, reference.lora_B], cotangent)
    got = torch.autograd.grad(actual, [ours.lora_A, ours.lora_B], cotangent)
    for gradient, want in zip(got, wanted, strict=True):
        assert_close(gradient, want)


def test_equals_loralib_linear_on_mlp_and_out_proj():
    tower = apply_lora(Transformer(12, 1, 2), rank=3, alpha=2.0, targets=["o", "mlp"])
    randomise(tower)
    block = tower.resblocks[0]
    for linear in (block.attn.out_proj, block.mlp.c_fc, block.mlp.c_proj):
        reference = loralib.Linear(linear.in_features, linear.out_features, r=3, lora_alpha=2)
        adapter = linear.parametrizations.weight[0]
        reference.load_state_dict(
            {
                "weight": linear.parametrizations.weight.original,
                "bias": linear.bias,
                "lora_A": adapter.lora_A,
                "lora_B": adapter.lora_B,
            }
        )
        x = torch.randn(4, linear.in_features)
        assert_close(linear(x), reference(x))


@pytest.mark.parametrize("kind", ["ours", "torch"])
def test_start_is_bit_identical_and_gradients_reach_every_term(kind):
    """out_proj included: replacing it by a layer would be ignored by torch's attention."""
    module = make(kind)
    x = torch.randn(2, 5, 12)
    expected = module(x)  # before the freezing: torch's attention has another path without autograd
    assert apply_lora(module.requires_grad_(False), targets=ALL) is module
    assert torch.equal(module(x), expected)
    randomise(module)
    changed = module(x)
    assert not torch.allclose(changed, expected)
    changed.square().sum().backward()
    trainable = {name for name, p in module.named_parameters() if p.requires_grad}
    assert trainable == {f"{a}.lora_{x}" for a in adapters(module) for x in "AB"}
    assert all(p.grad.abs().max() > 0 for p in module.parameters() if p.requires_grad)
    module.eval()
    assert_close(module(x), changed)  # no merging between train and eval


def test_loralib_helpers_know_the_parameters():
    backbone = CLIPBackbone(CONFIG, SimpleNamespace(sot=18, eot=19))
    apply_lora(backbone.visual)
    loralib.mark_only_lora_as_trainable(backbone)
    names = [name for name, p in backbone.named_parameters() if p.requires_grad]
    assert names == list(loralib.lora_state_dict(backbone))
    assert names[0] == (
        "visual.transformer.resblocks.0.attn.parametrizations.in_proj_weight.0.lora_A"
    )
    assert len(names) == 2 * 3
    randomise(backbone)
    fresh = CLIPBackbone(CONFIG, SimpleNamespace(sot=18, eot=19))
    base = {k: v for k, v in backbone.state_dict().items() if "lora_" not in k}
    fresh.load_state_dict(
        {k.replace("parametrizations.", "").replace(".original", ""): v for k, v in base.items()}
    )
    apply_lora(fresh.visual)
    fresh.load_state_dict(loralib.lora_state_dict(backbone), strict=False)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():  # in training the terms stand beside a frozen weight, equal to rounding
        assert torch.equal(fresh.encode_image(images), backbone.encode_image(images))


def test_scaling_rules():
    for scaling, scale in (("alpha/r", 3 / 4), ("alpha/sqrt(r)", 3 / 2)):
        attention = apply_lora(Attention(8, 2), rank=4, alpha=3.0, scaling=scaling, targets=["v"])
        randomise(attention)
        original = attention.parametrizations.in_proj_weight.original
        (adapter,) = adapters(attention).values()
        delta = attention.in_proj_weight - original
        assert torch.equal(delta[:16], torch.zeros(16, 8))
        assert_close(delta[16:], scale * adapter.lora_B @ adapter.lora_A)


def test_layers_are_chosen_in_order():
    tower = apply_lora(Transformer(8, 4, 2), layers=[3, 1])
    found = [name.split(".")[1] for name in adapters(tower)]
    assert found == ["1", "3"]
    assert list(adapters(apply_lora(Transformer(8, 4, 2), layers=range(2), targets=["mlp"]))) == [
        f"resblocks.{i}.mlp.{name}.parametrizations.weight.0"
        for i in (0, 1)
        for name in ("c_fc", "c_proj")
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_base_keeps_float32_terms(dtype):
    attention = apply_lora(Attention(8, 2).to(dtype).requires_grad_(False), targets=ALL[:4])
    randomise(attention)
    for adapter in adapters(attention).values():
        assert adapter.lora_A.dtype == adapter.lora_B.dtype == torch.float32
    assert attention.in_proj_weight.dtype == torch.float32  # the sum, rounded once in the product
    theirs = apply_lora(nn.MultiheadAttention(8, 2).to(dtype))
    assert theirs.in_proj_weight.dtype == dtype  # wants it as its input
    out = attention(torch.randn(2, 3, 8, dtype=dtype))
    assert out.dtype == dtype
    out.float().sum().backward()
    assert attention.parametrizations.in_proj_weight[0].lora_A.grad.dtype == torch.float32


@pytest.mark.parametrize("kind", ["ours", "torch"])
def test_merged_state_dict_is_plain_and_touches_nothing(kind):
    module, plain = make(kind), make(kind)
    keys = plain.state_dict().keys()
    apply_lora(module, targets=ALL)
    randomise(module)
    x = torch.randn(2, 5, 12)
    expected, before = module(x), module.state_dict()
    merged = merged_state_dict(module)
    assert merged.keys() == keys
    assert not any(weight.requires_grad for weight in merged.values())
    plain.load_state_dict(merged)
    assert_close(plain(x), expected, rtol=0, atol=0)
    assert module.state_dict().keys() == before.keys()
    assert torch.equal(module(x), expected)
    attention = apply_lora(Attention(8, 2))  # at the root, without a prefix
    assert merged_state_dict(attention).keys() == Attention(8, 2).state_dict().keys()


def test_openai_state_dict_is_merged():
    backbone = CLIPBackbone(CONFIG, SimpleNamespace(sot=18, eot=19))
    keys = backbone.openai_state_dict().keys()
    apply_lora(backbone, targets=ALL)
    randomise(backbone)
    weights = backbone.openai_state_dict()
    assert weights.keys() == keys
    again = CLIPBackbone.from_openai_state_dict(weights, backbone.tokenizer, config=CONFIG)
    images, ids = torch.randn(2, 3, 32, 32), torch.tensor([[18, 3, 4, 19]])
    assert torch.equal(again.encode_image(images), backbone.encode_image(images))
    assert torch.equal(again.encode_text(ids), backbone.encode_text(ids))


def test_deepcopy_caching_and_the_forbidden_pickle():
    tower = apply_lora(Transformer(8, 2, 2))
    twin = copy.deepcopy(tower)
    randomise(twin)
    x = torch.randn(1, 3, 8)
    assert not torch.equal(twin(x), tower(x))
    merged_state_dict(twin)
    tower(x)
    with parametrize.cached():
        weight = tower.resblocks[0].attn.in_proj_weight
        assert tower.resblocks[0].attn.in_proj_weight is weight
    with pytest.raises(RuntimeError, match="only supported through state_dict"):
        torch.save(tower, sys.stdout.buffer)


def test_compiles_checkpoints_and_runs_in_bfloat16():
    backbone = CLIPBackbone(CONFIG, SimpleNamespace(sot=18, eot=19)).requires_grad_(False)
    apply_lora(backbone.visual, targets=ALL)
    randomise(backbone)
    images = torch.randn(2, 3, 32, 32)
    parameters = [p for p in backbone.parameters() if p.requires_grad]

    def gradients(encode):
        return torch.autograd.grad(encode(images).square().sum(), parameters)

    expected = gradients(backbone.encode_image)
    compiled = torch.compile(backbone.encode_image, fullgraph=True, backend="aot_eager")
    for gradient, want in zip(gradients(compiled), expected, strict=True):
        assert_close(gradient, want, rtol=1e-4, atol=1e-4)
    backbone.visual.transformer.gradient_checkpointing = True
    for gradient, want in zip(gradients(backbone.encode_image), expected, strict=True):
        assert torch.equal(gradient, want)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = gradients(backbone.encode_image)
    for gradient, want in zip(low, expected, strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - want).norm() < 0.1 * want.norm()


def test_errors_leave_the_module_alone():
    tower = Transformer(8, 2, 2)
    keys = list(tower.state_dict())
    for options, message in (
        ({"rank": 0}, "rank is 0 but must be at least 1: raise it"),
        ({"scaling": "r"}, r"scaling is 'r' but must be one of alpha/r, alpha/sqrt\(r\): "),
        ({"targets": ["q", "x"]}, r"targets is 'x' but must be one of q, k, v, o, mlp: "),
        ({"targets": []}, r"targets is empty but must name what to adapt"),
        ({"layers": [0, 2]}, r"layers is \[0, 2\] but must be some of 0 to 1, the attentions"),
        ({"layers": []}, r"layers is \[\] but must be some of 0 to 1"),
        ({"layers": [-1]}, r"layers is \[-1\] but must be some of 0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            apply_lora(tower, **options)
    with pytest.raises(
        ValueError, match="module is a Linear without attentions but must hold some"
    ):
        apply_lora(nn.Linear(2, 2))
    with pytest.raises(
        ValueError, match=r"targets has 'mlp' but the attention sits in a Sequential"
    ):
        apply_lora(nn.Sequential(Attention(8, 2)), targets=["mlp"])
    with pytest.raises(ValueError, match="an attention without in_proj_weight"):
        apply_lora(nn.MultiheadAttention(8, 2, kdim=4))
    assert list(tower.state_dict()) == keys
    apply_lora(tower, layers=[1])
    with pytest.raises(ValueError, match=r"module has LoRA .* on in_proj_weight already"):
        apply_lora(tower)
    assert len(adapters(tower)) == 1
