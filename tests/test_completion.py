"""`czsl-sac completion`: what a shell offers, asked of bash itself."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from czsl_sac.cli import _COMMANDS, main


def offered(script: str, folder: Path, *words: str) -> list[str]:
    """What bash offers for the last of the words after `czsl-sac`."""
    command = folder / "czsl-sac"
    command.write_text(f"#!/bin/sh\nexec '{sys.executable}' -m czsl_sac \"$@\"\n")
    command.chmod(0o755)
    line = " ".join(f"'{word}'" for word in ("czsl-sac", *words))
    asked = f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; _czsl_sac"
    done = subprocess.run(
        [
            "bash",
            "-c",
            f'PATH="{folder}:$PATH"\n{script}\n{asked}\nprintf "%s\\n" "${{COMPREPLY[@]}}"',
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_offers_commands_and_the_options_of_the_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert offered(script, tmp_path, "") == [*_COMMANDS]
    assert offered(script, tmp_path, "tr") == ["train"]
    assert offered(script, tmp_path, "train", "--gam") == ["--gamma"]
    assert offered(script, tmp_path, "train", "--method", "csp", "--gam") == []
    assert offered(script, tmp_path, "train", "--run-dir", "runs/") == []  # files are the shell's


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    assert "bashcompinit" in capsys.readouterr().out
    assert main(["completion", "fish"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
