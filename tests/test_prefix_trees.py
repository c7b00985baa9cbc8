"""The tree of shared prefixes: how it is built, kept and cut into chunks."""

from types import SimpleNamespace

import pytest
import torch
from prefixes import WIDTH, compositions, gradients, make_tower, plain
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from czsl_sac.clip.adapters.adaptformer import apply_adaptformer
from czsl_sac.clip.prefix_tree import FixedPrompts, sort_prompts
from czsl_sac.clip.text_tower import TextTower


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
