"""Old ways of calling, accepted for one version with a DeprecationWarning."""

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


def renamed_options(**names: str) -> Callable[[F], F]:
    """Return a decorator that takes options by their old names too.

    Args:
        **names: new name of each old one.

    Raises:
        TypeError: when called, both names of an option are given.

    Examples:
        >>> @renamed_options(tokens="token_choice")
        ... def align(*, token_choice="all"):
        ...     return token_choice
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     align(tokens="patches"), str(caught[0].message)
        ('patches', "align's tokens is now token_choice: rename it, the next version refuses it.")
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            for old, new in names.items():
                if old in options:
                    _warn(f"{_name(function)}'s {old} is now {new}: rename it")
                    if new in options:
                        raise TypeError(
                            f"{old} and {new} are both given but are one option: give {new} alone."
                        )
                    options[new] = options.pop(old)
            return function(*args, **options)

        return cast(F, call)

    return decorate


def keyword_options(function: F) -> F:
    """Decorate a function so that its keyword-only options may be given by position too.

    Examples:
        >>> @keyword_options
        ... def condense(dim, *, num_blocks=3):
        ...     return num_blocks
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     condense(64, 2), str(caught[0].message)
        (2, "condense's num_blocks is given by position: name it, the next version refuses it.")
    """
    parameters = inspect.signature(function).parameters.values()
    named = [part.name for part in parameters if part.kind is part.KEYWORD_ONLY]
    places = sum(part.kind is part.POSITIONAL_OR_KEYWORD for part in parameters)

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        if len(args) <= places:
            return function(*args, **options)
        given = dict(zip(named, args[places:], strict=False))
        if given.keys() & options.keys() or len(args) > places + len(named):
            return function(*args, **options)  # Python's own TypeError
        _warn(f"{_name(function)}'s {', '.join(given)} is given by position: name it")
        return function(*args[:places], **given, **options)

    return cast(F, call)


def warn_renamed(old: str, new: str) -> None:
    """Warn the caller's caller that a method goes by another name now."""
    _warn(f"{old} is now {new}: rename it")


def _name(function: Callable[..., Any]) -> str:
    return function.__qualname__.removesuffix(".__init__")


def _warn(sentence: str) -> None:
    warnings.warn(f"{sentence}, the next version refuses it.", DeprecationWarning, stacklevel=3)
