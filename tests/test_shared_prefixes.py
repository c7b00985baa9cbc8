"""Prompts that share prefixes against the plain tower, which runs every token of every prompt."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from czsl_sac.clip.adapters.adaptformer import AdaptFormer, apply_adaptformer
from czsl_sac.clip.adapters.lora import apply_lora
from czsl_sac.clip.adapters.low_rank import LoRA
from czsl_sac.clip.prefix_tree import FixedPrompts, sort_prompts
from czsl_sac.clip.text_tower import TextTower

WIDTH = 8


def make_tower(dtype=torch.float64, width=WIDTH, layers=3, heads=2, **options) -> TextTower:
    torch.manual_seed(0)
    tower = TextTower(
        16,
        context_length=12,
        vocab_size=20,
        width=width,
        layers=layers,
        heads=heads,
        **options,
    )
    with torch.no_grad():
        for parameter in tower.parameters():  # biases and norms too, far from their start
            parameter.add_(0.2 * torch.randn_like(parameter))
    return tower.to(dtype)


def compositions(
    attributes: int, objects: int, pairs: list[tuple[int, int]] | None = None, context: int = 3
) -> Tensor:
    """Symbols of [SOT, context, attribute, object, EOT] as `SoftPrompts` numbers them."""
    chosen = torch.tensor(pairs) if pairs else torch.cartesian_prod(
        torch.arange(attributes), torch.arange(objects)
    )  # fmt: skip
    before = torch.arange(context + 1).expand(len(chosen), -1)
    middle = chosen + torch.tensor([context + 1, context + 1 + attributes])
    last = torch.full((len(chosen), 1), context + 1 + attributes + objects)
    return torch.cat([before, middle, last], dim=1)


def plain(tower: TextTower, table: Tensor, symbols: Tensor, lengths: Tensor | None = None):
    """Every prompt in full, in a single chunk, whose activations are kept."""
    lengths = torch.full((len(symbols),), symbols.shape[1]) if lengths is None else lengths
    chunk_size, tower.chunk_size = tower.chunk_size, max(len(symbols), 1)
    try:
        return tower.encode_embeddings(table[symbols], lengths - 1)
    finally:
        tower.chunk_size = chunk_size


def gradients(features: Tensor, inputs: list[Tensor]) -> list[Tensor | None]:
    torch.manual_seed(1)
    cotangent = torch.randn(features.shape, dtype=torch.float64).to(features.dtype)
    return list(torch.autograd.grad(features, inputs, cotangent, allow_unused=True))


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


def test_token_ids_share_where_it_pays(monkeypatch):
    tower = make_tower()
    ids = torch.zeros(6, 12, dtype=torch.int64)
    texts = [[18, 1, 2, 19], [18, 1, 3, 19], [18, 1, 2, 19], [18, 1, 2, 4, 19], [18, 19], [18, 1]]
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = torch.tensor(text)
    eot = torch.tensor([3, 3, 3, 4, 1, 1])  # the last is a prefix of the others
    expected = plain(tower, tower.token_embedding.weight, ids, eot + 1)
    calls: list[int] = []
    shared = TextTower._encode_tree

    def spy(self, table, tree):
        calls.append(tree.num_tokens)
        return shared(self, table, tree)

    monkeypatch.setattr(TextTower, "_encode_tree", spy)
    assert_close(tower(ids, eot), expected, rtol=1e-10, atol=1e-10)
    assert calls == [9]  # of 6 x 5 that ran otherwise
    (gradient,) = gradients(tower(ids, eot), [tower.token_embedding.weight])
    (wanted,) = gradients(expected, [tower.token_embedding.weight])
    assert_close(gradient, wanted, rtol=1e-10, atol=1e-10)

    calls.clear()
    alone = torch.tensor([[18, 1, 2, 19], [17, 1, 2, 19]])
    expected = plain(tower, tower.token_embedding.weight, alone)
    assert_close(tower(alone), expected, rtol=1e-10, atol=1e-10)
    assert not calls


def test_tree():
    symbols = torch.tensor([[5, 6, 1, 7], [5, 6, 0, 7], [5, 6, 0, 8], [5, 6, 0, 0]])
    prompts = sort_prompts(symbols, torch.tensor([4, 4, 4, 3]))
    assert prompts.symbols.tolist() == [[5, 6, 0, -1], [5, 6, 0, 7], [5, 6, 0, 8], [5, 6, 1, 7]]
    assert prompts.places.tolist() == [3, 1, 2, 0]
    assert prompts.num_tokens() == 7
    tree = prompts.tree(0, 4)
    assert tree.symbols[tree.inputs].tolist() == [5, 6, 0, 1, 7, 8, 7]
    assert tree.positions[tree.inputs].tolist() == [0, 1, 2, 2, 3, 3, 3]
    assert len(tree.symbols) == 6  # 7 at position 3 is one input of two tokens
    assert tree.paths.root == 2
    assert tree.rows.tolist() == [0, 1, 2, 3]  # the prompts as they were given
    assert tree.end_paths.queries[tree.ends].tolist() == [6, 4, 5, 2]
    part = prompts.tree(2, 4)
    assert (part.rows.tolist(), part.end_paths.queries[part.ends].tolist()) == ([0, 2], [5, 4])
    used, compact = prompts.compact()
    assert used.tolist() == [0, 1, 5, 6, 7, 8]
    assert compact.symbols[0].tolist() == [2, 3, 0, -1]
    whole = prompts.tree(3, 4)
    assert (whole.paths.root, whole.paths.steps, whole.num_tokens) == (4, (), 4)


def test_sorting_many_columns_of_large_ids():
    """Their product is far beyond 64 bits, so that the keys are numbered anew on the way."""
    torch.manual_seed(0)
    symbols = torch.randint(0, 3, (200, 60)) * 24_000
    symbols[:, 3] = 7
    prompts = sort_prompts(symbols)
    expected = sorted(set(map(tuple, symbols.tolist())))
    assert [tuple(row) for row in prompts.symbols.tolist()] == expected
    assert torch.equal(prompts.symbols[prompts.places], symbols)


def test_no_prompts():
    tower = make_tower()
    features = tower.encode_shared(torch.randn(3, WIDTH), torch.zeros(0, 4, dtype=torch.int64))
    assert (features.shape, features.dtype) == ((0, 16), torch.float64)


def test_errors():
    tower = make_tower()
    table, symbols = torch.randn(3, WIDTH), torch.zeros(2, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"table has the shape \[3, 7\] but must be \[S, 8\]"):
        tower.encode_shared(table[:, 1:], symbols)
    with pytest.raises(
        ValueError, match=r"symbols is torch.int64 of shape \[2\] but must be integers"
    ):
        tower.encode_shared(table, symbols[:, 0])
    with pytest.raises(
        ValueError, match=r"symbols has 13 tokens a prompt but must have at most 12"
    ):
        tower.encode_shared(table, symbols.new_zeros(2, 13))
    with pytest.raises(ValueError, match=r"symbols is in 0..3 but must be in 0..2"):
        tower.encode_shared(table, torch.tensor([[0, 3]]))
    with pytest.raises(ValueError, match=r"lengths has the shape \[1\] but must be \[2\]"):
        tower.encode_shared(table, symbols, torch.tensor([4]))
    with pytest.raises(ValueError, match=r"lengths is 0..5 but must be in 1..4"):
        tower.encode_shared(table, symbols, torch.tensor([0, 5]))
    with pytest.raises(ValueError, match=r"kept_gib is -1.0 but must be at least 0"):
        make_tower(kept_gib=-1.0)


class Operators(TorchDispatchMode):
    """Records the names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


# What a GPU must be waited for: its numbers are read, or decide on a size.
WAITING = {
    "_local_scalar_dense",
    "nonzero",
    "unique_consecutive",
    "_unique2",
    "equal",
    "is_nonzero",
}


@pytest.mark.parametrize("chunk_size", [5, 256])
def test_fixed_prompts_are_sorted_once_and_never_waited_for(chunk_size):
    tower = make_tower(chunk_size=chunk_size, kept_gib=1e-6).requires_grad_(False)
    symbols = compositions(4, 5)[torch.randperm(20)]
    prompts = FixedPrompts(symbols)
    table = torch.randn(15, WIDTH, dtype=torch.float64, requires_grad=True)
    with Operators() as first:
        features = tower.encode_shared(table, prompts)
    assert first.seen & WAITING
    assert_close(features, plain(tower, table, symbols), rtol=1e-10, atol=1e-10)
    with Operators() as second:
        again = tower.encode_shared(table, prompts)
        again.sum().backward()
    assert not second.seen & WAITING
    assert torch.equal(again, features)
    with torch.no_grad(), Operators() as third:
        assert torch.equal(tower.encode_shared(table, prompts), features)
    assert not third.seen & (WAITING - {"equal"})
    tower.chunk_size = 3  # other trees of the same prompts
    cpu = torch.device("cpu")
    assert [len(prompts.trees(size, cpu, range(20))) for size in (chunk_size, 3)] == [
        -(-20 // chunk_size),
        7,
    ]
    assert_close(tower.encode_shared(table, prompts), features, rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match=r"symbols is in 0\.\.9 but must be in 0\.\.7"):
        tower.encode_shared(table[:8], FixedPrompts(compositions(2, 3)))
    assert tower.encode_shared(table, FixedPrompts(symbols[:0])).shape == (0, 16)


def test_the_chunk_size_is_chosen_by_device_and_memory(monkeypatch):
    tower = make_tower(torch.float32)
    assert tower.chunk_size == 256
    tower.chunk_size = 7
    assert (tower.chunk_size, tower.prompts_at_once(77)) == (7, 7)
    tower.chunk_size = None
    assert tower.chunk_size == 256
    # The sizes of ViT-L/14's text tower on cards of 80, 24 and 8 GB; no card is needed to count.
    with torch.device("meta"):
        large = TextTower(768, context_length=77, vocab_size=9, width=768, layers=12, heads=12)
    large.requires_grad_(False)
    monkeypatch.setattr(TextTower, "_device", property(lambda self: torch.device("cuda")))
    for gib, shared, whole in ((80, 8192, 4045), (24, 4854, 1213), (1, 256, 256)):
        card = SimpleNamespace(total_memory=gib * 2**30)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, card=card: card)
        assert (large.chunk_size, large.prompts_at_once(8)) == (shared, whole)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_of_fixed_prompts_does_not_wait_for_the_gpu():
    tower = make_tower(torch.float32, chunk_size=7).cuda().requires_grad_(False)
    apply_adaptformer(tower, bottleneck=3)
    prompts = FixedPrompts(compositions(4, 5))
    table = torch.randn(15, WIDTH, device="cuda", requires_grad=True)
    tower.encode_shared(table, prompts).sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        tower.encode_shared(table, prompts).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
