"""HPL against its description written out one prompt at a time: losses, scores, what is trained."""

import pytest
import torch
from plain_parts import SPACES, batch, cross_entropy, random_backbone, randomize, unit
from torch import Tensor
from torch.testing import assert_close

from czsl_sac.methods.hpl.method import HPL
from czsl_sac.methods.hpl.options import HPLOptions

SCALE = 5.0


def make(**options: object) -> HPL:
    torch.manual_seed(0)
    given = {"template": "a photo", "prompt_dropout": 0.0, "primitive_share": 0.3, **options}
    model = HPL.build(HPLOptions(**given), random_backbone(), SPACES["usual"]).double()
    randomize(model)
    return model.eval()


def prompt_feature(model: HPL, *vectors: Tensor) -> Tensor:
    """The feature of [SOT, context, two words, EOT]; one context for all prompts."""
    tower, tokenizer = model.backbone.text, model.backbone.tokenizer
    table = tower.token_embedding.weight
    tokens = [table[tokenizer.sot], *model.prompts.context[0], *vectors, table[tokenizer.eot]]
    eot = torch.tensor([len(tokens) - 1])
    return tower.encode_embeddings(torch.stack(tokens).unsqueeze(0), eot)[0]


def description(model: HPL, image: Tensor, pairs: Tensor, alignment: str) -> list[Tensor]:
    """Logits of the compositions, of things with an attribute, and of "the object"."""
    own, other = model.prompts, model.primitive_prompts
    the, thing = other.attribute_vectors[-1], other.object_vectors[-1]
    texts = [
        [
            prompt_feature(model, own.attribute_vectors[a], own.object_vectors[o])
            for a, o in pairs.tolist()
        ],
        [prompt_feature(model, red, thing) for red in other.attribute_vectors[:-1]],
        [prompt_feature(model, the, cat) for cat in other.object_vectors[:-1]],
    ]
    tokens = list(model.backbone.encode_image(image.unsqueeze(0))[0])
    if alignment == "cls":
        tokens = tokens[:1]
    return [
        torch.stack([SCALE * max(unit(token) @ unit(text) for token in tokens) for text in kind])
        for kind in texts
    ]


@pytest.mark.parametrize("alignment", ["cls", "patch_max"])
def test_losses_and_scores_equal_the_description(alignment: str) -> None:
    model = make(alignment=alignment)
    images, targets = batch(model.backbone, model.space, 3)
    pairs = model.space.pair_indices
    seen = pairs[model.space.seen_mask]
    with torch.no_grad():
        losses = model(images, targets, "train")
        expected = {"composition": 0.0, "attribute": 0.0, "object": 0.0}
        for image, target in zip(images, targets.tolist(), strict=True):
            logits = description(model, image, seen, alignment)
            labels = [int(model.space.seen_mask[:target].sum()), *pairs[target].tolist()]
            for name, own, label in zip(expected, logits, labels, strict=True):
                expected[name] += cross_entropy(own, label) / len(images)
        expected["total"] = sum(expected.values())
        assert losses.keys() == expected.keys()
        for name, value in expected.items():
            assert_close(losses[name], value)
        world = model.space.open_world()
        rows = []
        for image in images:
            pair, attribute, object_ = description(model, image, world.pair_indices, alignment)
            a, o = world.pair_indices.unbind(1)
            rows.append(0.7 * pair + 0.3 * (attribute[a] + object_[o]))
        assert_close(model.predictor(world)(images), torch.stack(rows))


def test_at_the_start_all_prompts_are_clips_own() -> None:
    torch.manual_seed(0)
    model = HPL.build(HPLOptions(), random_backbone(), SPACES["usual"]).double().eval()
    ids = model.backbone.tokenizer
    with torch.no_grad():
        texts = model.text_features(model.space.pair_indices)
        words = [
            [f"a photo of {a} {o}" for a, o in model.space.pairs],
            [f"a photo of {a} thing" for a in model.space.attributes],
            [f"a photo of the {o}" for o in model.space.objects],
        ]
        for found, own in zip(texts, words, strict=True):
            assert_close(found, model.backbone.encode_text(ids(own)))


@pytest.mark.parametrize("train_fillers", [True, False])
def test_two_tables_learn_and_the_fillers_where_they_may(train_fillers: bool) -> None:
    model = make(train_fillers=train_fillers, train_context=False)
    words = ("attribute_vectors", "object_vectors")
    trained = {f"{part}.{name}" for part in ("prompts", "primitive_prompts") for name in words}
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trained
    other = model.primitive_prompts
    before = [table[-1].clone() for table in (other.attribute_vectors, other.object_vectors)]
    other.start.copy_(torch.stack(before))
    learned = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(learned, lr=0.1, weight_decay=0.1)
    model(*batch(model.backbone, model.space, 4), "train")["total"].backward()
    optimiser.step()
    model.after_step()
    after = [table[-1] for table in (other.attribute_vectors, other.object_vectors)]
    moved = [not torch.equal(x, y) for x, y in zip(before, after, strict=True)]
    assert moved == [train_fillers] * 2


def test_a_learned_context_is_one_for_the_three_prompts() -> None:
    model = make(train_context=True)
    assert model.primitive_prompts.context is model.prompts.context
    assert model.prompts.context.requires_grad
