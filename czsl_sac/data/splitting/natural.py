"""A natural split of one's own images: some compositions unseen, every attribute and object seen.

In the manner of the field's `compositional-split-natural`: validation and test each hold
compositions that training does not, beside fresh images of compositions that it does.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from czsl_sac.data.protocol import SplitName
from czsl_sac.words import counted, some

if TYPE_CHECKING:
    from czsl_sac.space import Pair


@dataclass(frozen=True)
class SplitShares:
    """How much of a data set goes where.

    Attributes:
        unseen_val: compositions that only validation has, as a share of all.
        unseen_test: compositions that only test has, as a share of all.
        seen_val: images of each seen composition that go to validation.
        seen_test: images of each seen composition that go to test.

    Raises:
        ValueError: a share is not above 0, or two that belong together add up to 1 or more.
    """

    unseen_val: float = 0.15
    unseen_test: float = 0.2
    seen_val: float = 0.1
    seen_test: float = 0.15

    def __post_init__(self) -> None:
        for kind in ("unseen", "seen"):
            shares = [getattr(self, f"{kind}_{split}") for split in ("val", "test")]
            if not (min(shares) > 0 and sum(shares) < 1):
                raise ValueError(
                    f"{kind}_val and {kind}_test are {shares[0]} and {shares[1]} but must be above "
                    "0 and add up to less than 1: change them."
                )


def choose_unseen(
    pairs: "Sequence[Pair]", shares: SplitShares, generator: np.random.Generator
) -> "tuple[list[Pair], list[Pair]]":
    """Choose the unseen ones of different compositions, for validation and for test, at random.

    Every attribute and every object stays in at least one seen composition. Where that leaves
    fewer unseen ones than the shares ask for, validation and test divide them in proportion.

    Returns:
        Unseen compositions of validation, and of test.

    Raises:
        ValueError: fewer than two compositions can be unseen.
    """
    order = [sorted(pairs)[i] for i in generator.permutation(len(pairs))]
    attributes = Counter(attribute for attribute, _ in order)
    objects = Counter(obj for _, obj in order)
    wanted_val = max(1, round(shares.unseen_val * len(order)))
    wanted = wanted_val + max(1, round(shares.unseen_test * len(order)))
    unseen: list[Pair] = []
    for attribute, obj in order:
        if len(unseen) < wanted and attributes[attribute] > 1 and objects[obj] > 1:
            attributes[attribute] -= 1
            objects[obj] -= 1
            unseen.append((attribute, obj))
    if len(unseen) < 2:
        raise ValueError(
            f"of {counted(len(order), 'composition')} {len(unseen)} can be unseen while every "
            "attribute and every object stays in a seen one, but validation and test need one "
            "each: add images of attributes on further objects."
        )
    number_val = min(max(1, round(len(unseen) * wanted_val / wanted)), len(unseen) - 1)
    return sorted(unseen[:number_val]), sorted(unseen[number_val:])


def natural_split(
    pairs: "Sequence[Pair]",
    groups: Sequence[int],
    *,
    shares: SplitShares | None = None,
    seed: int = 0,
) -> list[SplitName | None]:
    """Give each image a split.

    Images of a group stay on one side. A group with images of an unseen composition goes where
    that composition goes; if it has images of both kinds, the test's, and its images of
    validation's unseen compositions are left out. All other groups of a seen composition are
    drawn at random.

    Args:
        pairs: composition of each image.
        groups: number of each image's group of near-duplicates.
        shares: how much goes where; None takes the default.
        seed: decides; the same images and seed make the same split.

    Returns:
        A split for each image, or None for one that is left out.

    Raises:
        ValueError: there are too few compositions or images, or a composition cannot keep an image
            of its own.

    Examples:
        >>> pairs = [(a, o) for a in ("ripe", "green") for o in ("apple", "fig", "pear")] * 5
        >>> splits = natural_split(pairs, range(30))
        >>> seen = {pair for split, pair in zip(splits, pairs) if split == "train"}
        >>> sorted({*pairs} - seen)
        [('green', 'pear'), ('ripe', 'apple')]
    """
    shares = shares or SplitShares()
    generator = np.random.default_rng(seed)
    unseen_val, unseen_test = choose_unseen(list(dict.fromkeys(pairs)), shares, generator)
    home: dict[Pair, SplitName] = {pair: "val" for pair in unseen_val}
    home |= {pair: "test" for pair in unseen_test}

    members: dict[int, list[int]] = defaultdict(list)
    for image, group in enumerate(groups):
        members[group].append(image)
    side: dict[int, SplitName] = {}
    free: dict[Pair, list[int]] = defaultdict(list)
    for group, images in members.items():
        homes = {home[pairs[image]] for image in images if pairs[image] in home}
        if homes:
            side[group] = "test" if "test" in homes else "val"
        else:
            free[pairs[images[0]]].append(group)
    for pair in sorted(free):
        side |= _deal(free[pair], members, shares, generator)

    splits = [
        None if home.get(pair, side[group]) != side[group] else side[group]
        for pair, group in zip(pairs, groups, strict=True)
    ]
    _check(pairs, splits, home)
    return splits


def _deal(
    groups: list[int],
    members: dict[int, list[int]],
    shares: SplitShares,
    generator: np.random.Generator,
) -> dict[int, SplitName]:
    """Deal a seen composition's groups: test and val take their share, training the rest."""
    shuffled = [groups[i] for i in generator.permutation(len(groups))]
    # The largest group stays in training, so that there always is something to learn from.
    largest = max(shuffled, key=lambda group: len(members[group]))
    total = sum(len(members[group]) for group in groups)
    side: dict[int, SplitName] = {largest: "train"}
    dealt: Counter[SplitName] = Counter()
    wanted: dict[SplitName, float] = {
        "test": shares.seen_test * total,
        "val": shares.seen_val * total,
    }
    for group in shuffled:
        if group == largest:
            continue
        size = len(members[group])
        fits = (split for split in wanted if dealt[split] + size / 2 <= wanted[split])
        side[group] = next(fits, "train")
        dealt[side[group]] += size
    return side


def _check(
    pairs: "Sequence[Pair]",
    splits: Sequence[SplitName | None],
    home: "dict[Pair, SplitName]",
) -> None:
    kept = {(pair, split) for pair, split in zip(pairs, splits, strict=True)}
    lost = sorted({" ".join(pair) for pair in pairs if (pair, home.get(pair, "train")) not in kept})
    if lost:
        raise ValueError(
            f"{counted(len(lost), 'composition')} would be left without an image, since all are "
            f"near-duplicates of images on the other side: {some(lost)}. Remove repeated images, "
            "pass a smaller --near-duplicates, or try another --seed."
        )
    for split in ("val", "test"):
        if not any(own == split and pair not in home for pair, own in kept):
            raise ValueError(
                f"no image of a seen composition is left for {split}, which needs some: add images "
                f"of each composition, or ask for a larger share with --seen-{split}."
            )
