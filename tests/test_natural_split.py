"""The natural split: what it promises for any compositions, images and groups."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from czsl_sac.data.splitting.natural import SplitShares, choose_unseen, natural_split

SIX = list(product(("green", "ripe"), ("apple", "fig", "pear")))


@settings(max_examples=100, deadline=None)
@given(data=st.data(), attributes=st.integers(2, 5), objects=st.integers(2, 5))
def test_promises_hold_for_any_images(data: st.DataObject, attributes: int, objects: int) -> None:
    every = [(f"a{a}", f"o{o}") for a in range(attributes) for o in range(objects)]
    chosen = data.draw(st.lists(st.sampled_from(every), min_size=3, unique=True))
    images = [pair for pair in chosen for _ in range(data.draw(st.integers(1, 8)))]
    groups = data.draw(st.lists(st.integers(0, 40), min_size=len(images), max_size=len(images)))
    seed = data.draw(st.integers(0, 9))
    try:
        splits = natural_split(images, groups, seed=seed)
    except ValueError:
        assume(False)
    assert splits == natural_split(images, groups, seed=seed)
    where = {name: {p for p, s in zip(images, splits, strict=True) if s == name} for name in splits}
    unseen = set(chosen) - where["train"]
    for place in (0, 1):  # every attribute, every object is seen
        assert {pair[place] for pair in where["train"]} == {pair[place] for pair in chosen}
    # An unseen composition is in one split; both have some.
    assert not unseen & where["val"] & where["test"]
    assert unseen & where["val"]
    assert unseen & where["test"]
    sides = {(g, s) for g, s in zip(groups, splits, strict=True) if s is not None}
    assert len(sides) == len({group for group, _ in sides})
    for name in ("val", "test"):  # and both are measured on seen compositions too
        assert where[name] & where["train"]
    # Only images of unseen compositions are ever left out.
    assert {p for p, s in zip(images, splits, strict=True) if s is None} <= unseen


def test_the_shares_are_met_where_they_can_be() -> None:
    pairs = list(product("abcdefghij", "klmnopqrst"))
    images = pairs * 20
    splits = natural_split(images, range(len(images)), shares=SplitShares(0.1, 0.3, 0.2, 0.25))
    number = Counter(zip(images, splits, strict=True))
    assert sum(number[pair, "val"] == 20 for pair in pairs) == 10
    assert sum(number[pair, "test"] == 20 for pair in pairs) == 30
    seen = [pair for pair in pairs if number[pair, "train"]]
    assert len(seen) == 60
    assert all(
        (number[p, "val"], number[p, "test"], number[p, "train"]) == (4, 5, 11) for p in seen
    )


def test_another_seed_is_another_split() -> None:
    images = SIX * 10
    first, second = (natural_split(images, range(60), seed=seed) for seed in (0, 1))
    assert first != second


def test_near_duplicates_follow_the_unseen_composition() -> None:
    images = SIX * 10
    unseen_val, unseen_test = choose_unseen(SIX, SplitShares(), np.random.default_rng(0))
    val, test = images.index(unseen_val[0]), images.index(unseen_test[0])
    seen = [i for i, p in enumerate(images) if p not in {*unseen_val, *unseen_test}]
    groups = list(range(60))
    groups[seen[0]] = val  # one group each: seen with val, seen with test, val with test
    groups[seen[1]] = test
    groups[val + 6] = groups[test + 6]
    splits = natural_split(images, groups)
    assert (splits[seen[0]], splits[seen[1]]) == ("val", "test")
    assert (splits[val + 6], splits[test + 6]) == (None, "test")


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("ripe", "apple"), ("green", "fig")], "of 2 compositions 0 can be unseen while every"),
        (SIX[:3], "of 3 compositions 0 can be unseen"),
        ([*SIX[:2], ("ripe", "fig")], "of 3 compositions 1 can be unseen"),
    ],
)
def test_too_few_compositions_are_refused(pairs: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        natural_split(pairs * 5, range(len(pairs) * 5))


def test_a_composition_without_an_image_of_its_own_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"5 compositions would be left without an image.*--near-duplicates"
    ):
        natural_split(SIX * 2, [0] * 12)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no image of a seen .* left for val, .*--seen-val"):
        natural_split(SIX * 2, range(12))


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"unseen_val": 0.0}, "unseen_val and unseen_test are 0.0 and 0.2 but must be above 0"),
        ({"seen_test": 0.9}, "seen_val and seen_test are 0.1 and 0.9 .* less than 1"),
        ({"seen_val": float("nan")}, "seen_val and seen_test are nan and"),
    ],
)
def test_impossible_shares_are_refused(shares: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SplitShares(**shares)
