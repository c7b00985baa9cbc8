"""Checks of what a user gives, all with one form of sentence: "x is A but must be B: do C."."""

import difflib
from collections.abc import Collection, Iterable
from pathlib import Path


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Refuse a value that is none of the choices; the message calls it by `name`.

    Raises:
        ValueError: the value is none of them.

    Examples:
        >>> check_choice("alignment", "clss", ("patch_max", "cls"))
        Traceback (most recent call last):
        ...
        ValueError: alignment is 'clss' but must be one of patch_max, cls: did you mean cls?
    """
    if value not in choices:
        raise ValueError(
            f"{name} is {value!r} but must be one of {', '.join(choices)}: "
            f"{suggestion(value, choices) or 'choose one of them.'}"
        )


def check_not_folder(name: str, path: Path | None) -> None:
    """Refuse a folder where a file is to be written; None is left to its default.

    Raises:
        ValueError: the path is a folder.

    Examples:
        >>> check_not_folder("output", Path("/"))
        Traceback (most recent call last):
        ...
        ValueError: output is the folder / but must be a file: add a name to it.
    """
    if path is not None and path.is_dir():
        raise ValueError(f"{name} is the folder {path} but must be a file: add a name to it.")


def check_range(
    name: str,
    value: float | None,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
) -> None:
    """Refuse a number outside its bounds, NaN included; None is left alone.

    Args:
        name: what the message calls the number.
        value: what was given.
        low: smallest value allowed.
        above: bound that the value must exceed.
        high: largest value allowed.
        below: bound that the value must stay under.

    Raises:
        ValueError: a bound is broken.

    Examples:
        >>> check_range("num_blocks", 0, low=1)
        Traceback (most recent call last):
        ...
        ValueError: num_blocks is 0 but must be at least 1: raise it.
    """
    if value is None:
        return
    bounds = [
        (low is None or value >= low, f"at least {low}", "raise it"),
        (above is None or value > above, f"above {above}", "raise it"),
        (high is None or value <= high, f"at most {high}", "lower it"),
        (below is None or value < below, f"below {below}", "lower it"),
    ]
    broken = [(text, remedy) for holds, text, remedy in bounds if not holds]
    if broken:
        remedy = broken[0][1] if value == value else "give a number"
        bound = " and ".join(text for text, _ in broken)
        raise ValueError(f"{name} is {value} but must be {bound}: {remedy}.")


def check_ranges(options: object, *names: str, **bounds: float) -> None:
    """Refuse those of an object's options, by name, that are outside bounds as of `check_range`.

    Raises:
        ValueError: a bound is broken.
    """
    for name in names:
        check_range(name, getattr(options, name), **bounds)


def suggestion(value: object, known: Iterable[str]) -> str:
    """Return "did you mean X?" for the nearest known word, or nothing if none is near.

    Examples:
        >>> suggestion("ut-zapos", ["ut-zappos", "cgqa"]), suggestion("x", ["cgqa"])
        ('did you mean ut-zappos?', '')
    """
    near = difflib.get_close_matches(str(value), [*known], n=1)
    return f"did you mean {near[0]}?" if near else ""
