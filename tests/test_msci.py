"""MSCI against its description written out in loops, and what its options promise."""

from dataclasses import replace

import pytest
import torch
from plain_parts import (
    SPACES,
    attend,
    batch,
    cross_entropy,
    layer_norm,
    linear,
    mlp,
    random_backbone,
    randomize,
    unit,
    without_dropout,
)
from torch import Tensor
from torch.testing import assert_close

from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.methods.disentangler import Disentangler
from czsl_sac.methods.msci.method import MSCI
from czsl_sac.methods.msci.options import MSCIOptions
from czsl_sac.methods.msci.staged_interaction import LayerAggregator
from czsl_sac.training.presets import preset_for


def deep_backbone(layers: int) -> CLIPBackbone:
    small = random_backbone()
    backbone = CLIPBackbone(replace(small.config, vision_layers=layers), small.tokenizer)
    backbone.load_state_dict(
        {**backbone.state_dict(), "logit_scale": small.logit_scale}  # 1/τ of 5
    )
    return backbone.double().requires_grad_(False).eval()


def make(layers: int = 3, **options) -> MSCI:
    chosen = MSCIOptions(**{"low_layers": 2, "high_layers": 2, **options})
    model = MSCI(deep_backbone(layers), SPACES["usual"], chosen).double()
    randomize(model)
    without_dropout(model)
    return model.eval()


def joined(part: LayerAggregator, vectors: list[Tensor]) -> Tensor:
    if len(vectors) == 1:
        return vectors[0]
    first, norm = part.join[0], part.join[1]
    return torch.clamp(layer_norm(norm, linear(first, torch.cat(vectors))), min=0)


def disentangled(part: Disentangler, x: Tensor) -> Tensor:
    norm = part.norm
    scaled = (linear(part.linear, x) - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    return torch.clamp(scaled * norm.weight + norm.bias, min=0)


def pulled(model: MSCI, text: Tensor, low: list[Tensor], high: list[Tensor]) -> Tensor:
    """t' of one text and one image."""
    part, stages = model.interaction, []
    query = text
    for norm, layers, tokens in (
        (part.low_norm, part.low_layers, low),
        (part.high_norm, part.high_layers, high),
    ):
        context = [layer_norm(norm, x) for x in tokens]
        for layer in layers:
            query = query + attend(layer.attention, query, context)
            query = query + mlp(layer.mlp, layer_norm(layer.norm, query))
        stages.append(query)
    return unit(text + part.low_scale * stages[0] + part.high_scale * stages[1])


def description(model: MSCI, images: Tensor, pairs: Tensor) -> list[list[Tensor]]:
    """For each image the logits of compositions, attributes and objects."""
    visual, depth = model.backbone.visual, len(model.backbone.visual.transformer.resblocks)
    layers = [visual.project(s) for s in visual.layer_states(images, range(depth))]
    prompts = (model.prompts.compositions(pairs), model.prompts.attributes())
    texts = [*prompts, model.prompts.objects()]
    first, last = len(model.low_layers), len(model.high_layers)
    cls = type(model.aligner).__name__ == "ClassTokenAligner"
    logits = []
    for b in range(len(images)):
        places = range(layers[0].shape[1])
        low = [joined(model.join_low, [x[b, t] for x in layers[:first]]) for t in places]
        high = [joined(model.join_high, [x[b, t] for x in layers[depth - last :]]) for t in places]
        tokens = list(layers[-1][b, :1] if cls else layers[-1][b])
        views = [tokens, *([disentangled(d, x) for x in tokens] for d in model.disentanglers)]
        branches = []
        for view, text in zip(views, texts, strict=True):
            own = [pulled(model, unit(t), low, high) for t in text]
            branches.append(torch.stack([5.0 * max(unit(x) @ t for x in view) for t in own]))
        logits.append(branches)
    return logits


@pytest.mark.parametrize("alignment", ["cls", "patch_max"])
@pytest.mark.parametrize(("low", "high"), [(2, 2), (1, 2), (2, 1)])
@torch.no_grad()
def test_losses_and_scores_equal_the_description(alignment: str, low: int, high: int) -> None:
    model = make(
        alignment=alignment,
        low_layers=low,
        high_layers=high,
        stage_layers=2,
        primitive_loss_weight=0.3,
        primitive_weight=2.5,
        chunk_size=2,
    )
    images, targets = batch(model.backbone, model.space, 2)
    losses = model(images, targets, "train")
    sums = torch.zeros(3, dtype=torch.float64)
    for branches, target in zip(
        description(model, images, model.seen_pairs), targets.tolist(), strict=True
    ):
        truth = (int(model.space.seen_mask[:target].sum()), *model.space.pair_indices[target])
        for i, (logits, label) in enumerate(zip(branches, truth, strict=True)):
            sums[i] += cross_entropy(logits, int(label)) / 2
    assert_close(torch.stack([losses[k] for k in ("composition", "attribute", "object")]), sums)
    assert_close(losses["total"], sums[0] + 0.3 * (sums[1] + sums[2]))

    scores = model.predictor(model.space)(images)
    expected = description(model, images, model.space.pair_indices)
    for row, (composition, attribute, object_) in zip(scores, expected, strict=True):
        for c, (a, o) in enumerate(model.space.pair_indices.tolist()):
            product = attribute.softmax(0)[a] * object_.softmax(0)[o]
            assert_close(row[c], composition[c] + 2.5 * product)


def test_levels_may_overlap_and_default_to_a_sixth_of_the_layers() -> None:
    model = MSCI(deep_backbone(12), SPACES["usual"])
    assert (list(model.low_layers), list(model.high_layers)) == ([0, 1], [10, 11])
    both = make(layers=2)
    assert list(both.low_layers) == list(both.high_layers) == [0, 1]
    images, _ = batch(both.backbone, both.space, 2)
    assert_close(both.encode(images).tokens, both.backbone.encode_image(images))
    with pytest.raises(ValueError, match="high_layers is 4 but must be"):
        make(layers=3, high_layers=4)


def test_dropout_is_where_it_should_be() -> None:
    model = MSCI(deep_backbone(2), SPACES["usual"], MSCIOptions(low_layers=2, stage_dropout=0.25))
    assert model.join_low.join[3].p == 0.25
    for layers in (model.interaction.low_layers, model.interaction.high_layers):
        assert (layers[0].dropout.p, layers[0].mlp[2].p) == (0.25, 0.25)


@pytest.mark.parametrize(("name", "levels"), [("ut-zappos", 3), ("mit-states", 4), ("cgqa", 4)])
def test_published_settings_fit_a_tower_of_24_layers(name: str, levels: int) -> None:
    options = preset_for(name, "msci").method
    model = MSCI.build(options, deep_backbone(24), SPACES["usual"])
    assert list(model.low_layers) == list(range(levels))
    assert list(model.high_layers) == list(range(24 - levels, 24))
