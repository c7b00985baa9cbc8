"""VP-CMJL against its description written out token by token, and what its options promise."""

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

from czsl_sac.methods.cross_attention import CrossBlock
from czsl_sac.methods.disentangler import Disentangler
from czsl_sac.methods.vp_cmjl.method import VPCMJL
from czsl_sac.methods.vp_cmjl.options import VPCMJLOptions
from czsl_sac.training.presets import preset_for


def make(**options) -> VPCMJL:
    chosen = VPCMJLOptions(**{"attention_heads": 2, **options})
    model = VPCMJL(random_backbone(), SPACES["usual"], chosen).double()
    randomize(model)
    without_dropout(model)
    return model.eval()


def attended(part: CrossBlock, x: Tensor, texts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """One token after it has attended to the texts, and its mean weights."""
    query = layer_norm(part.norm_query, x)
    context = [layer_norm(part.norm_context, t) for t in texts]
    out = x + attend(part.attention, query, context)
    out = out + mlp(part.mlp, layer_norm(part.norm_mlp, out))
    heads, size = part.attention.num_heads, len(x) // part.attention.num_heads
    weights = torch.zeros(len(texts), dtype=torch.float64)
    q = linear(part.attention.q_proj, query)
    keys = [linear(part.attention.k_proj, y) for y in context]
    for h in range(heads):
        s = slice(h * size, (h + 1) * size)
        weights += torch.stack([q[s] @ k[s] / size**0.5 for k in keys]).softmax(0) / heads
    return out, weights


def disentangled(part: Disentangler, x: Tensor) -> Tensor:
    norm = part.norm
    scaled = (linear(part.linear, x) - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    return torch.clamp(scaled * norm.weight + norm.bias, min=0)


def best(tokens: list[Tensor], texts: list[Tensor]) -> Tensor:
    """5 times the best cosine of any token with each text."""
    return torch.stack([5.0 * max(unit(x) @ unit(t) for x in tokens) for t in texts])


def description(model: VPCMJL, images: Tensor, pairs: Tensor) -> list[dict[str, list[Tensor]]]:
    """For each image the logits of texts and of proxies: composition, attribute, object."""
    attributes = [unit(t) for t in model.prompts.attributes()]
    objects = [unit(t) for t in model.prompts.objects()]
    proxies = [
        linear(model.compose, torch.cat([model.attribute_proxies[a], model.object_proxies[o]]))
        for a, o in pairs.tolist()
    ]
    logits = []
    for image in model.backbone.encode_image(images):
        cls = type(model.aligner).__name__ == "ClassTokenAligner"
        tokens = list(image[:1] if cls else image)
        texts = [best(tokens, list(model.prompts.compositions(pairs)))]
        for part, words in (
            (model.attend_to_attributes, attributes),
            (model.attend_to_objects, objects),
        ):
            seen = [attended(part, x, words) for x in tokens]
            own = best([x for x, _ in seen], words)
            texts.append(own + 5.0 * seen[0][1] if model.options.attention_logits else own)
        of_proxies = [best(tokens, proxies)]
        for part, vectors in zip(
            model.disentanglers, (model.attribute_proxies, model.object_proxies), strict=True
        ):
            of_proxies.append(best([disentangled(part, x) for x in tokens], list(vectors)))
        logits.append({"texts": texts, "proxies": of_proxies})
    return logits


@pytest.mark.parametrize("alignment", ["cls", "patch_max"])
@pytest.mark.parametrize("attention_logits", [True, False])
@torch.no_grad()
def test_losses_equal_the_description(alignment: str, attention_logits: bool) -> None:
    model = make(
        alignment=alignment,
        attention_logits=attention_logits,
        primitive_loss_weight=0.3,
        joint_loss_weight=0.6,
    )
    images, targets = batch(model.backbone, model.space, 2)
    losses = model(images, targets, "train")
    sums, joint = dict.fromkeys(("texts", "proxies"), torch.zeros(3).double()), 0.0
    sums = {side: zeros.clone() for side, zeros in sums.items()}
    for sides, target in zip(
        description(model, images, model.seen_pairs), targets.tolist(), strict=True
    ):
        truth = [int(model.space.seen_mask[:target].sum()), *model.space.pair_indices[target]]
        for side, logits in sides.items():
            for i, (values, label) in enumerate(zip(logits, truth, strict=True)):
                sums[side][i] += cross_entropy(values, int(label)) / 2
        teacher, student = (sides[side][0].softmax(0) for side in ("texts", "proxies"))
        joint += float((teacher * (teacher / student).log()).sum()) / 2
    names = ("composition", "attribute", "object")
    assert_close(torch.stack([losses[n] for n in names]), sums["texts"])
    assert_close(torch.stack([losses[f"proxy_{n}"] for n in names]), sums["proxies"])
    assert_close(float(losses["joint"]), joint)
    both = sums["texts"] + sums["proxies"]
    assert_close(float(losses["total"]), float(both[0] + 0.3 * both[1:].sum()) + 0.6 * joint)


@pytest.mark.parametrize("alignment", ["cls", "patch_max"])
@pytest.mark.parametrize("rule", ["sum", "product"])
@torch.no_grad()
def test_scores_equal_the_rule(alignment: str, rule: str) -> None:
    model = make(alignment=alignment, primitive_score=rule, proxy_weight=0.4, text_weight=0.9)
    images, _ = batch(model.backbone, model.space, 2)
    world = model.space.open_world()
    predictor = model.predictor(world)
    predictor.chunk_size = 4
    scores = predictor(images)
    for row, sides in zip(scores, description(model, images, world.pair_indices), strict=True):
        composition, attribute, object_ = (
            0.9 * text + 0.4 * proxy
            for text, proxy in zip(sides["texts"], sides["proxies"], strict=True)
        )
        p_a, p_o = attribute.softmax(0), object_.softmax(0)
        for c, (a, o) in enumerate(world.pair_indices.tolist()):
            primitives = p_a[a] + p_o[o] if rule == "sum" else p_a[a] * p_o[o]
            assert_close(row[c], composition[c] + primitives)


def test_proxies_start_at_clips_texts_of_the_names() -> None:
    backbone = random_backbone()
    model = VPCMJL(backbone, SPACES["usual"])
    tokenizer = backbone.tokenizer
    expected = backbone.encode_text(tokenizer(list(SPACES["usual"].objects)))
    assert_close(model.object_proxies.data, expected)
    assert model.object_proxies.requires_grad
    assert len(model.attribute_proxies) == len(SPACES["usual"].attributes)


def test_the_teacher_learns_from_the_divergence_unless_it_is_detached() -> None:
    for detach in (False, True):
        model = make(detach_teacher=detach)
        images, targets = batch(model.backbone, model.space, 3)
        model(images, targets, "train")["joint"].backward()
        learned = {n for n, p in model.named_parameters() if p.grad is not None}
        assert {"attribute_proxies", "compose.weight"} <= learned
        assert ("prompts.context" in learned) == (not detach)


def test_options_reach_the_parts() -> None:
    assert preset_for("mit-states", "vp-cmjl").method.attention_heads == 16
    model = make(attention_heads=3)
    assert model.attend_to_objects.attention.num_heads == 3
    with pytest.raises(ValueError, match="num_heads is 5 but must divide"):
        make(attention_heads=5)
    assert "detach_teacher" in replace(VPCMJLOptions(), joint_loss_weight=0.0).unread()
    assert "detach_teacher" not in VPCMJLOptions().unread()
