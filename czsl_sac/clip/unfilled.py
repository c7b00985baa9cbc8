"""Modules without values, for weights that are loaded into them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def unfilled() -> Iterator[None]:
    """Let modules be made on the meta device, where a tensor has a shape and no values.

    Nothing is drawn at random, which would take longer than the loading. Torch would also draw for
    the meta device, by code that first imports its compiler: over a second of every command.

    Examples:
        >>> with unfilled():
        ...     layer = torch.nn.Embedding(1000, 8)
        >>> layer.weight.is_meta
        True
    """
    with torch.device("meta"), _NoDraw():
        yield


class _NoDraw(TorchFunctionMode):
    """Leave tensors as `torch.nn.init` finds them."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return given["tensor"]
        return func(*args, **given)
