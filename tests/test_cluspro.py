"""ClusPro against its description, its transport and criterion against their definitions."""

import itertools
import math

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
from torch import Tensor, nn
from torch.testing import assert_close

from czsl_sac.functional.independence import hsic
from czsl_sac.functional.transport import local_aware_transport, sinkhorn
from czsl_sac.methods.cluspro.method import ClusPro
from czsl_sac.methods.cluspro.options import ClusProOptions
from czsl_sac.methods.disentangler import Disentangler
from czsl_sac.methods.prototypes import PrimitivePrototypes


def make(**options) -> ClusPro:
    model = ClusPro(random_backbone(), SPACES["usual"], ClusProOptions(**options)).double()
    randomize(model)
    without_dropout(model)
    return model.eval()


def adapted(part: Disentangler, x: Tensor) -> Tensor:
    """relu(BatchNorm(linear(x))) of one vector by the running statistics."""
    norm = part.norm
    scaled = (linear(part.linear, x) - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    return torch.clamp(scaled * norm.weight + norm.bias, min=0)


def seen_by(model: ClusPro, primitive: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Unit f of one token, and what meets texts."""
    f = unit(adapted(model.adapters[primitive], x))
    second = model.second_adapters
    return f, adapted(second[primitive], f) if len(second) else f


def plain_hsic(x: list[Tensor], y: list[Tensor]) -> float:
    """The trace of K H L H over its own maxima, with loops."""

    def kernel(rows: list[Tensor]) -> list[list[float]]:
        n = len(rows)
        squared = [[float(((a - b) ** 2).sum()) for b in rows] for a in rows]
        above = sorted(squared[i][j] for i in range(n) for j in range(i + 1, n))
        median = max(above[(len(above) - 1) // 2], 1e-12)
        k = [[math.exp(-d / (2 * median)) for d in row] for row in squared]
        mean = [sum(row) / n for row in k]
        whole = sum(mean) / n
        return [[k[i][j] - mean[i] - mean[j] + whole for j in range(n)] for i in range(n)]

    def trace(k, m) -> float:
        return sum(a * b for p, q in zip(k, m, strict=True) for a, b in zip(p, q, strict=True))

    k, m = kernel(x), kernel(y)
    return trace(k, m) / math.sqrt(trace(k, k) * trace(m, m))


@pytest.mark.parametrize("alignment", ["cls", "patch_max"])
@pytest.mark.parametrize("clustered", ["class_token", "winner"])
@pytest.mark.parametrize("second_adapter", [True, False])
@torch.no_grad()
def test_losses_equal_the_description(alignment, clustered, second_adapter) -> None:
    model = make(
        alignment=alignment,
        clustered=clustered,
        second_adapter=second_adapter,
        prototypes=3,
        contrast_weight=0.3,
        contrast_temperature=0.2,
        decorrelation_weight=0.7,
        primitive_loss_weight=0.4,
        assignment="nearest",
    )
    count = 4
    images, targets = batch(model.backbone, model.space, count)
    losses = model(images, targets, "train")
    pairs = model.space.pair_indices[targets].tolist()
    texts = [
        [unit(t) for t in text] for text in (model.prompts.attributes(), model.prompts.objects())
    ]
    candidates, offsets = [], []
    for primitive, prototypes in enumerate(model.prototypes):
        offsets.append(len(candidates))
        for p in prototypes.vectors.flatten(0, 1):
            second = model.second_adapters
            candidates.append(unit(adapted(second[primitive], p) if len(second) else p))
    contrast, entropies = 0.0, [0.0, 0.0]
    features, own = [], []
    for primitive in (0, 1):
        features.append([])
        own.append([])
        for image, pair in zip(model.backbone.encode_image(images), pairs, strict=True):
            looked_at = image[:1] if alignment == "cls" else image
            views = [seen_by(model, primitive, x) for x in looked_at]
            label = pair[primitive]
            logits = [max(float(unit(g) @ t) for _, g in views) * 5.0 for t in texts[primitive]]
            logits = torch.tensor(logits, dtype=torch.float64)
            entropies[primitive] += cross_entropy(logits, label) / count
            fits = [float(unit(g) @ texts[primitive][label]) for _, g in views]
            f, g = views[fits.index(max(fits)) if clustered == "winner" else 0]
            nearest = (model.prototypes[primitive].vectors[label] @ f).argmax()
            position = offsets[primitive] + label * 3 + int(nearest)
            scores = torch.stack([unit(g) @ p for p in candidates]) / 0.2
            contrast += cross_entropy(scores, position) / count
            features[-1].append(unit(g))
            own[-1].append(candidates[position])
    decorrelation = plain_hsic(features[0], own[1]) + plain_hsic(features[1], own[0])
    assert_close(losses["attribute"], entropies[0])
    assert_close(losses["object"], entropies[1])
    assert_close(losses["contrast"], contrast)
    assert_close(float(losses["decorrelation"]), decorrelation)
    total = losses["composition"] + 0.4 * (entropies[0] + entropies[1])
    assert_close(losses["total"], total + 0.3 * contrast + 0.7 * decorrelation)


@pytest.mark.parametrize("score", ["logit", "probability"])
@torch.no_grad()
def test_scores_equal_the_rule(score: str) -> None:
    model = make(alignment="patch_max", composition_score=score)
    images, _ = batch(model.backbone, model.space, 2)
    world = model.space.open_world()
    predictor = model.predictor(world)
    predictor.chunk_size = 4
    scores = predictor(images)
    tokens = model.encode(images)
    compositions, attributes, objects = model.branch_logits(tokens, predictor.texts)
    for b in range(2):
        logits = compositions[b] if score == "logit" else compositions[b].softmax(0)
        for c, (a, o) in enumerate(world.pair_indices.tolist()):
            product = attributes[b].softmax(0)[a] * objects[b].softmax(0)[o]
            assert_close(scores[b, c], logits[c] + product)
    probabilities = predictor.probabilities(scores)
    assert_close(probabilities.sum(1), torch.ones(2, dtype=torch.float64))
    if score == "probability":
        assert_close(probabilities, scores / scores.sum(1, keepdim=True))


def test_training_moves_the_prototypes_after_the_step_and_evaluation_does_not() -> None:
    model = make(momentum=0.5, assignment="nearest")
    before = [p.vectors.clone() for p in model.prototypes]
    images, targets = batch(model.backbone, model.space, 6)
    model(images, targets, "train")
    model.after_step()
    assert all(torch.equal(p.vectors, b) for p, b in zip(model.prototypes, before, strict=True))
    model.train()
    model(images, targets, "train")
    assert all(torch.equal(p.vectors, b) for p, b in zip(model.prototypes, before, strict=True))
    model.after_step()
    attributes = set(model.space.pair_indices[targets][:, 0].tolist())
    for a, (old, new) in enumerate(zip(before[0], model.prototypes[0].vectors, strict=True)):
        assert torch.equal(old, new) == (a not in attributes)
    moved = [p.vectors.clone() for p in model.prototypes]
    model.after_step()  # nothing is absorbed twice
    assert all(torch.equal(p.vectors, m) for p, m in zip(model.prototypes, moved, strict=True))
    assert {f"prototypes.{i}.vectors" for i in (0, 1)} <= model.trained_state().keys()


def test_prototypes_absorb_mean_directions() -> None:
    prototypes = PrimitivePrototypes(2, 2, 3, momentum=0.75).double()
    start = prototypes.vectors.clone()
    features = torch.tensor([[2.0, 0, 0], [0, 5.0, 0], [0, 0, 1.0]], dtype=torch.float64)
    prototypes.absorb(features, torch.tensor([1, 1, 0]), torch.tensor([0, 0, 1]))
    mean = torch.tensor([1.0, 1, 0], dtype=torch.float64) / math.sqrt(2)
    assert_close(prototypes.vectors[1, 0], unit(0.75 * start[1, 0] + 0.25 * mean))
    assert_close(prototypes.vectors[0, 1], unit(0.75 * start[0, 1] + 0.25 * features[2]))
    assert torch.equal(prototypes.vectors[0, 0], start[0, 0])
    assert torch.equal(prototypes.vectors[1, 1], start[1, 1])


@pytest.mark.parametrize("assignment", ["local_aware", "transport", "nearest"])
def test_features_go_to_prototypes_of_their_own_primitive(assignment: str) -> None:
    torch.manual_seed(0)
    prototypes = PrimitivePrototypes(3, 2, 16, assignment=assignment)
    labels = torch.tensor([0, 2, 0, 2, 0, 2, 2, 0])
    wanted = torch.tensor([0, 0, 1, 1, 0, 1, 0, 1])
    features = 3 * prototypes.vectors[labels, wanted] + 0.05 * torch.randn(8, 16)
    assert torch.equal(prototypes.assign(features, labels), wanted)


def test_the_transport_shares_out_equally_where_the_nearest_would_not() -> None:
    """Four features near prototype 0: half of them, the nearest of prototype 1, go there."""
    angles = torch.tensor([0.1, 0.2, 0.3, 0.4])
    features = torch.stack([angles.cos(), angles.sin()], dim=1)
    prototypes = PrimitivePrototypes(1, 2, 2, assignment="transport")
    prototypes.vectors.copy_(torch.eye(2))
    labels = torch.zeros(4, dtype=torch.int64)
    assert prototypes.assign(features, labels).tolist() == [0, 0, 1, 1]
    prototypes.assignment = "nearest"
    assert prototypes.assign(features, labels).tolist() == [0, 0, 0, 0]


def test_sinkhorn_is_optimal_for_its_marginals() -> None:
    cost = torch.rand(2, 7, 3, dtype=torch.float64)
    coupling = sinkhorn(cost, entropy=0.2, steps=500)
    assert_close(coupling.sum(-1), torch.ones(2, 7, dtype=torch.float64))
    assert_close(coupling.sum(-2), torch.full((2, 3), 7 / 3, dtype=torch.float64))
    # At the optimum cost + ε log L is a sum of a row's and a column's potential.
    rest = cost + 0.2 * coupling.log()
    rest = rest - rest.mean(-1, keepdim=True)
    assert_close(rest, rest.mean(-2, keepdim=True).expand_as(rest))


def test_the_local_aware_transport_lowers_its_objective_and_ends_at_a_fixed_point() -> None:
    torch.manual_seed(2)
    features = nn.functional.normalize(torch.randn(9, 4, dtype=torch.float64), dim=-1)
    neighbours = features @ features.T
    probabilities = torch.rand(9, 3, dtype=torch.float64).softmax(-1)

    def objective(coupling: Tensor) -> float:
        weighed = coupling * probabilities
        together = (neighbours * (weighed @ weighed.T)).sum()
        entropy = (coupling * coupling.log()).sum()
        return float(-(coupling * probabilities.log()).sum() - 2.0 * together + 0.3 * entropy)

    def solve(outer: int) -> Tensor:
        return local_aware_transport(
            probabilities, neighbours, coherence=2.0, entropy=0.3, outer_steps=outer, steps=400
        )

    values = [objective(solve(outer)) for outer in range(6)]
    assert all(b < a + 1e-12 for a, b in itertools.pairwise(values))
    assert values[0] - values[-1] > 1e-3
    assert_close(solve(0), sinkhorn(-probabilities.log(), entropy=0.3, steps=400))
    # There the gradient of the objective is a sum of a row's and a column's potential.
    end = solve(300)
    pull = 2 * 2.0 * (neighbours @ (end * probabilities)) * probabilities
    rest = -probabilities.log() - pull + 0.3 * end.log()
    rest = rest - rest.mean(-1, keepdim=True)
    assert_close(rest, rest.mean(-2, keepdim=True).expand_as(rest), atol=1e-6, rtol=0)


def test_similar_features_stay_together() -> None:
    """Two groups on the border of two prototypes: transport splits either, coherence neither."""
    probabilities = torch.tensor([[0.52, 0.48], [0.5, 0.5], [0.51, 0.49], [0.49, 0.51]])
    neighbours = torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]])
    plain = sinkhorn(-probabilities.log(), entropy=0.1, steps=100).argmax(1).tolist()
    assert plain == [0, 1, 0, 1]
    together = local_aware_transport(probabilities, neighbours, coherence=5.0, steps=100)
    assert together.argmax(1).tolist() == [0, 0, 1, 1]


def test_hsic_is_its_definition_and_has_a_gradient_where_features_coincide() -> None:
    x, y = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64)
    assert_close(float(hsic(x, y)), plain_hsic(list(x), list(y)))
    same = torch.ones(5, 3, requires_grad=True)
    value = hsic(same, torch.randn(5, 2))
    value.backward()
    assert float(value.detach()) == pytest.approx(0.0, abs=1e-3)
    assert bool(same.grad.isfinite().all())
    single = torch.ones(1, 3, requires_grad=True)
    hsic(single, torch.ones(1, 2)).backward()
    assert float(single.grad.abs().sum()) == 0


def test_prototypes_leave_the_statistics_of_the_adapters_alone() -> None:
    model = make().train()
    images, targets = batch(model.backbone, model.space, 4)
    model(images, targets, "train")
    adapter = model.second_adapters[0]
    seen = adapter.norm.num_batches_tracked.clone()
    rows = adapter.by_running_statistics(model.prototypes[0].vectors.flatten(0, 1))
    assert torch.equal(adapter.norm.num_batches_tracked, seen)
    assert_close(rows[3], adapted(adapter, model.prototypes[0].vectors.flatten(0, 1)[3]))


def test_options_say_which_of_them_are_idle() -> None:
    assert "clustered" in ClusProOptions().unread()
    assert "clustered" not in ClusProOptions(alignment="patch_max").unread()
    assert ClusProOptions(assignment="nearest").unread().keys() >= {
        "coherence",
        "transport_entropy",
    }
    assert "transport_entropy" not in ClusProOptions(assignment="transport").unread()
    with pytest.raises(ValueError, match=r"momentum is 1\.0 but must be"):
        ClusProOptions(momentum=1.0)
