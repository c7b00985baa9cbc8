"""Frozen dataclasses of options: types by annotation, and a strict JSON round trip."""

import dataclasses
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from czsl_sac.checks import suggestion

_Options = TypeVar("_Options")

_NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    Path: "a path",
    type(None): "None",
}


def check_types(options: object) -> None:
    """Refuse field values that the dataclass's annotations exclude.

    Args:
        options: dataclass whose fields are bool, int, float, str, Path, Literal, a union of these,
            a homogeneous tuple, or another dataclass.

    Raises:
        ValueError: a field holds a value of another type.
    """
    for name, annotation in _fields(type(options)).items():
        value = getattr(options, name)
        if not _fits(value, annotation):
            choices = get_args(annotation) if get_origin(annotation) is Literal else ()
            remedy = suggestion(value, map(str, choices)) or "give another value."
            raise ValueError(f"{name} is {value!r} but must be {_describe(annotation)}: {remedy}")


def _fields(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


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
    """Return a dataclass, or a value of one, as JSON types; tuples become lists, paths text."""
    if dataclasses.is_dataclass(value):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def from_json(cls: type[_Options], values: Any, where: str) -> _Options:
    """Build a dataclass from the form of `to_json`; fields left out keep their default.

    Args:
        cls: dataclass to build.
        values: its fields by name.
        where: what `values` is, for the message.

    Raises:
        ValueError: a field is unknown or a value has the wrong type.
    """
    if not isinstance(values, dict):
        raise ValueError(
            f"{where} is of type {type(values).__name__} but must be a dictionary of options: "
            "give options by name."
        )
    fields = _fields(cls)
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            hint = suggestion(name, fields) or f"known are {', '.join(fields)}."
            raise ValueError(f"{where} has no option {name!r}: {hint}")
        arguments[name] = typed(value, fields[name])
    return cls(**arguments)


def typed(value: Any, annotation: Any) -> Any:
    """Return a JSON value as a field holds it: lists as tuples, texts of paths as paths.

    TOML has no null, so that `"None"` stands for it where a field may be None, as on the command
    line. Whether the value fits is for `check_types` to say.

    Examples:
        >>> typed([1, 2], tuple[int, ...] | None), typed("None", int | None), typed("None", str)
        ((1, 2), None, 'None')
    """
    choices = get_args(annotation)
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, str):
        if value == "None" and type(None) in choices:
            return None
        if Path in choices:
            return Path(value)
    return value
