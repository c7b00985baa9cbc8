"""DFSP against its description written out in loops, chunk by chunk and for odd spaces."""

from dataclasses import replace

import pytest
import torch
from plain_parts import (
    SPACES,
    attend,
    batch,
    block,
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

from czsl_sac.methods.cross_attention import CrossBlock
from czsl_sac.methods.dfsp.method import DFSP


def make(space: str = "usual", *, dim: int = 12, side: int = 2, **options) -> DFSP:
    widths = options.pop("widths", (8, 6))
    model = DFSP(random_backbone(dim=dim, side=side, widths=widths), SPACES[space], **options)
    model.double()
    randomize(model)
    without_dropout(model)
    return model.eval()


def cross(part: CrossBlock, x: list[Tensor], y: list[Tensor]) -> list[Tensor]:
    context = [layer_norm(part.norm_context, token) for token in y]
    out = []
    for token in x:
        token = token + attend(part.attention, layer_norm(part.norm_query, token), context)
        out.append(token + mlp(part.mlp, layer_norm(part.norm_mlp, token)))
    return out


def blocks(parts: torch.nn.Sequential, tokens: list[Tensor]) -> list[Tensor]:
    for part in parts:
        tokens = block(part, tokens)
    return tokens


def map_tokens(layer: torch.nn.Linear, tokens: list[Tensor]) -> list[Tensor]:
    """A linear map over the tokens, the same for each of their entries."""
    columns = [linear(layer, torch.stack([t[i] for t in tokens])) for i in range(len(tokens[0]))]
    return list(torch.stack(columns, dim=1))


def description(model: DFSP, images: Tensor, pairs: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For each image the logits before and after the fusion."""
    fusion, visual, tower = model.fusion, model.backbone.visual, model.backbone.text
    cls = type(model.aligner).__name__ == "ClassTokenAligner"
    weight = model.residual_weight
    prompts = tower.states(model.prompts.embed_compositions(pairs))
    count = [len(model.space.attributes), len(model.space.objects)]
    length = prompts.shape[1]
    primitives = []  # [P][n], means over the prompts that hold the primitive
    for kind in (0, 1):
        for number in range(count[kind]):
            holders = [p for p, pair in zip(prompts, pairs, strict=True) if pair[kind] == number]
            mean = sum(holders) / len(holders) if holders else torch.zeros_like(prompts[0])
            primitives.append(list(mean))
    plain = [tower.project(p[-1]) for p in prompts]

    out = []
    for states in visual.states(images):
        states = list(states)
        image = states
        if fusion.fusion == "txt2img":
            flat = [
                linear(fusion.map_width, primitives[p][n])
                for n in range(length)
                for p in range(len(primitives))
            ]
            image = cross(fusion.cross, states, map_tokens(fusion.map_tokens, flat))
            ends = [tower.project(blocks(fusion.text_blocks, list(p))[-1]) for p in prompts]
        else:
            narrow = [linear(fusion.map_width, x) for x in states]
            mapped = map_tokens(fusion.map_tokens, narrow)
            fused = []
            for p, primitive in enumerate(primitives):
                own = [mapped[n * len(primitives) + p] for n in range(length)]
                fused.append(blocks(fusion.text_blocks, cross(fusion.cross, primitive, own))[-1])
            ends = [
                tower.project(linear(fusion.composition, fused[a] * fused[count[0] + o]))
                for a, o in pairs.tolist()
            ]
        image = blocks(fusion.image_blocks, image)
        before, after = [], []
        looked_at = 1 if cls else len(states)
        for text, end in zip(plain, ends, strict=True):
            blended = unit(weight * text + (1 - weight) * end)
            tokens = [visual.project(x) for x in states[:looked_at]]
            mixed = [
                weight * v + (1 - weight) * visual.project(x)
                for v, x in zip(tokens, image, strict=False)
            ]
            before.append(max(float(unit(v) @ unit(text)) for v in tokens) * 5.0)
            after.append(max(float(unit(v) @ blended) for v in mixed) * 5.0)
        out.append((torch.tensor(before).double(), torch.tensor(after).double()))
    return out


@pytest.mark.parametrize("fusion", ["txt2img", "img2txt"])
@pytest.mark.parametrize("alignment", ["cls", "patch_max"])
@pytest.mark.parametrize(
    ("space", "side", "dim", "images", "widths"),
    [
        ("usual", 2, 12, 2, (8, 6)),
        ("one composition", 1, 7, 1, (8, 6)),
        ("one attribute", 3, 9, 2, (6, 10)),
    ],
)
def test_losses_and_scores_equal_the_description(
    fusion, alignment, space, side, dim, images, widths
) -> None:
    model = make(
        space,
        side=side,
        dim=dim,
        widths=widths,
        fusion=fusion,
        alignment=alignment,
        primitive_loss_weight=0.3,
    )
    model.residual_weight, model.prompt_loss_weight = 0.6, 0.2
    space = model.space
    pixels, targets = batch(model.backbone, space, images)
    with torch.no_grad():
        losses = model(pixels, targets, "train")
        expected = description(model, pixels, model.seen_pairs)
        scores = model.predictor(space)(pixels)
        scores_expected = description(model, pixels, space.pair_indices)
    assert_close(scores, torch.stack([after for _, after in scores_expected]))

    terms = {"composition": 0.0, "prompt": 0.0, "attribute": 0.0, "object": 0.0}
    for (before, after), target in zip(expected, targets.tolist(), strict=True):
        label = int(space.seen_mask[:target].sum())
        terms["composition"] += cross_entropy(after, label) / images
        terms["prompt"] += cross_entropy(before, label) / images
        for kind, name in enumerate(("attribute", "object")):
            owners = model.seen_pairs[:, kind]
            present = owners.unique()  # primitives that some seen composition holds
            means = torch.stack([before[owners == number].mean() for number in present])
            truth = present.tolist().index(int(owners[label]))
            terms[name] += cross_entropy(means, truth) / images
    for name, value in terms.items():
        assert_close(losses[name], value, msg=name)
    total = terms["composition"] + 0.3 * (terms["attribute"] + terms["object"])
    assert_close(losses["total"], total + 0.2 * terms["prompt"])


@pytest.mark.parametrize("fusion", ["txt2img", "img2txt"])
def test_chunks_change_nothing(fusion) -> None:
    model = make(fusion=fusion, alignment="patch_max")
    pixels, targets = batch(model.backbone, model.space, 3)
    outcomes = []
    for chunk_size in (1, 3, 128):
        model.options = replace(model.options, chunk_size=chunk_size)
        model.backbone.text.chunk_size = chunk_size
        model.zero_grad()
        model.train()
        loss = model(pixels, targets, "train")["total"]
        loss.backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        outcomes.append([loss, model.eval().predictor(model.space)(pixels), *grads])
    for outcome in outcomes[1:]:
        for whole, chunked in zip(outcomes[0], outcome, strict=True):
            assert_close(whole, chunked)


@pytest.mark.parametrize("fusion", ["txt2img", "img2txt"])
def test_an_image_is_scored_without_regard_to_the_others(fusion) -> None:
    model = make(fusion=fusion)
    pixels, _ = batch(model.backbone, model.space, 3)
    predict = model.predictor(model.space)
    assert_close(predict(pixels)[1:2], predict(pixels[1:2]))


def test_a_primitive_without_a_composition_counts_for_nothing() -> None:
    model = make()
    pairs = torch.tensor([[0, 1], [0, 1]])
    primitives = model.decomposed_text(pairs).primitives
    attributes = len(model.space.attributes)
    used = primitives.abs().sum((1, 2)) > 0
    assert used.nonzero().flatten().tolist() == [0, attributes + 1]
    assert torch.equal(primitives[0], primitives[attributes + 1])


def test_one_draw_of_the_prompts_dropout_for_all_chunks() -> None:
    model = make().train()
    model.prompts.dropout = 0.5
    pairs = model.seen_pairs[:1].expand(3, -1)
    model.backbone.text.chunk_size = 1
    features = model.decomposed_text(pairs).features
    assert torch.equal(features[0], features[2])


def test_wrong_options() -> None:
    with pytest.raises(ValueError, match="fusion is 'both' but must be one of txt2img, img2txt"):
        make(fusion="both")
