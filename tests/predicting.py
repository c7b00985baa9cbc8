"""What the tests of `czsl-sac predict` share."""

import json

import pytest
from tiny_runs import tiny_run

from czsl_sac.cli import main
from czsl_sac.run import Run, load_run

COUNT = 5


def of_the_command() -> Run:
    """The run as the command has it without --adapt: what it predicts changes nothing."""
    return load_run(tiny_run(), bank="train")


def predicted(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[list[dict], str]:
    """The JSON lines of a successful command, and what it says on stderr."""
    capsys.readouterr()
    assert main(["predict", *map(str, arguments), "--format", "jsonl"]) == 0
    printed = capsys.readouterr()
    return [json.loads(line) for line in printed.out.splitlines()], printed.err


def complaint(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main(["predict", *map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err
