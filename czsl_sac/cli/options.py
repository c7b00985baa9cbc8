"""Options from a dataclass by tyro, with its boxed error messages told in one line."""

import contextlib
import io
import re
from collections.abc import Iterator
from typing import TypeVar

import tyro

_Options = TypeVar("_Options")


def parse_options(
    options: type[_Options], command: str, arguments: list[str], default: _Options | None = None
) -> _Options | None:
    """Parse the options of a command; None after the help was asked for and shown.

    Args:
        options: Dataclass of the options; its docstrings are the help.
        command: Name of the command.
        arguments: What follows the command.
        default: Values of options left out; None takes the dataclass's own.

    Raises:
        ValueError: If an option is unknown, lacks its value, or has one that does not fit.
    """
    with _one_line_errors(command):
        try:
            return tyro.cli(
                options,
                default=tyro.MISSING_NONPROP if default is None else default,
                prog=f"czsl-sac {command}",
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes,),
            )
        except SystemExit as stop:
            if stop.code:
                raise
            return None


def peek_options(options: type[_Options], command: str, arguments: list[str]) -> _Options:
    """Parse a few options ahead of the others, which are ignored; `--help` is one of the others.

    Args:
        options: Dataclass of these options.
        command: Name of the command.
        arguments: What follows the command.

    Raises:
        ValueError: If one of these options lacks its value or has one that does not fit.
    """
    with _one_line_errors(command):
        parsed, _ = tyro.cli(
            options,
            prog=f"czsl-sac {command}",
            args=arguments,
            add_help=False,
            return_unknown_args=True,
        )
        return parsed


@contextlib.contextmanager
def _one_line_errors(command: str) -> Iterator[None]:
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            yield
    except SystemExit:
        message = _sentence(box.getvalue())
        raise ValueError(f"{message} (czsl-sac {command} --help lists the options)") from None


def _sentence(box: str) -> str:
    """What a box of tyro says: its first block of text, and the options it suggests."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)  # colours, on a terminal
    rows = [row.strip(" │") for row in plain.splitlines()]
    # The title is the box's upper edge; lines within the box part its blocks of text.
    blocks = "\n".join(rows[1:]).strip("\n─-╰╯ ")
    first, *others = re.split(r"\n[─-]{3,}\n", blocks)
    message = " ".join(first.split()).rstrip(".")
    # Options are flat on the command line, so the group that held the faulty one says nothing.
    message = re.sub(r"^Error parsing [\w.]*config[\w.]*: ", "", message)
    near = [
        option
        for block in others
        if block.startswith("Perhaps you meant:")
        for option in re.findall(r"^--[\w-]+", block, flags=re.MULTILINE)
    ]
    return f"{message}; did you mean {' or '.join(dict.fromkeys(near))}?" if near else message
