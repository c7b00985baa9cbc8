"""CoOp, CSP and PCVL against their description in loops, and what each of them trains."""

import pytest
import torch
from plain_parts import SPACES, batch, cross_entropy, random_backbone, unit
from torch import Tensor
from torch.testing import assert_close

from czsl_sac.methods.coop.method import CoOp
from czsl_sac.methods.csp.method import CSP
from czsl_sac.methods.pcvl.method import PCVL
from czsl_sac.methods.prompt_tuning import PromptTuning
from czsl_sac.space import CompositionSpace


def prompt_feature(model: PromptTuning, attribute: int, object_: int) -> Tensor:
    """The feature of [SOT, context, attribute, object, EOT], one prompt at a time."""
    tower = model.backbone.text
    table, tokenizer = tower.token_embedding.weight, model.backbone.tokenizer
    tokens = [table[tokenizer.sot], *model.prompts.context[0]]
    tokens += [model.prompts.attribute_vectors[attribute], model.prompts.object_vectors[object_]]
    tokens.append(table[tokenizer.eot])
    eot = torch.tensor([len(tokens) - 1])
    return tower.encode_embeddings(torch.stack(tokens).unsqueeze(0), eot)[0]


def description(model: PromptTuning, images: Tensor, space: CompositionSpace) -> list[Tensor]:
    cls = type(model.aligner).__name__ == "ClassTokenAligner"
    out = []
    for tokens in model.backbone.encode_image(images):
        tokens = tokens[:1] if cls else tokens
        logits = []
        for attribute, object_ in space.pair_indices.tolist():
            text = unit(prompt_feature(model, attribute, object_))
            logits.append(max(float(unit(token) @ text) for token in tokens) * 5.0)
        out.append(torch.tensor(logits, dtype=torch.float64))
    return out


@pytest.mark.parametrize("method", [CoOp, CSP, PCVL])
@pytest.mark.parametrize("alignment", ["cls", "patch_max"])
@pytest.mark.parametrize(
    ("space", "side", "dim"), [(s, i + 1, 7 + i) for i, s in enumerate(SPACES)]
)
def test_loss_and_scores_equal_the_description(method, alignment, space, side, dim) -> None:
    model = method(
        random_backbone(dim=dim, side=side), SPACES[space], alignment=alignment, template="a photo"
    ).double()
    for trained in model.prompts.parameters():
        torch.nn.init.normal_(trained)
    pixels, targets = batch(model.backbone, model.space, 3)
    with torch.no_grad():
        losses = model.eval()(pixels, targets, "train")
        logits = description(model, pixels, model.space)
        world = model.space.open_world()
        scores, expected = model.predictor(world)(pixels), description(model, pixels, world)
    assert_close(scores, torch.stack(expected))
    seen = model.space.seen_mask
    terms = [
        cross_entropy(row[seen], int(seen[:target].sum()))
        for row, target in zip(logits, targets.tolist(), strict=True)
    ]
    assert losses.keys() == {"total"}
    assert_close(losses["total"], sum(terms) / 3)


@pytest.mark.parametrize(
    ("method", "trained"),
    [
        (CoOp, {"prompts.context"}),
        (CSP, {"prompts.attribute_vectors", "prompts.object_vectors"}),
        (PCVL, {f"prompts.{x}" for x in ("context", "attribute_vectors", "object_vectors")}),
    ],
)
def test_what_is_trained_and_kept(method, trained) -> None:
    model = method(random_backbone(), SPACES["usual"])
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trained
    assert model.trained_state().keys() == trained
    model.train_stage("train")
    model(*batch(model.backbone, model.space, 4), "train")["total"].backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)
    assert model.prompts.context.shape[0] == 1  # one context for all, none that is idle


def test_the_start_is_clip_with_its_own_words() -> None:
    backbone = random_backbone()
    pixels, _ = batch(backbone, SPACES["usual"], 2)
    coop, csp = (method(backbone, SPACES["usual"]) for method in (CoOp, CSP))
    scores = coop.eval().predictor(coop.space)(pixels)
    assert torch.equal(csp.eval().predictor(csp.space)(pixels), scores)
    ids = backbone.tokenizer([f"a photo of {a} {o}" for a, o in coop.space.pairs])
    text = torch.nn.functional.normalize(backbone.encode_text(ids), dim=-1)
    image = torch.nn.functional.normalize(backbone.encode_image(pixels)[:, 0], dim=-1)
    assert_close(scores, image @ text.T * 5.0)


def test_dropout_is_csps_and_acts_in_training_alone() -> None:
    csp = CSP(random_backbone(), SPACES["usual"], prompt_dropout=0.5)
    coop = CoOp(random_backbone(), SPACES["usual"])
    for model, varies in ((csp, True), (coop, False)):
        pixels, targets = batch(model.backbone, model.space, 4)
        model.train_stage("train")
        first, second = (model(pixels, targets, "train")["total"] for _ in range(2))
        assert (first != second) == varies
        model.eval()
        assert model(pixels, targets, "train")["total"] == model(pixels, targets, "train")["total"]


def test_a_space_of_other_primitives_is_refused() -> None:
    model = CSP(random_backbone(), SPACES["usual"])
    with pytest.raises(ValueError, match="differ from those the method was made for"):
        model.predictor(SPACES["one attribute"])
