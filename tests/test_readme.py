"""What the README and the docs show runs, and names options and settings that exist."""

import ast
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import torch

from czsl_sac.cli import train
from czsl_sac.cli.options import parse_options
from czsl_sac.space import CompositionSpace
from czsl_sac.training.presets import preset_for
from czsl_sac.training.record import RunRecord
from czsl_sac.training.run_folder import RunFolder

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL)


def examples(language: str) -> list:
    """Every block of a language, named by its page and number."""
    return [
        pytest.param(page, code, id=f"{page.name}-{number}")
        for page in PAGES
        for number, code in enumerate(blocks(page, language))
    ]


def commands() -> list[str]:
    shown = [
        line
        for page in PAGES
        for block in blocks(page, "bash")
        for line in block.replace("\\\n", "").split("\n")
    ]
    shown = [line.removeprefix("PYTHONPATH=examples/visprod ") for line in shown]
    return [line for line in shown if line.startswith("czsl-sac ")]


@pytest.mark.parametrize(("page", "code"), examples("python"))
def test_python_on_the_pages_runs(
    page: Path, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, object] = {}
    exec(compile(code, str(page), "exec"), names)
    tensors = [value for value in names.values() if isinstance(value, torch.Tensor)]
    assert tensors or capsys.readouterr().out
    assert all(tensor.isfinite().all() for tensor in tensors)


@pytest.mark.parametrize(("page", "code"), examples("py"))
def test_python_that_needs_a_download_names_what_exists(page: Path, code: str) -> None:
    """Blocks marked `py` take weights or a run that are not here: their imports alone run."""
    tree = ast.parse(code)
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom | ast.Import)]
    assert imports
    exec(compile(ast.Module(imports, []), str(page), "exec"), {})


class ParsedError(Exception):
    """Raised where a command would start its work."""


def write_record(folder: Path, method: str) -> None:
    """Make a folder a run of the scenes, as far as reading a command needs it."""
    config = preset_for("scenes", method)
    space = CompositionSpace.closed_world(train=[("ripe", "mango")])
    RunFolder(folder).write_record(RunRecord(config, space, "tiny", "0" * 64, {}))


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_commands_on_the_pages_parse(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "examples/visprod"))
    _, name, *arguments = shlex.split(command)
    method = "visprod:VisProd"  # what the name says once the example is installed
    arguments = [method if argument == "visprod" else argument for argument in arguments]
    for word in arguments:
        if word.startswith("runs/") and (name != "train" or "--resume" in arguments):
            write_record(Path(word), method if "visprod" in word else "sac")
    if name == "info":
        assert not arguments
        return
    module = import_module(f"czsl_sac.cli.{name.replace('-', '_')}")
    if hasattr(module, "parse"):
        assert module.parse(arguments) is not None
        return

    def read_alone(*given: object) -> None:
        assert parse_options(*given) is not None
        raise ParsedError

    monkeypatch.setattr(module, "parse_options", read_alone)
    with pytest.raises(ParsedError):
        module.run(arguments)


def test_rows_of_table_4_are_six_different_configurations() -> None:
    table = (ROOT / "docs/index.md").read_text("utf-8").partition("Tab. 4")[2]
    rows = re.findall(r"^\| (Baseline|\+ [^|]+) \| (?:`([^`]*)`|none)", table, flags=re.MULTILINE)
    models = []
    for _, options in rows:
        parsed = train.parse(shlex.split(options))
        assert parsed is not None
        models.append(parsed.configuration.method)
    assert len(models) == len(set(models)) == 6
    assert [m.alignment for m in models] == ["cls"] + ["patch_max"] * 5
    assert [m.condense for m in models] == [False] * 2 + [True] * 4
    assert [m.alpha > 0 for m in models[2:]] == [False] + [True] * 3
    assert [m.bank for m in models] == ["off"] * 4 + ["train", "dynamic"]


def test_settings_shown_are_those_of_the_presets() -> None:
    table = (ROOT / "docs/choices.md").read_text("utf-8").partition("Settings per data set")[2]
    rows = [[cell.strip(" `") for cell in row.split("|")[1:-1]] for row in table.split("\n")]
    values = {row[0].partition(" (")[0]: row[1:] for row in rows if len(row) == 4}
    for column, name in enumerate(values["preset"]):
        model, optim = preset_for(name).method, preset_for(name).optim
        expected = {
            "blocks K": model.num_blocks,
            "α": model.alpha,
            "β": model.beta,
            "γ": model.gamma,
            "capacity N": model.capacity,
            "retrieval temperature τ_mb": model.retrieval_temperature,
            "epochs": optim.epochs,
            "learning rate": optim.lr,
            "batch size": optim.batch_size,
            "prompt dropout": model.prompt_dropout,
            "weight decay": optim.weight_decay,
        }
        assert {key: float(values[key][column]) for key in expected} == expected
