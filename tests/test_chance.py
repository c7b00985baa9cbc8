"""The chance row equals what the evaluator gives for random scores; small splits are named."""

import math

import numpy as np
import pytest
import torch

from czsl_sac import CompositionSpace, CZSLEvaluator
from czsl_sac.evaluation import chance_row, small_sample_warnings
from czsl_sac.evaluation.chance import counts_right

FIGURES = ("seen", "unseen", "hm", "auc")


def random_results(seen, unseen, seen_images, unseen_images, protocol, repeats):
    """Figures `[repeats, 4]` of the evaluator on uniform scores of a scale that suits both."""
    pairs = [(f"a{i}", "o") for i in range(seen + unseen)]
    space = CompositionSpace([a for a, _ in pairs], ["o"], pairs, pairs[:seen])
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(repeats):
        targets = torch.cat(
            [
                torch.randint(0, seen, (seen_images,), generator=generator),
                torch.randint(seen, seen + unseen, (unseen_images,), generator=generator),
            ]
        )
        evaluator = CZSLEvaluator(space, protocol=protocol)
        scores = 50 * torch.rand(len(targets), len(space), generator=generator)
        evaluator.update(scores, targets)
        rows.append([getattr(evaluator.compute(), name) for name in FIGURES])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("protocol", ["exact", "legacy"])
@pytest.mark.parametrize("counts", [(4, 3, 30, 40), (2, 1, 25, 10), (12, 5, 100, 80)])
def test_chance_row_is_the_evaluators_mean_on_random_scores(counts, protocol):
    names = ("seen_candidates", "unseen_candidates", "seen_images", "unseen_images")
    expected = chance_row(**dict(zip(names, counts, strict=True)), protocol=protocol)
    results = random_results(*counts, protocol, repeats=100)
    error = results.std(0) * (1 / 100 + 1 / 1000) ** 0.5
    for name, mean, sigma in zip(FIGURES, results.mean(0), error, strict=True):
        assert getattr(expected, name) == pytest.approx(float(mean), abs=4 * float(sigma) + 1e-9)


@pytest.mark.parametrize("protocol", ["exact", "legacy"])
def test_every_point_of_the_curve_is_the_evaluators(protocol):
    flips = np.random.default_rng(0).permutation(np.repeat([False, True], [30, 47]))
    pairs = [("old", "car"), ("new", "car")]
    evaluator = CZSLEvaluator(CompositionSpace(["old", "new"], ["car"], pairs, pairs[:1]))
    ahead = torch.arange(1.0, len(flips) + 1)  # the bias at which each image flips
    evaluator.update(
        torch.stack([ahead, torch.zeros_like(ahead)], 1), torch.from_numpy(flips).long()
    )
    curve = evaluator.compute(protocol=protocol).curve
    of_seen, of_unseen = counts_right(flips, protocol)
    assert curve["seen"] == pytest.approx(of_seen / 30)
    assert curve["unseen"] == pytest.approx(of_unseen / 47)


def test_chance_row_by_formula():
    chance = chance_row(
        seen_candidates=10, unseen_candidates=1, seen_images=10**5, unseen_images=10**5, draws=20
    )
    assert chance.seen == 0.1
    assert chance.unseen == 1.0  # one unseen candidate: random scores have U 100
    assert chance.auc == pytest.approx(0.05)
    assert chance.hm == pytest.approx(2 / (math.sqrt(10) + 1) ** 2, rel=0.01)  # many images


def test_chance_row_is_the_same_for_the_same_seed():
    counts = {
        "seen_candidates": 5,
        "unseen_candidates": 2,
        "seen_images": 20,
        "unseen_images": 20,
        "draws": 10,
    }
    assert chance_row(**counts) == chance_row(**counts)
    assert chance_row(**counts).hm != chance_row(**counts, seed=1).hm


def test_chance_row_names_a_count_below_one():
    with pytest.raises(ValueError, match="unseen_candidates is 0 but must be at least 1: raise it"):
        chance_row(seen_candidates=3, unseen_candidates=0, seen_images=5, unseen_images=5)


@pytest.mark.parametrize(
    ("compositions", "seen", "unseen", "expected"),
    [
        (3, 50, 50, []),
        (2, 50, 50, ["2 unseen compositions have images, so U, HM and AUC say little"]),
        (3, 1, 50, ["1 image is of seen compositions: one moves S by 100.0 points"]),
        (3, 50, 40, ["40 images are of unseen compositions: one moves U by 2.5 points"]),
        (0, 0, 0, ["0 unseen compositions", "0 images are of seen", "0 images are of unseen"]),
    ],
)
def test_small_sample_warnings(compositions, seen, unseen, expected):
    sentences = small_sample_warnings(
        unseen_compositions=compositions, seen_images=seen, unseen_images=unseen
    )
    assert len(sentences) == len(expected)
    for sentence, start in zip(sentences, expected, strict=True):
        assert sentence.startswith(start)


def test_a_result_knows_its_chance_and_what_is_small():
    pairs = [("old", "car"), ("old", "cat"), ("new", "car"), ("new", "cat")]
    space = CompositionSpace(["old", "new"], ["car", "cat"], pairs, pairs[:2])
    evaluator = CZSLEvaluator(space, candidates=pairs[:3])
    evaluator.update(torch.rand(60, 4), torch.tensor([0] * 50 + [2] * 10))
    result = evaluator.compute()
    assert (result.candidates, result.unseen_candidates, result.unseen_compositions) == (3, 1, 1)
    assert result.chance() == chance_row(
        seen_candidates=2, unseen_candidates=1, seen_images=50, unseen_images=10
    )
    assert [note.split(" ")[0] for note in result.notes()] == ["1", "10"]
    assert result.to_dict()["unseen_compositions"] == 1
