"""CAMS against its description written out unit by unit, and what its options promise."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from plain_parts import (
    SPACES,
    batch,
    block,
    cross_entropy,
    layer_norm,
    linear,
    mlp,
    random_backbone,
    randomize,
    unit,
    weigh_heads,
    without_dropout,
)
from torch import Tensor
from torch.testing import assert_close

from czsl_sac.clip import apply_adaptformer
from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.methods.cams.latent_units import GatedCrossAttention, LatentUnits, UnitSpaces
from czsl_sac.methods.cams.method import CAMS
from czsl_sac.methods.cams.options import CAMSOptions
from czsl_sac.training.presets import preset_for


def make(**options) -> CAMS:
    chosen = CAMSOptions(**{"latent_units": 3, "extraction_layers": 2, **options})
    model = CAMS(random_backbone(), SPACES["usual"], chosen).double()
    randomize(model)
    without_dropout(model)
    return model.eval()


def gated(attention: GatedCrossAttention, query: Tensor, context: list[Tensor]) -> Tensor:
    q = linear(attention.q_proj, query)
    keys = [linear(attention.k_proj, y) for y in context]
    values = [linear(attention.v_proj, y) for y in context]
    gathered = weigh_heads(q, keys, values, attention.num_heads)
    opening = linear(attention.query_gate, q) * linear(attention.value_gate, gathered)
    return linear(attention.out_proj, gathered / (1 + torch.exp(-opening)))


def gathered(part: LatentUnits, layers: list[Tensor]) -> list[Tensor]:
    """The units after they have looked at the layers `[T, W]` of one image."""
    units = list(part.units)
    for tokens in layers:
        context = [layer_norm(part.norm, x) for x in tokens]
        units = [u + gated(part.attention, layer_norm(part.norm, u), context) for u in units]
        units = [u + mlp(part.mlp, layer_norm(part.norm_mlp, u)) for u in units]
    return units


def feature(spaces: UnitSpaces, name: str, units: list[Tensor]) -> Tensor:
    mean = sum(block(spaces.blocks[name], units)) / len(units)
    return unit(linear(spaces.projections[name], layer_norm(spaces.norm, mean)))


def description(model: CAMS, images: Tensor, pairs: Tensor) -> list[dict[str, Tensor]]:
    """For each image the logits of the units' three spaces and of the global branch."""
    states = model.backbone.visual.layer_states(images, [0, 1])
    texts = {"composition": model.prompts.compositions(pairs)}
    texts |= {"attribute": model.prompts.attributes(), "object": model.prompts.objects()}
    texts = {name: [unit(t) for t in text] for name, text in texts.items()}
    logits = []
    for first, last in zip(*states, strict=True):
        units = gathered(model.units, [first, last])
        own = {}
        for name, text in texts.items():
            vector = feature(model.spaces, name, units)
            own[name] = torch.stack([model.scale * (vector @ t) for t in text])
        tokens = [unit(x) for x in model.backbone.visual.project(last)]
        looked_at = tokens if type(model.aligner).__name__ == "PatchMaxAligner" else tokens[:1]
        own["global"] = torch.stack(
            [model.scale * max(x @ t for x in looked_at) for t in texts["composition"]]
        )
        logits.append(own)
    return logits


@pytest.mark.parametrize("alignment", ["cls", "patch_max"])
@torch.no_grad()
def test_losses_and_scores_equal_the_description(alignment: str) -> None:
    model = make(alignment=alignment, global_share=0.7, primitive_loss_weight=0.3)
    images, targets = batch(model.backbone, model.space, 2)
    losses = model(images, targets, "train")
    sums = dict.fromkeys(("composition", "attribute", "object", "global"), 0.0)
    for logits, target in zip(
        description(model, images, model.seen_pairs), targets.tolist(), strict=True
    ):
        attribute, object_ = model.space.pair_indices[target].tolist()
        seen = int(model.space.seen_mask[:target].sum())
        truth = {"composition": seen, "attribute": attribute, "object": object_, "global": seen}
        for name, label in truth.items():
            sums[name] += cross_entropy(logits[name], label) / 2
    for name, value in sums.items():
        assert_close(losses[name], value)
    primitives = 0.3 * (sums["attribute"] + sums["object"])
    assert_close(losses["total"], sums["composition"] + sums["global"] + primitives)

    world = model.space.open_world()
    scores = model.predictor(world)(images)
    for row, logits in zip(scores, description(model, images, world.pair_indices), strict=True):
        p_a, p_o = (
            logits[name].exp() / logits[name].exp().sum() for name in ("attribute", "object")
        )
        for c, (a, o) in enumerate(world.pair_indices.tolist()):
            mixed = 0.7 * logits["global"][c] + 0.3 * logits["composition"][c]
            assert_close(row[c], mixed + p_a[a] * p_o[o])


def test_what_is_shown_is_the_global_branch() -> None:
    model = make(alignment="patch_max", global_share=1.0)
    with torch.no_grad():
        model.scale.fill_(1 / model.aligner.temperature)
    predictor = model.predictor(model.space)
    encoded = predictor.encode(batch(model.backbone, model.space, 3)[0])
    columns = torch.tensor([0, 4, 2])
    tokens, text = predictor.compared(encoded, columns)
    logits = model.branch_logits(encoded, predictor.texts)[0]
    assert_close(model.aligner(tokens, text[:, None])[:, 0], logits[torch.arange(3), columns])
    assert_close(tokens, encoded.tokens)


def test_the_units_look_at_the_last_layers_alone() -> None:
    model = make(extraction_layers=1)
    images, _ = batch(model.backbone, model.space, 2)
    last = model.backbone.visual.states(images)
    with torch.no_grad():
        expected = model.spaces(model.units([last]))
        assert_close(model.encode(images).attribute, expected["attribute"])
    assert list(CAMS(random_backbone(), SPACES["usual"]).extraction_layers) == [1]  # 2 // 3, or 1


def test_dropout_is_where_it_should_be() -> None:
    options = CAMSOptions(unit_dropout=0.25, attention_dropout=0.125)
    fresh = CAMS(random_backbone(), SPACES["usual"], options)
    assert (fresh.units.unit_dropout.p, fresh.spaces.dropout.p) == (0.25, 0.25)
    assert (fresh.units.attention.dropout, fresh.units.mlp[2].p) == (0.125, 0.125)
    assert {b.mlp.drop.p for b in fresh.spaces.blocks.values()} == {0.125}
    query, context = torch.ones(1, 2, 8), fresh.units.attention.keys_values(torch.randn(1, 9, 8))
    draws = [fresh.units.attention.train()(query, context) for _ in range(5)]
    assert any(not torch.equal(draw, draws[0]) for draw in draws)


def test_the_temperature_is_learned_or_not() -> None:
    assert make().scale.requires_grad
    fixed = make(train_temperature=False)
    assert not fixed.scale.requires_grad
    assert "scale" not in fixed.trained_state()
    assert_close(float(CAMS(random_backbone(), SPACES["usual"]).scale.detach()), 5.0)


@pytest.mark.parametrize(("name", "layers"), [("ut-zappos", 9), ("mit-states", 8), ("cgqa", 12)])
def test_published_settings_adapt_the_layers_that_are_looked_at(name: str, layers: int) -> None:
    config = preset_for(name, "cams")
    options = config.method
    assert isinstance(options, CAMSOptions)
    assert list(config.backbone.adapter_layers or ()) == list(range(24 - layers, 24))
    small = random_backbone()
    deep = replace(small.config, vision_layers=24)
    backbone = CLIPBackbone(deep, small.tokenizer).requires_grad_(False)
    apply_adaptformer(backbone.visual, bottleneck=2, layers=config.backbone.adapter_layers)
    model = CAMS.build(options, backbone, SPACES["usual"])
    assert list(model.extraction_layers) == list(config.backbone.adapter_layers or ())
    trained = {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {"backbone", "prompts", "units", "spaces", "scale"}
    images, targets = batch(backbone, model.space, 2)
    assert F.relu(model(images.float(), targets, "train")["total"]) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extraction_layers": 3}, "extraction_layers is 3 but must be"),
        ({"latent_units": 0}, "latent_units is 0 but must be"),
        ({"global_share": 1.5}, "global_share is 1.5 but must be"),
    ],
)
def test_wrong_options(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)
