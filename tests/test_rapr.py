"""RAPR against its description written out in loops: views, retrieval, losses, scores."""

from collections import Counter

import pytest
import torch
from plain_parts import (
    SPACES,
    batch,
    block,
    cross_entropy,
    layer_norm,
    mlp,
    random_backbone,
    randomize,
    unit,
    without_dropout,
)
from torch import Tensor
from torch.testing import assert_close

from czsl_sac.methods.rapr.losses import retrieval_loss
from czsl_sac.methods.rapr.method import RAPR
from czsl_sac.methods.retrieval import FeatureDatabase, Retrieved, balanced_quotas

SCALE = 5.0
OPTIONS = {
    "database_size": 3,
    "retrieval_size": 2,
    "retrieval_loss_size": 5,
    "composition_residual": 0.7,
    "attribute_residual": 0.4,
    "object_residual": 0.1,
    "retrieval_weight": 0.6,
    "retrieval_sharpness": 3.0,
    "primitive_share": 0.3,
    "debias_weight": 2.0,
    "retrieval_loss_weight": 0.5,
}


def make(**options: object) -> RAPR:
    torch.manual_seed(0)
    options = {**OPTIONS, **options}
    model = RAPR(random_backbone(), SPACES["usual"], **options).double()
    randomize(model)
    without_dropout(model)
    return model.eval()


def filled(model: RAPR, count: int = 8) -> tuple[Tensor, Tensor]:
    """Let a model look at training images; return them and their targets."""
    torch.manual_seed(2)
    images, targets = batch(model.backbone, model.space, count)
    data = [(images[:3], targets[:3]), (images[3:], targets[3:])]
    model.prepare(data)
    model.refresh(data)
    return images, targets


@torch.no_grad()
def views(model: RAPR, image: Tensor) -> list[list[Tensor]]:
    """The tokens of the composition's, the attribute's and the object's view."""
    tower, o = model.backbone.visual, model.options
    states = list(tower.states(image.unsqueeze(0))[0])
    out = []
    for part, r in zip(
        model.views, (o.composition_residual, o.attribute_residual, o.object_residual), strict=True
    ):
        if o.view_adapter == "attention":
            adapted = block(part.adapter, states)
        else:
            adapted = [x + mlp(part.adapter.mlp, layer_norm(part.adapter.norm, x)) for x in states]
        project = [layer_norm(tower.ln_post, x) @ tower.proj for x in states]
        moved = [layer_norm(tower.ln_post, x) @ tower.proj for x in adapted]
        tokens = [r * a + (1 - r) * b for a, b in zip(project, moved, strict=True)]
        out.append(tokens[:1] if o.alignment == "cls" else tokens)
    return out


def description(model: RAPR, images: Tensor, shown: tuple[Tensor, Tensor]) -> list[dict]:
    """For each image its enriched views and what they retrieved: (cosine, label, feature)."""
    o, training = model.options, [views(model, image) for image in shown[0]]
    out = []
    for image in images:
        own = views(model, image)
        found = []
        for kind in (0, 1):
            database = model.databases[kind].images
            entries = []
            for label, numbers in enumerate(database.tolist()):
                for number in numbers:
                    if number < 0:
                        continue
                    target = int(shown[1][number])
                    assert int(model.space.pair_indices[target, kind]) == label
                    feature = training[number][kind + 1][0]
                    cosine = float(unit(own[kind + 1][0]) @ unit(feature))
                    entries.append((cosine, label, feature))
            entries.sort(key=lambda entry: -entry[0])
            found.append(entries)
            best = entries[: o.retrieval_size]
            weights = torch.tensor([e[0] * o.retrieval_sharpness for e in best]).double().softmax(0)
            mean = sum(w * e[2] for w, e in zip(weights, best, strict=True))
            for place, token in enumerate(own[kind + 1]):
                if place == 0 or o.retrieval_tokens == "all":
                    own[kind + 1][place] = (
                        o.retrieval_weight * mean + (1 - o.retrieval_weight) * token
                    )
        out.append({"views": own, "found": found})
    return out


def logits(tokens: list[Tensor], texts: Tensor) -> Tensor:
    return torch.stack([SCALE * max(unit(x) @ unit(t) for x in tokens) for t in texts])


def texts_of(model: RAPR, pairs: Tensor) -> list[Tensor]:
    """One prompt at a time, of the words that a prompt is said to hold."""
    own, other = model.prompts, model.primitive_prompts
    table, tower = model.backbone.text.token_embedding.weight, model.backbone.text
    words = model.backbone.tokenizer

    def encoded(context: Tensor, *vectors: Tensor) -> Tensor:
        tokens = torch.stack([table[words.sot], *context, *vectors, table[words.eot]])
        return tower.encode_embeddings(tokens.unsqueeze(0), torch.tensor([len(tokens) - 1]))[0]

    x = table[words.encode("x")[0]]
    attributes, objects = len(model.space.attributes), len(model.space.objects)
    with torch.no_grad():
        return [
            torch.stack(
                [
                    encoded(own.context[0], own.attribute_vectors[a], own.object_vectors[o])
                    for a, o in pairs.tolist()
                ]
            ),
            torch.stack(
                [
                    encoded(other.context[0], other.attribute_vectors[a], other.object_vectors[-1])
                    for a in range(attributes)
                ]
            ),
            torch.stack(
                [encoded(other.context[0], x, other.object_vectors[o]) for o in range(objects)]
            ),
        ]


CASES = [
    {"alignment": "cls"},
    {"alignment": "patch_max"},
    {"alignment": "patch_max", "retrieval_tokens": "class_token", "view_adapter": "attention"},
    {"alignment": "cls", "view_adapter": "attention", "legacy_debias": True},
]


@pytest.mark.parametrize("options", CASES)
def test_losses_and_scores_equal_the_description(options: dict) -> None:
    model = make(**options)
    model.after_step()  # "x" as it was
    shown = filled(model)
    torch.manual_seed(5)
    images, targets = batch(model.backbone, model.space, 3)
    with torch.no_grad():
        losses = model(images, targets, "train")
        world = model.space.open_world()
        scores = model.predictor(world)(images)
    o, seen = model.options, model.space.seen_mask.nonzero().flatten().tolist()
    expected, seen_texts = description(model, images, shown), texts_of(model, model.seen_pairs)
    all_texts = texts_of(model, world.pair_indices)
    sums: Counter[str] = Counter()
    pairs_alike: list[list[Tensor]] = [[], []]
    pairs_other: list[list[Tensor]] = [[], []]
    for image, target, row in zip(expected, targets.tolist(), scores, strict=True):
        truth = [seen.index(target), *model.space.pair_indices[target].tolist()]
        for name, view, text, label in zip(
            ("composition", "attribute", "object"), image["views"], seen_texts, truth, strict=True
        ):
            sums[name] += float(cross_entropy(logits(view, text), label)) / 3
        of_object = logits(image["views"][2], seen_texts[1]).softmax(0)[truth[1]]
        of_attribute = logits(image["views"][1], seen_texts[2]).softmax(0)[truth[2]]
        both = of_object + (of_object if o.legacy_debias else of_attribute)
        sums["debias"] += float(both) / 3
        for kind in (0, 1):
            for _, label, feature in image["found"][kind][: o.retrieval_loss_size]:
                cosine = unit(image["views"][kind + 1][0]) @ unit(feature)
                if label == truth[kind + 1]:
                    pairs_alike[kind].append(torch.log1p(torch.exp(-cosine)))
                else:
                    pairs_other[kind].append(torch.log1p(torch.exp(cosine)))
        composition, attribute, object_ = (
            logits(view, text) for view, text in zip(image["views"], all_texts, strict=True)
        )
        for score, own, (a, b) in zip(row, composition, world.pair_indices.tolist(), strict=True):
            w = o.primitive_share
            assert_close(score, (1 - w) * own + w * (attribute[a] + object_[b]))
    for kind in (0, 1):
        for pairs in (pairs_alike[kind], pairs_other[kind]):
            sums["retrieval"] += float(torch.stack(pairs).mean())
    for name, value in sums.items():
        assert float(losses[name]) == pytest.approx(value), name
    w = o.primitive_share
    total = (1 - w) * sums["composition"] + w * (sums["attribute"] + sums["object"])
    total += o.debias_weight * sums["debias"] + o.retrieval_loss_weight * sums["retrieval"]
    assert float(losses["total"]) == pytest.approx(total)


def test_quotas_fill_from_the_rarest() -> None:
    assert balanced_quotas([100, 2, 7], most=12) == [5, 2, 3]
    assert balanced_quotas([1, 1, 1], most=128) == [1, 1, 1]
    assert balanced_quotas([50, 60], most=11) == [6, 5]
    assert balanced_quotas([1, 90], most=128) == [1, 2]  # at most 1.5 times the rarer one, up
    assert sum(balanced_quotas([3] * 40 + [9] * 5, most=16)) <= 16


def test_images_are_chosen_once_without_repeats_and_of_their_primitive() -> None:
    database = FeatureDatabase(primitives=3, size=4, dim=2)
    primitives = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1])
    compositions = torch.tensor([5, 5, 5, 5, 5, 7, 9, 9])
    database.choose(primitives, compositions)
    chosen = [[n for n in row if n >= 0] for row in database.images.tolist()]
    assert [len(row) for row in chosen] == [3, 2, 0]
    assert 5 in chosen[0]  # the rare composition's only image
    assert len(set(chosen[0])) == 3
    before = database.images.clone()
    database.choose(primitives, compositions)
    assert torch.equal(before, database.images)


def test_an_empty_database_adds_nothing() -> None:
    model = make()
    images, targets = batch(model.backbone, model.space, 2)
    with torch.no_grad():
        for encoded, view in zip(model.encode(images)[:3], model.look(images), strict=True):
            assert_close(encoded, view)
        assert model(images, targets, "train")["retrieval"] == 0


def test_no_pair_alike_is_no_division_by_zero() -> None:
    found = Retrieved(torch.ones(1, 2, 2), torch.zeros(1, 2), torch.tensor([[3, 3]]))
    other = retrieval_loss(torch.ones(1, 2), found, torch.tensor([1]))
    assert float(other) == pytest.approx(1.3132617)
    nothing = found._replace(similarities=torch.full((1, 2), -torch.inf))
    assert float(retrieval_loss(torch.ones(1, 2), nothing, torch.tensor([1]))) == 0


def test_the_database_is_saved_and_the_word_x_stays() -> None:
    model, other = make(), make()
    other.backbone.load_state_dict(model.backbone.state_dict())
    images, targets = filled(model)
    x = model.backbone.text.token_embedding.weight[model.backbone.tokenizer.encode("x")[0]]
    assert not torch.equal(model.primitive_prompts.attribute_vectors[-1], x)  # randomized
    model.after_step()
    assert torch.equal(model.primitive_prompts.attribute_vectors[-1], x)
    other.load_trained_state(model.trained_state())
    assert_close(other.predictor(other.space)(images), model.predictor(model.space)(images))
    optimizer = torch.optim.Adam(model.parameter_groups("train")[0].parameters, lr=0.01)
    model.train_stage("train")
    losses = []
    for _ in range(10):
        losses.append(model(images, targets, "train")["total"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
        model.after_step()
    assert losses[-1] < losses[0]
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert torch.equal(model.primitive_prompts.attribute_vectors[-1], x)


def test_heat_maps_show_the_compositions_view() -> None:
    model = make(alignment="patch_max")
    images, _ = filled(model)
    predictor = model.predictor(model.space)
    tokens, text = predictor.compared(predictor.encode(images), torch.zeros(8, dtype=torch.int64))
    assert_close(tokens, model.look(images)[0])
    assert_close(text[0], predictor.texts[0][0])
