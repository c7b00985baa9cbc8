"""The pages name what is there: options, commands, functions, files; git ignores their leavings."""

import contextlib
import importlib
import io
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import tyro

from benchmarks.__main__ import main as benchmark
from benchmarks.__main__ import names
from czsl_sac.cli import _COMMANDS, main
from czsl_sac.methods.registry import method_names, method_options

ROOT = Path(__file__).parent.parent
TOP = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES = [*TOP, *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
OTHERS = {
    "--num_processes",
    "--nproc_per_node",
    "--index-url",
    "--cpu",
    "--strict",
    "--logdir",
    "--durations",
}
"""Options of other programs that the pages name."""


def page_ids(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


every_page = pytest.mark.parametrize("page", PAGES, ids=page_ids)


class ParsedError(Exception):
    """Raised where a program would start its work."""


@pytest.fixture
def parse_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the programs of benchmarks/ and examples/ read their options and do nothing."""
    import argparse

    cli, parse_args = tyro.cli, argparse.ArgumentParser.parse_args

    def read(*args: object, **options: object) -> None:
        cli(*args, **options)
        raise ParsedError

    def parse(self: argparse.ArgumentParser, *args: object) -> None:
        parse_args(self, *args)
        raise ParsedError

    monkeypatch.setattr(tyro, "cli", read)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)


def text_of(page: Path) -> str:
    """The page with its continued shell lines joined."""
    return re.sub(r"\\\n\s*", "", page.read_text("utf-8"))


def spans(page: Path) -> list[str]:
    """What the page sets as code inside a sentence, joined where it runs over a line."""
    prose = re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)
    return [re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", prose)]


def programs(page: Path) -> Iterator[list[str]]:
    """Yield the words of every `python -m benchmarks …` and `python FILE …` of a page."""
    lines = [*text_of(page).split("\n"), *spans(page)]
    for line in lines:
        if re.match(r"(    )?python (-m benchmarks|examples/|benchmarks/)", line):
            words = shlex.split(line, comments=True)[1:]
            yield [word for word in words if word != "…"]


@cache
def help_of(*words: str) -> str:
    """What a command of czsl-sac prints for --help."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        assert main([*words, "--help"]) == 0
    return shown.getvalue()


@cache
def known_options() -> set[str]:
    """Every option of czsl-sac, of the benchmarks and of the examples."""
    shown = [help_of(command) for command in _COMMANDS]
    shown += [help_of("train", "--method", method) for method in method_names()]
    shown += [help_of()]
    for path in (*EXAMPLES, *(ROOT / "benchmarks").rglob("*.py")):
        code = path.read_text("utf-8")
        shown.append(code)
        shown += [f"--{name.replace('_', '-')}" for name in re.findall(r"(?m)^    (\w+): ", code)]
    found = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", "\n".join(shown)))
    return found | {option.replace("--", "--no-", 1) for option in found}


@every_page
def test_options_exist(page: Path) -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text_of(page)))
    assert named <= known_options() | OTHERS


def start(words: list[str]) -> None:
    """Run a program as `python WORDS` does, in this process."""
    if words[0] == "-m":
        benchmark(words[2:])
    else:
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")


@pytest.mark.usefixtures("parse_only")
@every_page
def test_commands_of_benchmarks_and_examples_parse(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    for words in programs(page):
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(ParsedError):
            start(words)


def test_programs_are_found() -> None:
    found = [words for page in PAGES for words in programs(page)]
    assert len(found) > 20
    shown = {words[2] for words in found if words[0] == "-m"}
    shown |= {Path(words[0]).stem for words in found if words[0].startswith("benchmarks/")}
    assert shown == set(names())


def resolve(name: str) -> object:
    """The module, class, function or field of a dotted name."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            fields = getattr(value, "__dataclass_fields__", {})
            value = fields[part] if part in fields else getattr(value, part)
        return value
    raise ModuleNotFoundError(name)


@every_page
def test_names_of_the_package_exist(page: Path) -> None:
    text = text_of(page)
    named = re.findall(r"(?m)^::: (\S+)$", text) + re.findall(r"\]\[(czsl_sac[\w.]*)\]", text)
    named += [
        span.partition("(")[0]
        for span in spans(page)
        if re.fullmatch(r"czsl_sac(\.\w+)+(\(.*\))?", span)
    ]
    for name in named:
        resolve(name)


def test_what_is_public_has_an_entry_in_the_reference() -> None:
    shown = "\n".join(text_of(page) for page in (ROOT / "docs/reference").glob("*.md"))
    for room in ("", ".functional", ".blocks", ".kernels", ".clip", ".data", ".evaluation"):
        module = importlib.import_module(f"czsl_sac{room}")
        for name in set(module.__all__) - {"__version__"}:
            assert re.search(rf"(?m)^::: czsl_sac({room})?\.{name}$", shown), name


@pytest.mark.parametrize("command", _COMMANDS)
def test_every_command_has_its_part_in_the_reference(command: str) -> None:
    page = (ROOT / "docs/reference/cli.md").read_text("utf-8")
    part = page.partition(f"\n## {command}\n")[2].partition("\n## ")[0]
    assert f"::: czsl_sac.cli.{command.replace('-', '_')}." in part or command == "info"


@pytest.mark.parametrize("method", method_names())
def test_every_method_is_in_the_guide_and_in_the_reference(method: str) -> None:
    options = method_options(method)
    module = options.implementation.partition(":")[0]
    if module.startswith("czsl_sac."):
        guide = (ROOT / "docs/methods.md").read_text("utf-8")
        assert re.search(rf"(?m)^\|[^|]+\| `{method}` \|", guide), "no row in the first table"
        entry = f"::: {options.__module__}.{options.__name__}\n"
        assert entry in (ROOT / "docs/reference/methods.md").read_text("utf-8")


@every_page
def test_files_of_the_repository_exist(page: Path) -> None:
    for span in spans(page):
        if re.fullmatch(r"(docs|tests|examples|benchmarks|czsl_sac|\.ci)/[\w/.-]+", span):
            assert (ROOT / span).exists(), span
        elif re.fullmatch(r"(\w+/)+\w+\.py", span):
            assert (ROOT / "czsl_sac" / span).exists() or (ROOT / span).exists(), span


def outputs(page: Path) -> Iterator[str]:
    """Yield the paths, relative to the checkout, that the commands of a page write to."""
    writers = "run-dir|output|out|csv|json|heatmaps|runs"
    for path in re.findall(rf"(?<![\w-])--(?:{writers}) ([^\s`]+)", text_of(page)):
        if not path.isupper() and not path.startswith("/"):
            yield path.rstrip(".")
    yield from re.findall(r"python examples/scenes_\w+\.py (\w+)", text_of(page))


@pytest.mark.skipif(
    shutil.which("git") is None or not (ROOT / ".git").exists(), reason="no git checkout"
)
def test_git_ignores_what_the_commands_leave() -> None:
    written = {path for page in PAGES for path in outputs(page)}
    assert {"runs/scenes", "scenes", "maps", "out.csv"} <= written
    written = {path if Path(path).suffix else f"{path}/file" for path in written}
    left = sorted({*written, "site/index.html", "czsl_sac.egg-info/PKG-INFO", "build/lib"})
    done = subprocess.run(
        ["git", "check-ignore", *left], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == left
    tracked = subprocess.run(
        ["git", "ls-files", "-ci", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    assert tracked.stdout == "", "a file of the repository is ignored"
