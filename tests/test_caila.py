"""CAILA against its description written out token by token, and what its options promise."""

from dataclasses import replace

import pytest
import torch
from plain_parts import (
    SPACES,
    batch,
    cross_entropy,
    layer_norm,
    linear,
    random_backbone,
    randomize,
    unit,
    without_dropout,
)
from torch import Tensor
from torch.testing import assert_close

from czsl_sac.clip import store_frozen
from czsl_sac.clip.adapters.serial import SerialAdapter
from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.methods.caila.concept_shift import draw_donors
from czsl_sac.methods.caila.method import CAILA
from czsl_sac.methods.caila.options import CAILAOptions
from czsl_sac.training.presets import preset_for

SPACE = SPACES["usual"]


def make(**options) -> CAILA:
    model = CAILA(random_backbone(), SPACE, **{"concept_shift": 0.0, **options}).double()
    randomize(model)
    return model.eval()


def quick(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-1.702 * x))


def serial(adapter: SerialAdapter):
    return lambda h: h + linear(adapter.up, quick(linear(adapter.down, h)))


def mixed(own: SerialAdapter, attribute: SerialAdapter, object_: SerialAdapter):
    def run(h: Tensor) -> Tensor:
        z, z_a, z_o = (quick(linear(part.down, h)) for part in (own, attribute, object_))
        outs = (
            linear(own.up, (z + z_a + z_o) / 3),
            linear(attribute.up, z_a),
            linear(object_.up, z_o),
        )
        return h + sum(outs) / 3

    return run


def block(part, tokens: list[Tensor], after_attention, after_mlp, *, causal: bool = False):
    heads, width = part.attn.num_heads, len(tokens[0])
    size = width // heads
    projected = [
        part.attn.in_proj_weight @ layer_norm(part.ln_1, x) + part.attn.in_proj_bias for x in tokens
    ]
    out = []
    for i, x in enumerate(tokens):
        gathered = []
        for h in range(heads):
            q, k, v = (slice(n * width + h * size, n * width + (h + 1) * size) for n in range(3))
            seen = projected[: i + 1] if causal else projected
            weights = torch.stack([projected[i][q] @ p[k] / size**0.5 for p in seen]).exp()
            gathered.append(
                sum(w / weights.sum() * p[v] for w, p in zip(weights, seen, strict=True))
            )
        x = x + after_attention(linear(part.attn.out_proj, torch.cat(gathered)))
        hidden = quick(linear(part.mlp.c_fc, layer_norm(part.ln_2, x)))
        out.append(x + after_mlp(linear(part.mlp.c_proj, hidden)))
    return out


def streams(model: CAILA, image: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """An image's last states of attribute, object and composition; two layers, one fused."""
    visual = model.backbone.visual
    first, second = visual.transformer.resblocks
    inner, last = [], []
    for adapters in (model.vision.attribute, model.vision.object):
        x = block(first, list(visual.embed(image[None])[0]), *map(serial, adapters[0].children()))
        inner.append(x)
        last.append(block(second, x, *map(serial, adapters[1].children())))
    kinds = (model.vision.mixture[0], model.vision.attribute[1], model.vision.object[1])
    both = block(
        second,
        inner[0] + inner[1],
        mixed(*(kind.attention for kind in kinds)),
        mixed(*(kind.mlp for kind in kinds)),
    )
    half = len(both) // 2
    return *last, [(x + y) / 2 for x, y in zip(both[:half], both[half:], strict=True)]


def tokens(model: CAILA, states: list[Tensor]) -> list[Tensor]:
    visual = model.backbone.visual
    looked_at = states if type(model.aligner).__name__ == "PatchMaxAligner" else states[:1]
    return [unit(layer_norm(visual.ln_post, x) @ visual.proj) for x in looked_at]


def text(model: CAILA, words: str, adapters) -> Tensor:
    tower, tokenizer = model.backbone.text, model.backbone.tokenizer
    ids = [tokenizer.sot, *tokenizer.encode(f"a photo of a {words}"), tokenizer.eot]
    names = (*SPACE.attributes, *SPACE.objects, "object")
    learned = sorted({tokenizer.eot, *(i for name in names for i in tokenizer.encode(name))})
    x = [tower.token_embedding.weight[i] for i in ids]
    for place in range(5, len(ids)):
        x[place] = model.prompts.word_vectors[learned.index(ids[place])]
    x = [v + p for v, p in zip(x, tower.positional_embedding, strict=False)]
    for part, pair in zip(tower.transformer.resblocks, adapters, strict=True):
        x = block(part, x, serial(pair.attention), serial(pair.mlp), causal=True)
    return layer_norm(tower.ln_final, x[-1]) @ tower.text_projection


def texts(model: CAILA, pairs: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    a = [text(model, f"{name} object", model.text_attribute) for name in SPACE.attributes]
    o = [text(model, name, model.text_object) for name in SPACE.objects]
    c = []
    for i, j in pairs.tolist():
        words = f"{SPACE.attributes[i]} {SPACE.objects[j]}"
        c.append((text(model, words, model.text_composition) + a[i] + o[j]) / 3)
    return a, o, c


def logits(model: CAILA, looked_at: list[Tensor], features: list[Tensor], scale: int) -> Tensor:
    factor = model.log_scales[scale].exp() / model.aligner.temperature
    return torch.stack([factor * max(x @ unit(t) for x in looked_at) for t in features])


@pytest.mark.parametrize("alignment", ["cls", "patch_max"])
@torch.no_grad()
def test_losses_and_scores_equal_the_description(alignment: str) -> None:
    model = make(alignment=alignment)
    images, targets = batch(model.backbone, SPACE, 2)
    losses = model(images, targets, "train")
    a, o, c = texts(model, model.seen_pairs)
    sums = [0.0, 0.0, 0.0]
    for image, target in zip(images, targets.tolist(), strict=True):
        attribute, object_ = SPACE.pair_indices[target].tolist()
        truth = (attribute, object_, int(SPACE.seen_mask[:target].sum()))
        for n, (states, features, scale) in enumerate(
            zip(streams(model, image), (a, o, c), (1, 2, 0), strict=True)
        ):
            own = logits(model, tokens(model, states), features, scale)
            sums[n] += cross_entropy(own, truth[n]) / 2
    for name, value in zip(("attribute", "object", "composition"), sums, strict=True):
        assert_close(losses[name], value)
    assert_close(losses["total"], sum(sums))

    world = SPACE.open_world()
    scores = model.predictor(world)(images)
    _, _, c = texts(model, world.pair_indices)
    for row, image in zip(scores, images, strict=True):
        assert_close(row, logits(model, tokens(model, streams(model, image)[2]), c, 0))


@torch.no_grad()
def test_what_is_shown_is_what_is_scored() -> None:
    model = make(alignment="patch_max")
    predictor = model.predictor(SPACE)
    encoded = predictor.encode(batch(model.backbone, SPACE, 3)[0])
    columns = torch.tensor([0, 4, 2])
    shown, text_ = predictor.compared(encoded, columns)
    (scores,) = predictor.score_chunks(encoded)
    expected = scores[torch.arange(3), columns] / model.log_scales[0].exp()
    assert_close(model.aligner(shown, text_[:, None])[:, 0], expected)
    assert shown.shape == (3, 5, 12)


def test_donors_make_seen_compositions_alone() -> None:
    torch.manual_seed(0)
    model = make()
    seen = model.seen_index >= 0
    pairs = model.seen_pairs[torch.randint(len(model.seen_pairs), (400,))]
    donors = draw_donors(pairs, seen, 0.6)
    attribute, object_ = pairs[donors.attribute, 0], pairs[donors.object, 1]
    assert bool(seen[attribute, object_].all())
    own = torch.arange(400)
    by_attribute, by_object = donors.attribute != own, donors.object != own
    assert not bool((by_attribute & by_object).any())
    assert bool((attribute != pairs[:, 0])[by_attribute].all())
    assert bool((object_ != pairs[:, 1])[by_object].all())
    # "old tree" has no other image to borrow from; of the others three in ten lend each concept.
    lonely = (
        pairs == torch.tensor([SPACE.attributes.index("old"), SPACE.objects.index("tree")])
    ).all(1)
    assert not bool((by_attribute | by_object)[lonely].any())
    for shifted, others in ((by_attribute, seen.T[pairs[:, 1]]), (by_object, seen[pairs[:, 0]])):
        can = others.sum(1) > 1
        assert float(shifted[can].float().mean()) == pytest.approx(0.3, abs=0.08)
    assert torch.equal(draw_donors(pairs, seen, 0.0).attribute, own)


def test_a_shifted_image_is_a_mix_of_two_and_named_so(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(concept_shift=1.0, image_dropout=0.0).train()
    red_cat, wet_cat = (SPACE.pairs.index(p) for p in (("red", "cat"), ("wet", "cat")))
    images, _ = batch(model.backbone, SPACE, 2)
    targets = torch.tensor([red_cat, wet_cat])
    monkeypatch.setattr(torch, "rand", lambda *a, **k: torch.zeros(2))  # both shift the attribute
    losses = model(images, targets, "train")
    *_, c = texts(model, model.seen_pairs)
    labels = [int(SPACE.seen_mask[:t].sum()) for t in (wet_cat, red_cat)]
    expected = 0.0
    with torch.no_grad():
        streamed = [model.vision.stream(images, n).inner for n in ("attribute", "object")]
        mixed_states = model.vision.mix(streamed[0].flip(0), streamed[1])
        for states, label in zip(mixed_states, labels, strict=True):
            own = logits(model, tokens(model, list(states)), c, 0)
            expected += cross_entropy(own, label) / 2
        assert_close(losses["composition"].detach(), expected)
        unshifted = model.eval()(images, targets, "train")
        assert_close(losses["attribute"].detach(), unshifted["attribute"])  # exchanged, both
        assert not torch.allclose(losses["composition"], unshifted["composition"])


def test_dropout_is_after_the_normalisation() -> None:
    model = make(image_dropout=0.5).train()
    image, text_ = torch.randn(3, 5, 12).double(), torch.randn(4, 12).double()
    torch.manual_seed(0)
    found = model._logits_with_dropout(image, text_)
    torch.manual_seed(0)
    mask = torch.nn.functional.dropout(torch.ones(3, 1, 12).double(), 0.5)[:, 0]
    for b in range(3):
        for c in range(4):
            value = (unit(image[b, 0]) * mask[b]) @ unit(text_[c]) / model.aligner.temperature
            assert_close(found[b, c], value)


def test_what_learns() -> None:
    model = make()
    model(*batch(model.backbone, SPACE, 4), "train")["total"].backward()
    learning = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n for n in learning if model.get_parameter(n).grad is None} == set()
    clip = {n.removeprefix("backbone.") for n in learning if n.startswith("backbone.")}
    norms = {n for n, _ in model.backbone.named_parameters() if "ln_" in n}
    assert clip == norms | {"visual.proj", "text.text_projection"}
    assert clip <= {n.removeprefix("backbone.") for n in model.trained_state()}
    frugal = make(train_norms=False, train_projections=False, train_words=False)
    learning = {n.split(".")[0] for n, p in frugal.named_parameters() if p.requires_grad}
    assert learning == {
        *("vision", "text_composition", "text_attribute", "text_object", "log_scales")
    }


def test_the_tower_itself_stays_as_it_is() -> None:
    backbone = random_backbone()
    images, _ = batch(backbone, SPACE, 2)
    before = backbone.encode_image(images)
    model = CAILA(backbone, SPACE).double().eval()
    with torch.no_grad():
        assert not torch.allclose(model.encode(images), before)
        assert torch.equal(backbone.encode_image(images), before)


def test_the_first_scales_and_the_layer_of_the_mixture() -> None:
    model = CAILA(random_backbone(), SPACE, primitive_scale=20.0)
    assert model.log_scales.exp().tolist() == pytest.approx([1.0, 20.0, 20.0])
    assert (model.vision.fusion_layer, len(model.vision.mixture)) == (1, 1)
    with pytest.raises(ValueError, match="fusion_layer is 2 but must be at most 1"):
        CAILA(random_backbone(), SPACE, fusion_layer=2)
    with pytest.raises(ValueError, match="fusion_layer is 3"):  # it reaches the method
        CAILA.build(CAILAOptions(fusion_layer=3), random_backbone(), SPACE)
    adapter = SerialAdapter(8)
    assert (adapter.down.out_features, float(adapter.up.bias.detach().abs().sum())) == (2, 0.0)


@pytest.mark.parametrize("preset", ["ut-zappos", "mit-states", "cgqa", "scenes"])
def test_presets_build(preset: str) -> None:
    config = preset_for(preset, "caila")
    assert isinstance(config.method, CAILAOptions)
    backbone = random_backbone().float()
    model = CAILA.build(replace(config.method, concept_reduction=2), backbone, SPACE)
    options = model.options
    assert options.image_dropout == (0.1 if preset in ("ut-zappos", "scenes") else 0.5)
    assert (options.concept_shift, model.vision.attribute[0].mlp.down.out_features) == (
        0.1,
        4,
    )


def test_frozen_matrices_may_be_of_half_precision() -> None:
    backbone: CLIPBackbone = store_frozen(random_backbone().float(), torch.bfloat16)
    model = without_shift(CAILA(backbone, SPACE))
    images, targets = batch(backbone, SPACE, 2)
    model(images.float(), targets, "train")["total"].backward()
    grads = [p.grad.dtype for p in model.parameters() if p.requires_grad and p.grad is not None]
    assert set(grads) == {torch.float32}


def without_shift(model: CAILA) -> CAILA:
    without_dropout(model)
    model.options = replace(model.options, concept_shift=0.0)
    return model
