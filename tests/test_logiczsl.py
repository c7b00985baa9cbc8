"""LogiCZSL's rules against their sentences, one clause after the other, and its concept files."""

import json
from itertools import combinations
from pathlib import Path

import pytest
import torch
from plain_parts import SPACES, batch, cross_entropy, random_backbone, randomize, without_dropout
from torch import Tensor
from torch.testing import assert_close

from czsl_sac import CompositionSpace, Scenes, Troika
from czsl_sac.functional.logic import broken_exclusion, broken_for_all
from czsl_sac.methods.logiczsl.concepts import ConceptTree, concept_question
from czsl_sac.methods.logiczsl.method import LogiCZSL
from czsl_sac.methods.logiczsl.options import BUILT_IN
from czsl_sac.training.presets import preset_for

SPACE = SPACES["usual"]  # attributes old, red, wet; objects car, cat, tree
TREE = {
    "attributes": {"state": ["wet", "old"]},
    "objects": {"thing": ["car", "tree"], "cat": ["cat"]},
}


def make(tmp_path: Path, **options) -> LogiCZSL:
    (tmp_path / "tree.json").write_text(json.dumps(TREE))
    given = {"concepts": str(tmp_path / "tree.json"), "traction_layers": 1, **options}
    torch.manual_seed(0)
    model = LogiCZSL(random_backbone(), SPACE, **given).double()
    randomize(model)
    without_dropout(model)
    model.epochs_started.fill_(2)
    return model.eval()


def p_mean(clauses: list[Tensor], p: float) -> Tensor:
    return (sum(c**p for c in clauses) / len(clauses)) ** (1 / p)


def plain_rules(names: Tensor, parents: dict[str, Tensor], groups: dict[str, list[int]], p: float):
    """The three rules about concepts for one image, clause by clause."""
    parent = {i: word for word, members in groups.items() for i in members}
    siblings = [(i, j) for members in groups.values() for i, j in combinations(members, 2)]
    return {
        "hierarchy": p_mean([x * (1 - parents[parent[i]]) for i, x in enumerate(names)], p),
        "decomposition": p_mean(
            [q * (1 - max(names[i] for i in groups[word])) for word, q in parents.items()], p
        ),
        "exclusion": p_mean([names[i] * names[j] for i, j in siblings], p),
    }


GROUPS = {  # as TREE sorts the names of the space; "red" is in no group
    "attributes": {"state": [0, 2], "red": [1]},
    "objects": {"thing": [0, 2], "cat": [1]},
}


@pytest.mark.parametrize("alignment", ["cls", "patch_max"])
@pytest.mark.parametrize("parents", ["text", "sum"])
@torch.no_grad()
def test_losses_equal_the_rules_clause_by_clause(
    alignment: str, parents: str, tmp_path: Path
) -> None:
    p, weight = 3.0, 0.7
    model = make(
        tmp_path, alignment=alignment, parents=parents, logic_exponent=p, logic_weight=weight
    )
    images, targets = batch(model.backbone, SPACE, 3)
    losses = model(images, targets, "train")
    branches = model.branches(model.encode(images))
    logits = [b(t) for b, t in zip(branches, model.text_features(model.seen_pairs), strict=True)]
    rules = dict.fromkeys(("composition", "hierarchy", "decomposition", "exclusion"), 0.0)
    of_parents = 0.0
    for image, target in enumerate(targets.tolist()):
        c, a, o = (branch[image].exp() / branch[image].exp().sum() for branch in logits)
        pairs = model.seen_pairs.tolist()
        rules["composition"] += p_mean(
            [c[n] * (1 - a[i] * o[j]) for n, (i, j) in enumerate(pairs)], p
        )
        for branch, own, kind, label in zip(
            branches[1:], (a, o), GROUPS, SPACE.pair_indices[target].tolist(), strict=True
        ):
            groups = GROUPS[kind]
            truth = {word: sum(own[i] for i in members) for word, members in groups.items()}
            if parents == "text":
                ids = model.backbone.tokenizer([f"a photo of {word}" for word in groups])
                text = torch.nn.functional.normalize(model.backbone.encode_text(ids), dim=-1)
                scores = branch(text)[image]
                of_parents += cross_entropy(
                    scores, [label in m for m in groups.values()].index(True)
                )
                truth = dict(zip(groups, scores.exp() / scores.exp().sum(), strict=True))
            for name, value in plain_rules(own, truth, groups, p).items():
                rules[name] += value
    for name, value in rules.items():
        assert_close(losses[f"rule_{name}"], value / 3, rtol=1e-6, atol=1e-6)
    base = losses["composition"] + losses["attribute"] + losses["object"]
    expected = base + weight * (of_parents + sum(rules.values())) / 3
    assert_close(losses["total"], torch.as_tensor(expected), rtol=1e-6, atol=1e-6)
    assert ("parents" in losses) == (parents == "text")


@pytest.mark.parametrize("p", [1.0, 2.0, 5.0])
def test_exclusion_needs_no_table_of_pairs(p: float) -> None:
    torch.manual_seed(0)
    truths = torch.rand(4, 9).double().requires_grad_()
    group = torch.tensor([0, 1, 0, 2, 2, 0, 1, 3, 2])
    pairs = [(i, j) for i, j in combinations(range(9), 2) if group[i] == group[j]]
    plain = torch.stack([truths[:, i] * truths[:, j] for i, j in pairs], dim=1)
    found = broken_exclusion(truths, group, 4, exponent=p)
    assert_close(found, (plain**p).mean(1).pow(1 / p).mean())
    assert_close(found, broken_for_all(plain, exponent=p))
    assert torch.autograd.gradcheck(lambda x: broken_exclusion(x, group, 4, exponent=p), truths)


def test_what_breaks_no_rule_costs_nothing_and_has_a_finite_gradient() -> None:
    truths = torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True)
    alone, shared = torch.tensor([0, 1, 2]), torch.tensor([0, 0, 1])
    assert broken_exclusion(truths, alone, 3) == 0
    broken_exclusion(truths, shared, 2).backward()
    zeros = torch.zeros(1, 4, requires_grad=True)
    nothing = broken_for_all(zeros)
    nothing.backward()
    assert nothing < 1e-5
    assert bool(truths.grad.isfinite().all() & zeros.grad.isfinite().all())


def test_rules_come_in_over_the_epochs(tmp_path: Path) -> None:
    model = make(tmp_path, logic_ramp=4, parents="sum", logic_weight=0.5)
    images, targets = batch(model.backbone, SPACE, 4)
    model.epochs_started.zero_()
    shares = []
    for _ in range(6):
        model.train_stage("train")
        losses = {n: v.item() for n, v in model.eval()(images, targets, "train").items()}
        base = losses["composition"] + losses["attribute"] + losses["object"]
        broken = sum(v for n, v in losses.items() if n.startswith("rule_"))
        shares.append((losses["total"] - base) / (0.5 * broken))
    assert shares == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1])


def test_prediction_is_troikas_and_needs_no_file(tmp_path: Path) -> None:
    model = make(tmp_path, alignment="patch_max")
    (tmp_path / "tree.json").unlink()
    torch.manual_seed(0)
    troika = Troika(random_backbone(), SPACE, alignment="patch_max", traction_layers=1).double()
    troika.load_state_dict(model.state_dict())
    images, targets = batch(model.backbone, SPACE, 3)
    world = SPACE.open_world()
    assert torch.equal(model.predictor(world)(images), troika.eval().predictor(world)(images))
    with pytest.raises(FileNotFoundError, match=r"tree\.json"):
        model(images, targets, "train")


def test_training_adds_nothing_to_the_state(tmp_path: Path) -> None:
    model = make(tmp_path)
    before = model.trained_state().keys()
    model(*batch(model.backbone, SPACE, 4), "train")["total"].backward()
    assert model.trained_state().keys() == before
    idle = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []


def test_without_concepts_one_rule_is_left_and_without_weight_none() -> None:
    model = LogiCZSL(random_backbone(), SPACE).double()
    images, targets = batch(model.backbone, SPACE, 4)
    rules = [name for name in model(images, targets, "train") if name.startswith("rule")]
    assert rules == ["rule_composition"]
    assert "rule_composition" not in LogiCZSL(random_backbone(), SPACE, logic_weight=0.0).double()(
        images, targets, "train"
    )


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (["red"], "holds list but must be a dictionary"),
        ({"colours": {}}, r"holds \['colours'\] but must be"),
        ({"attributes": {"state": "wet"}}, "groups that are no lists of names"),
        ({"attributes": {"a": ["wet"], "b": ["wet"]}}, "has 'wet' twice"),
        ({"attributes": {"state": ["Wet"]}}, "names none of the 6 primitives: did you mean wet"),
    ],
)
def test_a_wrong_file_is_refused(tree: object, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps(tree))
    with pytest.raises(ValueError, match=message):
        ConceptTree.read(str(tmp_path / "t.json"), SPACE)


def test_a_file_sorts_names(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps({"attributes": {"state": ["wet", "old", "dry"]}}))
    tree = ConceptTree.read(str(tmp_path / "t.json"), SPACE)
    assert tree.attributes.words == ("state", "red")
    assert tree.attributes.parent.tolist() == [0, 1, 0]
    assert tree.objects.words == SPACE.objects


def test_trees_that_come_along_hold_their_whole_data_set() -> None:
    scenes = ConceptTree.read("scenes", Scenes().space)
    assert scenes.attributes.words == ("colour", "texture")
    assert set(scenes.objects.words).isdisjoint(Scenes().space.objects)  # none is left alone
    assert BUILT_IN == ("scenes", "ut-zappos")
    shoes = CompositionSpace.closed_world([("Hair.Calf", "Boots.Ankle"), ("Suede", "Sandals")])
    assert ConceptTree.read("ut-zappos", shoes).attributes.words == ("material",)
    assert preset_for("ut-zappos", "logiczsl").method.concepts == "ut-zappos"
    assert preset_for("cgqa", "logiczsl").method.primitive_loss_weight == 0.1


def test_the_question_names_everything() -> None:
    assert concept_question(SPACE).endswith("attributes: old, red, wet\nobjects: car, cat, tree")
