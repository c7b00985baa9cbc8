"""The evaluator against slow transcriptions of both protocols, sample by sample."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hmean

from czsl_sac.evaluation import CZSLEvaluator, Feasibility, mask_infeasible
from czsl_sac.space import CompositionSpace

F32 = np.float32


def published(scores, targets, seen, candidates, pair_indices):
    """The published evaluation, written from its description; lowest column at ties."""
    scores, samples = np.asarray(scores, dtype=F32), range(len(targets))

    def predict(i, bias):
        row = scores[i].copy()
        for column in range(len(row)):
            if not seen[column]:
                row[column] = F32(row[column] + F32(bias))
            if not candidates[column]:
                row[column] = F32(-1e10)
        return int(np.argmax(row))

    def mean(hits):
        return float(F32(sum(hits)) / F32(len(hits)))

    def accuracies(bias):
        hits = [predict(i, bias) == targets[i] for i in samples]
        of_seen = [hit for hit, target in zip(hits, targets, strict=True) if seen[target]]
        of_unseen = [hit for hit, target in zip(hits, targets, strict=True) if not seen[target]]
        return mean(of_seen), mean(of_unseen)

    distances = []
    for i in samples:
        if not seen[targets[i]] and predict(i, 1e3) == targets[i]:
            best_seen = max(scores[i, column] for column in range(len(seen)) if seen[column])
            distances.append(F32(F32(best_seen - scores[i, targets[i]]) - F32(1e-4)))
    distances.sort()
    biases = [*distances[:: max(len(distances) // 20, 1)], 1e3]
    points = [accuracies(bias) for bias in biases]
    of_seen, of_unseen = np.array([p[0] for p in points]), np.array([p[1] for p in points])
    with np.errstate(divide="ignore"):
        harmonic = hmean([of_seen, of_unseen], axis=0)
    best = int(np.argmax(harmonic))
    right = [pair_indices[predict(i, 0.0)] == pair_indices[targets[i]] for i in samples]
    trapezoid = getattr(np, "trapezoid", None) or np.trapz
    return {
        "seen": max(of_seen),
        "unseen": max(of_unseen),
        "hm": harmonic[best],
        "auc": trapezoid(of_seen, x=of_unseen),
        "hm_seen": of_seen[best],
        "hm_unseen": of_unseen[best],
        "bias": biases[best],
        "attribute": mean([hit[0] for hit in right]),
        "object": mean([hit[1] for hit in right]),
    }


def brute_force(scores, targets, seen, candidates, pair_indices):
    """Predicts every sample anew between all neighbouring breakpoints, and beyond both ends."""
    scores = np.asarray(scores, dtype=np.float64)
    columns = np.arange(scores.shape[1])
    of_seen, of_unseen = columns[candidates & seen], columns[candidates & ~seen]
    with np.errstate(invalid="ignore"):
        breaks = [row[of_seen].max() - row[of_unseen].max() for row in scores]
    breaks = sorted({value for value in breaks if math.isfinite(value)})
    middles = [(a + b) / 2 for a, b in itertools.pairwise(breaks)]
    biases = [min(breaks) - 1, *middles, max(breaks) + 1] if breaks else [0.0]
    points = []
    for bias in biases:
        hits = {True: [], False: []}
        for row, target in zip(scores, targets, strict=True):
            lifted = np.where(seen, row, row + bias)
            lifted[~candidates] = -np.inf
            hits[bool(seen[target])].append(lifted.argmax() == target and lifted[target] > -np.inf)
        points.append((np.mean(hits[True]), np.mean(hits[False])))
    s, u = np.array(points).T
    harmonic = [2 * a * b / (a + b) if a + b else 0.0 for a, b in points]
    auc = sum((u[i + 1] - u[i]) * (s[i + 1] + s[i]) / 2 for i in range(len(s) - 1))
    unbiased = np.where(candidates, scores, -np.inf).argmax(1)
    right = pair_indices[unbiased] == pair_indices[np.asarray(targets)]
    return {
        "seen": s[0],
        "unseen": u[-1],
        "hm": max(harmonic),
        "auc": auc,
        "attribute": right[:, 0].mean(),
        "object": right[:, 1].mean(),
        "curve": (s, u),
    }


def make_case(seed, *, samples=60, attributes=4, objects=5, world="closed", grid=None, scale=5.0):
    """Random scores, somewhat right; `grid` rounds them, so that ties come."""
    rng = np.random.default_rng(seed)
    everything = [(f"a{i}", f"o{j}") for i in range(attributes) for j in range(objects)]
    order = rng.permutation(len(everything))
    third = len(everything) // 3
    train, val, test = (
        [everything[i] for i in order[a:b]]
        for a, b in ((0, third + 1), (third + 1, 2 * third), (2 * third, len(everything)))
    )
    space = CompositionSpace.closed_world(train, val, test)
    if world == "open":
        space = space.open_world()
        candidates = torch.ones(len(space), dtype=torch.bool)
    else:
        candidates = space.mask([*train, *test])
    allowed = torch.where(candidates)[0].numpy()
    targets = rng.choice(allowed, size=samples)
    targets[:2] = space.index(*train[0]), space.index(*test[0])
    scores = rng.normal(size=(samples, len(space))) * scale
    scores[np.arange(samples), targets] += scale * rng.normal(1.5, 1.0, size=samples)
    scores[:, space.seen_mask.numpy()] += scale  # seen columns lead, as in trained models
    if grid:
        scores = np.round(scores / grid) * grid
    return space, candidates, torch.from_numpy(scores).float(), torch.from_numpy(targets)


def reference(function, space, candidates, scores, targets):
    return function(
        scores.numpy(),
        targets.tolist(),
        space.seen_mask.numpy(),
        candidates.numpy(),
        space.pair_indices.numpy(),
    )


def evaluate(space, candidates, scores, targets, **options):
    evaluator = CZSLEvaluator(space, candidates=candidates, **options)
    evaluator.update(scores, targets)
    return evaluator.compute()


cases = st.builds(
    make_case,
    st.integers(0, 10**6),
    samples=st.integers(3, 70),
    attributes=st.integers(2, 4),
    objects=st.integers(2, 5),
    world=st.sampled_from(["closed", "open"]),
    grid=st.sampled_from([None, None, 0.5, 2.0, 8.0]),
    scale=st.sampled_from([5.0, 0.3, 1e-4]),
)


@settings(max_examples=40, deadline=None)
@given(cases)
def test_legacy_equals_the_published_evaluator(case):
    result = evaluate(*case, protocol="legacy")
    for name, value in reference(published, *case).items():
        assert getattr(result, name) == value, name


@pytest.mark.parametrize(("seed", "samples"), [(0, 300), (1, 450), (2, 401)])
def test_legacy_with_many_samples_strides_its_biases(seed, samples):
    case = make_case(seed, samples=samples, attributes=3, objects=4)
    result = evaluate(*case, protocol="legacy")
    assert 21 <= len(result.curve["bias"]) <= 40
    assert result.curve["bias"][-1] == 1e3
    assert result.curve["unseen"][0] < 0.05
    for name, value in reference(published, *case).items():
        assert getattr(result, name) == value, name


def test_legacy_with_many_compositions():
    case = make_case(3, samples=12, attributes=40, objects=50, world="open")
    result = evaluate(*case, protocol="legacy")
    for name, value in reference(published, *case).items():
        assert getattr(result, name) == value, name


def test_legacy_when_the_last_bias_makes_everything_tie():
    """Steps of float32 at 1e3 are 6e-5: smaller differences vanish, the lowest column wins."""
    case = make_case(4, scale=1e-6)
    result = evaluate(*case, protocol="legacy")
    for name, value in reference(published, *case).items():
        assert getattr(result, name) == value, name
    assert result.ties > 0.2
    assert result.table().split()[7] == "ties"
    assert evaluate(*case).ties == 0
    assert evaluate(*case).unseen > result.unseen


def test_legacy_reads_seen_columns_that_are_no_candidates_for_its_biases():
    space, candidates, scores, targets = make_case(5)
    outsider = space.indices(space.seen)[-1]
    keep = targets != outsider
    candidates = candidates.clone()
    candidates[outsider] = False
    scores[:, outsider] += 20
    case = space, candidates, scores[keep], targets[keep]
    for name, value in reference(published, *case).items():
        assert getattr(evaluate(*case, protocol="legacy"), name) == value, name


def test_legacy_without_any_right_unseen_prediction_has_one_point():
    space, candidates, scores, targets = make_case(6)
    unseen = ~space.seen_mask[targets]
    scores[torch.where(unseen)[0], targets[unseen]] = -100.0
    result = evaluate(space, candidates, scores, targets, protocol="legacy")
    assert result.curve["bias"].tolist() == [1e3]
    assert (result.auc, result.unseen, result.hm, result.bias) == (0, 0, 0, 1e3)


@settings(max_examples=40, deadline=None)
@given(cases, st.booleans())
def test_exact_equals_brute_force(case, masked):
    space, candidates, scores, targets = case
    if masked:  # -inf at about half of the unseen columns
        drop = torch.rand(scores.shape, generator=torch.Generator().manual_seed(0)) < 0.5
        scores = scores.masked_fill(drop & ~space.seen_mask, -torch.inf)
    result = evaluate(space, candidates, scores, targets)
    expected = reference(brute_force, space, candidates, scores, targets)
    seen, unseen = expected.pop("curve")
    np.testing.assert_allclose(result.curve["seen"], seen, rtol=1e-12)
    np.testing.assert_allclose(result.curve["unseen"], unseen, rtol=1e-12)
    for name, value in expected.items():
        assert getattr(result, name) == pytest.approx(value, rel=1e-12, abs=1e-15), name


@settings(max_examples=20, deadline=None)
@given(cases)
def test_the_bias_of_a_point_gives_its_accuracies(case):
    space, candidates, scores, targets = case
    curve = evaluate(*case).curve
    scores = scores.double().masked_fill(~candidates, -torch.inf)
    for bias, seen, unseen in zip(curve["bias"], curve["seen"], curve["unseen"], strict=True):
        shift = max(min(bias, 1e6), -1e6)
        hits = (scores + shift * ~space.seen_mask).argmax(1) == targets
        of_seen = space.seen_mask[targets]
        assert float(hits[of_seen].double().mean()) == pytest.approx(seen)
        assert float(hits[~of_seen].double().mean()) == pytest.approx(unseen)


def test_exact_curve_spans_both_ends_and_is_monotone():
    curve = evaluate(*make_case(7, samples=200)).curve
    assert curve["bias"][0] == -math.inf
    assert curve["bias"][-1] == math.inf
    assert (np.diff(curve["bias"]) > 0).all()
    assert (np.diff(curve["seen"]) <= 0).all()
    assert (np.diff(curve["unseen"]) >= 0).all()
    assert curve["unseen"][0] == curve["seen"][-1] == 0


def test_samples_of_one_distance_flip_together():
    space = CompositionSpace.closed_world([("x", "p")], test=[("y", "p")])
    scores = torch.tensor([[2.0, 1.0], [5.0, 4.0], [3.0, 2.0], [9.0, 1.0]])
    curve = evaluate(space, None, scores, torch.tensor([0, 1, 1, 1])).curve
    assert curve["bias"].tolist() == [-math.inf, 4.5, math.inf]
    assert curve["seen"].tolist() == [1, 0, 0]
    assert curve["unseen"].tolist() == [0, 2 / 3, 1]


def test_protocols_agree_on_large_data():
    """20 to 39 biases against thousands: the areas differ by less than a percent of themselves."""
    for seed in range(3):
        case = make_case(seed, samples=4000, attributes=6, objects=8)
        exact, legacy = evaluate(*case), evaluate(*case, protocol="legacy")
        assert legacy.auc == pytest.approx(exact.auc, rel=0.01)
        # At 1e3 float32 makes a few unseen columns tie; the label may stand first, or not.
        assert legacy.unseen == pytest.approx(exact.unseen, abs=2e-3)
        assert -1e-6 < exact.hm - legacy.hm < 0.01
        assert -1e-6 < exact.seen - legacy.seen < 0.02
        assert legacy.attribute == pytest.approx(exact.attribute, abs=1e-6)


def same(one, other):
    assert one.to_dict(details=True) == other.to_dict(details=True)


@settings(max_examples=25, deadline=None)
@given(cases, st.data(), st.sampled_from(["exact", "legacy"]))
def test_batches_column_chunks_orders_and_merges_do_not_matter(case, data, protocol):
    space, candidates, scores, targets = case
    options = {"candidates": candidates, "protocol": protocol}
    whole = CZSLEvaluator(space, **options)
    whole.update(scores, targets)
    order = torch.tensor(data.draw(st.permutations(range(len(targets)))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(targets)), max_size=3)))
    columns = sorted(data.draw(st.lists(st.integers(0, len(space)), max_size=4)))
    parts = []
    for rows in torch.tensor_split(order, cuts):
        part = CZSLEvaluator(space, **options)
        part.update_chunks(torch.tensor_split(scores[rows], columns, dim=1), targets[rows])
        parts.append(part)
    merged = parts[0]
    for part in parts[1:]:
        merged.merge_(part)
    assert len(merged) == len(targets)
    same(merged.compute(), whole.compute())
    assert torch.equal(merged.state()["target"], targets[order])

    states = [part.state() for part in (whole, merged)]
    gathered = {name: torch.cat([state[name] for state in states]) for name in states[0]}
    twice = CZSLEvaluator(space, **options)
    twice.load_state(gathered)
    assert len(twice) == 2 * len(targets)
    assert twice.compute().seen == whole.compute().seen
    assert twice.compute().attribute == whole.compute().attribute


def test_one_pass_serves_both_protocols():
    case = make_case(8)
    evaluator = CZSLEvaluator(case[0], candidates=case[1])
    evaluator.update(*case[2:])
    same(evaluator.compute("legacy"), evaluate(*case, protocol="legacy"))
    same(evaluator.compute(), evaluate(*case))
    evaluator.reset()
    assert len(evaluator) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("protocol", ["exact", "legacy"])
def test_other_dtypes_count_at_their_value(dtype, protocol):
    space, candidates, scores, targets = make_case(9)
    low = scores.to(torch.bfloat16 if dtype == torch.bfloat16 else torch.float16).to(dtype)
    same(
        evaluate(space, candidates, low, targets, protocol=protocol),
        evaluate(space, candidates, low.float(), targets, protocol=protocol),
    )


def test_kept_numbers_do_not_grow_with_compositions():
    small, large = make_case(10), make_case(10, attributes=20, objects=30, world="open")
    sizes = []
    for space, candidates, scores, targets in (small, large):
        evaluator = CZSLEvaluator(space, candidates=candidates)
        evaluator.update(scores, targets)
        sizes.append(sum(value.numel() for value in evaluator.state().values()))
    assert sizes[0] == sizes[1] == 9 * 60


def test_candidates_as_mask_columns_or_pairs():
    space, mask, scores, targets = make_case(11)
    columns = torch.where(mask)[0]
    pairs = [space.pairs[i] for i in columns.tolist()]
    for candidates in (columns, columns.int(), pairs):
        same(evaluate(space, candidates, scores, targets), evaluate(space, mask, scores, targets))


def test_empty_batches_are_harmless():
    space, candidates, scores, targets = make_case(12)
    evaluator = CZSLEvaluator(space, candidates=candidates)
    evaluator.update(scores[:0], targets[:0])
    evaluator.update(scores, targets)
    same(evaluator.compute(), evaluate(space, candidates, scores, targets))


def test_recalls_are_counted_by_label():
    space, candidates, scores, targets = make_case(13, world="open")
    result = evaluate(space, candidates, scores, targets)
    predicted = space.pair_indices[scores.argmax(1)]
    truth = space.pair_indices[targets]
    for side, (names, recall) in enumerate(
        ((space.attributes, result.attribute_recall), (space.objects, result.object_recall))
    ):
        for index, name in enumerate(names):
            of = truth[:, side] == index
            if of.any():
                hits = (predicted[of, side] == index).double()
                assert recall[name] == pytest.approx(float(hits.mean()))
            else:
                assert name not in recall


@settings(max_examples=15, deadline=None)
@given(cases, st.sampled_from(["exact", "legacy"]), st.sampled_from(["exclude", "legacy"]))
def test_all_feasibility_thresholds_in_one_pass(case, protocol, rule):
    space, candidates, scores, targets = case
    generator = torch.Generator().manual_seed(0)
    feasible = (torch.rand(len(space), generator=generator) * 8).round() / 4 - 1  # ties, ≤ 0 too
    feasible = feasible.masked_fill(space.seen_mask, 0.0)
    thresholds = torch.linspace(-1, 1.1, 12)
    evaluator = CZSLEvaluator(
        space,
        protocol=protocol,
        candidates=candidates,
        feasibility=Feasibility(feasible, thresholds, rule),
    )
    middle = len(space) // 2
    evaluator.update_chunks([scores[:, :middle], scores[:, middle:]], targets)
    results = evaluator.compute_thresholds()
    for result, threshold in zip(results, thresholds.tolist(), strict=True):
        masked = mask_infeasible(scores, feasible, threshold, space.seen_mask, rule)
        expected = evaluate(space, candidates, masked, targets, protocol=protocol)
        assert result.threshold == threshold
        kept = candidates & ((feasible >= threshold) | space.seen_mask)
        assert result.candidates == int(kept.sum())
        own = {"threshold": threshold, "candidates": int(kept.sum())}
        assert result.to_dict(details=True) == {**expected.to_dict(details=True), **own}
        if rule == "legacy" and protocol == "legacy" and threshold in thresholds[[1, 7]].tolist():
            for name, value in reference(published, space, candidates, masked, targets).items():
                assert getattr(result, name) == value, name
    best = evaluator.compute()
    assert best.auc == max(result.auc for result in results)
    assert best.threshold == next(r.threshold for r in results if r.auc == best.auc)


def test_result_prints_and_converts():
    result = evaluate(*make_case(14))
    assert "exact protocol" in str(result)
    header, _, row = result.table().splitlines()
    assert header.split() == ["protocol", "S", "U", "HM", "AUC", "attribute", "object"]
    assert row.split() == ["exact"] + [
        f"{100 * value:.2f}"
        for value in (
            *(result.seen, result.unseen, result.hm, result.auc),
            *(result.attribute, result.object),
        )
    ]
    assert evaluate(*make_case(14), protocol="legacy").table().splitlines()[2].startswith("legacy")
    frame = result.to_frame()
    assert frame.loc[0, "auc"] == result.auc
    assert frame.loc[0, "protocol"] == "exact"
    values = json.loads(json.dumps(result.to_dict(details=True), allow_nan=False))
    assert values["curve"]["bias"][0] == "-inf"
    assert values["curve"]["seen"] == result.curve["seen"].tolist()
    assert values["hm"] == pytest.approx(hmean([values["hm_seen"], values["hm_unseen"]]))
    assert result.seen_samples + result.unseen_samples == 60
    with pytest.raises(AttributeError):
        result.auc = 1.0


class TestErrors:
    space = CompositionSpace.closed_world(
        train=[("x", "p"), ("y", "q")], test=[("x", "q"), ("y", "p")]
    )
    scores = torch.tensor([[0.4, 0.3, 0.2, 0.1]])

    def evaluator(self, **options):
        return CZSLEvaluator(self.space, **options)

    def test_protocol(self):
        with pytest.raises(ValueError, match="protocol is 'old': give 'exact' or 'legacy'"):
            self.evaluator(protocol="old")
        with pytest.raises(ValueError, match="protocol is 'old'"):
            self.evaluator().compute("old")

    @pytest.mark.parametrize(
        ("candidates", "message"),
        [
            ([("x", "p")], r"candidates hold no unseen composition \(of 2 in the space\)"),
            ([("x", "q")], r"candidates hold no seen composition \(of 2 in the space\)"),
            (torch.ones(3, dtype=torch.bool), r"mask of shape \[3\]: expected \[4\]"),
            (torch.tensor([0, 4]), "column outside 0 … 3"),
            (torch.tensor([-1]), "column outside 0 … 3"),
            (torch.ones(4), r"torch.float32 tensor of shape \[4\]: give a bool mask"),
            ([("x", "z")], r"\('x', 'z'\) is not among the 4 pairs"),
        ],
    )
    def test_candidates(self, candidates, message):
        with pytest.raises(ValueError, match=message):
            self.evaluator(candidates=candidates)

    def test_space_without_unseen_compositions(self):
        space = CompositionSpace.closed_world(train=[("x", "p")])
        with pytest.raises(ValueError, match="no unseen composition"):
            CZSLEvaluator(space)

    @pytest.mark.parametrize(
        ("scores", "targets", "error", "message"),
        [
            (torch.zeros(1, 3), [0], ValueError, "3 columns for a space of 4 compositions"),
            (torch.zeros(1, 5), [0], ValueError, "5 columns for a space of 4 compositions"),
            (torch.zeros(2, 4), [0], ValueError, r"shape \[2, 4\] for 1 targets"),
            (torch.zeros(4), [0], ValueError, r"scores have shape \[4\]"),
            (torch.zeros(1, 4, dtype=torch.int64), [0], TypeError, "scores are torch.int64"),
            (torch.zeros(1, 4), [4], ValueError, "target 4 is outside the space of 4"),
            (torch.zeros(1, 4), [-1], ValueError, "target -1 is outside the space of 4"),
            (torch.zeros(1, 4), [0.0], TypeError, "targets are torch.float32"),
            (torch.zeros(1, 4), [[0]], ValueError, r"targets have shape \[1, 1\]"),
        ],
    )
    def test_update(self, scores, targets, error, message):
        with pytest.raises(error, match=message):
            self.evaluator().update(scores, torch.tensor(targets))

    def test_chunks_must_make_up_the_space(self):
        with pytest.raises(ValueError, match="0 columns for a space of 4"):
            self.evaluator().update_chunks([], torch.tensor([0]))
        with pytest.raises(ValueError, match="6 columns for a space of 4"):
            self.evaluator().update_chunks([self.scores[:, :2]] * 3, torch.tensor([0]))

    @pytest.mark.parametrize("column", range(4))
    @pytest.mark.parametrize("target", range(4))
    @pytest.mark.parametrize(("value", "name"), [(math.nan, "NaN"), (math.inf, r"\+inf")])
    def test_wrong_scores(self, column, target, value, name):
        scores = self.scores.clone()
        scores[0, column] = value
        for chunks in ([scores], scores.split(1, dim=1)):
            evaluator = self.evaluator()
            with pytest.raises(ValueError, match=f"scores hold {name} in 1 of 1 samples"):
                evaluator.update_chunks(chunks, torch.tensor([target]))
            assert len(evaluator) == 0

    @pytest.mark.parametrize("target", range(4))
    def test_all_seen_candidates_masked(self, target):
        scores = self.scores.masked_fill(self.space.seen_mask, -math.inf)
        with pytest.raises(ValueError, match="all seen candidates are -inf in 1 samples"):
            self.evaluator().update(scores, torch.tensor([target]))

    def test_a_masked_unseen_label_is_never_predicted(self):
        scores = self.scores.expand(2, -1).masked_fill(~self.space.seen_mask, -math.inf)
        result = evaluate(self.space, None, scores, torch.tensor([0, 1]))
        assert (result.seen, result.unseen, result.auc, result.hm) == (1, 0, 0, 0)
        assert result.bias == -math.inf

    def test_target_that_is_no_candidate(self):
        evaluator = self.evaluator(candidates=[("x", "p"), ("y", "q"), ("x", "q")])
        with pytest.raises(ValueError, match=r"target \('y', 'p'\) is not among the candidates"):
            evaluator.update(self.scores, torch.tensor([self.space.index("y", "p")]))

    def test_no_sample(self):
        evaluator = self.evaluator()
        for call in (evaluator.compute, evaluator.state):
            with pytest.raises(ValueError, match=r"no sample to evaluate: call update\(\) first"):
                call()
        evaluator.update(self.scores, torch.tensor([0]))
        with pytest.raises(ValueError, match="no sample of unseen compositions among 1"):
            evaluator.compute()
        evaluator.reset()
        evaluator.update(self.scores, torch.tensor([1]))
        with pytest.raises(ValueError, match="no sample of seen compositions among 1"):
            evaluator.compute()

    def test_merge_of_unlike_evaluators(self):
        feasibility = Feasibility(torch.tensor([0.0, 0.5, 0.2, 0.0]), torch.tensor([0.3]))
        for other in (
            CZSLEvaluator(self.space.open_world(), candidates=torch.tensor([0, 1])),
            CZSLEvaluator(self.space, feasibility=feasibility),
        ):
            with pytest.raises(ValueError, match="merge evaluators made alike"):
                self.evaluator().merge_(other)

    def test_load_state(self):
        evaluator = self.evaluator()
        evaluator.update(self.scores, torch.tensor([0]))
        state = evaluator.state()
        feasibility = Feasibility(torch.tensor([0.0, 0.5, 0.2, 0.0]), torch.tensor([0.3]))
        with pytest.raises(ValueError, match=r"made with 0 feasibility thresholds, .* has 1"):
            self.evaluator(feasibility=feasibility).load_state(state)
        del state["target"]
        with pytest.raises(ValueError, match="state has the entries"):
            evaluator.load_state(state)

    def test_feasibility_of_another_space(self):
        with pytest.raises(ValueError, match="feasibility has 3 scores for 4 compositions"):
            self.evaluator(feasibility=Feasibility(torch.zeros(3), torch.tensor([0.3])))
        with pytest.raises(ValueError, match="feasibility must be 0 at seen compositions"):
            self.evaluator(feasibility=Feasibility(torch.ones(4), torch.tensor([0.3])))
