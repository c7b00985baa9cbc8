"""Any configuration of any method survives JSON, and any other JSON is refused in a sentence."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from czsl_sac import CompositionSpace
from czsl_sac.methods.registry import method_names, method_options
from czsl_sac.training.config import BackboneConfig, DataConfig, OptimConfig, TrainConfig
from czsl_sac.training.record import RunRecord, differences
from czsl_sac.training.run_folder import RunFolder

SPACE = CompositionSpace.closed_world([("red", "car"), ("blue", "cat")])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


def values_of(annotation: Any) -> st.SearchStrategy:
    """Values that an annotation allows, and a few that lie out of their range."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, UnionType):
        return st.one_of(*map(values_of, arguments))
    if origin is tuple:
        return st.lists(values_of(arguments[0]), max_size=4).map(tuple)
    return {
        bool: st.booleans(),
        int: st.integers(0, 40),
        float: st.sampled_from([0.0, 0.25, 1 / 3, 1.0, 1e-9]) | st.floats(0, 1) | st.integers(0, 1),
        str: TEXT,
        Path: st.sampled_from([Path(), Path("a/b"), Path("/data/mit states/ä")]),
        NoneType: st.none(),
    }[annotation]


@st.composite
def group(draw: st.DrawFn, options: type) -> Any:
    """Some options of a group, the others at their default; None where they contradict."""
    hints = get_type_hints(options)
    names = draw(st.sets(st.sampled_from([field.name for field in fields(options)])))
    try:
        return options(**{name: draw(values_of(hints[name])) for name in sorted(names)})
    except ValueError:
        return None


@st.composite
def configs(draw: st.DrawFn, method: str) -> TrainConfig | None:
    groups = (DataConfig, BackboneConfig, method_options(method), OptimConfig)
    parts = [draw(group(options)) for options in groups]
    if None in parts:
        return None
    try:
        return TrainConfig(*parts, draw(st.integers(0, 2**62)))
    except ValueError:
        return None


SLOW = settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)


@pytest.mark.parametrize("method", method_names())
@SLOW
@given(data=st.data())
def test_a_configuration_survives_json_and_a_run_folder(
    method: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = data.draw(configs(method).filter(lambda found: found is not None))
    text = json.dumps(config.to_dict())
    again = TrainConfig.from_dict(json.loads(text))
    assert again == config
    assert type(again.method) is method_options(method)
    assert json.dumps(again.to_dict()) == text
    assert differences(config, again) == {}
    folder = RunFolder(tmp_path_factory.getbasetemp() / "fuzz")
    record = RunRecord(config, SPACE, "tiny", "0" * 64, {"train": "1"})
    folder.write_record(record)
    assert folder.read_record() == record
    assert folder.read_record().identity == record.identity


@pytest.mark.parametrize("method", method_names())
@SLOW
@given(data=st.data())
def test_a_difference_is_named(method: str, data: st.DataObject) -> None:
    valid = configs(method).filter(lambda found: found is not None)
    one, other = data.draw(valid), data.draw(valid)
    found = differences(one, other)
    assert bool(found) == (one.to_dict() != other.to_dict())
    for name, (old, new) in found.items():
        group, _, option = name.rpartition(".")
        for config, value in ((one, old), (other, new)):
            own = config.to_dict()
            assert (own[group] if group else own)[option] == value


@pytest.mark.parametrize("method", method_names())
@SLOW
@given(data=st.data())
def test_other_values_are_refused_in_a_sentence_or_right(method: str, data: st.DataObject) -> None:
    values = TrainConfig(method=method_options(method)()).to_dict()
    name = data.draw(st.sampled_from(["data", "backbone", "method", "optim"]))
    option = data.draw(st.sampled_from([*values[name]]) | TEXT)
    values[name][option] = data.draw(ANYTHING)
    try:
        config = TrainConfig.from_dict(json.loads(json.dumps(values)))
    except ValueError as error:
        said = str(error)
    else:
        said = "."
        kept = config.to_dict()[name][option]
        assert kept == values[name][option] or kept == Path(values[name][option]).as_posix()
    assert said.endswith((".", "?"))
    assert "\n" not in said


@pytest.mark.parametrize("read", [TrainConfig.from_dict, RunRecord.from_dict])
@SLOW
@given(values=ANYTHING)
def test_no_json_is_another_error(read: Callable[[Any], object], values: Any) -> None:
    if values == {} and read == TrainConfig.from_dict:
        assert read(values) == TrainConfig()
        return
    with pytest.raises(ValueError, match=r"\w"):
        read(values)
