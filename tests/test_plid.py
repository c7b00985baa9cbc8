"""PLID against its description written out in loops: sentences, blocks, bounds, scores."""

import json
import math
from pathlib import Path

import pytest
import torch
from plain_parts import (
    SPACES,
    attend,
    batch,
    layer_norm,
    mlp,
    random_backbone,
    randomize,
    unit,
    without_dropout,
)
from torch import Tensor
from torch.testing import assert_close

from czsl_sac.clip import load_backbone
from czsl_sac.methods.cross_attention import CrossBlock
from czsl_sac.methods.descriptions import (
    Descriptions,
    fitting,
    read_descriptions,
    template_sentences,
)
from czsl_sac.methods.plid.losses import class_spreads, partially_smoothed_loss
from czsl_sac.methods.plid.method import PLID
from czsl_sac.methods.plid.options import PLIDOptions
from czsl_sac.methods.plid.views import augmented_views, repeatable_views
from czsl_sac.training.build import build_backbone
from czsl_sac.training.config import BackboneConfig

SCALE = 5.0
SENTENCES = Path(__file__).parent / "sentences.json"


def make(**options: object) -> PLID:
    torch.manual_seed(0)
    given = {"num_sentences": 3, "views": 2, "primitive_share": 0.3, "descriptions": SENTENCES}
    model = PLID(random_backbone(), SPACES["usual"], **{**given, **options}).double()
    randomize(model)
    without_dropout(model)
    return model.eval()


def cross_block(part: CrossBlock, x: Tensor, context: list[Tensor]) -> Tensor:
    """One query vector attends to a list of vectors."""
    normed = [layer_norm(part.norm_context, y) for y in context]
    x = x + attend(part.attention, layer_norm(part.norm_query, x), normed)
    return x + mlp(part.mlp, layer_norm(part.norm_mlp, x))


@torch.no_grad()
def sentences_of(model: PLID, pair: tuple[int, int]) -> list[Tensor]:
    """The features of a composition's sentences, read from the file anew."""
    a, o = model.space.attributes[pair[0]], model.space.objects[pair[1]]
    path = model.options.descriptions
    told = {} if path is None else json.loads(path.read_text("utf-8"))
    texts = told.get(a, {}).get(o, template_sentences((a, o)))
    tokenizer = model.backbone.tokenizer
    return [
        model.backbone.encode_text(tokenizer([texts[n % len(texts)]]))[0]
        for n in range(model.options.num_sentences)
    ]


@torch.no_grad()
def texts_of(model: PLID, pairs: list[list[int]]) -> list[Tensor]:
    prompts = model.prompts.compositions(torch.tensor(pairs))
    return [
        cross_block(model.text_block, t, sentences_of(model, (a, o)))
        for t, (a, o) in zip(prompts, pairs, strict=True)
    ]


def mean_by(rows: list, keys: list[int], count: int) -> list:
    """The mean of the rows of each key."""
    own = [[row for row, k in zip(rows, keys, strict=True) if k == key] for key in range(count)]
    return [sum(part) / len(part) for part in own]


@torch.no_grad()
def image_views(model: PLID, images: Tensor) -> list[list[list[Tensor]]]:
    """For each image the tokens that compositions, attributes and objects meet."""
    cls = type(model.aligner).__name__ == "ClassTokenAligner"
    out = []
    for image in images:
        tokens = list(model.backbone.encode_image(image.unsqueeze(0))[0])
        tokens = tokens[:1] if cls else tokens
        if model.options.views:
            views = repeatable_views(image.unsqueeze(0), model.backbone, model.options.views, 0)[0]
            context = [model.backbone.encode_image(view.unsqueeze(0))[0, 0] for view in views]
            tokens = [x + cross_block(model.image_block, x, context) for x in tokens]
        out.append([tokens, *([mlp(d, x) for x in tokens] for d in model.disentanglers)])
    return out


def logits(tokens: list[Tensor], texts: list[Tensor]) -> list[Tensor]:
    return [SCALE * max(unit(x) @ unit(t) for x in tokens) for t in texts]


def covariances(samples: list[list[Tensor]]) -> Tensor:
    """Σ of every pair of classes and every dimension, `[C, C, D]`."""
    centred = [torch.stack(row) - torch.stack(row).mean(0) for row in samples]
    return torch.stack([torch.stack([(a * b).sum(0) for b in centred]) for a in centred]) / (
        len(samples[0]) + 1
    )


def bound(row: list[Tensor], samples: list[list[Tensor]], image: Tensor, y: int) -> list[Tensor]:
    sigma, weights = covariances(samples), unit(image) ** 2
    return [
        score + 0.5 * SCALE**2 * (weights * (sigma[y, y] + sigma[j, j] - 2 * sigma[y, j])).sum()
        for j, score in enumerate(row)
    ]


def sampled(texts: list[Tensor], sentences: list[list[Tensor]]) -> list[list[Tensor]]:
    return [[unit(t + e) for e in row] for t, row in zip(texts, sentences, strict=True)]


CASES = [
    {"alignment": "cls"},
    {"alignment": "patch_max", "views": 0, "smoothing": 0.2},
    {"alignment": "patch_max", "spread_over": "objects", "chunk_size": 3},
    {"alignment": "cls", "descriptions": None, "primitive_texts": "seen", "num_sentences": 5},
]


@pytest.mark.parametrize("options", CASES)
def test_losses_and_scores_equal_the_description(options: dict) -> None:
    model = make(**options)
    o, space = model.options, model.space
    torch.manual_seed(3)
    pixels, targets = batch(model.backbone, space, 3)
    with torch.no_grad():
        losses = model(pixels, targets, "train")
        scores = model.predictor(space)(pixels)
    sizes = (len(space.attributes), len(space.objects))
    pairs = model.seen_pairs.tolist()
    everything = space.pair_indices.tolist()
    texts = texts_of(model, pairs)
    sentences = [sentences_of(model, tuple(pair)) for pair in pairs]
    all_texts = texts_of(model, everything)

    def primitives(rows: list, of: list[list[int]], kind: int) -> list:
        return mean_by(rows, [pair[kind] for pair in of], sizes[kind])

    expected = {"composition": 0.0, "attribute": 0.0, "object": 0.0}
    for image, target, row in zip(
        image_views(model, pixels), targets.tolist(), scores, strict=True
    ):
        a, b = everything[target]
        y = pairs.index([a, b])
        parts = []
        for kind, label in enumerate((a, b)):
            means = primitives(texts, pairs, kind)
            mine = primitives([torch.stack(row) for row in sentences], pairs, kind)
            own = logits(image[kind + 1], means)
            bounded = bound(own, sampled(means, mine), image[kind + 1][0], label)
            name = ("attribute", "object")[kind]
            expected[name] -= float(torch.stack(bounded).log_softmax(0)[label]) / 3
            parts.append(own)
        w = o.primitive_share
        fused = [
            (1 - w) * score + w * (parts[0][p] + parts[1][q])
            for score, (p, q) in zip(logits(image[0], texts), pairs, strict=True)
        ]
        samples = sampled(texts, sentences)
        if o.spread_over == "objects":
            by_object = primitives([torch.stack(s) for s in samples], pairs, 1)
            spread = bound(
                [torch.tensor(0.0)] * sizes[1], [list(s) for s in by_object], image[0][0], b
            )
            fused = [score + spread[q] for score, (_, q) in zip(fused, pairs, strict=True)]
        else:
            fused = bound(fused, samples, image[0][0], y)
        log_p = torch.stack(fused).log_softmax(0)
        mates = [j for j, pair in enumerate(pairs) if pair[0] == a and j != y]
        loss = -(1 - o.smoothing) * log_p[y]
        loss = loss - sum(o.smoothing / len(mates) * log_p[j] for j in mates)
        expected["composition"] += float(loss) / 3
        # At test the means are those of all candidates, or of the seen ones.
        source = (texts, pairs) if o.primitive_texts == "seen" else (all_texts, everything)
        at, ob = (
            dict(zip(range(sizes[k]), logits(image[k + 1], primitives(*source, k)), strict=True))
            for k in (0, 1)
        )
        for score, own, (p, q) in zip(row, logits(image[0], all_texts), everything, strict=True):
            assert_close(score, (1 - w) * own + w * (at[p] + ob[q]))
    for name, value in expected.items():
        assert float(losses[name]) == pytest.approx(value), name
    total = expected["composition"] + o.primitive_loss_weight * (
        expected["attribute"] + expected["object"]
    )
    assert float(losses["total"]) == pytest.approx(total)


def test_chunks_and_recomputation_change_nothing() -> None:
    whole, parts = make(), make(chunk_size=1)
    pixels, targets = batch(whole.backbone, whole.space, 3)
    parts.load_state_dict(whole.state_dict())
    for model in (whole, parts):
        model(pixels, targets, "train")["total"].backward()
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        if one.requires_grad:
            assert one.grad is not None
            assert_close(one.grad, other.grad)


def test_spreads_are_those_of_the_whole_covariance() -> None:
    torch.manual_seed(0)
    samples, images = torch.randn(4, 5, 6).double(), torch.randn(3, 6).double()
    targets = torch.tensor([1, 3, 0])
    found = class_spreads(samples, images, targets)
    sigma = covariances([list(row) for row in samples])
    for b, y in enumerate(targets.tolist()):
        for j in range(4):
            expected = (images[b] ** 2 * (sigma[y, y] + sigma[j, j] - 2 * sigma[y, j])).sum()
            assert_close(found[b, j], expected)


def test_smoothing_is_shared_by_the_neighbours() -> None:
    logits = torch.tensor([[1.0, -0.5, 2.0, 0.3]])
    loss = partially_smoothed_loss(logits, torch.tensor([0]), torch.tensor([5, 5, 7, 5]), 0.2)
    log_p = logits.log_softmax(1)[0].tolist()
    assert float(loss) == pytest.approx(-0.8 * log_p[0] - 0.1 * log_p[1] - 0.1 * log_p[3])


def test_smoothing_without_a_neighbour_loses_the_mass() -> None:
    logits, targets = torch.zeros(1, 2), torch.tensor([0])
    loss = partially_smoothed_loss(logits, targets, torch.tensor([0, 1]), 0.1)
    assert float(loss) == pytest.approx(0.9 * math.log(2))


def test_the_share_is_drawn_in_training_around_its_mean() -> None:
    model = make().train()
    torch.manual_seed(0)
    drawn = torch.stack([model._drawn_share() for _ in range(2000)])
    assert float(drawn.mean()) == pytest.approx(0.3, abs=0.02)
    # Beta(1, b) has 1/2 below 1 - 2^(-1/b).
    assert float(drawn.median()) == pytest.approx(1 - 2 ** (-1 / (1 / 0.3 - 1)), abs=0.03)
    assert float(model.eval()._drawn_share()) == pytest.approx(0.3)


def test_views_are_random_in_training_and_the_images_own_at_test() -> None:
    backbone = load_backbone("tiny")
    torch.manual_seed(0)
    images = torch.randn(3, 3, 64, 64)
    assert not torch.equal(*(augmented_views(images, backbone, 2) for _ in "ab"))
    state = torch.get_rng_state()
    views = repeatable_views(images, backbone, 2, 0)
    assert views.shape == (3, 2, 3, 64, 64)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(repeatable_views(images[2:], backbone, 2, 0), views[2:])
    assert not torch.equal(views[:, 0], views[:, 1])
    # Nothing is lost but what a byte cannot hold: they have the colours of the image.
    plain = torch.full((1, 3, 64, 64), 0.3)
    assert_close(repeatable_views(plain, backbone, 1, 0)[0], plain, atol=0.05, rtol=0)


def test_sentences_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "said.json"
    path.write_text(json.dumps({"Wet": {"Old.Cat": ["Rain.", "%$ 12 34 56"]}}))
    assert read_descriptions(path) == {("wet", "old cat"): ["Rain.", "%$ 12 34 56"]}
    for wrong in ("[]", '{"wet": []}', '{"wet": {"cat": "one"}}', '{"wet": {"cat": []}}', "{"):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=r"said\.json .* but must"):
            read_descriptions(path)
    with pytest.raises(FileNotFoundError):
        read_descriptions(tmp_path / "none.json")


def test_sentences_are_cut_to_what_the_tower_takes() -> None:
    backbone = random_backbone()
    long = "word " * 30
    assert fitting(long, backbone.tokenizer, 9) == "word word word word word word word"
    assert fitting("%$ 12 34 56", backbone.tokenizer, 9) == ""
    describe = Descriptions(backbone, SPACES["usual"], 3, {("red", "cat"): [long, "%$ 12 34 56"]})
    cut, replaced, again = describe.texts(
        (SPACES["usual"].attributes.index("red"), SPACES["usual"].objects.index("cat"))
    )
    assert (cut, replaced) == (again, "a photo of red cat")


def test_features_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    describe = make().describe
    pairs = SPACES["usual"].pair_indices
    first = describe(pairs[:2])
    both = describe(pairs)
    assert_close(both[:2], first)
    monkeypatch.setattr(describe, "_encode", None)
    assert torch.equal(describe(pairs[[3, 0]]), both[[3, 0]])


def test_the_last_block_alone_learns() -> None:
    backbone = build_backbone(BackboneConfig(train_backbone="last_block"), precision="bf16")
    learned = {n for n, p in backbone.named_parameters() if p.requires_grad}
    last = len(backbone.visual.transformer.resblocks) - 1
    assert learned
    assert all(name.startswith(f"visual.transformer.resblocks.{last}.") for name in learned)
    assert all(p.dtype == torch.float32 for p in backbone.parameters() if p.requires_grad)


@pytest.mark.parametrize("alignment", ["cls", "patch_max"])
def test_open_world_heat_maps_and_what_is_read(alignment: str) -> None:
    model = make(alignment=alignment)
    predictor = model.predictor(model.space.open_world())
    pixels, _ = batch(model.backbone, model.space, 2)
    encoded = predictor.encode(pixels)
    assert predictor(pixels).shape == (2, 9)
    tokens, text = predictor.compared(encoded, torch.tensor([0, 4]))
    assert tokens.shape[1] == (1 if alignment == "cls" else 5)
    assert_close(text, predictor.texts[0][[0, 4]])
    assert model.options.reads == "states"
    assert PLIDOptions(views=0, alignment=alignment).reads == (
        "class_token" if alignment == "cls" else "tokens"
    )
