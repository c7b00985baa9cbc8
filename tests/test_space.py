import json
import pickle
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from czsl_sac.space import CompositionSpace

PAIRS = [("wet", "dog"), ("dry", "cat"), ("wet", "cat")]


@pytest.fixture
def space() -> CompositionSpace:
    return CompositionSpace(["wet", "dry"], ["dog", "cat"], PAIRS, [PAIRS[2], PAIRS[0]])


def test_keeps_the_order_given(space):
    assert space.attributes == ("wet", "dry")
    assert space.objects == ("dog", "cat")
    assert space.pairs == tuple(PAIRS)
    assert space.seen == (PAIRS[0], PAIRS[2])
    assert space.pair_indices.tolist() == [[0, 0], [1, 1], [0, 1]]
    assert space.pair_indices.dtype == torch.int64
    assert space.seen_mask.tolist() == [True, False, True]
    assert len(space) == 3
    assert repr(space) == "CompositionSpace(attributes=2, objects=2, pairs=3, seen=2)"


def test_closed_world_is_the_sorted_union():
    space = CompositionSpace.closed_world(
        train=[("wet", "dog"), ("dry", "cat"), ("wet", "dog")],
        val=[("wet", "dog"), ("wet", "cat")],
        test=[("old", "bus")],
    )
    assert space.attributes == ("dry", "old", "wet")
    assert space.objects == ("bus", "cat", "dog")
    assert space.pairs == (("dry", "cat"), ("old", "bus"), ("wet", "cat"), ("wet", "dog"))
    assert space.seen == (("dry", "cat"), ("wet", "dog"))


def test_open_world_is_attribute_major_with_the_same_seen(space):
    world = space.open_world()
    assert world.pairs == tuple(product(space.attributes, space.objects))
    assert set(world.seen) == set(space.seen)
    assert world.pair_indices.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert world.open_world() == world


def test_index_indices_mask(space):
    assert space.index("wet", "cat") == 2
    assert space.indices([PAIRS[2], PAIRS[0], PAIRS[2]]).tolist() == [2, 0, 2]
    assert space.indices([]).dtype == torch.int64
    assert space.mask([PAIRS[1], PAIRS[1]]).tolist() == [False, True, False]
    assert space.mask([]).tolist() == [False] * 3
    with pytest.raises(ValueError, match=r"\('dry', 'dog'\) is not among the 3 pairs"):
        space.index("dry", "dog")
    with pytest.raises(ValueError, match=r"\('dry', 'dog'\) is not among the 3 pairs"):
        space.mask([PAIRS[0], ("dry", "dog")])


names = st.lists(st.text(min_size=1, max_size=3).filter(str.strip), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(names.map(set).map(list), names.map(set).map(list), st.data())
def test_round_trips(attributes, objects, data):
    everything = list(product(attributes, objects))
    pairs = data.draw(st.lists(st.sampled_from(everything), min_size=1, unique=True))
    seen = data.draw(st.lists(st.sampled_from(pairs), unique=True))
    space = CompositionSpace(attributes, objects, pairs, seen)
    for copy in (
        CompositionSpace.from_dict(json.loads(json.dumps(space.to_dict()))),
        pickle.loads(pickle.dumps(space)),
    ):
        assert copy == space
        assert hash(copy) == hash(space)
        assert copy.seen_mask.tolist() == [pair in set(seen) for pair in pairs]
    for column, (attribute, obj) in enumerate(pairs):
        assert space.index(attribute, obj) == column
        a, o = space.pair_indices[column].tolist()
        assert (attributes[a], objects[o]) == (attribute, obj)


def test_equality_sees_every_part(space):
    wet, dog = ["wet", "dry"], ["dog", "cat"]
    assert space == CompositionSpace(wet, dog, PAIRS, [PAIRS[0], PAIRS[2]])
    assert space != CompositionSpace(wet, dog, PAIRS, PAIRS)
    assert space != CompositionSpace(wet, dog, PAIRS[::-1], [PAIRS[0], PAIRS[2]])
    assert space != CompositionSpace(wet[::-1], dog, PAIRS, [PAIRS[0], PAIRS[2]])
    assert space != "space"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"attributes": []}, ValueError, "attributes is empty but must hold one at least"),
        ({"objects": []}, ValueError, "objects is empty"),
        ({"pairs": []}, ValueError, "pairs is empty"),
        ({"attributes": "wet"}, TypeError, "attributes is the string 'wet' but must be names"),
        (
            {"attributes": ["wet", 3]},
            TypeError,
            r"attributes holds 3 \(int\) but must hold strings",
        ),
        (
            {"attributes": ["wet", "dry", "wet"]},
            ValueError,
            "attributes holds 'wet' twice but must once",
        ),
        ({"objects": ["dog", "cat", " "]}, ValueError, "objects holds an empty name"),
        ({"pairs": [*PAIRS, PAIRS[0]]}, ValueError, r"pairs holds \('wet', 'dog'\) twice"),
        ({"seen": [PAIRS[0], PAIRS[0]]}, ValueError, r"seen holds \('wet', 'dog'\) twice"),
        ({"pairs": [*PAIRS, ("hot", "dog")]}, ValueError, "'hot' is not among the 2 attributes"),
        ({"pairs": [*PAIRS, ("wet", "bus")]}, ValueError, "'bus' is not among the 2 objects"),
        (
            {"seen": [("dry", "dog")]},
            ValueError,
            r"seen holds \('dry', 'dog'\) but must hold some of the 3",
        ),
        ({"pairs": ["ab", "cd"]}, TypeError, "pairs holds 'ab' but must hold pairs of two strings"),
        ({"pairs": [("wet", "dog", "x")]}, TypeError, "but must hold pairs of two strings"),
        ({"pairs": [("wet", 1)]}, TypeError, "but must hold pairs of two strings"),
        ({"seen": "wet dog"}, TypeError, "seen is the string 'wet dog'"),
    ],
)
def test_errors_say_what_is_wrong(change, error, message):
    arguments = {
        "attributes": ["wet", "dry"],
        "objects": ["dog", "cat"],
        "pairs": PAIRS,
        "seen": [],
    }
    with pytest.raises(error, match=message):
        CompositionSpace(**{**arguments, **change})


def test_closed_world_needs_training_pairs():
    with pytest.raises(ValueError, match="train is empty"):
        CompositionSpace.closed_world([], val=PAIRS)


def test_from_dict_errors(space):
    state = space.to_dict()
    with pytest.raises(ValueError, match="state lacks seen"):
        CompositionSpace.from_dict({key: state[key] for key in ("attributes", "objects", "pairs")})
    for change in ({"pairs": [[0, 9]]}, {"pairs": [[-1, 0]]}, {"seen": [7]}):
        with pytest.raises(
            ValueError, match=r"state holds index .* but must hold indices of its own lists"
        ):
            CompositionSpace.from_dict({**state, **change})
