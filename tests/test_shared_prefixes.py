"""Prompts that share prefixes against the plain tower, which runs every token of every prompt."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prefixes import WIDTH, compositions, gradients, make_tower, plain
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from czsl_sac.clip.adapters.adaptformer import AdaptFormer, apply_adaptformer
from czsl_sac.clip.adapters.lora import apply_lora
from czsl_sac.clip.adapters.low_rank import LoRA
from czsl_sac.clip.prefix_tree import sort_prompts
from czsl_sac.clip.text_tower import TextTower


def assert_equal_to_plain(tower: TextTower, table: Tensor, *prompts: Tensor | None) -> None:
    """Features and the gradients of the table and of every weight."""
    table = table.detach().requires_grad_()
    inputs = [table, *(p for p in tower.parameters() if p.requires_grad)]
    expected = plain(tower, table, *prompts)
    actual = tower.encode_shared(table, *prompts)
    tolerance = {"rtol": 1e-10, "atol": 1e-10}
    assert_close(actual, expected, **tolerance)
    wanted = gradients(expected, inputs)
    for gradient, want in zip(gradients(actual, inputs), wanted, strict=True):
        assert (gradient is None) == (want is None)
        if want is not None:
            scale = max(float(want.abs().max()), 1.0)
            assert_close(gradient / scale, want / scale, **tolerance)
    with torch.no_grad():
        assert_close(tower.encode_shared(table, *prompts), expected, **tolerance)


@given(
    data=st.data(),
    prompts=st.integers(1, 9),
    longest=st.integers(1, 7),
    alphabet=st.integers(1, 4),
    chunk_size=st.integers(1, 9),
    kept=st.sampled_from([0.0, 1e-6, 4.0]),
    layers=st.integers(1, 3),
)
@settings(max_examples=20, deadline=None)
def test_any_prompts(data, prompts, longest, alphabet, chunk_size, kept, layers):
    """Few symbols make repetitions, prefixes of others, and forks at every depth."""
    row = st.lists(st.integers(0, alphabet - 1), min_size=longest, max_size=longest)
    symbols = torch.tensor(data.draw(st.lists(row, min_size=prompts, max_size=prompts)))
    length = st.integers(1, longest)
    lengths = torch.tensor(data.draw(st.lists(length, min_size=prompts, max_size=prompts)))
    tower = make_tower(chunk_size=chunk_size, kept_gib=kept, layers=layers)
    assert_equal_to_plain(tower, torch.randn(alphabet, WIDTH).double(), symbols, lengths)


@pytest.mark.parametrize("context", [0, 1, 3, 8])
@pytest.mark.parametrize("chunk_size", [1, 7, 256])
def test_compositions(context, chunk_size):
    tower = make_tower(chunk_size=chunk_size).requires_grad_(False)
    symbols = compositions(4, 5, context=context)
    table = torch.randn(int(symbols.max()) + 1, WIDTH, dtype=torch.float64)
    shuffled = symbols[torch.randperm(len(symbols))]
    assert_equal_to_plain(tower, table, shuffled)
    assert_equal_to_plain(tower, table, compositions(4, 5, [(2, 3)], context))
    assert_equal_to_plain(tower, table, compositions(4, 5, [(2, 3), (2, 3), (1, 3)], context))


@pytest.mark.parametrize("width", [WIDTH, 48])  # LoRA in the weight, and beside it
@pytest.mark.parametrize("kept", [0.0, 4.0])
def test_lora_and_adapters_in_the_tower(kept, width):
    tower = make_tower(chunk_size=6, kept_gib=kept, width=width).requires_grad_(False)
    apply_lora(tower, rank=2, targets=("q", "k", "v", "o", "mlp"))
    apply_adaptformer(tower.double(), bottleneck=3)
    for module in tower.modules():
        if isinstance(module, LoRA | AdaptFormer):
            for parameter in module.parameters():
                torch.nn.init.normal_(parameter, std=0.3)
    table = torch.randn(15, width, dtype=torch.float64)
    assert_equal_to_plain(tower.eval(), table, compositions(4, 5))
    # Dropout draws once a shared token; what runs again in the backward pass draws the same.
    inputs = [parameter for parameter in tower.parameters() if parameter.requires_grad]
    results = []
    for gib in (kept, 4.0):
        tower.train().kept_gib = gib
        torch.manual_seed(5)
        features = tower.encode_shared(table, compositions(4, 5))
        results.append([features, *gradients(features, inputs)])
    for one, other in zip(*results, strict=True):
        assert_close(one, other, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(results[0][0], tower.eval().encode_shared(table, compositions(4, 5)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_precision(dtype):
    """The error against float64 is that of the plain tower in the same precision."""
    exact = make_tower(width=32, heads=4).requires_grad_(False)
    low = make_tower(dtype, width=32, heads=4, chunk_size=13).requires_grad_(False)
    exact.load_state_dict({k: v.double() for k, v in low.state_dict().items()})
    symbols = compositions(6, 7)
    table = torch.randn(int(symbols.max()) + 1, 32).to(dtype)

    def run(encode, tower, table) -> list[Tensor]:
        table = table.detach().requires_grad_()
        features = encode(tower, table, symbols)
        return [features.detach().double(), gradients(features, [table])[0].double()]

    truth = run(plain, exact, table.double())
    eager = run(plain, low, table)
    shared = run(TextTower.encode_shared, low, table)
    for want, ours, theirs in zip(truth, shared, eager, strict=True):
        scale = want.abs().max()
        limit = 2e-6 if dtype == torch.float32 else 2 * (theirs - want).abs().max() / scale
        assert (ours - want).abs().max() / scale <= limit
        assert (ours - want).norm() <= 1.1 * (theirs - want).norm() + 1e-7 * want.norm()


def test_autocast():
    tower = make_tower(torch.float32, width=32, heads=4).requires_grad_(False)
    symbols = compositions(3, 4)
    table = torch.randn(int(symbols.max()) + 1, 32, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = tower.encode_shared(table, symbols)
    assert features.dtype == torch.bfloat16
    assert_close(features.float(), plain(tower, table, symbols), rtol=0, atol=0.1)
    assert gradients(features, [table])[0].dtype == torch.float32


class Shapes(TorchDispatchMode):
    """Records the shape of every tensor that is made, in the backward pass too."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.Size] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        parts = out if isinstance(out, tuple | list) else [out]
        self.seen |= {part.shape for part in parts if isinstance(part, Tensor)}
        return out


@pytest.mark.parametrize("kept", [0.0, 4.0])
def test_two_tokens_a_composition_and_none_of_them_expanded(kept):
    attributes, objects, context = 11, 13, 5  # the plain way runs 9 tokens a composition
    tower = make_tower(torch.float32, chunk_size=1000, kept_gib=kept).requires_grad_(False)
    symbols = compositions(attributes, objects, context=context)
    table = torch.randn(int(symbols.max()) + 1, WIDTH, requires_grad=True)
    count = len(symbols)
    tokens = context + 1 + attributes + 2 * count
    rows: list[int] = []
    for block in tower.transformer.resblocks:
        block.mlp.register_forward_hook(lambda _, inputs, out: rows.append(out[..., 0].numel()))
    with Shapes() as shapes:
        tower.encode_shared(table, symbols).sum().backward()
    assert rows[:3] == [tokens, tokens, count]  # the last layer: the ends alone
    largest = max(shape.numel() for shape in shapes.seen)
    assert largest == tokens * 4 * WIDTH  # the MLP's hidden units, less than a [C, 9, W]
    assert largest < count * 9 * WIDTH
    expanded = {s for s in shapes.seen if len(s) == 3 and s[0] >= count and s[1:] >= (8, WIDTH)}
    assert not expanded

    with Shapes() as shapes:  # the recorder sees it in the plain tower
        plain(tower, table, symbols).sum().backward()
    assert torch.Size([count, context + 4, WIDTH]) in shapes.seen


def saved_bytes(run) -> int:
    """Bytes of the tensors that autograd keeps for the backward pass of run()."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = run()
    del kept
    return sum(storages.values())


def test_memory_kept_for_the_backward_pass():
    tower = make_tower(torch.float32, width=32, chunk_size=50).requires_grad_(False)
    symbols = compositions(12, 17)
    table = torch.randn(int(symbols.max()) + 1, 32, requires_grad=True)
    padded = torch.cat([symbols, symbols[:, -1:]], dim=1)  # the published 8 tokens
    weights = sum(parameter.numel() for parameter in tower.parameters()) * 4
    peers = saved_bytes(lambda: plain(tower, table, padded)) - weights
    kept = saved_bytes(lambda: tower.encode_shared(table, symbols)) - weights
    assert kept < peers / 4  # a quarter of the tokens
    tokens = sort_prompts(symbols).num_tokens()
    estimate = tokens * 3 * 9 * 32 * 4
    assert 0.7 * estimate < kept < 1.1 * estimate  # what kept_gib goes by
    tower.kept_gib = estimate / 2**31  # half
    assert 0.3 * kept < saved_bytes(lambda: tower.encode_shared(table, symbols)) < 0.6 * kept
    tower.kept_gib = 0.0
    assert saved_bytes(lambda: tower.encode_shared(table, symbols)) < kept / 20
    tower.kept_gib, tower.transformer.gradient_checkpointing = 4.0, True
    assert saved_bytes(lambda: tower.encode_shared(table, symbols)) < kept / 20
