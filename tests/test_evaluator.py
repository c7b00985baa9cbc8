"""What the evaluator keeps, and that neither batches nor chunks nor processes matter."""

import json

import numpy as np
import pytest
import torch
from evaluation_cases import cases, evaluate, make_case, published, reference, same
from hypothesis import given, settings
from hypothesis import strategies as st
from long_form import MANY
from scipy.stats import hmean

from czsl_sac.evaluation import CZSLEvaluator, Feasibility, mask_infeasible
from czsl_sac.space import CompositionSpace


@settings(max_examples=25 * MANY, deadline=None)
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
        merged.merge_state(part)
    assert len(merged) == len(targets)
    same(merged.compute(), whole.compute())
    assert torch.equal(merged.state()["target"], targets[order])

    states = [part.state() for part in (whole, merged)]
    gathered = {name: torch.cat([state[name] for state in states]) for name in states[0]}
    twice = CZSLEvaluator(space, **options)
    twice.merge_state(gathered)
    assert len(twice) == 2 * len(targets)
    assert twice.compute().seen == whole.compute().seen
    assert twice.compute().attribute == whole.compute().attribute


def test_rows_summarized_elsewhere_count_as_updates() -> None:
    space, candidates, scores, targets = make_case(15)
    here, there = (CZSLEvaluator(space, candidates=candidates) for _ in range(2))
    for rows in torch.arange(len(targets)).split(25):
        summary = there.summarize(scores[rows].split(3, dim=1), targets[rows])
        assert {len(values) for values in summary.values()} == {len(rows)}
        here.merge_state(summary)
    assert len(there) == 0
    same(here.compute(), evaluate(space, candidates, scores, targets))


def test_one_pass_serves_both_protocols():
    case = make_case(8)
    evaluator = CZSLEvaluator(case[0], candidates=case[1])
    evaluator.update(*case[2:])
    same(evaluator.compute(protocol="legacy"), evaluate(*case, protocol="legacy"))
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


@pytest.mark.parametrize("grid", [None, 4.0])
def test_what_is_kept_are_the_maxima_over_rivals(grid):
    space, candidates, scores, targets = make_case(18, samples=200, grid=grid)
    evaluator = CZSLEvaluator(space, candidates=candidates)
    evaluator.update_chunks(scores.split(4, dim=1), targets)
    kept = evaluator.state()
    columns = torch.arange(len(space))
    rival, before = columns != targets[:, None], columns < targets[:, None]
    for kind, of_kind in (("seen", space.seen_mask), ("unseen", ~space.seen_mask)):
        for name, where in (("rival", rival), ("before", before)):
            expected = scores.masked_fill(~(where & of_kind & candidates), -torch.inf).amax(1)
            assert torch.equal(kept[f"{kind}_{name}"].flatten(), expected.double()), (kind, name)


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


@settings(max_examples=15 * MANY, deadline=None)
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
        masked = mask_infeasible(scores, feasible, threshold, space.seen_mask, rule=rule)
        expected = evaluate(space, candidates, masked, targets, protocol=protocol)
        assert result.threshold == threshold
        kept = candidates & ((feasible >= threshold) | space.seen_mask)
        assert result.candidates == int(kept.sum())
        own = {"threshold": threshold, "candidates": int(kept.sum())}
        own["unseen_candidates"] = int((kept & ~space.seen_mask).sum())
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
    header, _, row, chance = result.table().splitlines()
    assert header.split() == ["protocol", "S", "U", "HM", "AUC", "attribute", "object"]
    assert row.split() == ["exact"] + [
        f"{100 * value:.2f}"
        for value in (
            *(result.seen, result.unseen, result.hm, result.auc),
            *(result.attribute, result.object),
        )
    ]
    assert chance.split() == [
        "chance",
        *(f"{100 * value:.2f}" for value in result.chance().named().values()),
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


def test_arrays_and_lists_count_as_tensors() -> None:
    space, candidates, scores, targets = make_case(16)
    expected = evaluate(space, candidates, scores, targets)
    for convert in (
        lambda values: values.numpy(),
        lambda values: values.tolist(),
        lambda values: values.numpy()[::-1][::-1],  # strides that torch does not take as they are
        lambda values: [*values.numpy()],
    ):
        same(evaluate(space, candidates, convert(scores), convert(targets)), expected)
    for low in (np.float16, np.float64):
        array = scores.numpy().astype(low)
        got = evaluate(space, candidates, array, targets)
        same(got, evaluate(space, candidates, torch.from_numpy(array), targets))


def test_lists_keep_all_their_digits() -> None:
    space = CompositionSpace.closed_world([("x", "p")], test=[("y", "p"), ("z", "p")])
    rows, targets = [[0.5, 1.0, 1.0 + 1e-12], [3.0, 1.0, 2.0]], [2, 0]  # equal in float32
    assert evaluate(space, None, rows, targets).unseen == 1.0


def test_old_names_of_merge_state() -> None:
    space, candidates, scores, targets = make_case(17)
    whole = CZSLEvaluator(space, candidates=candidates)
    whole.update(scores, targets)
    for old, incoming in (
        ("merge_", whole),
        ("add_state", whole.state()),
        ("load_state", whole.state()),
    ):
        other = CZSLEvaluator(space, candidates=candidates)
        with pytest.warns(DeprecationWarning, match=f"CZSLEvaluator.{old} is now .*merge_state"):
            getattr(other, old)(incoming)
        same(other.compute(), whole.compute())
    with pytest.warns(DeprecationWarning, match="compute's protocol is given by position"):
        same(whole.compute("legacy"), whole.compute(protocol="legacy"))
