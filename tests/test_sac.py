"""SAC: losses and scores against a written-out transcription, who trains what, and the bank."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from plain_parts import SPACES, batch, random_backbone
from torch import Tensor

from czsl_sac import SAC
from czsl_sac.blocks import EntropyMemoryBank
from czsl_sac.clip import CLIPBackbone, CLIPConfig, apply_lora
from czsl_sac.clip.sources.tiny import WordTokenizer
from czsl_sac.functional import prediction_entropy
from czsl_sac.space import CompositionSpace

SPACE = CompositionSpace.closed_world(
    train=[("red", "car"), ("blue", "cat"), ("red", "cat"), ("old", "dog")],
    test=[("blue", "car"), ("old", "cat")],
)
TARGETS = SPACE.indices([("red", "car"), ("old", "dog"), ("red", "cat"), ("red", "car")])


def small_backbone() -> CLIPBackbone:
    torch.manual_seed(0)
    words = WordTokenizer(
        ("a", "photo", "of", "red", "blue", "old", "car", "cat", "dog"),
        buckets=4,
        context_length=8,
    )
    config = CLIPConfig(16, 32, 8, 24, 2, 2, 8, words.vocab_size, 12, 2, 2)
    return CLIPBackbone(config, words).double().requires_grad_(False)


def make(**options: Any) -> SAC:
    backbone = small_backbone()
    apply_lora(backbone.visual, rank=2)
    given = {"num_blocks": 1, "num_heads": 2, "temperature": 0.1, "prompt_dropout": 0.0, **options}
    return SAC(backbone, SPACE, **given).double()


def images(count: int = 4, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 32, 32, dtype=torch.float64, generator=generator)


def softmax(values: list[float]) -> list[float]:
    exponentials = [math.exp(v - max(values)) for v in values]
    return [e / sum(exponentials) for e in exponentials]


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a @ b / (a.norm() * b.norm())).detach())


def texts(model: SAC, pairs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    prompts = model.prompts
    return prompts.compositions(pairs), prompts.attributes(), prompts.objects()


def path(model: SAC, image: Tensor, kind: str, features: tuple[Tensor, ...]) -> list[list[float]]:
    """Probabilities over compositions, attributes and objects of one image, by plain loops."""
    tokens = model.backbone.encode_image(image[None])[0]
    if kind == "max":
        scores = [[max(cosine(v, t) for v in tokens) for t in side] for side in features]
    elif kind == "cls":
        scores = [[cosine(tokens[0], t) for t in side] for side in features]
    else:
        feature = model.condenser(tokens[None])[0]
        scores = [[cosine(feature, t) for t in side] for side in features]
    return [softmax([s / 0.1 for s in side]) for side in scores]


def expected_losses(model: SAC, pixels: Tensor, targets: Tensor, kind: str) -> dict[str, float]:
    """The losses of Eq. 3 to 8, image by image; α is 0.3."""
    space, count = model.space, len(pixels)
    features = texts(model, model.seen_pairs)
    expected = dict.fromkeys(("composition", "attribute", "object", "vac", "distillation"), 0.0)
    for image, target in zip(pixels, targets.tolist(), strict=True):
        row = space.seen.index(space.pairs[target])
        truth = [row, *model.seen_pairs[row].tolist()]
        sa, vac = path(model, image, kind, features), path(model, image, "vac", features)
        for name, probabilities, index in zip(
            ("composition", "attribute", "object"), sa, truth, strict=True
        ):
            expected[name] -= math.log(probabilities[index]) / count
        for probabilities, index in zip(vac, truth, strict=True):
            expected["vac"] -= math.log(probabilities[index]) / count
        expected["distillation"] += (
            sum(p * math.log(p / q) for p, q in zip(vac[0], sa[0], strict=True)) / count
        )
    base = expected["composition"] + expected["attribute"] + expected["object"]
    return {**expected, "total": base + 0.7 * expected["vac"] + 0.3 * expected["distillation"]}


@pytest.mark.parametrize(("alignment", "kind"), [("patch_max", "max"), ("cls", "cls")])
@pytest.mark.parametrize("schedule", ["joint", "end_to_end"])
def test_losses_equal_the_equations(alignment: str, kind: str, schedule: str) -> None:
    model = make(alignment=alignment, schedule=schedule, alpha=0.3)
    losses = model(images(), TARGETS, schedule)
    expected = expected_losses(model, images(), TARGETS, kind)
    assert {name: float(value) for name, value in losses.items()} == pytest.approx(expected)


@pytest.mark.parametrize(("alignment", "kind"), [("patch_max", "max"), ("cls", "cls")])
@pytest.mark.parametrize(
    ("space", "side", "dim"), [("usual", 3, 12), ("one composition", 1, 7), ("one attribute", 2, 9)]
)
def test_shapes_odd_and_even(alignment: str, kind: str, space: str, side: int, dim: int) -> None:
    options = {"alignment": alignment, "num_blocks": 2, "num_heads": 1, "bank": "off"}
    options |= {"temperature": 0.1, "prompt_dropout": 0.0}
    model = SAC(random_backbone(dim=dim, side=side), SPACES[space], alpha=0.3, beta=0.6, **options)
    model = model.double().eval()
    pixels, targets = batch(model.backbone, model.space, 3)
    losses = model(pixels, targets, "joint")
    expected = expected_losses(model, pixels, targets, kind)
    assert {name: float(value) for name, value in losses.items()} == pytest.approx(
        expected, abs=1e-9
    )
    world = model.space.open_world()
    features = texts(model, world.pair_indices)
    for image, row in zip(pixels, model.predictor(world)(pixels), strict=True):
        sa, vac = (path(model, image, each, features) for each in (kind, "vac"))
        for c, (a, o) in enumerate(world.pair_indices.tolist()):
            p_sa, p_vac = (p[0][c] + p[1][a] * p[2][o] for p in (sa, vac))
            assert float(row[c]) == pytest.approx(0.6 * p_sa + 0.4 * p_vac, abs=1e-6)


def gradients(model: SAC, stage: str) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    model(images(), TARGETS, stage)["total"].backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_joint_schedule_keeps_the_ownership_of_algorithm_1() -> None:
    joint = gradients(make(), "joint")
    alone = gradients(make(condense=False, bank="off"), "joint")
    own = {name: value for name, value in joint.items() if not name.startswith("condenser.")}
    assert own.keys() == alone.keys()
    for name, value in own.items():
        torch.testing.assert_close(value, alone[name])
    assert any(name.startswith("condenser.") for name in joint)
    assert any(name.endswith("lora_B") for name in joint)
    assert "prompts.context" in joint


def test_end_to_end_lets_the_condenser_train_the_rest() -> None:
    joint = gradients(make(), "joint")
    end_to_end = gradients(make(schedule="end_to_end"), "end_to_end")
    assert not torch.allclose(joint["prompts.context"], end_to_end["prompts.context"])
    torch.testing.assert_close(joint["condenser.query"], end_to_end["condenser.query"])


def test_staged_schedule_trains_one_part_after_the_other() -> None:
    model = make(schedule="staged")
    assert model.stages == ("align", "condense")
    assert not any(name.startswith("condenser.") for name in gradients(model, "align"))
    assert all(name.startswith("condenser.") for name in gradients(model, "condense"))
    names = {id(p): name for name, p in model.named_parameters()}
    for stage in model.stages:
        (only,) = model.parameter_groups(stage)
        assert {names[id(p)] for p in only.parameters} == set(gradients(model, stage))
    model.train_stage("condense")
    assert model.condenser.training
    assert not model.prompts.training
    model.train_stage("align")
    assert model.prompts.training


@pytest.mark.parametrize("schedule", ["joint", "staged", "end_to_end"])
@pytest.mark.parametrize("alignment", ["cls", "patch_max"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_two_steps_lower_the_loss(schedule: str, alignment: str, precision: str) -> None:
    model = make(schedule=schedule, alignment=alignment).float()
    batch = images().float()
    for stage in model.stages:
        groups = model.parameter_groups(stage)
        optimizer = torch.optim.Adam([p for group in groups for p in group.parameters], lr=1e-3)
        totals = []
        for _ in range(3):
            model.train_stage(stage)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                losses = model(batch, TARGETS, stage)
            optimizer.zero_grad()
            losses["total"].backward()
            optimizer.step()
            totals.append(float(losses["total"]))
        assert totals[2] < totals[1] < totals[0], (stage, totals)


def test_scores_equal_the_equations_batch_by_batch() -> None:
    """Eq. 9, 10, 12 and 13 and the order of Alg. 1: predict a batch, then update with it."""
    model = make(capacity=2, beta=0.3, gamma=0.5).eval()
    with torch.no_grad():
        model.fill_memory([images(3, seed=5), images(2, seed=6)])
        predictor = model.predictor(SPACE)
        features = texts(model, SPACE.pair_indices)
        unit = F.normalize(features[0], dim=-1)
        bank = EntropyMemoryBank(unit, 2, temperature=0.1)
        for start in (images(3, seed=5), images(2, seed=6)):  # training images: seen ones alone
            condensed = model.condenser(model.backbone.encode_image(start))
            seen_logits = condensed @ unit[SPACE.seen_mask].T / 0.1
            probabilities = torch.zeros(len(start), len(SPACE), dtype=torch.float64)
            probabilities[:, SPACE.seen_mask] = seen_logits.softmax(dim=-1)
            bank.update(condensed, probabilities)
        for batch in (images(3), images(4, seed=2)):
            scores = predictor(batch)
            vac_rows = []
            for image, row in zip(batch, scores, strict=True):
                sa, vac = (path(model, image, kind, features) for kind in ("max", "vac"))
                vac_rows.append(vac[0])
                feature = model.condenser(model.backbone.encode_image(image[None]))
                p_bank = softmax(bank(feature)[0].tolist())
                for c, (a, o) in enumerate(SPACE.pair_indices.tolist()):
                    p_sa = sa[0][c] + sa[1][a] * sa[2][o]
                    p_vac = vac[0][c] + vac[1][a] * vac[2][o]
                    expected = 0.3 * p_sa + 0.7 * (p_vac + 0.5 * p_bank[c])
                    assert float(row[c]) == pytest.approx(expected, abs=1e-6)
            condensed = model.condenser(model.backbone.encode_image(batch))
            bank.update(condensed, torch.tensor(vac_rows, dtype=torch.float64))


def test_the_memory_holds_seen_compositions_alone() -> None:
    model = make(bank="train", capacity=4).eval()
    model.fill_memory([images(6)])
    predictor = model.predictor(SPACE)
    stored = predictor.bank.counts()
    assert int(stored.sum()) == 6
    assert not stored[~SPACE.seen_mask].any()
    predictor(images(5, seed=3))
    assert torch.equal(predictor.bank.counts(), stored)


def test_the_memory_moves_to_another_space() -> None:
    model = make(capacity=4).eval()
    model.fill_memory([images(6)])
    closed, opened = model.predictor(SPACE), model.predictor(SPACE.open_world())
    for column, pair in enumerate(SPACE.pairs):
        elsewhere = opened.space.index(*pair)
        for mine, theirs in zip(
            closed.bank.slots(column), opened.bank.slots(elsewhere), strict=True
        ):
            torch.testing.assert_close(mine, theirs)
    fewer = CompositionSpace(SPACE.attributes, SPACE.objects, SPACE.pairs[:3], [])
    assert model.predictor(fewer)(images(2)).shape == (2, 3)


def test_memory_state_round_trip() -> None:
    model, other = make().eval(), make().eval()
    model.fill_memory([images(6)])
    other.load_memory_state(model.memory_state())
    torch.testing.assert_close(
        other.predictor(SPACE)(images(3, seed=4)), model.predictor(SPACE)(images(3, seed=4))
    )
    assert not any(name.startswith("memory.") for name in model.trained_state())


def test_during_training_untrained_parts_do_not_score() -> None:
    model = make(schedule="staged").eval()
    aligned = make(condense=False, bank="off").eval()
    torch.testing.assert_close(
        model.predictor(SPACE, "align")(images()), aligned.predictor(SPACE)(images())
    )
    assert model.predictor(SPACE, "condense").bank is None


def test_trained_state_leaves_the_frozen_backbone_out_and_comes_back() -> None:
    model, other = make(), make()
    state = model.trained_state()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen
    assert not frozen & state.keys()
    with torch.no_grad():
        for p in other.parameters():
            if p.requires_grad:
                p.add_(1.0)
    other.load_trained_state(state)
    assert all(torch.equal(other.trained_state()[name], value) for name, value in state.items())


def test_a_checkpoint_of_other_options_is_refused() -> None:
    model = make()
    with pytest.raises(ValueError, match=r"checkpoint lacks tensor 'condenser\."):
        model.load_trained_state(make(condense=False, bank="off").trained_state())
    with pytest.raises(ValueError, match=r"has the unknown tensor 'condenser\."):
        make(condense=False, bank="off").load_trained_state(model.trained_state())
    state = model.trained_state()
    state["condenser.query"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"'condenser.query' of shape \(3,\) but the method"):
        model.load_trained_state(state)


def test_wrong_options_and_calls() -> None:
    with pytest.raises(ValueError, match="schedule is 'both'"):
        make(schedule="both")
    with pytest.raises(ValueError, match='bank is "dynamic" but condense is off'):
        make(condense=False)
    with pytest.raises(ValueError, match="stage is 'align' but must be one of joint"):
        make()(images(), TARGETS, "align")
    with pytest.raises(ValueError, match=r"unseen composition \('blue', 'car'\)"):
        make()(images(1), SPACE.indices([("blue", "car")]), "joint")
    unseen = CompositionSpace(["red"], ["car"], [("red", "car")], [])
    with pytest.raises(ValueError, match="no seen composition"):
        SAC(small_backbone(), unseen)
    with pytest.raises(ValueError, match="1 attributes and 1 objects that differ"):
        make().predictor(unseen)


def test_the_entropy_that_orders_the_bank_is_that_of_the_candidates() -> None:
    probabilities = torch.tensor([[0.5, 0.5, 0.0]])
    assert float(prediction_entropy(probabilities)) == pytest.approx(math.log(2))
