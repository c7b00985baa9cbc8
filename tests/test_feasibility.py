"""Feasibility scores against the description as a loop, thresholds, masks and word vectors."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_data import SHARED, needs

from czsl_sac.evaluation import (
    CZSLEvaluator,
    Feasibility,
    feasibility_scores,
    mask_infeasible,
    read_word_vectors,
    threshold_grid,
)
from czsl_sac.space import CompositionSpace


def by_loop(space, attribute_features, object_features):
    def cosine(features, i, j):
        a, b = features[i].double(), features[j].double()
        return float(a @ b / (a.norm() * b.norm()))

    attributes, objects, seen = list(space.attributes), list(space.objects), set(space.seen)
    scores = []
    for attribute, obj in space.pairs:
        if (attribute, obj) in seen:
            scores.append(0.0)
            continue
        a, o = attributes.index(attribute), objects.index(obj)
        of_object = [
            cosine(object_features, o, i)
            for i, other in enumerate(objects)
            if i != o and (attribute, other) in seen
        ]
        of_attribute = [
            cosine(attribute_features, a, i)
            for i, other in enumerate(attributes)
            if i != a and (other, obj) in seen
        ]
        scores.append((max(of_object, default=-1) + max(of_attribute, default=-1)) / 2)
    return torch.tensor(scores, dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 10**6), st.booleans(), st.data())
def test_scores_equal_the_loop(n_attributes, n_objects, seed, open_world, data):
    attributes = [f"a{i}" for i in range(n_attributes)]
    objects = [f"o{i}" for i in range(n_objects)]
    everything = list(product(attributes, objects))
    pairs = data.draw(st.lists(st.sampled_from(everything), min_size=1, unique=True))
    seen = data.draw(st.lists(st.sampled_from(pairs), unique=True))
    space = CompositionSpace(attributes, objects, pairs, seen)
    space = space.open_world() if open_world else space
    generator = torch.Generator().manual_seed(seed)
    features = [torch.randn(count, 3, generator=generator) for count in (n_attributes, n_objects)]
    scores = feasibility_scores(space, *features)
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, by_loop(space, *features), rtol=0, atol=1e-12)


def read_pairs(folder, name):
    lines = (SHARED / "splits" / folder / f"{name}_pairs.txt").read_text().splitlines()
    return [tuple(line.split()) for line in lines if line.strip()]


@pytest.mark.parametrize(
    ("folder", "lists", "attributes", "objects", "seen", "unseen"),
    [
        pytest.param(*case, marks=needs(f"splits/{case[0]}"))
        for case in (
            ("ut-zappos", ("train", "val", "test"), 16, 12, 83, 109),
            ("cgqa", ("train", "val", "test"), 413, 674, 5592, 272770),
            ("mit-states", ("train",), 115, 245, 1262, 26913),
        )
    ],
)
def test_real_pair_lists(folder, lists, attributes, objects, seen, unseen):
    space = CompositionSpace.closed_world(*(read_pairs(folder, name) for name in lists))
    world = space.open_world()
    assert (len(world.attributes), len(world.objects)) == (attributes, objects)
    assert len(world) == attributes * objects
    assert int(world.seen_mask.sum()) == len(world.seen) == seen
    assert int((~world.seen_mask).sum()) == unseen

    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(count, 16, generator=generator) for count in (attributes, objects)]
    scores = feasibility_scores(world, *features)
    assert bool((scores[world.seen_mask] == 0).all())
    # A few of them by the loop: every unseen one of UT-Zappos, some of the others.
    chosen = list(range(0, len(world), max(1, len(world) // 100)))
    few = CompositionSpace(
        world.attributes,
        world.objects,
        list(dict.fromkeys([*(world.pairs[i] for i in chosen), *world.seen])),
        world.seen,
    )
    if folder != "cgqa":  # its loop takes too long
        torch.testing.assert_close(
            scores[world.indices(few.pairs)], by_loop(few, *features), rtol=0, atol=1e-12
        )

    thresholds = threshold_grid(scores, world)
    assert len(thresholds) == 50
    kept = [int((scores[~world.seen_mask] >= t).sum()) for t in thresholds.tolist()]
    assert kept[0] == unseen
    assert kept[-1] >= 1
    # The published rule doubles seen logits at as many thresholds as are not positive.
    doubled = sum(
        float(
            mask_infeasible(
                torch.ones(1, len(world)), scores, t, world.seen_mask, rule="legacy"
            ).max()
        )
        == 2
        for t in thresholds.tolist()
    )
    assert doubled == int((thresholds <= 0).sum())


def test_rules_of_masking():
    space = CompositionSpace.closed_world([("x", "p"), ("y", "q")]).open_world()
    logits = torch.tensor([[1.0, -2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    scores = torch.tensor([0.0, 0.25, -0.5, 0.0])
    seen = space.seen_mask
    before = logits.clone()
    for threshold, excluded, legacy in [
        (-0.5, [1, -2, 3, 4], [2, -2, 3, 8]),
        (0.0, [1, -2, -torch.inf, 4], [2, -2, 0, 8]),
        (0.25, [1, -2, -torch.inf, 4], [1, -2, 0, 4]),
        (0.26, [1, -torch.inf, -torch.inf, 4], [1, 0, 0, 4]),
    ]:
        assert mask_infeasible(logits, scores, threshold, seen)[0].tolist() == excluded
        assert mask_infeasible(logits, scores, threshold, seen, rule="legacy")[0].tolist() == legacy
    assert torch.equal(logits, before)
    assert (
        mask_infeasible(logits.bfloat16(), scores, 0, seen, rule="legacy").dtype == torch.bfloat16
    )


def test_grid_runs_over_the_unseen_scores():
    space = CompositionSpace.closed_world([("x", "p"), ("y", "q")]).open_world()
    scores = torch.tensor([0.0, 0.25, 0.75, 0.0])
    assert threshold_grid(scores, space, count=3).tolist() == [0.25, 0.5, 0.75]


def test_buckets_count_the_thresholds_passed():
    thresholds = torch.tensor([-0.5, 0.0, 0.0, 0.5])
    scores = torch.tensor([-1.0, -0.5, 0.0, 0.4, 0.5, 2.0])
    buckets = Feasibility(scores, thresholds).buckets
    assert buckets.tolist() == [0, 1, 3, 3, 4, 4]


def test_a_threshold_chosen_on_validation_is_used_on_test():
    """Masking infeasible compositions helps when these are what the model confuses."""
    generator = torch.Generator().manual_seed(0)
    attributes, objects = [f"a{i}" for i in range(5)], [f"o{i}" for i in range(6)]
    real = [pair for i, pair in enumerate(product(attributes, objects)) if i % 3]
    space = CompositionSpace(attributes, objects, real, real[::2]).open_world()
    feasible = space.mask(real).double() - 0.5 + 0.1 * torch.rand(30, generator=generator)
    feasible[space.seen_mask] = 0.0
    grid = threshold_grid(feasible, space)

    def evaluate(thresholds):
        targets = space.indices(real)[torch.randint(len(real), (200,), generator=generator)]
        scores = torch.randn(200, 30, generator=generator)
        scores[torch.arange(200), targets] += 1.5
        evaluator = CZSLEvaluator(space, feasibility=Feasibility(feasible, thresholds))
        evaluator.update(scores, targets)
        return evaluator

    val = evaluate(grid)
    chosen = val.compute()
    assert chosen.auc > 1.2 * val.compute_thresholds()[0].auc
    assert -0.4 < chosen.threshold < 0.51
    test = evaluate(torch.tensor([chosen.threshold])).compute()
    assert test.threshold == pytest.approx(chosen.threshold)
    assert "threshold" in test.table()
    assert "feasibility >=" in str(test)


class TestWordVectors:
    @pytest.fixture
    def file(self, tmp_path):
        path = tmp_path / "vectors.txt"
        path.write_text("5 2\nthe 9 9\nboots 1 2\nmid 3 4\ncalf 5 0\nt-shirt 7 7\nred 0.5 -1e-1\n")
        return path

    def test_names_are_lowered_split_and_averaged(self, file):
        vectors = read_word_vectors(file, ["Boots.Mid-Calf", "red_boots", "T-Shirt", "red the"])
        expected = [[3, 2], [0.75, 0.95], [7, 7], [4.75, 4.45]]
        torch.testing.assert_close(vectors, torch.tensor(expected))
        assert vectors.dtype == torch.float32

    def test_a_byte_order_mark_is_no_part_of_the_first_word(self, file):
        file.write_text("red 0.5 -1e-1\n", "utf-8-sig")
        assert read_word_vectors(file, ["red"]).tolist() == [[0.5, pytest.approx(-0.1)]]

    def test_aliases(self, file):
        vectors = read_word_vectors(file, ["Faux.Fur"], aliases={"faux.fur": "red_calf"})
        torch.testing.assert_close(vectors, torch.tensor([[2.75, -0.05]]))

    def test_all_missing_words_are_named(self, file):
        with pytest.raises(
            ValueError, match=r"lacks the words furry \(of 'Furry'\); hat \(of 'red"
        ):
            read_word_vectors(file, ["Furry", "red_hat", "calf"])

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("hat 1 x", "line 8: 'hat' is followed by something else but must be"),
            ("hat 1 2 3", "line 8: 'hat' has 3 numbers but must have 2"),
        ],
    )
    def test_damaged_files(self, file, line, message):
        file.write_text(file.read_text() + line + "\n")
        with pytest.raises(ValueError, match=message):
            read_word_vectors(file, ["red", "hat"])
        assert read_word_vectors(file, ["red"]).shape == (1, 2)

    def test_missing_file_and_no_names(self, file):
        with pytest.raises(FileNotFoundError):
            read_word_vectors(file.with_name("no.txt"), ["red"])
        with pytest.raises(ValueError, match="names is empty but must hold one"):
            read_word_vectors(file, [])


SPACE = CompositionSpace.closed_world([("x", "p"), ("y", "q")]).open_world()
EYE = torch.eye(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: feasibility_scores(SPACE, torch.ones(3, 2), EYE),
            r"attribute_features .* \[3, 2\]",
        ),
        (
            lambda: feasibility_scores(SPACE, EYE, torch.ones(2)),
            r"object_features has shape \[2\] but must be \[2, E\]",
        ),
        (lambda: feasibility_scores(SPACE, 0 * EYE, EYE), "attribute_features row 0 is zero"),
        (lambda: feasibility_scores(SPACE, EYE, EYE / 0), "object_features row 0 .* not finite"),
        (lambda: threshold_grid(torch.zeros(3), SPACE), "scores has 3 entries but must have 4"),
        (
            lambda: threshold_grid(torch.zeros(1), CompositionSpace.closed_world([("x", "p")])),
            r"space has 0 unseen compositions but .*: use space.open_world\(\)",
        ),
        (
            lambda: mask_infeasible(EYE, EYE[0], 0, EYE[0] > 0, rule="drop"),
            "rule is 'drop' but must be",
        ),
        (
            lambda: Feasibility(EYE[0], EYE[1], "drop"),
            "rule is 'drop' but must be one of exclude, legacy",
        ),
        (
            lambda: Feasibility(EYE[0] / 0, EYE[1]),
            r"scores is torch.float32 of shape \[2\] but must be finite",
        ),
        (lambda: Feasibility(EYE[0], EYE), r"thresholds has shape \[2, 2\] but must be"),
        (lambda: Feasibility(EYE[0], EYE[0, :0]), "but must be at least one finite number"),
        (lambda: Feasibility(EYE[0], EYE[1] / 0), "but must be at least one finite number"),
        (
            lambda: Feasibility(EYE[0], EYE[0]),
            "thresholds fall somewhere but must ascend: sort them",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
