"""The command line: parse, call, print. Every mistake of the user is one line and exit code 2."""

import io
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TextIO

from czsl_sac._version import __version__
from czsl_sac.checks import suggestion
from czsl_sac.words import visible

__all__ = ["main"]

# Command -> module of this package with `run(arguments)`, imported when called: torch is slow.
_COMMANDS = {
    "train": "train a method and keep the best checkpoint by validation AUC",
    "tune": "choose options on the validation split",
    "evaluate": "score a finished run, or CLIP as it comes, on a split",
    "predict": "name the compositions that image files show",
    "demo": "open a page on which images can be dropped",
    "card": "write the model card of a finished run",
    "export": "write a run as one file, ONNX or torch.export",
    "report": "make a page about a finished run",
    "compare": "show finished runs side by side",
    "reproduce": "measure the paper's tables and figures",
    "split": "split your own images into training, validation and test",
    "prepare": "bring a downloaded benchmark into the standard layout",
    "check-data": "show what is in a data set and what is wrong with it",
    "describe": "ask a language model what a method wants to know",
    "diagnose": "measure whether the patches of a CLIP answer to your texts",
    "info": "show versions, devices and which kernel would run",
    "completion": "print what lets a shell complete commands and options",
}

_HELP = f"""usage: czsl-sac COMMAND [OPTIONS]

Compositional zero-shot learning with CLIP: sparse alignment, baselines, one evaluator.

commands:
{chr(10).join(f"  {name:<12}{text}" for name, text in _COMMANDS.items())}

options:
  -h, --help  show this text; after a command, the command's options
  --version   show the version
  --traceback show where an error comes from instead of one line

examples:
  czsl-sac train --preset scenes --run-dir runs/scenes
  czsl-sac predict photos/ --attributes attributes.txt --objects objects.txt
  czsl-sac split photos && czsl-sac check-data photos

The first needs no data and takes a minute or two. czsl-sac COMMAND --help lists its options.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0 done, 2 a mistake in the request.

    Args:
        arguments: command and options; None takes them from the command line.

    Examples:
        >>> main(["--version"])
        czsl-sac ...
        0
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # the help has Greek letters, some terminals none
    show_traceback = "--traceback" in given
    given = [argument for argument in given if argument != "--traceback"]
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = _dispatch(given)
            sys.stdout.flush()  # a full disk is met here, where it is an error
            return code
    except BrokenPipeError:  # whoever read, as `| head` does, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError, ImportError) as error:
        if show_traceback:
            traceback.print_exc()
        else:
            print(f"czsl-sac: error: {_sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        how = f"; {stop}" if str(stop) else ""
        print(f"czsl-sac: interrupted{how}", file=sys.stderr)
        return 130


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP, end="")
        return 0
    command, *rest = arguments
    if command == "--version":
        print(f"czsl-sac {__version__}")
        return 0
    if command not in _COMMANDS:
        hint = suggestion(command, _COMMANDS) or "choose one of them."
        raise ValueError(
            f"command is {command!r} but must be one of {', '.join(_COMMANDS)}: {hint}"
        )
    run: Callable[[list[str]], int] = import_module(f"czsl_sac.cli.{command.replace('-', '_')}").run
    try:
        return run(rest)
    except SystemExit as stop:
        if stop.code:
            raise
        return 0  # the help was shown


def _sentence(error: Exception) -> str:
    """One line for any error; files by name rather than by errno."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return visible(f"{error.strerror}: {error.filename}")
    text = str(error)
    if "\nOriginal Traceback " in text:  # from a process that reads images: its last line says it
        text = text.rstrip().rpartition("\n")[2].partition(": ")[2]
    return visible(" ".join(text.split())) or type(error).__name__


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print what a warning says; where it comes from means nothing on the command line."""
    said = visible(" ".join(str(message).split()))
    print(f"czsl-sac: warning: {said}", file=file or sys.stderr)
