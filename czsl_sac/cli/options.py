"""Options from a dataclass by tyro; every mistake is one sentence."""

import contextlib
import io
import operator
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any, TypeVar

import tyro

from czsl_sac.checks import suggestion
from czsl_sac.data.sources.hub import HUB_PREFIX, HubSource
from czsl_sac.methods.options import MethodOptions
from czsl_sac.methods.registry import method_names, method_options

_Options = TypeVar("_Options")


@dataclass(frozen=True)
class HubColumns:
    """Columns of a Hugging Face data set, hf:NAME."""

    attribute_column: str | None = None
    """hf:NAME: column of the attributes, text or class labels."""
    object_column: str | None = None
    """hf:NAME: column of the objects, text or class labels."""
    image_column: str | None = None
    """hf:NAME: column of the images; None takes the only one."""
    split_column: str | None = None
    """hf:NAME: column that says train, val or test; None takes the data set's own splits."""


def source_of(data: Path, columns: HubColumns, table: Path | None = None) -> Path | HubSource:
    """Return what a command is to read: a path, or a Hugging Face data set with its columns.

    Args:
        data: as given.
        columns: likewise.
        table: of the split of a Hugging Face data set.

    Raises:
        ValueError: a column is missing, or given where none is read.
    """
    given = {f.name: getattr(columns, f.name) for f in fields(columns)}
    if not str(data).startswith(HUB_PREFIX):
        for name, value in {**given, "split_table": table}.items():
            if value is not None:
                raise ValueError(
                    f"--{name.replace('_', '-')} is given but {data} is no Hugging Face data set, "
                    "so that nothing reads it: leave it out, or name a data set hf:NAME."
                )
        return data
    for name in ("attribute_column", "object_column"):
        if given[name] is None:
            raise ValueError(
                f"{name} is None but must be a column of {data}: name it with "
                f"--{name.replace('_', '-')}."
            )
    return HubSource(str(data), **given, table=table)


_SYNONYMS = {
    "learning-rate": "lr",
    "out": "output",
    "output-dir": "run-dir",
    "data-dir": "data-root",
    "root": "data-root",
    "bs": "batch-size",
    "workers": "num-workers",
    "cls-weight": "class-weight",
    "tokens": "token-choice",
    "model": "method",
    "topk": "top-k",
    "pairs": "candidates",
    "preset": "dataset",
}
"""What other tools call an option."""


def parse_options(
    options: type[_Options], command: str, arguments: list[str], default: _Options | None = None
) -> _Options:
    """Parse the options of a command.

    Args:
        options: dataclass of the options; its docstrings are the help.
        command: name of the command.
        arguments: what follows the command.
        default: values of options left out; None takes the dataclass's own.

    Raises:
        ValueError: an option is unknown, lacks its value, or has one that does not fit.
        SystemExit: the help was asked for, and shown.
    """
    with _one_sentence(command):
        parsed, unknown = tyro.cli(
            options,
            default=tyro.MISSING_NONPROP if default is None else default,
            prog=f"czsl-sac {command}",
            args=arguments,
            config=(tyro.conf.OmitArgPrefixes,),
            return_unknown_args=True,
        )
    if unknown:
        raise ValueError(unknown_option(unknown[0], command, default or options))
    return parsed


def peek_options(options: type[_Options], command: str, arguments: list[str]) -> _Options:
    """Parse a few options ahead of the others, which are ignored; `--help` is one of the others.

    Raises:
        ValueError: one of these options lacks its value or has one that does not fit.
    """
    with _one_sentence(command):
        parsed, _ = tyro.cli(
            options,
            prog=f"czsl-sac {command}",
            args=arguments,
            add_help=False,
            return_unknown_args=True,
        )
        return parsed


def option_names(options: Any) -> set[str]:
    """Return the names of all options of a dataclass, those of its groups included.

    Args:
        options: the dataclass, or an instance, whose groups may be of derived classes.

    Examples:
        >>> from czsl_sac.training.config import TrainConfig
        >>> {"lr", "lora-rank", "beta", "seed"} <= option_names(TrainConfig())
        True
    """
    names = set()
    for field in fields(options):
        value = getattr(options, field.name, None)
        if is_dataclass(value):
            names |= option_names(value)
        else:
            names.add(field.name.replace("_", "-"))
    return names


def given_options(arguments: list[str]) -> list[str]:
    """Return the names of the options that were given, with underscores.

    Examples:
        >>> given_options(["--lr=1", "--no-condense", "x"])
        ['lr', 'condense']
    """
    flags = [a[2:].partition("=")[0].replace("-", "_") for a in arguments if a.startswith("--")]
    return [name.removeprefix("no_") for name in flags]


def refuse_unread(arguments: list[str], unread: Mapping[str, str]) -> None:
    """Refuse options that were given and that nothing reads.

    Args:
        arguments: what follows the command.
        unread: the options that nothing reads, with underscores, each with the reason.

    Raises:
        ValueError: one of them was given.
    """
    for name in given_options(arguments):
        if name in unread:
            option = name.replace("_", "-")
            raise ValueError(
                f"--{option} is given but {unread[name]}, so that nothing reads it: leave it "
                "out, or change that."
            )


def unknown_option(argument: str, command: str, options: Any) -> str:
    """Return the sentence about an argument that no option takes.

    Args:
        argument: what was given.
        command: name of the command.
        options: the dataclass of its options, or an instance.
    """
    known, method = option_names(options), _method(options)
    more = f"(czsl-sac {command} --help lists the options)"
    if not argument.startswith("--"):
        return (
            f"{argument!r} belongs to no option but every value must follow one: remove it. {more}"
        )
    name = argument[2:].partition("=")[0].replace("_", "-")
    owners = _owners(name.removeprefix("no-"))
    if owners and method:
        other = f", or choose --method {owners[0]}" if command == "train" else ""
        return (
            f"--{name} is an option of {', '.join(owners)}, but {method} has none: leave it out"
            f"{other}. {more}"
        )
    synonym = _SYNONYMS.get(name)
    if synonym in known:
        return f"--{name} is unknown: did you mean --{synonym}? {more}"
    near = suggestion(name, known).replace("did you mean ", "did you mean --")
    return f"--{name} is unknown: {near or 'it is no option of this command.'} {more}"


def _method(options: Any) -> str:
    """The name of the method whose options are among these; empty if there is none."""
    for field in fields(options):
        value = getattr(options, field.name, None)
        if isinstance(value, MethodOptions):
            return value.name
        if is_dataclass(value) and _method(value):
            return _method(value)
    return ""


def _owners(name: str) -> list[str]:
    """The installed methods that have an option of this name."""
    found = []
    for method in method_names():
        with contextlib.suppress(ValueError):  # another package's that cannot be imported
            if name.replace("-", "_") in {f.name for f in fields(method_options(method))}:
                found.append(method)
    return found


@contextlib.contextmanager
def _one_sentence(command: str) -> Iterator[None]:
    """Tell in one sentence what tyro tells in a box."""
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            yield
    except SystemExit as stop:
        if not stop.code:  # the help was shown
            raise
        plain = re.sub(r"\x1b\[[0-9;]*m", "", box.getvalue())
        rows = [row.strip(" │|+-─╭╮╰╯") for row in plain.splitlines()[1:]]
        # Options are flat on the command line, so the group that holds the faulty one says nothing.
        message = re.sub(r"^Error parsing [\w.]+: ", "", " ".join(_first_block(rows)))
        raise ValueError(f"{message} (czsl-sac {command} --help lists the options)") from None


def _first_block(rows: list[str]) -> Iterator[str]:
    """The first block of text of a box: what follows a rule is tyro's advice."""
    # Without Unicode a rule parts the title from it.
    return takewhile(bool, dropwhile(operator.not_, rows))
