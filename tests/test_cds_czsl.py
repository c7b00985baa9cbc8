"""CDS-CZSL, as re-interpreted, against its description written out."""

import math
from itertools import product

import pytest
import torch
from plain_parts import (
    SPACES,
    batch,
    cross_entropy,
    linear,
    random_backbone,
    randomize,
    unit,
    without_dropout,
)
from torch import Tensor
from torch.testing import assert_close

from czsl_sac import Troika
from czsl_sac.evaluation import Feasibility, threshold_grid
from czsl_sac.methods.cds_czsl.diversity import (
    AttributeDiversity,
    cluster_batch,
    cluster_diversity,
    object_diversity,
)
from czsl_sac.methods.cds_czsl.method import CDSCZSL
from czsl_sac.methods.cds_czsl.options import CDSCZSLOptions
from czsl_sac.methods.cds_czsl.specificity import AttributeDenoiser, ranking_loss
from czsl_sac.training.open_world import OpenWorld, open_world_feasibility
from czsl_sac.training.presets import preset_for

SPACE = SPACES["usual"]


def make(**options) -> CDSCZSL:
    torch.manual_seed(0)
    model = CDSCZSL(random_backbone(), SPACE, **{"clusters": 3, **options}).double()
    randomize(model)
    without_dropout(model)
    model.diversity.diversity.copy_(torch.tensor([0.1, 0.9, 0.2]))
    model.diversity.is_known.fill_(True)
    return model.eval()


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def view_of(model: CDSCZSL, token: Tensor, branch: int) -> Tensor:
    adapter = model.adapters[branch]
    return token + linear(adapter.up, linear(adapter.down, token).clamp(min=0))


def views(model: CDSCZSL, token: Tensor) -> list[Tensor]:
    attribute, object_ = view_of(model, token, 0), view_of(model, token, 1)
    if model.denoiser.how == "gate":
        gate = sigmoid(linear(model.denoiser.gate, torch.cat([attribute, object_])))
        attribute = attribute - gate * object_
    elif model.denoiser.how == "projection":
        attribute = attribute - (attribute @ object_) / (object_ @ object_) * object_
    return [token, attribute, object_]


def specificity(model: CDSCZSL, attribute: Tensor, object_: Tensor) -> Tensor:
    part = model.specificity
    hidden = linear(part.of_attribute, attribute) + linear(part.of_object, object_)
    return sigmoid(linear(part.out, hidden.clamp(min=0)))[0]


def description(model: CDSCZSL, image: Tensor, texts: list[list[Tensor]]) -> list[Tensor]:
    """The logits of composition, attribute and object of one image, before the refinement."""
    tokens = model.backbone.encode_image(image[None])[0]
    if type(model.aligner).__name__ == "ClassTokenAligner":
        tokens = tokens[:1]
    seen = [[unit(v) for v in views(model, token)] for token in tokens]
    return [
        torch.stack([max(v[n] @ t for v in seen) / model.aligner.temperature for t in text])
        for n, text in enumerate(texts)
    ]


def unit_texts(model: CDSCZSL, pairs: Tensor) -> list[list[Tensor]]:
    return [[unit(t) for t in text] for text in model.prompts(pairs)]


@pytest.mark.parametrize("alignment", ["cls", "patch_max"])
@pytest.mark.parametrize("denoiser", ["gate", "projection", "none"])
@torch.no_grad()
def test_losses_and_scores_equal_the_description(alignment: str, denoiser: str) -> None:
    gamma, margin = 0.7, 0.15
    model = make(
        alignment=alignment,
        denoiser=denoiser,
        refinement=gamma,
        specificity_margin=margin,
        specificity_loss_weight=0.4,
        primitive_loss_weight=0.6,
    )
    images, targets = batch(model.backbone, SPACE, 3)
    losses = model(images, targets, "train")
    texts = unit_texts(model, model.seen_pairs)
    diversity = model.diversity.diversity.tolist()
    sums, short, ranked = [0.0, 0.0, 0.0], 0.0, 0
    for image, target in zip(images, targets.tolist(), strict=True):
        a, o = SPACE.pair_indices[target].tolist()
        logits = description(model, image, texts)
        g = torch.stack([specificity(model, t, texts[2][o]) for t in texts[1]])
        logits[1] = logits[1] + gamma * g.log()
        truth = int(SPACE.seen_mask[:target].sum()), a, o
        for n in range(3):
            sums[n] += cross_entropy(logits[n], truth[n]) / 3
        for i, j in product(range(3), repeat=2):
            if diversity[i] < diversity[j] - margin:
                short += max(0.0, float(margin - g[i] + g[j]))
                ranked += 1
    for name, value in zip(("composition", "attribute", "object"), sums, strict=True):
        assert_close(losses[name], value)
    assert ranked > 0
    assert losses["specificity"].item() == pytest.approx(short / ranked)
    total = sums[0] + 0.6 * (sums[1] + sums[2]) + 0.4 * short / ranked
    assert_close(losses["total"], total)

    world = SPACE.open_world()
    texts = unit_texts(model, world.pair_indices)
    for row, image in zip(model.predictor(world)(images), images, strict=True):
        c, a, o = description(model, image, texts)
        p_o = o.exp() / o.exp().sum()
        for n, attribute in enumerate(texts[1]):
            logs = [specificity(model, attribute, object_).log() for object_ in texts[2]]
            a[n] += gamma * sum(p * log for p, log in zip(p_o, logs, strict=True))
        p_a = a.exp() / a.exp().sum()
        for n, (i, j) in enumerate(world.pair_indices.tolist()):
            assert_close(row[n], c[n] + p_a[i] * p_o[j])


@torch.no_grad()
def test_specificity_tells_which_compositions_are_feasible() -> None:
    model, world = make(), SPACE.open_world()
    _, attributes, objects = unit_texts(model, model.seen_pairs)
    found = open_world_feasibility(model, world, OpenWorld(feasibility="method"))
    assert found.dtype == torch.float64
    for n, (a, o) in enumerate(world.pair_indices.tolist()):
        is_seen = bool(world.seen_mask[n])
        expected = 0.0 * found[n] if is_seen else specificity(model, attributes[a], objects[o])
        assert_close(found[n], expected)
    Feasibility(found, threshold_grid(found, world)).check_space(world)
    troika = Troika(random_backbone(), SPACE)
    with pytest.raises(ValueError, match="feasibility is 'method' but Troika says nothing of it"):
        open_world_feasibility(troika, world, OpenWorld(feasibility="method"))


def test_clusters_are_those_that_are_there() -> None:
    torch.manual_seed(0)
    kinds = torch.arange(3).repeat(8)
    results = [cluster_batch(3 * torch.eye(6)[kinds], 3) for _ in range(20)]
    assert all(len(found[kinds == kind].unique()) == 1 for found in results for kind in range(3))
    assert max(len(found.unique()) for found in results) == 3  # where the start allows it
    moved = torch.tensor([[1.0, 0.0], [0.9, 0.5], [0.2, 1.0], [0.0, 1.0]])
    results = {tuple(cluster_batch(moved, 2).tolist()) for _ in range(20)}
    assert results == {(0, 0, 1, 1), (1, 1, 0, 0)}  # wherever the centres start


def test_diversity_is_the_entropy_over_clusters() -> None:
    clusters = torch.tensor([0, 0, 0, 1, 2, 2, 1])
    attributes = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    found, tells = cluster_diversity(clusters, attributes, num_clusters=3, num_attributes=4)
    mixed = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(3)
    assert found[:2].tolist() == pytest.approx([mixed, 0.0])
    assert tells.tolist() == [True, True, False, False]


def test_diversity_is_averaged_over_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    part = AttributeDiversity(3, num_clusters=2, momentum=0.75)
    # The features' first entry is the cluster.
    module = "czsl_sac.methods.cds_czsl.diversity.cluster_batch"
    monkeypatch.setattr(module, lambda features, k: features[:, 0].long())
    part.update(torch.tensor([[0.0], [1.0], [1.0]]), torch.tensor([0, 0, 1]))
    assert part.diversity.tolist() == [1.0, 0.0, 0.0]
    assert part.is_known.tolist() == [True, False, False]
    part.update(torch.tensor([[0.0], [0.0], [0.0], [1.0]]), torch.tensor([0, 0, 1, 1]))
    assert part.diversity.tolist() == [0.75, 1.0, 0.0]
    assert part.is_known.tolist() == [True, True, False]


def test_training_alone_changes_the_diversity() -> None:
    model = make()
    images, targets = batch(model.backbone, SPACE, 6)
    before = model.diversity.diversity.clone()
    model(images, targets, "train")
    assert torch.equal(model.diversity.diversity, before)
    model.train()(images, targets, "train")
    assert not torch.equal(model.diversity.diversity, before)
    counted = make(diversity="objects")
    assert "diversity.diversity" in counted.trained_state()
    known = counted.diversity.diversity.clone()
    counted.train()(images, targets, "train")
    assert torch.equal(counted.diversity.diversity, known)


def test_diversity_by_objects_is_that_of_the_seen_compositions() -> None:
    model = CDSCZSL(random_backbone(), SPACE, diversity="objects")
    # old tree; red cat, red car; wet cat
    assert model.diversity.diversity.tolist() == [0.5, 1.0, 0.5]
    assert bool(model.diversity.is_known.all())
    assert object_diversity(torch.tensor([[2, 0]]), 3).tolist() == [0.0, 0.0, 1.0]


def test_only_known_attributes_are_ranked() -> None:
    specificity_, diversity = torch.tensor([[0.2], [0.5], [0.9]]), torch.tensor([0.0, 0.5, 1.0])
    known = torch.tensor([True, True, False])
    assert ranking_loss(specificity_, diversity, known, margin=0.1).item() == pytest.approx(0.4)
    assert ranking_loss(specificity_, diversity, ~known, margin=0.1) == 0


def test_texts_get_no_gradient_from_the_ranking() -> None:
    model = make(denoiser="gate").train()
    losses = model(*batch(model.backbone, SPACE, 6), "train")
    losses["specificity"].backward()
    assert [n for n, p in model.prompts.named_parameters() if p.grad is not None] == []
    assert all(p.grad is not None for p in model.specificity.parameters())


def test_it_starts_at_clip() -> None:
    model = CDSCZSL(random_backbone(), SPACE).double().eval()
    tokens = torch.randn(2, 5, 12).double()
    _, attribute, object_ = model.views(tokens)
    assert_close(object_, tokens[:, :1])
    assert_close(attribute, tokens[:, :1] / 2)  # half of the same vector: the same direction
    assert AttributeDenoiser(4, "none").gate is None


@pytest.mark.parametrize("preset", ["ut-zappos", "mit-states", "cgqa", "scenes"])
def test_presets_build(preset: str) -> None:
    config = preset_for(preset, "cds-czsl")
    assert isinstance(config.method, CDSCZSLOptions)
    assert config.backbone.train_backbone == "none"
    model = CDSCZSL.build(config.method, random_backbone(), SPACE)
    assert model.learns_diversity == (preset != "cgqa")
    assert config.method.reads == "class_token"


def test_options_of_the_clusters_reach_them() -> None:
    options = CDSCZSLOptions(diversity_momentum=0.25, clusters=7)
    model = CDSCZSL.build(options, random_backbone(), SPACE)
    assert (model.diversity.momentum, model.diversity.num_clusters) == (0.25, 7)
    assert CDSCZSLOptions(diversity="objects").unread().keys() >= {"clusters", "diversity_momentum"}
