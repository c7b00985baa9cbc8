"""A search space: options to be chosen, each with its values or its range."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, product
from typing import Any, get_args

from czsl_sac.checks import suggestion
from czsl_sac.training.config import TrainConfig

_KEYS = ("values", "low", "high", "log", "step")
_MOST_CORNERS = 256
"""Combinations of ends that are looked at for one that a value fits in."""


@dataclass(frozen=True)
class Searched:
    """An option to be chosen.

    Attributes:
        name: of the option.
        values: to choose from, of JSON types; empty where there is a range.
        low: smallest value of the range.
        high: largest one.
        log: whether it is drawn evenly on a logarithmic scale.
        step: between two values; None: there are all.
        whole: whether the values of the range are whole numbers.
    """

    name: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    whole: bool = False

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values, or the two ends of the range."""
        return self.values or (self.low, self.high)

    def to_dict(self) -> dict[str, Any]:
        """Return what the file says of it, as JSON types."""
        if self.values:
            return {"values": list(self.values)}
        return {name: getattr(self, name) for name in ("low", "high", "log", "step")}


@dataclass(frozen=True)
class SearchSpace:
    """The options to be chosen, on top of a configuration.

    Attributes:
        base: what all points share.
        searched: options.

    Examples:
        >>> space = SearchSpace.read(
        ...     {"lr": {"low": 1e-4, "high": 1e-2}, "bank": {"values": ["off", "train"]}},
        ...     TrainConfig(),
        ... )
        >>> space.at({"lr": 0.001, "bank": "off"}).optim.lr
        0.001
    """

    base: TrainConfig
    searched: tuple[Searched, ...]

    @classmethod
    def read(cls, searched: Mapping[str, Mapping[str, Any]], base: TrainConfig) -> "SearchSpace":
        """Return the space that a file describes.

        Args:
            searched: what the file says of each option: `values`, or `low` and `high` with `log` or
                `step`.
            base: what all points share.

        Raises:
            ValueError: a range is none, or no point has one of the values.
        """
        if not searched:
            raise ValueError(
                "the search space is empty but must hold options to choose: write [NAME] and under "
                "it values = [...], or low = ... and high = ...."
            )
        annotations = base.annotations()
        options = [_searched(name, about, annotations) for name, about in searched.items()]
        space = cls(base, tuple(options))
        space._check()
        return space

    def at(self, point: Mapping[str, Any]) -> TrainConfig:
        """Return the configuration at a point; an option that nothing reads there stays as it was.

        Args:
            point: values by option, of JSON types.

        Raises:
            ValueError: the values contradict each other.
        """
        config = self.base.with_json(point)
        idle = config.unread().keys() & point.keys()
        return self.base.with_json({n: v for n, v in point.items() if n not in idle})

    def grid(self) -> list[dict[str, Any]]:
        """Return every point of a space of values.

        Raises:
            ValueError: an option has a range.
        """
        for option in self.searched:
            if not option.values:
                raise ValueError(
                    f"sampler is 'grid' but {option.name} has a range, and a grid must have "
                    f"values: give {option.name} values, or take another --sampler."
                )
        return list(self._points(option.values for option in self.searched))

    def _points(self, values: Iterable[Iterable[Any]]) -> Iterator[dict[str, Any]]:
        names = [option.name for option in self.searched]
        return (dict(zip(names, point, strict=True)) for point in product(*values))

    def _check(self) -> None:
        """Refuse a value that is at no point: of a wrong type, out of range, or read by nothing."""
        corners = list(islice(self._points(o.ends for o in self.searched), _MOST_CORNERS))
        for option in self.searched:
            for value in option.ends:
                alone = {option.name: value}
                points = [alone, *(p for p in corners if p[option.name] == value)]
                wrong = [self._fault(point, option.name) for point in points]
                if all(wrong):
                    raise ValueError(wrong[0])

    def _fault(self, point: Mapping[str, Any], name: str) -> str:
        """What is wrong with an option at a point; empty if nothing is."""
        try:
            unread = self.base.with_json(point).unread()
        except ValueError as error:
            return str(error)
        if name in unread:
            return (
                f"{name} is searched but {unread[name]}, so that nothing reads it: leave it out, "
                "or change that."
            )
        return ""


def _searched(name: str, about: Mapping[str, Any], annotations: Mapping[str, Any]) -> Searched:
    for key in about:
        if key not in _KEYS:
            hint = suggestion(key, _KEYS) or f"choose among {', '.join(_KEYS)}."
            raise ValueError(f"{name} has {key!r} but must have values, or low and high: {hint}")
    if "values" in about:
        values = about["values"]
        if not isinstance(values, list) or not values or len(about) > 1:
            raise ValueError(
                f"{name} has {dict(about)} but must have a list of values and nothing else: write "
                "values = [1, 2]."
            )
        return Searched(name, values=tuple(values))
    low, high, step = (about.get(key) for key in ("low", "high", "step"))
    kinds = {annotations.get(name), *get_args(annotations.get(name))}
    if not kinds & {int, float}:
        raise ValueError(
            f"{name} has a range but must have values, since it is no number: write values = [...]."
        )
    for key, number in (("low", low), ("high", high), ("step", step)):
        wanted = key in about or key != "step"
        if wanted and (isinstance(number, bool) or not isinstance(number, int | float)):
            raise ValueError(f"{name} has {key} {number!r} but must have a number: give one.")
    whole, log = float not in kinds, about.get("log", False)
    if not isinstance(log, bool):
        raise ValueError(f"{name} has log {log!r} but must have true or false: give one of both.")
    if whole and not all(float(n).is_integer() for n in (low, high, step or 1)):  # type: ignore[arg-type]
        raise ValueError(f"{name} has {dict(about)} but must have whole numbers: round them.")
    faults = (
        (not low < high, "low below high"),  # type: ignore[operator]
        (log and not low > 0, "low above 0 where log is on"),  # type: ignore[operator]
        (step is not None and not step > 0, "step above 0"),
        (log and step is not None, "either log or step"),
    )
    for broken, rule in faults:
        if broken:
            raise ValueError(f"{name} has {dict(about)} but must have {rule}: correct the range.")
    kind = int if whole else float
    return Searched(
        name,
        low=kind(low),  # type: ignore[arg-type]
        high=kind(high),  # type: ignore[arg-type]
        log=log,
        step=None if step is None else kind(step),
        whole=whole,
    )
