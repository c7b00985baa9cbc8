"""Where methods are found: in this package, in others by entry point, or by MODULE:CLASS."""

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

import czsl_sac.methods
from czsl_sac.checks import suggestion
from czsl_sac.methods.options import MethodOptions

if TYPE_CHECKING:
    from czsl_sac.methods.base import CZSLMethod

ENTRY_POINTS = "czsl_sac.methods"
"""Group of entry points by which other packages offer methods, each `NAME = MODULE:CLASS`."""


@cache
def method_names() -> tuple[str, ...]:
    """Return the names of all methods that are installed: this package's, then those of others.

    Examples:
        >>> "sac" in method_names() and "zero-shot" in method_names()
        True
    """
    others = [point.name for point in entry_points(group=ENTRY_POINTS)]
    return tuple(dict.fromkeys(_own() + sorted(others)))


@cache
def method_options(method: str) -> type[MethodOptions]:
    """Return the class of a method's options; of this package's methods, without loading torch.

    Args:
        method: its name, or `MODULE:CLASS` of a `CZSLMethod`.

    Raises:
        ValueError: there is no such method, or what is there is none.

    Examples:
        >>> method_options("troika").label
        'Troika'
    """
    if ":" in method:
        return _options_of(_load(method), method)
    if method in _own():
        module = import_module(f"czsl_sac.methods.{method.replace('-', '_')}.options")
        return next(
            value
            for value in vars(module).values()
            if isinstance(value, type) and value.__dict__.get("name") == method
        )
    for point in entry_points(group=ENTRY_POINTS, name=method):
        return _options_of(_load(point.value), point.value)
    raise ValueError(
        f"method is {method!r} but must be one of {', '.join(method_names())}, or MODULE:CLASS: "
        f"{suggestion(method, method_names()) or 'choose one of them.'}"
    )


def method_class(options: MethodOptions) -> "type[CZSLMethod]":
    """Return the method that options are of.

    Args:
        options: of the method.

    Raises:
        ValueError: their `implementation` cannot be imported.
    """
    return _load(options.implementation)


def reference(options: MethodOptions) -> str:
    """Return by what `method_options` finds these options again: the method's name if it can."""
    if options.name in method_names() and method_options(options.name) is type(options):
        return options.name
    return options.implementation


def _own() -> list[str]:
    folders = (m.name for m in iter_modules(czsl_sac.methods.__path__) if m.ispkg)
    return sorted(name.replace("_", "-") for name in folders)


def _load(where: str) -> Any:
    module, _, name = where.partition(":")
    try:
        return getattr(import_module(module), name)
    except Exception as error:  # whatever a foreign module raises
        raise ValueError(
            f"method is {where!r} but must be MODULE:CLASS of a method that can be imported "
            f"({type(error).__name__}: {error}): install its package, put its folder on "
            "PYTHONPATH, or mend it."
        ) from error


def _options_of(found: Any, where: str) -> type[MethodOptions]:
    from czsl_sac.methods.base import CZSLMethod

    if not (isinstance(found, type) and issubclass(found, CZSLMethod)):
        raise ValueError(
            f"method is {where!r} but must be a class derived from czsl_sac.CZSLMethod: "
            "derive it from there."
        )
    options = getattr(found, "Options", None)
    if not (isinstance(options, type) and issubclass(options, MethodOptions)):
        raise ValueError(
            f"{where} has no options but must name a class derived from "
            "czsl_sac.MethodOptions: set Options in its body."
        )
    lacking = [name for name in ("name", "label", "implementation") if not getattr(options, name)]
    if lacking:
        raise ValueError(
            f"{options.__name__} of {where} has no {lacking[0]} but must say name, label and "
            f"implementation: add {lacking[0]} to its body."
        )
    return options
