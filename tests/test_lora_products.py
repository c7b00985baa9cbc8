"""LoRA's terms in the weight or beside it: equal, and where they cost less."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_parts import ALL, adapters, randomise
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from czsl_sac.clip.adapters.lora import apply_lora
from czsl_sac.clip.adapters.low_rank import LoRA
from czsl_sac.clip.transformer import Attention, Transformer

PARTS = (slice(None), slice(0, 1), slice(1, 3), slice(2, 3))  # all, query, key and value, value


@pytest.mark.parametrize("parts", PARTS)
@given(
    on=st.tuples(st.booleans(), st.booleans(), st.booleans()).filter(any),
    rank=st.integers(1, 3),
    scaling=st.sampled_from(["alpha/r", "alpha/sqrt(r)"]),
)
@settings(max_examples=15, deadline=None)
def test_terms_beside_the_weight_equal_terms_in_it(parts, on, rank, scaling):
    """Values and all gradients, in float64, for whatever of query, key and value is wanted."""
    attention = Attention(8, 2).double().requires_grad_(False)
    targets = [target for target, chosen in zip("qkv", on, strict=True) if chosen]
    apply_lora(attention, rank=rank, alpha=3.0, scaling=scaling, targets=targets)
    randomise(attention)
    nn.init.normal_(attention.in_proj_bias)
    (term,) = adapters(attention).values()
    x = torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=True)
    parameters = [x, term.lora_A, term.lora_B]
    size = 8 * len(range(*parts.indices(3)))
    rows = slice(8 * (parts.start or 0), 8 * (parts.start or 0) + size)
    inside = F.linear(x, attention.in_proj_weight[rows], attention.in_proj_bias[rows])
    original = attention.parametrizations.in_proj_weight.original
    beside = term.product(x, original, attention.in_proj_bias, parts)
    assert_close(beside, inside)
    cotangent = torch.randn(2, 5, size, dtype=torch.float64)
    gradients = [
        torch.autograd.grad(out, parameters, cotangent, materialize_grads=True, allow_unused=True)
        for out in (beside, inside)
    ]
    for got, want in zip(*gradients, strict=True):
        assert_close(got, want)


def multiplications(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(("tokens", "rank"), [(2, 2), (400, 2), (2, 32), (400, 32)])
def test_the_terms_stand_where_a_training_step_multiplies_less(tokens, rank, monkeypatch):
    """Counted by torch, forward and backward, against the way that is not taken."""
    attention = apply_lora(Attention(48, 2).requires_grad_(False), rank=rank)
    x = torch.randn(1, tokens, 48, requires_grad=True)
    (term,) = adapters(attention).values()
    original = attention.parametrizations.in_proj_weight.original
    taken = term.is_cheaper_beside(x, original)
    counts = {}
    for beside in (True, False):
        monkeypatch.setattr(LoRA, "is_cheaper_beside", lambda *_, answer=beside: answer)
        counts[beside] = multiplications(lambda: attention.project(x).sum().backward())
    assert taken == (rank == 2 or tokens == 2)
    assert counts[taken] == min(counts.values())


def test_the_terms_are_in_the_weight_without_gradients_and_of_a_trained_weight():
    attention = apply_lora(Attention(48, 2).requires_grad_(False))
    (term,) = adapters(attention).values()
    original, x = attention.parametrizations.in_proj_weight.original, torch.randn(100, 48)
    assert term.is_cheaper_beside(x, original)
    assert not term.is_cheaper_beside(x.double(), original)  # nor in half precision
    with torch.no_grad():
        assert not term.is_cheaper_beside(x, original)
    assert not term.is_cheaper_beside(x, original.requires_grad_())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not term.is_cheaper_beside(x, original)
        assert term.is_cheaper_beside(x, original.requires_grad_(False))


def test_a_training_step_never_makes_the_gradient_of_the_whole_weight():
    tower = apply_lora(Transformer(48, 2, 2).requires_grad_(False), targets=ALL)
    shapes = set()

    class Shapes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and function is not torch.ops.aten.t.default:
                shapes.add(tuple(out.shape))
            return out

    with Shapes():
        tower(torch.randn(5, 40, 48)).square().sum().backward()
    assert all(p.grad is not None for p in tower.parameters() if p.requires_grad)
    assert not shapes & {(144, 48), (192, 48), (48, 48)}


@pytest.mark.parametrize("stored", [False, True])
def test_frozen_weights_leave_no_cast_copy_under_autocast(stored):
    """Of a weight autograd keeps the weight itself, whatever precision it is kept in."""
    tower = Transformer(24, 2, 2).requires_grad_(False)
    if stored:
        for name in ("in_proj_weight", "out_proj.weight"):
            for block in tower.resblocks:
                weight = block.attn.get_parameter(name)
                weight.data = weight.bfloat16()
    kept = []
    x = torch.randn(2, 7, 24, requires_grad=True)

    def pack(tensor):
        kept.append(tensor)
        return tensor

    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        out = tower(x)
    own = {parameter.data_ptr() for parameter in tower.parameters()}
    matrices = {tuple(p.shape) for p in tower.parameters() if p.dim() == 2}
    copies = [t for t in kept if tuple(t.shape) in matrices and t.data_ptr() not in own]
    assert not copies
    plain = Transformer(24, 2, 2)
    plain.load_state_dict(tower.state_dict())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = plain(x)
    assert torch.equal(out, expected)
    for got, want in zip(
        torch.autograd.grad(out.sum(), x), torch.autograd.grad(expected.sum(), x), strict=True
    ):
        assert_close(got, want, rtol=0.02, atol=0.02)
