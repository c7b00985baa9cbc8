"""What a memory bank stores and takes back, what it holds in memory, and what it refuses."""

import io

import pytest
import torch
from test_memory_bank import DIM, MODES, contents, filled, stream, texts

from czsl_sac.blocks import memory_bank as memory_bank_file
from czsl_sac.blocks.memory_bank import EntropyMemoryBank


@pytest.mark.parametrize("mode", MODES)
def test_state_goes_through_a_file_into_a_bank_of_another_size(mode):
    bank, other = filled(text_slot=mode), filled(seed=1, samples=3, text_slot=mode)
    file = io.BytesIO()
    torch.save(bank.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert contents(other) == contents(bank)
    query = torch.randn(3, DIM, dtype=torch.float64)
    assert torch.equal(other(query), bank(query))
    # It goes on as the first would have.
    for each in (bank, other):
        each.update(*stream(7, 20, 6))
    assert contents(other) == contents(bank)
    assert other.num_seen == bank.num_seen == 60


def test_state_is_as_large_as_what_is_stored():
    bank = EntropyMemoryBank(texts(6), 16)
    for seed in range(9):
        bank.update(*stream(seed, 7, 6))
    state = bank.state_dict()
    assert state["pool.features"].shape == (63, DIM)
    assert state["pool.features"].untyped_storage().nbytes() == 63 * DIM * 8
    assert not any("gram" in name or "group" in name for name in state)


def test_state_of_another_capacity_or_text_is_refused():
    bank = filled()
    with pytest.raises(
        RuntimeError, match=r"saved bank has capacity=5 .* must have capacity=4 and"
    ):
        EntropyMemoryBank(texts(6), 4).load_state_dict(bank.state_dict())
    with pytest.raises(RuntimeError, match="text_slot='first_replaced' but must have"):
        EntropyMemoryBank(texts(6), 5, text_slot="until_full").load_state_dict(bank.state_dict())
    with pytest.raises(RuntimeError, match="size mismatch for text"):
        EntropyMemoryBank(texts(7), 5).load_state_dict(bank.state_dict())


def test_an_incomplete_state_is_refused():
    state = filled().state_dict()
    del state["pool.entropies"]
    with pytest.raises(RuntimeError, match=r"Missing key.*pool\.entropies"):
        EntropyMemoryBank(texts(6), 5).load_state_dict(state)
    state = filled().state_dict()
    state["pool.classes"] = state["pool.classes"][:-1]
    with pytest.raises(RuntimeError, match="size mismatch for pool"):
        EntropyMemoryBank(texts(6), 5).load_state_dict(state)


def test_conversion_never_touches_what_orders_the_samples():
    bank, exact = filled(), filled()
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        bank.to(dtype)
        assert bank.text.dtype == bank.pool.features.dtype == dtype
        assert bank.pool.gram.dtype == torch.float32
        assert torch.equal(bank.pool.entropies, exact.pool.entropies)
        assert bank.pool.classes.dtype == bank.num_seen.dtype == torch.int64
        rows = bank.pool.rows.float()
        same = bank.pool.classes.unsqueeze(0) == bank.pool.classes.unsqueeze(1)
        products = (rows @ rows.mT)[same].sort().values
        sizes = bank.counts()[bank.pool.classes]
        held = torch.cat([row[:n] for row, n in zip(bank.pool.gram, sizes, strict=True)])
        torch.testing.assert_close(held.sort().values, products)
    bank.bfloat16().update(*stream(3, 20, 6))
    exact.update(*stream(3, 20, 6))
    assert torch.equal(bank.pool.entropies, exact.pool.entropies)
    query = torch.randn(3, DIM)
    torch.testing.assert_close(bank(query), exact(query).float(), rtol=0.05, atol=1.0)
    assert bank.double()(query).dtype == torch.float64


def test_half_precision_text_in_chunks(monkeypatch):
    bank = filled().bfloat16()
    query = torch.randn(3, DIM)
    expected = query / query.norm(dim=-1, keepdim=True) @ bank.text.float().mT / 0.01
    monkeypatch.setattr(memory_bank_file, "_MAX_ROWS", 4)
    bank.reset()
    torch.testing.assert_close(bank(query), expected)


def test_a_bank_filled_in_inference_mode_serves_outside():
    with torch.inference_mode():
        bank = filled()
        bank.reset()
        bank.update(*stream(0, 30, 6))
        bank.merge_(filled(seed=1))
    query = torch.randn(2, DIM, dtype=torch.float64, requires_grad=True)
    bank(query).sum().backward()
    assert query.grad is not None
    bank.update(*stream(2, 30, 6))


def test_memory_grows_with_the_samples_alone():
    text = torch.randn(50_000, 64)
    bank = EntropyMemoryBank(text, 16)
    winners = torch.arange(200) % 90
    probabilities = torch.zeros(200, 50_000)
    probabilities[torch.arange(200), winners] = 1.0
    for batch in zip(torch.randn(200, 64).split(8), probabilities.split(8), strict=True):
        bank.update(*batch)
    stored = sum(values.numel() * values.element_size() for values in bank.buffers())
    assert stored < 1.2 * text.numel() * text.element_size()
    text_bytes = bank.text.numel() * 4
    # A sample costs its vector, its inner products, its index and what doubling leaves spare.
    assert stored - text_bytes < 2 * 200 * (64 * 4 + 16 * 4 + 64)


def test_the_text_is_a_copy():
    text = texts(3)
    bank = EntropyMemoryBank(text, 2)
    before = bank.text.clone()
    text.zero_()
    assert torch.equal(bank.text, before)


def test_repr_tells_the_settings():
    assert repr(filled(samples=3)).startswith(
        "EntropyMemoryBank(\n  compositions=6, dim=4, capacity=5, retrieval_temperature=0.1, "
        "temperature=0.01, text_slot='first_replaced', empty_slots='masked', "
        "normalize_prototypes=True, samples=3"
    )


# Errors


def test_errors_of_the_constructor():
    with pytest.raises(ValueError, match="text_slot is 'never' but must be one of first_replaced"):
        EntropyMemoryBank(torch.eye(2), 2, text_slot="never")
    with pytest.raises(ValueError, match="empty_slots is 'skip' but must be one of masked, zeros"):
        EntropyMemoryBank(torch.eye(2), 2, empty_slots="skip")
    with pytest.raises(ValueError, match=r"retrieval_temperature is 0\.0 but must be above 0"):
        EntropyMemoryBank(torch.eye(2), 2, retrieval_temperature=0.0)
    with pytest.raises(ValueError, match="temperature is nan but"):
        EntropyMemoryBank(torch.eye(2), 2, temperature=float("nan"))


def test_errors_of_the_inputs_leave_the_bank_unchanged():
    bank = filled()
    before, seen = contents(bank), int(bank.num_seen)
    ones, sixth = torch.ones(2, DIM), torch.full((2, 6), 1 / 6)
    with pytest.raises(ValueError, match=r"features has shape \[2, 3\] but must be \[B, 4\]"):
        bank(ones[:, :3])
    with pytest.raises(ValueError, match=r"features has shape \[4\] but must be"):
        bank.update(ones[0], sixth)
    with pytest.raises(ValueError, match=r"probabilities has shape \[2, 5\] but must be \[2, 6\]"):
        bank.update(ones, sixth[:, :5])
    for value in (float("nan"), float("inf"), -0.1, 30.0, 1.0):
        broken = sixth.clone()
        broken[1, 2] = value
        with pytest.raises(ValueError, match=r"probabilities has in row 1 .* but must hold"):
            bank.update(ones, broken)
    for broken in (0 * sixth, 2 * sixth, sixth.log()):
        with pytest.raises(
            ValueError, match=r"probabilities has in row 0 .* none negative and 1 in"
        ):
            bank.update(ones, broken)
    with pytest.raises(ValueError, match="features has an entry that is NaN or infinite"):
        bank.update(ones / 0, sixth)
    assert contents(bank) == before
    assert bank.num_seen == seen


def test_errors_of_merging():
    bank = filled()
    with pytest.raises(ValueError, match="other's capacity is 4 but must be 5 as here"):
        bank.merge_(filled(capacity=4))
    with pytest.raises(ValueError, match="other's text_slot is 'permanent' but must be"):
        bank.merge_(filled(text_slot="permanent"))
    with pytest.raises(ValueError, match="other's text is another one but must be the same"):
        bank.merge_(EntropyMemoryBank(texts(6, seed=1), 5))
    with pytest.raises(ValueError, match=r"text has shape \[6, 4\] but must be \[5, 4\]"):
        bank.adopt_(filled(), torch.arange(5))
    with pytest.raises(ValueError, match=r"index outside \[-1, 6\)"):
        bank.adopt_(filled(), torch.arange(1, 7))
    with pytest.raises(ValueError, match=r"composition is 6 but must lie in \[0, 6\)"):
        bank.slots(6)
