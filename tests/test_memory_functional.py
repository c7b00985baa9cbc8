"""Eq. 9 and 10 as plain functions, against slow loops and closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from czsl_sac.functional.memory import (
    memory_logits,
    prediction_entropy,
    prototype_similarities,
    start_memory,
    store_sample,
)

MODES = ("first_replaced", "until_full", "permanent")


def random_slots(seed, compositions=3, capacity=4, dim=5):
    """Unit vectors in the slots that are taken, at least one per composition."""
    generator = torch.Generator().manual_seed(seed)
    shape = (compositions, capacity)
    slots = torch.randn(*shape, dim, generator=generator, dtype=torch.float64)
    valid = torch.rand(shape, generator=generator) < 0.6
    valid[:, 0] = True
    slots = torch.nn.functional.normalize(slots, dim=-1) * valid.unsqueeze(-1)
    features = torch.randn(2, dim, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(features, dim=-1), slots, valid


# Entropy


def test_entropy_is_that_of_the_definition():
    probabilities = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.7, 0.1, 0.1, 0.1]])
    expected = [-sum(p * math.log(p) for p in row if p > 0) for row in probabilities.tolist()]
    torch.testing.assert_close(prediction_entropy(probabilities), torch.tensor(expected))


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_entropy_runs_from_zero_to_ln_c(size):
    uniform = torch.full((size,), 1 / size, dtype=torch.float64)
    assert prediction_entropy(uniform).item() == pytest.approx(math.log(size))
    assert prediction_entropy(torch.eye(size)[0]).item() == 0.0


def test_entropy_of_half_precision_is_computed_in_float32():
    probabilities = torch.randn(3, 5000, generator=torch.Generator().manual_seed(0)).softmax(-1)
    low = probabilities.bfloat16()
    entropy = prediction_entropy(low)
    assert entropy.dtype == torch.float32
    torch.testing.assert_close(entropy, prediction_entropy(low.double()).float())
    assert prediction_entropy(low.double()).dtype == torch.float64


# Update


@given(
    entropies=st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), max_size=12),
    capacity=st.integers(1, 4),
    mode=st.sampled_from(MODES),
)
@settings(max_examples=60, deadline=None)
def test_a_composition_keeps_the_lowest_by_entropy_then_arrival(entropies, capacity, mode):
    capacity += mode == "permanent"
    slots = start_memory(torch.eye(2), capacity, text_slot=mode)
    for arrival, entropy in enumerate(entropies):
        feature = torch.tensor([1.0, float(arrival + 1)])
        ranks = [(e, a) for a, e in enumerate(entropies[:arrival])]
        better = sum(rank < (entropy, arrival) for rank in ranks)
        before = slots
        slots, stored = store_sample(slots, feature, 1, entropy, arrival, text_slot=mode)
        assert stored == (better < capacity - (mode == "permanent"))
        assert stored or slots is before

    room = capacity - (mode == "permanent")
    kept = sorted(sorted(range(len(entropies)), key=lambda a: (entropies[a], a))[:room])
    arrivals = slots.arrivals[1][slots.valid[1]].tolist()
    assert sorted(a for a in arrivals if a >= 0) == kept
    text_stays = {
        "first_replaced": not entropies,
        "until_full": len(entropies) < capacity,
        "permanent": True,
    }[mode]
    assert (-1 in arrivals) == text_stays
    for slot in slots.valid[1].nonzero().flatten().tolist():
        arrival = slots.arrivals[1, slot].item()
        if arrival >= 0:
            expected = torch.tensor([1.0, arrival + 1.0])
            torch.testing.assert_close(slots.features[1, slot], expected / expected.norm())
            assert slots.entropies[1, slot].item() == pytest.approx(entropies[arrival])
    # The other composition is as it was.
    assert slots.arrivals[0].eq(-1).all()
    assert slots.valid[0].tolist() == [True] + [False] * (capacity - 1)


def test_storing_leaves_the_given_bank_alone():
    slots = start_memory(torch.eye(2), 2)
    copy = [values.clone() for values in slots]
    store_sample(slots, torch.tensor([0.0, 1.0]), 0, 0.1, 0)
    for values, before in zip(slots, copy, strict=True):
        assert torch.equal(values, before)


def test_at_a_tie_the_newest_of_the_most_uncertain_leaves():
    slots = start_memory(torch.eye(2), 2)
    for arrival, entropy in enumerate([0.5, 0.5, 0.5, 0.4]):
        slots, stored = store_sample(slots, torch.ones(2), 0, entropy, arrival)
        assert stored == (arrival != 2)
    assert sorted(slots.arrivals[0].tolist()) == [0, 3]


# Prediction


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("empty_slots", ["masked", "zeros"])
@pytest.mark.parametrize("seed", range(3))
def test_logits_are_those_of_a_loop(seed, empty_slots, normalized):
    features, slots, valid = random_slots(seed)
    got = memory_logits(
        7 * features,
        slots,
        valid,
        retrieval_temperature=0.3,
        temperature=0.02,
        empty_slots=empty_slots,
        normalize_prototypes=normalized,
    )
    for b, feature in enumerate(features):
        for c in range(len(slots)):
            weights = [math.exp(float(feature @ slot) / 0.3) for slot in slots[c]]  # of zeros: 1
            taken = [w for w, used in zip(weights, valid[c], strict=True) if used]
            share = sum(taken) / (sum(weights) if empty_slots == "zeros" else sum(taken))
            prototype = sum(w * slot for w, slot in zip(taken, slots[c][valid[c]], strict=True))
            prototype = prototype / (prototype.norm() if normalized else sum(taken))
            torch.testing.assert_close(got[b, c], feature @ prototype * share / 0.02)


@pytest.mark.parametrize("normalized", [True, False])
def test_zero_vectors_dilute_the_retrieval(normalized):
    features, slots, valid = random_slots(1)
    wider = torch.cat([slots, torch.zeros(3, 20, 5, dtype=slots.dtype)], dim=1)
    more = torch.cat([valid, torch.zeros(3, 20, dtype=torch.bool)], dim=1)
    masked = memory_logits(features, slots, valid, normalize_prototypes=normalized)
    zeros, further = (
        memory_logits(features, *bank, empty_slots="zeros", normalize_prototypes=normalized)
        for bank in ((slots, valid), (wider, more))
    )
    again = memory_logits(features, wider, more, normalize_prototypes=normalized)
    torch.testing.assert_close(again, masked)
    assert (further.abs() < zeros.abs()).all()  # Tab. 11: more slots, weaker retrieval
    assert (zeros.abs() <= masked.abs()).all()
    assert (further.abs() < 0.5 * masked.abs()).any()


@pytest.mark.parametrize("normalized", [True, False])
def test_gradient_in_the_features(normalized):
    features, slots, valid = random_slots(2)

    def logits(v):
        return memory_logits(v, slots, valid, temperature=0.5, normalize_prototypes=normalized)

    assert torch.autograd.gradcheck(logits, features.requires_grad_())


@given(
    seed=st.integers(0, 1000),
    normalized=st.booleans(),
    empty_slots=st.sampled_from(["masked", "zeros"]),
    temperature=st.sampled_from([0.05, 0.1, 1.0]),
)
@settings(max_examples=30, deadline=None)
def test_closed_form_equals_the_prototypes(seed, normalized, empty_slots, temperature):
    features, slots, valid = random_slots(seed)
    expected = memory_logits(
        features,
        slots,
        valid,
        retrieval_temperature=temperature,
        temperature=1.0,
        empty_slots=empty_slots,
        normalize_prototypes=normalized,
    )
    similarities = torch.einsum("cnd,bd->cnb", slots, features)
    got = prototype_similarities(
        similarities,
        valid,
        retrieval_temperature=temperature,
        gram=slots @ slots.mT if normalized else None,
        empty=(~valid).sum(1) if empty_slots == "zeros" else None,
    )
    torch.testing.assert_close(got.T, expected, rtol=1e-6, atol=1e-8)


def test_closed_form_stays_a_cosine_where_slots_cancel_out():
    frame, _ = torch.linalg.qr(torch.randn(200, 7, 3))
    v, x, y = frame.unbind(dim=-1)
    third = 2 * math.pi / 3
    slots = [math.cos(i * third) * x + math.sin(i * third) * y for i in range(3)]
    slots = torch.stack(slots, dim=1)  # orthogonal to v: but for rounding, their mean is zero
    similarities = slots @ v.unsqueeze(2)
    taken = torch.ones(200, 3, dtype=torch.bool)
    got = prototype_similarities(similarities, taken, gram=slots @ slots.mT)
    assert got.abs().max() <= 1.00001


# Errors


def test_errors_say_what_came_and_what_was_expected():
    with pytest.raises(
        ValueError, match="text_slot is 'first' but must be one of first_replaced, until_full"
    ):
        start_memory(torch.eye(2), 2, text_slot="first")
    with pytest.raises(
        ValueError, match=r"text is torch.float32 of shape \[2, 1, 3\] but must be .* \[C, D\]"
    ):
        start_memory(torch.ones(2, 1, 3), 2)
    with pytest.raises(
        ValueError, match=r"text is torch\.int64 of shape \[2, 3\] but must be floating point"
    ):
        start_memory(torch.ones(2, 3, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match="capacity is 0 but must be at least 1"):
        start_memory(torch.eye(2), 0)
    with pytest.raises(ValueError, match="capacity is 1 but must be at least 2"):
        start_memory(torch.eye(2), 1, text_slot="permanent")
    with pytest.raises(ValueError, match="text has a row that is zero or not finite"):
        start_memory(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), 2)
    slots = start_memory(torch.eye(2), 2)
    with pytest.raises(ValueError, match="text_slot is 'never'"):
        store_sample(slots, torch.ones(2), 0, 0.1, 0, text_slot="never")
    with pytest.raises(ValueError, match="empty_slots is 'none' but must be one of masked, zeros"):
        memory_logits(torch.ones(1, 2), slots.features, slots.valid, empty_slots="none")
    with pytest.raises(ValueError, match=r"features has shape \[1, 3\] and slots \[2, 2, 2\] but"):
        memory_logits(torch.ones(1, 3), slots.features, slots.valid)
    with pytest.raises(ValueError, match=r"valid has shape \[2\] but must be \[2, 2\]"):
        memory_logits(torch.ones(1, 2), slots.features, slots.valid[:, 0])
    with pytest.raises(ValueError, match="valid has a composition without a slot but"):
        memory_logits(torch.ones(1, 2), slots.features, torch.zeros(2, 2, dtype=torch.bool))
