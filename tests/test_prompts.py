"""Soft prompts against prompts that are written out, with CLIP's own words."""

import copy

import pytest
import torch
from torch.testing import assert_close

from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.clip.config import CLIPConfig
from czsl_sac.clip.prefix_tree import FixedPrompts
from czsl_sac.clip.prompts import SoftPrompts, clean_name
from czsl_sac.clip.sources.openai import OpenAITokenizer

ATTRIBUTES = ["Wet", "old", "Faux.Fur"]  # the last is four tokens
OBJECTS = ["cat", "traffic_light"]  # the last is three
PAIRS = torch.tensor([[1, 0], [0, 0], [1, 0], [2, 1]])


@pytest.fixture(scope="module")
def backbone() -> CLIPBackbone:
    """A CLIP of random weights and small width that reads OpenAI's vocabulary."""
    torch.manual_seed(0)
    config = CLIPConfig(16, 32, 16, 12, 1, 2, 77, 49408, 12, 2, 2)
    return CLIPBackbone(config, OpenAITokenizer()).double().requires_grad_(False)


def make(backbone: CLIPBackbone, **options) -> SoftPrompts:
    return SoftPrompts(backbone.text, backbone.tokenizer, ATTRIBUTES, OBJECTS, **options)


def encode(backbone: CLIPBackbone, *texts: str) -> torch.Tensor:
    return backbone.encode_text(backbone.tokenizer(texts))


@pytest.mark.parametrize("template", ["a photo of", "a", "", "a bad photo of the large"])
@pytest.mark.parametrize("shared", [False, True])
def test_start_is_clips_own_prompt(backbone, template, shared):
    prompts = make(backbone, template=template, shared_context=shared)
    texts = [f"{template} {name}" for name in ("old cat", "wet cat", "old cat")]
    assert_close(prompts.compositions(PAIRS[:3]), encode(backbone, *texts))
    assert_close(prompts.attributes()[:2], encode(backbone, f"{template} wet", f"{template} old"))
    assert_close(prompts.objects()[:1], encode(backbone, f"{template} cat"))
    for together, alone in zip(
        prompts(PAIRS),
        (prompts.compositions(PAIRS), prompts.attributes(), prompts.objects()),
        strict=True,
    ):
        assert torch.equal(together, alone)


def test_names_of_several_tokens_become_their_mean(backbone):
    prompts = make(backbone)
    ids = backbone.tokenizer.encode("faux fur")
    assert len(ids) > 1
    table = backbone.text.token_embedding.weight
    assert_close(prompts.attribute_vectors[2], table[ids].mean(dim=0))
    ids = backbone.tokenizer.encode("traffic_light")
    assert len(ids) == 3  # the underscore stays
    assert_close(prompts.object_vectors[1], table[ids].mean(dim=0))
    # One token a primitive all the same: the prompt written out by hand.
    words = backbone.tokenizer.encode("a photo of")
    rows = [table[i] for i in (backbone.tokenizer.sot, *words)]
    rows += [prompts.attribute_vectors[2], prompts.object_vectors[1], table[backbone.tokenizer.eot]]
    expected = backbone.text.encode_embeddings(torch.stack(rows)[None], torch.tensor([6]))
    assert_close(prompts.compositions(PAIRS[3:]), expected)


def test_clean_name():
    assert clean_name("Shoes.Sneakers.and.Athletic.Shoes") == "shoes sneakers and athletic shoes"
    assert clean_name("Hair.Calf-Like_x") == "hair calf-like_x"


def test_each_kind_of_prompt_has_its_own_context(backbone):
    prompts = make(backbone)
    with torch.no_grad():
        prompts.context[1].normal_()
    fresh = make(backbone)
    assert torch.equal(prompts.compositions(PAIRS), fresh.compositions(PAIRS))
    assert not torch.allclose(prompts.attributes(), fresh.attributes())
    assert torch.equal(prompts.objects(), fresh.objects())
    shared = make(backbone, shared_context=True)
    assert shared.context.shape == (1, 3, 12)
    with torch.no_grad():
        shared.context.normal_()
    for got, start in zip(shared(PAIRS), fresh(PAIRS), strict=True):
        assert not torch.allclose(got, start)


def test_trainable_parts(backbone):
    def trainable(**options):
        return [name for name, p in make(backbone, **options).named_parameters() if p.requires_grad]

    assert trainable() == ["context", "attribute_vectors", "object_vectors"]
    assert trainable(train_context=False) == ["attribute_vectors", "object_vectors"]
    assert trainable(train_primitives=False) == ["context"]


def test_gradients_reach_what_a_prompt_holds(backbone):
    prompts = make(backbone)
    prompts.compositions(PAIRS[:3]).square().sum().backward()
    reached = prompts.context.grad.abs().sum(dim=(1, 2)) > 0
    assert reached.tolist() == [True, False, False]
    assert (prompts.attribute_vectors.grad.abs().sum(dim=1) > 0).tolist() == [True, True, False]
    assert (prompts.object_vectors.grad.abs().sum(dim=1) > 0).tolist() == [True, False]


def test_chunks_give_the_same_features_and_gradients(backbone, monkeypatch):
    prompts = make(backbone)
    parameters = list(prompts.parameters())
    features = prompts.compositions(PAIRS)
    wanted = torch.autograd.grad(features.square().sum(), parameters)
    monkeypatch.setattr(backbone.text, "chunk_size", 3)
    chunked = prompts.compositions(PAIRS)
    assert_close(chunked, features)
    for got, want in zip(
        torch.autograd.grad(chunked.square().sum(), parameters), wanted, strict=True
    ):
        assert_close(got, want)


def test_the_same_pairs_are_prepared_once(backbone, monkeypatch):
    prompts, pairs = make(backbone), PAIRS.clone()
    made = []

    def spy(symbols):
        made.append(len(symbols))
        return FixedPrompts(symbols)

    monkeypatch.setattr("czsl_sac.clip.prompts.FixedPrompts", spy)
    features = prompts(pairs)
    assert sorted(made) == [2, 3, 4]
    for again, first in zip(prompts(pairs), features, strict=True):
        assert torch.equal(again, first)
    embedded = prompts.embed_compositions(pairs)
    last = torch.full((4,), embedded.shape[1] - 1)
    assert_close(backbone.text.encode_embeddings(embedded, last), features[0])
    assert len(made) == 3
    pairs[0] = torch.tensor([2, 1])  # the same tensor, changed in place
    changed = prompts.compositions(pairs)
    assert len(made) == 4
    assert_close(changed[0], prompts.compositions(PAIRS[3:])[0])
    assert_close(changed[1:], features[0][1:])
    assert torch.equal(copy.deepcopy(prompts).compositions(pairs), prompts.compositions(pairs))
    with torch.inference_mode():  # in which torch counts no changes
        pairs = PAIRS.clone()
        prompts.compositions(pairs)
        pairs[0] = torch.tensor([2, 1])
        assert_close(prompts.compositions(pairs), changed)


def test_dropout_is_on_the_whole_table_in_training_alone(backbone):
    prompts = make(backbone, dropout=0.5)
    plain = make(backbone)
    assert torch.equal(prompts.eval().compositions(PAIRS), plain.compositions(PAIRS))
    torch.manual_seed(3)
    compositions, attributes, objects = prompts.train()(PAIRS)
    torch.manual_seed(3)
    with torch.no_grad():  # the same draw, written into the tables
        for name in ("attribute_vectors", "object_vectors"):
            table = getattr(plain, name)
            table.copy_(torch.nn.functional.dropout(table, 0.5))
    assert (plain.attribute_vectors == 0).any()
    assert torch.equal(compositions, plain.compositions(PAIRS))
    assert torch.equal(attributes, plain.attributes())
    assert torch.equal(objects, plain.objects())
    assert torch.equal(compositions[0], compositions[2])  # one draw for a pair that comes twice


def test_tower_is_used_not_owned(backbone):
    prompts = make(backbone)
    assert list(prompts.state_dict()) == ["context", "attribute_vectors", "object_vectors"]
    assert [name for name, _ in prompts.named_modules()] == [""]
    with torch.no_grad():
        for parameter in prompts.parameters():
            parameter.normal_()
    other = make(backbone)
    other.load_state_dict(prompts.state_dict())
    assert torch.equal(other.compositions(PAIRS), prompts.compositions(PAIRS))
    holder = torch.nn.ModuleDict({"backbone": backbone, "prompts": prompts})
    twin = copy.deepcopy(holder)
    assert twin["prompts"].tower is twin["backbone"].text


def test_vectors_are_float32_beside_a_half_precision_tower(backbone):
    half = copy.deepcopy(backbone).bfloat16()
    prompts = make(half)
    assert {p.dtype for p in prompts.parameters()} == {torch.float32}
    features = prompts.compositions(PAIRS)
    assert features.dtype == torch.bfloat16
    features.float().square().sum().backward()
    assert prompts.context.grad.dtype == torch.float32
    full = make(copy.deepcopy(backbone).float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = full.compositions(PAIRS)
    assert_close(low.float(), full.compositions(PAIRS), rtol=0, atol=0.1)


def test_errors(backbone):
    tower, tokenizer = backbone.text, backbone.tokenizer
    with pytest.raises(ValueError, match=r"attributes has the name '\.', which holds no word"):
        SoftPrompts(tower, tokenizer, ["."], OBJECTS)
    with pytest.raises(ValueError, match=r"objects is \[\] but must be one or more names"):
        SoftPrompts(tower, tokenizer, ATTRIBUTES, [])
    with pytest.raises(ValueError, match=r"attributes is 'wet' but must be one or more names"):
        SoftPrompts(tower, tokenizer, "wet", OBJECTS)
    with pytest.raises(
        ValueError,
        match=r"template is 'a a .* 84 tokens, but they must have at most 77, .*: shorten it",
    ):
        make(backbone, template="a " * 80)
    with pytest.raises(ValueError, match=r"dropout is 1.0 but must be below 1.0"):
        make(backbone, dropout=1.0)
    prompts = make(backbone)
    with pytest.raises(
        ValueError,
        match=r"pairs is torch.int64 of shape \[4\] but must be integers of shape \[K, 2\]",
    ):
        prompts.compositions(PAIRS[:, 0])
    with pytest.raises(
        ValueError, match=r"pairs is torch.float32 of shape \[4, 2\] but must be integers"
    ):
        prompts(PAIRS.float())


def test_repr(backbone):
    assert repr(make(backbone, dropout=0.1)) == (
        "SoftPrompts(attributes=3, objects=2, contexts=3, context_tokens=3, dropout=0.1)"
    )
