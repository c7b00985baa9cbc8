"""The open world end to end, against all scores held and one threshold tried after the other."""

import re
from pathlib import Path

import pytest
import torch
from plain_parts import SPACES, random_backbone, randomize
from tiny_runs import options_of
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from czsl_sac.clip import apply_adaptformer
from czsl_sac.evaluation import (
    CZSLEvaluator,
    CZSLResult,
    feasibility_scores,
    mask_infeasible,
    modality_gap_l2,
    relative_modality_gap,
    threshold_grid,
)
from czsl_sac.methods.base import CZSLMethod
from czsl_sac.methods.registry import method_names, method_options
from czsl_sac.training.build import build_method
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.open_world import OpenWorld, evaluate_open_world
from czsl_sac.training.scoring import evaluate_method
from czsl_sac.training.session import Session

BATCH = 4
METHODS = method_names()


class Pictures:
    """Noise for images; seen and unseen compositions in either split, of other numbers."""

    name = "pictures"
    space = SPACES["usual"]

    def split(self, name: str, *, augment: bool = False) -> Dataset:
        generator = torch.Generator().manual_seed(len(name))
        targets = torch.arange(len(self.space)).repeat({"val": 4, "test": 3}[name])
        return TensorDataset(torch.randn(len(targets), 3, 8, 8, generator=generator), targets)

    def candidates(self, name: str) -> Tensor:
        return torch.ones(len(self.space)).bool()


def make(name: str, alignment: str = "patch_max") -> CZSLMethod:
    torch.manual_seed(1)
    backbone = random_backbone().float()
    if name == "troika":
        apply_adaptformer(backbone.visual, bottleneck=3)
    chunks = {"chunk_size": 2} if hasattr(method_options(name), "chunk_size") else {}
    options = options_of(name, alignment=alignment, **chunks)
    method = build_method(TrainConfig(method=options), backbone, Pictures.space)
    randomize(method)
    return method.eval()


def evaluate(method: CZSLMethod, split: str = "test", **options: object) -> CZSLResult:
    protocol = options.pop("protocol", "exact")
    return evaluate_open_world(
        method,
        Pictures(),
        split,
        Session(batch_size=BATCH),
        OpenWorld(**options),
        protocol=protocol,
    )


def all_scores(method: CZSLMethod, split: str) -> tuple[Tensor, Tensor]:
    world = Pictures.space.open_world()
    images, targets = Pictures().split(split).tensors
    predictor = method.predictor(world)
    scores = torch.cat([predictor(batch) for batch in images.split(BATCH)])
    return scores, world.indices([Pictures.space.pairs[i] for i in targets.tolist()])


def clip_feasibility(method: CZSLMethod) -> Tensor:
    world, backbone = Pictures.space.open_world(), method.backbone
    with torch.no_grad():
        features = [
            backbone.encode_text(backbone.tokenizer([f"a photo of {name}" for name in side]))
            for side in (world.attributes, world.objects)
        ]
    return feasibility_scores(world, *features)


def one_by_one(
    method: CZSLMethod, feasibility: Tensor, rule: str, protocol: str
) -> tuple[float, CZSLResult]:
    """The threshold of the best validation AUC, and the result at it on the test split."""
    world = Pictures.space.open_world()

    def at(threshold: float, scores: Tensor, targets: Tensor) -> CZSLResult:
        evaluator = CZSLEvaluator(world, protocol=protocol)
        masked = mask_infeasible(scores, feasibility, threshold, world.seen_mask, rule=rule)
        evaluator.update(masked, targets)
        return evaluator.compute()

    thresholds = threshold_grid(feasibility, world).tolist()
    validation = all_scores(method, "val")
    areas = [at(threshold, *validation).auc for threshold in thresholds]
    best = thresholds[areas.index(max(areas))]
    return best, at(best, *all_scores(method, "test"))


@pytest.mark.parametrize("name", METHODS)
def test_the_threshold_is_chosen_on_validation_and_used_on_test(name: str) -> None:
    method = make(name)
    rule, protocol = ("legacy", "legacy") if name in ("csp", "dfsp") else ("exclude", "exact")
    scores = clip_feasibility(method)
    threshold, expected = one_by_one(method, scores, rule, protocol)
    result = evaluate(method, rule=rule, protocol=protocol)
    assert (result.threshold, result.world) == (threshold, "open")
    for metric in ("seen", "unseen", "hm", "auc", "attribute", "object", "bias"):
        assert getattr(result, metric) == pytest.approx(getattr(expected, metric), abs=1e-6)
    seen = Pictures.space.open_world().seen_mask
    assert result.candidates == int(((scores >= threshold) | seen).sum())


def test_a_threshold_of_ones_own_needs_no_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    method = make("csp")
    chosen = evaluate(method)
    split = Pictures.split

    def no_validation(self: Pictures, name: str, **options: bool) -> Dataset:
        assert name != "val"
        return split(self, name, **options)

    monkeypatch.setattr(Pictures, "split", no_validation)
    assert evaluate(method, threshold=chosen.threshold).to_dict() == chosen.to_dict()


def test_validation_is_scored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    method, calls, split = make("csp"), [], Pictures.split

    def counted(self: Pictures, name: str, **options: bool) -> Dataset:
        calls.append(name)
        return split(self, name, **options)

    monkeypatch.setattr(Pictures, "split", counted)
    validation = evaluate(method, split="val")
    assert calls == ["val"]
    assert validation.threshold == evaluate(method).threshold
    assert calls == ["val", "val", "test"]


def test_without_feasibility_all_compositions_stay() -> None:
    method = make("csp")
    result = evaluate(method, feasibility="none")
    evaluator = CZSLEvaluator(Pictures.space.open_world())
    evaluator.update(*all_scores(method, "test"))
    assert result.auc == pytest.approx(evaluator.compute().auc)
    assert (result.threshold, result.candidates, result.world) == (None, 9, "open")


def test_word_vectors_from_a_file(tmp_path: Path) -> None:
    method, file = make("csp"), tmp_path / "vectors.txt"
    words = ["old", "red", "moist", "car", "cat", "tree"]
    vectors = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    file.write_text(
        "".join(
            f"{word} {' '.join(map(str, vector))}\n"
            for word, vector in zip(words, vectors.tolist(), strict=True)
        )
    )
    with pytest.raises(ValueError, match="lacks the words wet"):
        evaluate(method, feasibility=str(file))
    scores = feasibility_scores(Pictures.space.open_world(), vectors[:3], vectors[3:])
    threshold, expected = one_by_one(method, scores, "exclude", "exact")
    result = evaluate(method, feasibility=str(file), aliases={"wet": "moist"})
    assert result.threshold == pytest.approx(threshold)
    assert result.auc == pytest.approx(expected.auc)


def test_the_gap_is_that_of_the_features_compared() -> None:
    method, space = make("sac"), Pictures.space
    result = evaluate_method(method, Pictures(), "test", Session(batch_size=5))
    images, targets = Pictures().split("test").tensors
    with torch.no_grad():
        predictor = method.predictor(space)
        features = predictor.gap_features(predictor.encode(images), targets)
    assert result.modality_gap.keys() == {"class_token", "aligned", "condensed"}
    text = predictor.text.composition
    for name, gap in result.modality_gap.items():
        expected = relative_modality_gap(features[name], text, targets)
        assert gap["relative_modality_gap"] == pytest.approx(expected, abs=1e-6)
        assert gap["modality_gap_l2"] == pytest.approx(
            modality_gap_l2(features[name], text), abs=1e-6
        )
    # Of all tokens the winning one is the nearest to its text.
    match = [gap["relative_modality_gap"] for gap in result.modality_gap.values()]
    assert match[1] != match[0]


def test_the_example_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parent.parent / "docs" / "evaluation.md").read_text("utf-8")
    shown = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (example,) = (code for code in shown if "Feasibility" in code)
    exec(example, {})
    assert "exact protocol, feasibility >= " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feasibility": "glove.txt"}, "feasibility is 'glove.txt' but must be clip, none, or an"),
        ({"rule": "drop"}, "rule is 'drop' but must be one of exclude, legacy"),
        ({"feasibility": "none", "threshold": 0.2}, "threshold is 0.2 but feasibility is none"),
        ({"threshold": float("nan")}, "threshold is nan but must be finite"),
        ({"num_thresholds": 0}, "num_thresholds is 0 but must be at least 1"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OpenWorld(**options)
