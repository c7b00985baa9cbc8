"""Troika against its description written out in loops, and what its options promise."""

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
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

from czsl_sac.blocks import PatchMaxAligner
from czsl_sac.methods.conditioned_text import align_in_chunks
from czsl_sac.methods.disentangler import Disentangler
from czsl_sac.methods.traction import CrossModalTraction
from czsl_sac.methods.troika.method import Troika


def make(space_name: str = "usual", *, side: int = 2, dim: int = 12, **options) -> Troika:
    model = Troika(random_backbone(dim=dim, side=side), SPACES[space_name], **options).double()
    randomize(model)
    without_dropout(model)
    return model.eval()


def disentangled(part: Disentangler, tokens: list[list[Tensor]]) -> list[list[Tensor]]:
    """relu(BatchNorm(linear(token))) of every token of every image."""
    rows = [[linear(part.linear, x) for x in image] for image in tokens]
    flat = torch.stack([x for image in rows for x in image])
    mean, variance = part.norm.running_mean, part.norm.running_var
    if part.training:
        mean = flat.sum(0) / len(flat)
        variance = ((flat - mean) ** 2).sum(0) / len(flat)
    scale = part.norm.weight / (variance + part.norm.eps).sqrt()
    return [
        [torch.clamp((x - mean) * scale + part.norm.bias, min=0) for x in image] for image in rows
    ]


def tracted(traction: CrossModalTraction, text: Tensor, patches: list[Tensor]) -> Tensor:
    """t' of one text and one image."""
    pulled = text
    for layer in traction.layers:
        pulled = pulled + attend(layer.attention, pulled, patches)
        pulled = pulled + mlp(layer.mlp, layer_norm(layer.norm, pulled))
    return unit(text + traction.scale * pulled)


def description(model: Troika, images: Tensor, pairs: Tensor) -> list[list[Tensor]]:
    """For each image the logits of compositions, attributes and objects."""
    cls = type(model.aligner).__name__ == "ClassTokenAligner"
    tokens = [list(image) for image in model.backbone.encode_image(images)]
    looked_at = [image[:1] if cls else image for image in tokens]
    views = [looked_at] * 3
    if len(model.disentanglers):
        views = [looked_at, *(disentangled(part, looked_at) for part in model.disentanglers)]
    prompts = (model.prompts.compositions(pairs), model.prompts.attributes())
    texts = [*prompts, model.prompts.objects()]
    logits = []
    for b, image in enumerate(tokens):
        patches = image
        branches = []
        for branch, (view, text) in enumerate(zip(views, texts, strict=True)):
            if model.traction and (branch == 0 or model.options.legacy_patch_norm):
                patches = [layer_norm(model.patch_norm, x) for x in patches]
            scores = []
            for t in text:
                t = unit(t)
                if model.traction:
                    t = tracted(model.traction, t, patches)
                scores.append(max(float(unit(x) @ t) for x in view[b]) * 5.0)
            branches.append(torch.tensor(scores, dtype=torch.float64))
        logits.append(branches)
    return logits


OPTIONS = list(
    itertools.product(["cls", "patch_max"], ["per_patch", "none"], ["tracted", "plain"], [0, 1])
)


@pytest.mark.parametrize(("alignment", "disentangle", "text", "legacy"), OPTIONS)
def test_losses_and_scores_equal_the_description(alignment, disentangle, text, legacy) -> None:
    model = make(
        alignment=alignment,
        disentangle=disentangle,
        text_side=text,
        legacy_patch_norm=bool(legacy),
        traction_layers=2,
        primitive_loss_weight=0.3,
    )
    check(model, images=2)


@pytest.mark.parametrize("alignment", ["cls", "patch_max"])
@pytest.mark.parametrize("space", ["one composition", "one attribute"])
@pytest.mark.parametrize(("side", "dim", "images"), [(1, 7, 1), (3, 128, 1)])
def test_shapes_odd_and_even(alignment, space, side, dim, images) -> None:
    check(make(space, side=side, dim=dim, alignment=alignment, traction_layers=1), images=images)


@pytest.mark.parametrize("alignment", ["cls", "patch_max"])
def test_training_mode_uses_the_statistics_of_the_batch(alignment) -> None:
    model = make(alignment=alignment, traction_layers=1)
    model.train()
    check(model, images=3)


def check(model: Troika, images: int) -> None:
    space = model.space
    pixels, targets = batch(model.backbone, space, images)
    with torch.no_grad():
        losses = model(pixels, targets, "train")
        expected = description(model, pixels, model.seen_pairs)
    sums = torch.zeros(3, dtype=torch.float64)
    for branches, target in zip(expected, targets.tolist(), strict=True):
        pair = space.pair_indices[target]
        seen = space.seen_mask[:target].sum()
        for i, (logits, truth) in enumerate(zip(branches, (seen, *pair), strict=True)):
            sums[i] += cross_entropy(logits, int(truth)) / images
    assert_close(torch.stack([losses[k] for k in ("composition", "attribute", "object")]), sums)
    weight = model.primitive_loss_weight
    assert_close(losses["total"], sums[0] + weight * (sums[1] + sums[2]))

    world = space.open_world()
    model.eval()
    scores = model.predictor(world)(pixels)
    with torch.no_grad():
        expected = description(model, pixels, world.pair_indices)
    assert scores.shape == (images, len(world))
    for row, (composition, attribute, object_) in zip(scores, expected, strict=True):
        for c, (a, o) in enumerate(world.pair_indices.tolist()):
            p_a = torch.exp(attribute[a]) / torch.exp(attribute).sum()
            p_o = torch.exp(object_[o]) / torch.exp(object_).sum()
            assert_close(row[c], composition[c] + p_a * p_o)


@pytest.mark.parametrize("alignment", ["cls", "patch_max"])
@pytest.mark.parametrize("legacy", [False, True])
def test_chunks_change_nothing(alignment, legacy) -> None:
    model = make(alignment=alignment, legacy_patch_norm=legacy, traction_layers=2)
    pixels, targets = batch(model.backbone, model.space, 3)
    outcomes = []
    for chunk_size in (1, 3, 128):
        model.options = replace(model.options, chunk_size=chunk_size)
        model.zero_grad()
        loss = model(pixels, targets, "train")["total"]
        loss.backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        outcomes.append([loss, model.predictor(model.space)(pixels), *grads])
    for outcome in outcomes[1:]:
        for whole, chunked in zip(outcomes[0], outcome, strict=True):
            assert_close(whole, chunked)


def test_a_chunk_that_is_made_again_draws_the_same_dropout() -> None:
    tokens, text = torch.randn(2, 5, 8), torch.randn(6, 8)
    aligner, layer = PatchMaxAligner(), torch.nn.Linear(8, 8)

    def condition(chunk: Tensor) -> Tensor:
        return F.dropout(layer(chunk), 0.5).expand(2, -1, -1)

    grads = []
    for chunked in (True, False):
        torch.manual_seed(3)
        layer.zero_grad()
        if chunked:
            logits = align_in_chunks(aligner, tokens, condition, (text,), 2)
        else:
            logits = torch.cat([aligner(tokens, condition(c)) for c in text.split(2)], dim=1)
        logits.square().sum().backward()
        grads.append(layer.weight.grad.clone())
    assert torch.equal(*grads)


def test_training_keeps_no_text_of_every_image_and_composition() -> None:
    dim, images = 8, 4
    traction = CrossModalTraction(dim, 2)
    tokens = torch.randn(images, 5, dim)
    context = traction.keys_values(tokens)
    text = torch.randn(300, dim, requires_grad=True)

    def kept(chunk_size: int) -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: (sizes.append(t.numel()), t)[1], lambda t: t
        ):
            align_in_chunks(
                PatchMaxAligner(), tokens, lambda t: traction(t, context), (text,), chunk_size
            )
        return sum(sizes)

    whole = images * len(text) * dim
    assert kept(300) > 10 * whole
    assert kept(20) < whole


def test_patch_max_adds_no_parameter() -> None:
    names = [
        [name for name, _ in make(alignment=alignment).named_parameters()]
        for alignment in ("cls", "patch_max")
    ]
    assert names[0] == names[1]


def test_plain_text_has_no_traction_and_no_disentangling_no_disentanglers() -> None:
    model = make(text_side="plain", disentangle="none")
    names = {name.partition(".")[0] for name in model.trained_state()}
    assert names == {"prompts", "epochs_started"}


def test_an_alignment_head_of_ones_own() -> None:
    head = PatchMaxAligner(0.2, token_choice="patches")
    model = make(disentangle="none", text_side="plain")
    model.aligner = head
    pixels, _ = batch(model.backbone, model.space, 2)
    patches = F.normalize(model.backbone.encode_image(pixels)[:, 1:], dim=-1)
    text = model.text_features(model.seen_pairs)
    logits = model.branch_logits(model.encode(pixels), text)[0]
    assert_close(logits, (patches @ text[0].T).amax(1) / 0.2)


def test_legacy_eval_mode_trains_in_training_mode_for_one_epoch() -> None:
    published, usual = make(legacy_eval_mode=True), make()
    modes = []
    for _ in range(3):
        for model in (published, usual):
            model.train_stage("train")
            modes.append(model.disentanglers[0].training)
    assert modes == [True, True, False, True, False, True]

    resumed = make(legacy_eval_mode=True)  # the count outlives the process
    resumed.load_trained_state(published.trained_state())
    resumed.train_stage("train")
    assert not resumed.disentanglers[0].training


def test_one_image_in_training_uses_the_running_statistics() -> None:
    model = make(alignment="cls")
    pixels, targets = batch(model.backbone, model.space, 1)
    with torch.no_grad():
        expected = model(pixels, targets, "train")["total"]
        model.train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        assert_close(model(pixels, targets, "train")["total"], expected)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_trained_state_goes_round_without_clip() -> None:
    model, other = make(), make()
    state = {name: value.clone() for name, value in model.trained_state().items()}
    assert not any(name.startswith("backbone.") for name in state)
    pixels, _ = batch(model.backbone, model.space, 2)
    other.backbone.load_state_dict(model.backbone.state_dict())
    assert not torch.equal(
        other.predictor(other.space)(pixels), model.predictor(model.space)(pixels)
    )
    other.load_trained_state(state)
    assert torch.equal(other.predictor(other.space)(pixels), model.predictor(model.space)(pixels))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_side": "tract"}, "text_side is 'tract' but must be one of tracted, plain"),
        ({"disentangle": "all"}, "disentangle is 'all' but must be one of per_patch, none"),
        ({"traction_layers": 0}, "traction_layers is 0 but must be at least 1"),
        ({"alignment": "max"}, "alignment is 'max' but must be one of"),
    ],
)
def test_wrong_options(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)
