"""The composition space: attributes, objects, compositions, and which of them are seen."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

Pair = tuple[str, str]

_GIVE = "give (attribute, object) compositions"


class CompositionSpace:
    """Attributes, objects and the compositions (pairs) of the two, in a fixed order.

    The order of `pairs` is the column order of every `[B, C]` tensor in this package: logits,
    probabilities, scores, masks. A space never changes after it is made; treat its tensors as
    read-only. They live on the CPU.

    Args:
        attributes: the A attribute names, no name twice.
        objects: the O object names, no name twice.
        pairs: the C compositions, each `(attribute, object)`, no pair twice.
        seen: the compositions that have training images; every one is among `pairs`. May be empty
            (a zero-shot model without training), but such a space cannot be evaluated.

    Raises:
        TypeError: a name is not a string, or a pair is not two strings.
        ValueError: a list is empty, a name or a pair comes twice, a pair holds an unknown name, or
            a seen pair is not among `pairs`.

    Examples:
        >>> space = CompositionSpace(
        ...     ["ripe", "unripe"], ["apple", "mango"],
        ...     pairs=[("ripe", "apple"), ("ripe", "mango"), ("unripe", "apple")],
        ...     seen=[("ripe", "apple"), ("unripe", "apple")],
        ... )
        >>> space
        CompositionSpace(attributes=2, objects=2, pairs=3, seen=2)
        >>> space.pair_indices.tolist(), space.seen_mask.tolist()
        ([[0, 0], [0, 1], [1, 0]], [True, False, True])
        >>> space.index("ripe", "mango")
        1
        >>> len(space.open_world())
        4
    """

    def __init__(
        self,
        attributes: Iterable[str],
        objects: Iterable[str],
        pairs: Iterable[Sequence[str]],
        seen: Iterable[Sequence[str]],
    ) -> None:
        self._attributes = _names(attributes, "attributes")
        self._objects = _names(objects, "objects")
        self._pairs = _pairs(pairs, "pairs")
        if not self._pairs:
            raise ValueError(f"pairs is empty but must hold one at least: {_GIVE}.")
        _no_repeats(self._pairs, "pairs")
        self._columns = {pair: column for column, pair in enumerate(self._pairs)}

        rows = {name: row for row, name in enumerate(self._attributes)}
        columns = {name: column for column, name in enumerate(self._objects)}
        for attribute, obj in self._pairs:
            for name, known, kind in ((attribute, rows, "attribute"), (obj, columns, "object")):
                if name not in known:
                    raise ValueError(
                        f"pairs holds ({attribute!r}, {obj!r}) but {name!r} is not among the "
                        f"{len(known)} {kind}s and must be: add it there or leave the pair out."
                    )
        self._pair_indices = torch.tensor(
            [(rows[attribute], columns[obj]) for attribute, obj in self._pairs], dtype=torch.int64
        )

        seen_pairs = _pairs(seen, "seen")
        _no_repeats(seen_pairs, "seen")
        for pair in seen_pairs:
            if pair not in self._columns:
                raise ValueError(
                    f"seen holds {pair!r} but must hold some of the {len(self)} pairs: add it to "
                    "pairs or leave it out of seen."
                )
        self._seen_mask = self.mask(seen_pairs)
        self._seen = tuple(sorted(seen_pairs, key=self._columns.__getitem__))

    @classmethod
    def closed_world(
        cls,
        train: Iterable[Sequence[str]],
        val: Iterable[Sequence[str]] = (),
        test: Iterable[Sequence[str]] = (),
    ) -> "CompositionSpace":
        """Make the space of a data set from its pair lists, as the field does it.

        Pairs, attributes and objects are the sorted unions of the three lists (a pair may stand in
        several lists); seen are the pairs of `train`.

        Args:
            train: compositions with training images.
            val: compositions of the validation split.
            test: compositions of the test split.

        Raises:
            TypeError: a pair is not two strings.
            ValueError: `train` is empty.

        Examples:
            >>> CompositionSpace.closed_world(
            ...     train=[("ripe", "mango"), ("unripe", "apple")], test=[("ripe", "apple")]
            ... ).pairs
            (('ripe', 'apple'), ('ripe', 'mango'), ('unripe', 'apple'))
        """
        seen = set(_pairs(train, "train"))
        if not seen:
            raise ValueError(f"train is empty but must hold one at least: {_GIVE}.")
        pairs = seen.union(_pairs(val, "val"), _pairs(test, "test"))
        return cls(
            sorted({attribute for attribute, _ in pairs}),
            sorted({obj for _, obj in pairs}),
            sorted(pairs),
            sorted(seen),
        )

    def open_world(self) -> "CompositionSpace":
        """Return the space of all A·O compositions, attribute-major, with the same seen ones."""
        pairs = product(self._attributes, self._objects)
        return CompositionSpace(self._attributes, self._objects, pairs, self._seen)

    @property
    def attributes(self) -> tuple[str, ...]:
        """The A attribute names, in order."""
        return self._attributes

    @property
    def objects(self) -> tuple[str, ...]:
        """The O object names, in order."""
        return self._objects

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The C compositions `(attribute, object)`, in column order."""
        return self._pairs

    @property
    def seen(self) -> tuple[Pair, ...]:
        """The compositions that have training images, in column order."""
        return self._seen

    @property
    def pair_indices(self) -> Tensor:
        """`[C, 2]` int64: attribute index and object index of each composition."""
        return self._pair_indices

    @property
    def seen_mask(self) -> Tensor:
        """`[C]` bool: True where the composition is seen."""
        return self._seen_mask

    def index(self, attribute: str, object: str) -> int:
        """Return the column of a composition.

        Raises:
            ValueError: the space does not hold this composition.
        """
        try:
            return self._columns[attribute, object]
        except KeyError:
            raise ValueError(
                f"the composition ({attribute!r}, {object!r}) is not among the {len(self)} pairs "
                "of this space but must be: check the spelling, or use open_world() for all pairs."
            ) from None

    def indices(self, pairs: Iterable[Sequence[str]]) -> Tensor:
        """Return the columns of K compositions, `[K]` int64, in the order given.

        Args:
            pairs: the K compositions, each `(attribute, object)`.

        Raises:
            ValueError: the space does not hold one of them.
        """
        columns = [self.index(attribute, obj) for attribute, obj in _pairs(pairs, "pairs")]
        return torch.tensor(columns, dtype=torch.int64)

    def mask(self, pairs: Iterable[Sequence[str]]) -> Tensor:
        """Return `[C]` bool, True at the given compositions: a mask of candidates.

        Args:
            pairs: compositions, each `(attribute, object)`.

        Raises:
            ValueError: the space does not hold one of them.
        """
        mask = torch.zeros(len(self), dtype=torch.bool)
        mask[self.indices(pairs)] = True
        return mask

    def to_dict(self) -> dict[str, Any]:
        """Return the space as plain JSON types, for configurations and checkpoints."""
        return {
            "attributes": list(self._attributes),
            "objects": list(self._objects),
            "pairs": self._pair_indices.tolist(),
            "seen": self._seen_mask.nonzero().flatten().tolist(),
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "CompositionSpace":
        """Make the space that `to_dict` described.

        Raises:
            ValueError: an entry is missing or an index is out of range.
        """
        missing = [
            key for key in ("attributes", "objects", "pairs", "seen") if state.get(key) is None
        ]
        if missing:
            raise ValueError(
                f"state lacks {', '.join(missing)} but must have all entries: pass what "
                "CompositionSpace.to_dict() returned."
            )
        attributes, objects = state["attributes"], state["objects"]
        try:
            pairs = [(_at(attributes, a), _at(objects, o)) for a, o in state["pairs"]]
            seen = [_at(pairs, column) for column in state["seen"]]
        except IndexError as error:
            raise ValueError(
                f"state holds {error} but must hold indices of its own lists: pass what "
                "CompositionSpace.to_dict() returned."
            ) from None
        return cls(attributes, objects, pairs, seen)

    def __len__(self) -> int:
        return len(self._pairs)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CompositionSpace):
            return NotImplemented
        return (self._attributes, self._objects, self._pairs, self._seen) == (
            other._attributes,
            other._objects,
            other._pairs,
            other._seen,
        )

    def __hash__(self) -> int:
        return hash((self._attributes, self._objects, self._pairs, self._seen))

    def __repr__(self) -> str:
        return (
            f"CompositionSpace(attributes={len(self._attributes)}, objects={len(self._objects)}, "
            f"pairs={len(self._pairs)}, seen={len(self._seen)})"
        )


def _names(names: Iterable[str], argument: str) -> tuple[str, ...]:
    if isinstance(names, str):
        raise TypeError(f"{argument} is the string {names!r} but must be names: give a list.")
    result = tuple(names)
    for name in result:
        if not isinstance(name, str):
            raise TypeError(
                f"{argument} holds {name!r} ({type(name).__name__}) but must hold strings: convert "
                "it."
            )
        if not name.strip():
            raise ValueError(f"{argument} holds an empty name but must not: remove it.")
    if not result:
        raise ValueError(f"{argument} is empty but must hold one at least: give names.")
    _no_repeats(result, argument)
    return result


def _pairs(pairs: Iterable[Sequence[str]], argument: str) -> tuple[Pair, ...]:
    if isinstance(pairs, str):
        raise TypeError(f"{argument} is the string {pairs!r} but must be pairs: give a list.")
    result = []
    for pair in pairs:
        if (
            not isinstance(pair, (tuple, list))
            or len(pair) != 2
            or not all(isinstance(name, str) for name in pair)
        ):
            raise TypeError(
                f"{argument} holds {pair!r} but must hold pairs of two strings: give (attribute, "
                "object)."
            )
        result.append((pair[0], pair[1]))
    return tuple(result)


def _no_repeats(items: tuple[Any, ...], argument: str) -> None:
    known = set()
    for item in items:
        if item in known:
            raise ValueError(f"{argument} holds {item!r} twice but must once: list each once.")
        known.add(item)


def _at(items: Sequence[Any], index: int) -> Any:
    # A negative index would silently count from the end.
    if not 0 <= index < len(items):
        raise IndexError(f"index {index} of {len(items)}")
    return items[index]
