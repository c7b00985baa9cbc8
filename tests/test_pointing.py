"""Pointing accuracy: equal to a loop, with its chance, over batches and processes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from czsl_sac.evaluation import Pointing, PointingResult
from czsl_sac.evaluation.pointing import patch_coverage


def cases(seed, number, side, cell):
    """Numbers of best patches and random masks, some of them empty."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(number, side * cell, side * cell, generator=generator) < 0.3
    masks[::3] = False
    masks[0, :cell] = True  # at least one object shows
    best = torch.randint(side * side, (number,), generator=generator)
    return best, masks


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 4), st.integers(1, 5))
def test_equals_a_loop(seed, number, side, cell):
    best, masks = cases(seed, number, side, cell)
    pointing = Pointing(min_coverage=0.3)
    pointing.update(best, masks, patches=side * side)
    hits, shares = [], []
    for chosen, mask in zip(best.tolist(), masks, strict=True):
        on = [
            float(mask[r * cell : (r + 1) * cell, c * cell : (c + 1) * cell].double().mean()) > 0.3
            for r in range(side)
            for c in range(side)
        ]
        if any(on):
            hits.append(on[chosen])
            shares.append(sum(on) / len(on))
    result = pointing.compute()
    assert result.accuracy == pytest.approx(sum(hits) / len(hits))
    assert result.chance == pytest.approx(sum(shares) / len(shares))
    assert (result.samples, result.left_out) == (len(hits), number - len(hits))


def test_batches_and_processes_add_up():
    best, masks = cases(3, 12, 4, 2)
    whole, parts, rest, gathered = Pointing(), Pointing(), Pointing(), Pointing()
    whole.update(best, masks, patches=16)
    for start in (0, 5):
        parts.update(best[start : start + 5], masks[start : start + 5], patches=16)
    rest.update(best[10:], masks[10:], patches=16)
    gathered.load_state(parts.state() + rest.state())
    assert gathered.compute() == whole.compute()
    assert parts.compute() != whole.compute()
    parts.reset()
    with pytest.raises(ValueError, match="no sample to evaluate"):
        parts.compute()


def test_random_patches_have_the_accuracy_of_chance():
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(4000, 8, 8, dtype=torch.bool)
    masks[:, :4, :4] = True
    pointing = Pointing()
    pointing.update(torch.randint(16, (4000,), generator=generator), masks, patches=16)
    result = pointing.compute()
    assert result.chance == 0.25
    assert abs(result.accuracy - 0.25) < 3 * result.standard_error


def test_masks_that_no_grid_divides():
    mask = torch.zeros(1, 5, 5, dtype=torch.bool)
    mask[0, :, :3] = True
    left, right = patch_coverage(mask, 4)[0, :2].tolist()
    assert left == 1.0
    assert right == pytest.approx(1 / 3)


def test_result_prints_both():
    assert str(PointingResult(0.5, 0.125, 8)) == "pointing 50.0 % (chance 12.5 %) of 8"
    assert PointingResult(0.5, 0.125, 100).standard_error == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"best": torch.zeros(2)}, TypeError, "best is torch.float32 but must be integer"),
        ({"best": torch.tensor([0])}, ValueError, r"best has shape \[1\] but must be \[2\]"),
        ({"best": torch.tensor([0, 4])}, ValueError, "best holds a number outside 0 … 3"),
        ({"patches": 5}, ValueError, r"masks has shape \[2, 4, 4\] for 5 patches"),
        ({"masks": torch.zeros(2, 4, 4)}, TypeError, "masks is torch.float32 but must be bool"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, error, message):
    given = {
        "best": torch.tensor([0, 1]),
        "masks": torch.ones(2, 4, 4, dtype=torch.bool),
        "patches": 4,
        **arguments,
    }
    with pytest.raises(error, match=message):
        Pointing().update(given["best"], given["masks"], patches=given["patches"])
    with pytest.raises(ValueError, match="min_coverage is 1 but must be below 1"):
        Pointing(min_coverage=1)
