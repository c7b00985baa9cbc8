"""What the README and the docs show runs, and names options and settings that exist."""

import ast
import dataclasses
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import torch

from czsl_sac.cli import evaluate, train
from czsl_sac.training.presets import PRESETS

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
    shown = [line for page in PAGES for block in blocks(page, "bash") for line in block.split("\n")]
    return [line for line in shown if line.startswith("czsl-sac ") and "--resume" not in line]


@pytest.mark.parametrize(("page", "code"), examples("python"))
def test_python_on_the_pages_runs(page: Path, code: str) -> None:
    names: dict[str, object] = {}
    exec(compile(code, str(page), "exec"), names)
    tensors = [value for value in names.values() if isinstance(value, torch.Tensor)]
    assert tensors
    assert all(tensor.isfinite().all() for tensor in tensors)


@pytest.mark.parametrize(("page", "code"), examples("py"))
def test_python_that_needs_a_download_names_what_exists(page: Path, code: str) -> None:
    """Blocks marked `py` take weights or a run that are not here: their imports alone run."""
    tree = ast.parse(code)
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom | ast.Import)]
    assert imports
    exec(compile(ast.Module(imports, []), str(page), "exec"), {})


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_commands_on_the_pages_parse(command: str) -> None:
    _, name, *arguments = shlex.split(command)
    if name == "info":
        assert not arguments
    else:
        module = import_module(f"czsl_sac.cli.{name.replace('-', '_')}")
        assert module.parse(arguments) is not None


@pytest.mark.parametrize("name", ["index.md", "choices.md"])
def test_options_in_the_tables_exist(name: str) -> None:
    config = PRESETS["scenes"]
    groups = (config, config.data, config.backbone, config.model, config.optim)
    fields = {field.name for group in groups for field in dataclasses.fields(group)}
    fields |= {field.name for field in dataclasses.fields(train.TrainOptions)}
    fields |= {field.name for field in dataclasses.fields(evaluate.EvaluateOptions)}
    known = {f"--{name.replace('_', '-')}" for name in fields} | {"--help", "--traceback"}
    page = (ROOT / "docs" / name).read_text("utf-8")
    shown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", page))
    assert shown
    assert {option.replace("--no-", "--") for option in shown} <= known


def test_rows_of_table_4_are_six_different_configurations() -> None:
    table = (ROOT / "docs/index.md").read_text("utf-8").partition("Tab. 4")[2]
    rows = re.findall(r"^\| (Baseline|\+ [^|]+) \| (?:`([^`]*)`|none)", table, flags=re.MULTILINE)
    models = []
    for _, options in rows:
        parsed = train.parse(shlex.split(options))
        assert parsed is not None
        models.append(parsed.config.model)
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
        model, optim = PRESETS[name].model, PRESETS[name].optim
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
