"""Where CLIP comes from: OpenAI, open_clip, transformers, and the built-in tiny one."""

from importlib import import_module
from types import ModuleType


def import_library(name: str, extra: str) -> ModuleType:
    """Return a library of CLIPs that is optional.

    Raises:
        ImportError: it is not installed; the message names the extra that brings it.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"this backbone needs the package {error.name!r}, which is not installed: "
            f'pip install "czsl-sac[{extra}]"'
        ) from error
