"""Checks and JSON of frozen dataclasses: types by annotation, ranges, and a strict round trip."""

import dataclasses
import difflib
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

_Config = TypeVar("_Config")

_NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    Path: "a path",
    type(None): "None",
}


def check_range(
    config: object,
    name: str,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
) -> None:
    """Refuse a number outside its bounds, NaN included; None is left alone.

    Args:
        config: Object that holds the number.
        name: Its attribute, which the message names.
        low: Smallest value allowed.
        above: Bound that the value must exceed.
        high: Largest value allowed.
        below: Bound that the value must stay under.

    Raises:
        ValueError: If a bound is broken.
    """
    value = getattr(config, name)
    if value is None:
        return
    bounds = [
        (low is None or value >= low, f"at least {low}"),
        (above is None or value > above, f"above {above}"),
        (high is None or value <= high, f"at most {high}"),
        (below is None or value < below, f"below {below}"),
    ]
    broken = [text for holds, text in bounds if not holds]
    if broken:
        raise ValueError(f"{name} must be {' and '.join(broken)}, got {value}")


def check_types(config: object) -> None:
    """Refuse field values that the dataclass's annotations exclude.

    Args:
        config: Dataclass whose fields are bool, int, float, str, Path, Literal, a union of these,
            a homogeneous tuple, or another dataclass.

    Raises:
        ValueError: If a field holds a value of another type.
    """
    for name, annotation in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if not _fits(value, annotation):
            raise ValueError(f"{name} must be {_describe(annotation)}, got {value!r}")


def _fits(value: object, annotation: Any) -> bool:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return value in arguments
    if origin in (Union, UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, arguments[0]) for item in value)
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, annotation)


def _describe(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (Union, UnionType):
        return " or ".join(map(_describe, arguments))
    if origin is tuple:
        return f"a tuple of {_describe(arguments[0])}"
    return _NAMES.get(annotation, f"a {annotation.__name__}")


def to_json(value: Any) -> Any:
    """Return a dataclass, or a value of one, as JSON types; tuples become lists, paths text.

    Args:
        value: What to convert.
    """
    if dataclasses.is_dataclass(value):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def from_json(cls: type[_Config], values: Any, where: str) -> _Config:
    """Build a dataclass from the form of `to_json`; fields left out keep their default.

    Args:
        cls: Dataclass to build.
        values: Its fields by name.
        where: What `values` is, for the message.

    Raises:
        ValueError: If a field is unknown or a value has the wrong type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where} must be a dictionary of options, got {type(values).__name__}")
    annotations = get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if name not in annotations:
            near = difflib.get_close_matches(str(name), annotations, n=1)
            hint = f"did you mean {near[0]}?" if near else "known are " + ", ".join(annotations)
            raise ValueError(f"{where} has no option {name!r}: {hint}")
        annotation = annotations[name]
        if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
            value = from_json(annotation, value, name)
        elif isinstance(value, list):
            value = tuple(value)
        elif isinstance(value, str) and Path in get_args(annotation):
            value = Path(value)
        arguments[name] = value
    return cls(**arguments)
