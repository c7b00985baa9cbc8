"""The compact memory bank against the plain functions and a ten-line loop."""

import copy
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from long_form import MANY

from czsl_sac.blocks import memory_bank as memory_bank_file
from czsl_sac.blocks.memory_bank import EntropyMemoryBank
from czsl_sac.functional.memory import (
    memory_logits,
    prediction_entropy,
    start_memory,
    store_sample,
)

MODES = ("first_replaced", "until_full", "permanent")
DIM = 4


def ten_line_loop(classes, entropies, capacity):
    """Eq. 9 one by one with Python lists: positions in the stream that each class keeps."""
    kept, stored = {}, 0
    for arrival, (c, entropy) in enumerate(zip(classes, entropies, strict=True)):
        slots = kept.setdefault(c, [])
        worst = max(slots, default=None)  # the highest entropy, the newest of several
        if len(slots) == capacity and not entropy < worst[0]:
            continue
        if len(slots) == capacity:
            slots.remove(worst)
        slots.append((entropy, arrival))
        stored += 1
    return kept, stored


def stream(seed, samples, compositions):
    """Features and probabilities with few distinct entropies, many of them equal."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(samples, DIM, generator=generator, dtype=torch.float64)
    winners = torch.randint(compositions, (samples,), generator=generator)
    peaks = torch.tensor([0.6, 0.7, 0.8, 0.9], dtype=torch.float64)
    if compositions == 1:
        peaks = torch.ones_like(peaks)
    peaks = peaks[torch.randint(4, (samples,), generator=generator)]
    probabilities = ((1 - peaks) / max(1, compositions - 1)).unsqueeze(1)
    probabilities = probabilities.repeat(1, compositions)
    probabilities[torch.arange(samples), winners] = peaks
    return features, probabilities


def texts(compositions, seed=99):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(compositions, DIM, generator=generator, dtype=torch.float64)


def filled(seed=0, samples=40, compositions=6, capacity=5, **options):
    bank = EntropyMemoryBank(texts(compositions), capacity, **options)
    bank.update(*stream(seed, samples, compositions))
    return bank


def dense(bank, features, probabilities):
    """The same stream through the plain functions."""
    slots = start_memory(bank.text, bank.capacity, text_slot=bank.text_slot)
    for arrival, (feature, p) in enumerate(zip(features, probabilities, strict=True)):
        entropy = float(prediction_entropy(p).float())
        slots, _ = store_sample(
            slots, feature, int(p.argmax()), entropy, arrival, text_slot=bank.text_slot
        )
    return slots


def contents(bank):
    """All that two banks share if they hold the same, in an order that does not matter."""
    return [tuple(values.tolist() for values in bank.slots(c)) for c in range(len(bank.text))]


# Update


@given(
    seed=st.integers(0, 10_000),
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    compositions=st.integers(1, 4),
    capacity=st.integers(1, 5),
)
@settings(max_examples=60 * MANY, deadline=None)
def test_batches_equal_one_by_one(seed, sizes, compositions, capacity):
    features, probabilities = stream(seed, sum(sizes), compositions)
    bank = EntropyMemoryBank(texts(compositions), capacity)
    batches = zip(features.split(sizes), probabilities.split(sizes), strict=True)
    stored = sum(bank.update(*batch) for batch in batches)

    entropies = prediction_entropy(probabilities).float().tolist()
    kept, expected = ten_line_loop(probabilities.argmax(1).tolist(), entropies, capacity)
    assert stored == expected
    assert bank.num_samples == sum(map(len, kept.values()))
    assert bank.num_seen == len(features)
    unit = torch.nn.functional.normalize(features, dim=-1)
    for c in range(compositions):
        held, values, arrivals = bank.slots(c)
        if c not in kept:
            assert arrivals.tolist() == [-1]
            torch.testing.assert_close(held, bank.text[c, None])
            continue
        slots = sorted(kept[c], key=lambda slot: slot[1])
        assert arrivals.tolist() == [arrival for _, arrival in slots]
        assert values.tolist() == [entropy for entropy, _ in slots]
        assert torch.equal(held, unit[arrivals])
    assert bank.counts().tolist() == [len(kept.get(c, [])) for c in range(compositions)]


@given(
    seed=st.integers(0, 10_000),
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    capacity=st.integers(1, 4),
    mode=st.sampled_from(MODES),
)
@settings(max_examples=25 * MANY, deadline=None)
def test_batches_equal_the_plain_functions_in_every_mode(seed, sizes, capacity, mode):
    capacity += mode == "permanent"
    features, probabilities = stream(seed, sum(sizes), 3)
    bank = EntropyMemoryBank(texts(3), capacity, text_slot=mode)
    one_by_one = EntropyMemoryBank(texts(3), capacity, text_slot=mode)
    batches = zip(features.split(sizes), probabilities.split(sizes), strict=True)
    stored = sum(bank.update(*batch) for batch in batches)
    singles = zip(features.split(1), probabilities.split(1), strict=True)
    assert stored == sum(one_by_one.update(*single) for single in singles)
    assert contents(bank) == contents(one_by_one)
    slots = dense(bank, features, probabilities)
    for c in range(3):
        order = slots.arrivals[c].masked_fill(~slots.valid[c], 10_000).argsort()
        order = order[: slots.valid[c].sum()]
        held, entropies, arrivals = bank.slots(c)
        assert arrivals.tolist() == slots.arrivals[c, order].tolist()
        assert entropies.tolist() == slots.entropies[c, order].tolist()
        torch.testing.assert_close(held, slots.features[c, order])


@given(
    seed=st.integers(0, 10_000),
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    capacity=st.integers(1, 4),
    mode=st.sampled_from(MODES),
    pairwise=st.booleans(),
)
@settings(max_examples=30 * MANY, deadline=None)
def test_any_partition_merges_into_the_whole(seed, sizes, capacity, mode, pairwise):
    capacity += mode == "permanent"
    features, probabilities = stream(seed, sum(sizes), 3)
    whole = EntropyMemoryBank(texts(3), capacity, text_slot=mode)
    whole.update(features, probabilities)
    parts = []
    for part in zip(features.split(sizes), probabilities.split(sizes), strict=True):
        parts.append(EntropyMemoryBank(texts(3), capacity, text_slot=mode))
        parts[-1].update(*part)
    if pairwise and len(parts) > 2:  # a + (b + c + ...)
        for part in parts[2:]:
            parts[1].merge_(part)
        parts = parts[:2]
    for part in parts[1:]:
        assert parts[0].merge_(part) is parts[0]
    assert contents(parts[0]) == contents(whole)
    assert parts[0].num_seen == whole.num_seen
    query = torch.randn(3, DIM, dtype=torch.float64)
    torch.testing.assert_close(parts[0](query), whole(query))


def test_the_lowest_index_wins_a_tie_of_the_probabilities():
    bank = EntropyMemoryBank(torch.eye(3), 2)
    bank.update(torch.ones(1, 3), torch.tensor([[0.2, 0.4, 0.4]]))
    assert bank.counts().tolist() == [0, 1, 0]


def test_the_count_holds_samples_that_did_not_last():
    bank = EntropyMemoryBank(torch.eye(2), 1)
    probabilities = torch.tensor([[0.6, 0.4], [0.7, 0.3], [0.65, 0.35], [0.9, 0.1]])
    assert bank.update(torch.ones(4, 2), probabilities) == 3
    assert bank.slots(0)[2].tolist() == [3]
    assert bank.num_samples == 1


def test_reset_forgets_everything():
    bank, fresh = (
        filled(text_slot="permanent"),
        EntropyMemoryBank(texts(6), 5, text_slot="permanent"),
    )
    bank.reset()
    assert contents(bank) == contents(fresh)
    assert bank.num_seen == 0
    query = torch.randn(2, DIM, dtype=torch.float64)
    torch.testing.assert_close(bank(query), fresh(query))


def test_adopting_a_bank_over_other_compositions():
    features, probabilities = stream(0, 30, 3)
    seen = EntropyMemoryBank(texts(5)[[4, 0, 2]], 4)
    seen.update(features, probabilities)
    target = EntropyMemoryBank(texts(5), 3)  # another capacity
    later, later_p = stream(1, 20, 5)
    target.adopt_(seen, torch.tensor([4, -1, 2])).update(later, later_p)
    assert target.num_seen == 50

    kept = probabilities.argmax(1) != 1
    moved = torch.zeros(30, 5, dtype=torch.float64)
    moved[:, [4, 0, 2]] = probabilities
    order = prediction_entropy(probabilities).float()
    reference = EntropyMemoryBank(texts(5), 3)
    reference.update(features[kept], moved[kept])
    reference.update(later, later_p)
    for c in range(5):
        got, expected = target.slots(c), reference.slots(c)
        torch.testing.assert_close(got[0], expected[0])
        assert got[1].tolist() == expected[1].tolist()
    assert order.min() == target.pool.entropies.min()


# Prediction


@given(
    seed=st.integers(0, 10_000),
    samples=st.integers(0, 24),
    capacity=st.integers(1, 7),
    mode=st.sampled_from(MODES),
    empty_slots=st.sampled_from(["masked", "zeros"]),
    normalized=st.booleans(),
    retrieval_temperature=st.sampled_from([0.05, 0.1, 1.0]),
)
@settings(max_examples=50 * MANY, deadline=None)
def test_prediction_equals_the_dense_one(
    seed, samples, capacity, mode, empty_slots, normalized, retrieval_temperature
):
    capacity += mode == "permanent"
    options = {
        "retrieval_temperature": retrieval_temperature,
        "temperature": 0.5,
        "empty_slots": empty_slots,
        "normalize_prototypes": normalized,
    }
    features, probabilities = stream(seed, samples, 5)
    bank = EntropyMemoryBank(texts(5), capacity, text_slot=mode, **options)
    bank.update(features[: samples // 2], probabilities[: samples // 2])
    bank.update(features[samples // 2 :], probabilities[samples // 2 :])
    slots = dense(bank, features, probabilities)
    query = 3 * torch.randn(4, DIM, dtype=torch.float64)
    expected = memory_logits(query, slots.features, slots.valid, **options)
    torch.testing.assert_close(bank(query), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("mode", MODES)
def test_images_in_chunks_give_the_same(mode, monkeypatch):
    bank = filled(text_slot=mode)
    query = torch.randn(7, DIM, dtype=torch.float64)
    expected = bank(query)
    monkeypatch.setattr(memory_bank_file, "_MAX_SIMILARITIES", 70)
    torch.testing.assert_close(bank(query), expected)


def test_no_image():
    bank = filled()
    assert bank(torch.zeros(0, DIM)).shape == (0, 6)
    assert bank.update(torch.zeros(0, DIM), torch.zeros(0, 6)) == 0


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("normalized", [True, False])
def test_gradient_reaches_the_features_alone(training, normalized):
    bank = filled(normalize_prototypes=normalized, temperature=0.5, retrieval_temperature=0.5)
    bank.train(training)
    query = torch.randn(3, DIM, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(bank, query)
    assert not any(values.requires_grad for values in bank.state_dict().values())


@pytest.mark.parametrize("name", ["temperature", "retrieval_temperature"])
def test_temperatures_may_be_tensors_and_learned(name):
    query = torch.randn(3, DIM, dtype=torch.float64)
    expected = filled(**{name: 0.5})
    moved = filled(**{name: torch.tensor(0.5, dtype=torch.float64)})
    learned = filled(**{name: torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))})
    torch.testing.assert_close(moved(query), expected(query))
    assert float(moved.state_dict()[name]) == 0.5
    assert name not in expected.state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert repr(learned) == repr(moved) == repr(expected)
    learned(query).square().sum().backward()
    parameter = getattr(learned, name)
    step = 1e-6
    low, high = (filled(**{name: 0.5 + s})(query).square().sum() for s in (-step, step))
    assert float(parameter.grad) == pytest.approx(float(high - low) / (2 * step), rel=1e-5)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_derivatives_of_every_order_and_direction():
    bank = filled()
    features = stream(1, 3, 6)[0].requires_grad_()
    ways = {"check_forward_ad": True, "check_batched_grad": True}
    assert torch.autograd.gradcheck(bank, features, **ways)
    assert torch.autograd.gradgradcheck(bank, features, check_fwd_over_rev=True)
    torch.testing.assert_close(torch.func.jacfwd(bank)(features), torch.func.jacrev(bank)(features))


@pytest.mark.filterwarnings("ignore:for .*copying from a non-meta parameter")
def test_the_meta_device_gives_shapes_while_no_sample_decides_them():
    bank = EntropyMemoryBank(texts(6).to("meta"), capacity=5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = bank(torch.empty(3, DIM, device="meta"))
    assert (logits.device.type, logits.shape) == ("meta", (3, 6))
    full = filled()
    before = {name: value.clone() for name, value in full.state_dict().items()}
    with pytest.raises(ValueError, match=r"stored samples is meta but must be a real one"):
        full.to("meta")
    for name, value in full.state_dict().items():
        assert torch.equal(value, before[name])
    with pytest.raises(ValueError, match=r"stored samples is meta but must be a real one"):
        bank.load_state_dict(before)


def test_float32_is_close_to_float64():
    bank = filled(samples=80)
    query = torch.randn(5, DIM, dtype=torch.float64)
    expected = bank(query)
    got = copy.deepcopy(bank).float()(query.float())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected.float(), rtol=1e-4, atol=1e-3)


def test_autocast_changes_nothing():
    bank = filled().float()
    other = copy.deepcopy(bank)
    query, (features, probabilities) = torch.randn(5, DIM), stream(5, 20, 6)
    bank.update(features.float(), probabilities)
    expected = bank(query)
    with torch.autocast("cpu", torch.bfloat16):
        other.update(features.float(), probabilities)
        got = other(query)
        assert other(query.bfloat16()).dtype == torch.float32
    assert got.dtype == torch.float32
    assert torch.equal(got, expected)
    assert torch.equal(other.pool.gram, bank.pool.gram)


@pytest.mark.parametrize("normalized", [True, False])
def test_compiles_whole(normalized):
    torch._dynamo.reset()
    bank = filled(empty_slots="zeros", normalize_prototypes=normalized).float()
    query = torch.randn(3, DIM)
    compiled = torch.compile(bank, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(query), bank(query))


def test_updates_soon_cease_to_compile_anew():
    torch._dynamo.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    bank = filled(samples=60, compositions=40, capacity=9).float()
    compiled = torch.compile(bank, fullgraph=True, backend=backend)
    query = torch.randn(3, DIM)
    for seed in range(12):  # beyond the limit of 8 at which fullgraph gives up
        torch.testing.assert_close(compiled(query), bank(query))
        bank.update(*stream(seed, 10, 40))
    assert len(graphs) <= 5


def test_a_copy_goes_its_own_way():
    bank = filled()
    other, before, query = copy.deepcopy(bank), contents(bank), torch.ones(1, DIM)
    expected = bank(query)
    other.update(*stream(3, 40, 6))
    assert contents(bank) == before != contents(other)
    assert torch.equal(bank(query), expected)
    assert not torch.equal(other(query), expected)


# State
