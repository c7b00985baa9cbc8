"""Scoring without a run: the figures are those of the run that training would have made."""

import json
from pathlib import Path
from typing import Any

import pytest
from toy_runs import toy_clip, write_table

from czsl_sac.cli import evaluate, main
from czsl_sac.training.presets import preset_for

OF_A_RUN = {"run", "checkpoint", "backbone"}


def figures(path: Path) -> dict[str, Any]:
    saved = json.loads(path.read_text("utf-8"))
    return {name: value for name, value in saved.items() if name not in OF_A_RUN}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """Options of data and model, and the zero-shot "run" that they make."""
    folder = tmp_path_factory.mktemp("photos")
    data = ["--dataset", "files", "--data-root", str(write_table(folder))]
    options = [*data, "--backbone", str(toy_clip()), "--alignment", "patch_max"]
    given = ["--template", "an image of", "--class-weight", "0.3", "--eval-batch-size", "4"]
    options += given
    start = ["train", "--method", "zero-shot", *options, "--run-dir", str(folder / "run")]
    assert main(start) == 0
    return options, folder / "run"


@pytest.mark.parametrize(
    "how",
    [
        [],
        ["--split", "val", "--protocol", "legacy"],
        ["--world", "open"],
        ["--world", "open", "--feasibility", "none", "--split", "val"],
    ],
    ids=" ".join,
)
def test_figures_are_those_of_a_run(
    how: list[str],
    trained: tuple[list[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options, run = trained
    before = {path: path.read_bytes() for path in run.iterdir()}
    assert main(["evaluate", str(run), *how, "--json", str(tmp_path / "run.json")]) == 0
    of_run = capsys.readouterr().out.partition("\n")
    alone = ["evaluate", "--method", "zero-shot", *options, *how]
    assert main([*alone, "--json", str(tmp_path / "alone.json")]) == 0
    told = capsys.readouterr().out.partition("\n")
    assert figures(tmp_path / "alone.json") == figures(tmp_path / "run.json")
    assert told[2] == of_run[2]
    split = "val" if "val" in how else "test"
    assert told[0].startswith(f"Zero-shot CLIP, {toy_clip()}, on files: {split} split, ")
    assert [path.name for path in tmp_path.iterdir()] != ["runs"]
    assert {path: path.read_bytes() for path in run.iterdir()} == before


def test_options_matter(trained: tuple[list[str], Path], tmp_path: Path) -> None:
    options, _ = trained
    found = []
    for number, more in enumerate(([], ["--template", "rusty"], ["--alignment", "cls"])):
        given = [*options, *more, "--json", str(tmp_path / f"{number}.json")]
        if "cls" in more:
            place = given.index("--class-weight")  # of patch_max alone
            del given[place : place + 2]
        assert main(["evaluate", "--method", "zero-shot", *given]) == 0
        found.append(figures(tmp_path / f"{number}.json")["modality_gap"])
    assert found[0] != found[1]
    assert found[0] != found[2]


@pytest.mark.parametrize("dataset", ["scenes", "ut-zappos", "mit-states", "cgqa", "fruit-ripeness"])
def test_a_data_set_brings_the_clip_of_its_preset(dataset: str) -> None:
    options = evaluate.parse(["--method", "zero-shot", "--dataset", dataset])
    assert isinstance(options, evaluate.UntrainedOptions)
    config, preset = options.configuration(), preset_for(dataset, "zero-shot")
    assert config.data.dataset == dataset
    assert config.backbone == preset.backbone
    assert config.method == preset.method
    assert config.optim.eval_batch_size == preset.optim.eval_batch_size


def test_images_of_ones_own_meet_the_clip_that_word_lists_meet() -> None:
    options = evaluate.parse(["--method", "zero-shot", "--dataset", "files", "--data-root", "x"])
    assert isinstance(options, evaluate.UntrainedOptions)
    assert options.backbone.backbone == "ViT-B/32"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "csp"], "method is csp but must be one that needs no training, such as zero"),
        (["--method", "zero-shto"], "did you mean zero-shot?"),
        (["--method", "zero-shot", "--beta", "0.5"], "but zero-shot has none: leave it out. (czsl"),
        (["--method", "zero-shot", "--preset", "cgqa"], "did you mean --dataset?"),
        (["--method", "zero-shot", "--lr", "0.1"], "--lr is unknown"),
        (["--method", "zero-shot", "--augment"], "--augment is given but nothing is trained"),
        (["--method", "zero-shot", "--lora-rank", "3"], "--lora-rank is given but train_backbone"),
        (["--method", "zero-shot", "--patch-drop", "0.5"], "patch_drop_eval is off"),
        (["--method", "zero-shot", "--class-weight", "0.5"], 'alignment is "cls"'),
        (["--method", "zero-shot", "--data-root", "x"], 'but dataset is "scenes"'),
        (["--method", "zero-shot", "--dataset", "files"], "data_root is missing but dataset is"),
        (["--method", "zero-shot", "--dataset", "cgqa", "--data-root", "x"], "data_root is x but"),
        (["--method", "zero-shot", "--dataset", "hf:x"], "attribute_column is None but must be a"),
        (["--method", "zero-shot", "--threshold", "0.5"], "--threshold is of the open world"),
        (["runs/x", "--method", "zero-shot"], "must not be given with the run runs/x"),
        (["--dataset", "files"], "there is neither a run nor a method: add --method zero-shot"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *arguments]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not list(tmp_path.iterdir())
