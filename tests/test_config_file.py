"""`--config FILE` and `--print-config`: preset, then file, then command line."""

import json
from pathlib import Path

import pytest

from czsl_sac.cli import main, train
from czsl_sac.methods.registry import method_names
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.presets import DATA_SETS, preset_for


def config_of(*arguments: object) -> TrainConfig:
    options = train.parse([str(argument) for argument in arguments])
    assert options is not None
    return options.configuration


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_file_lies_between_preset_and_command_line(tmp_path: Path) -> None:
    toml = 'preset = "mit-states"\nmethod = "troika"\nlr = 1e-3\nbatch-size = 8\n'
    file = written(tmp_path / "a.toml", toml + 'adapter-layers = [1, 2]\ntemperature = "None"\n')
    expected = preset_for("mit-states", "troika").with_options(
        lr=1e-3, batch_size=8, adapter_layers=(1, 2), temperature=None
    )
    assert config_of("--config", file) == expected
    assert config_of("--lr", "1", "--config", file) == expected.with_options(lr=1.0)
    assert config_of("--config", file, "--preset", "cgqa") == preset_for(
        "cgqa", "troika"
    ).with_options(lr=1e-3, batch_size=8, adapter_layers=(1, 2))


@pytest.mark.parametrize("method", method_names())
@pytest.mark.parametrize("preset", DATA_SETS)
def test_what_is_printed_is_taken_back(
    preset: str, method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["train", "--preset", preset, "--method", method, "--seed", "3", "--lr", "0.5"]
    assert main([*chosen, "--print-config"]) == 0
    text = capsys.readouterr().out
    file = written(tmp_path / "printed.json", text)
    assert config_of("--config", file) == preset_for(preset, method).with_options(seed=3, lr=0.5)
    assert main(["train", "--config", str(file), "--print-config"]) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "lrr = 1", "a.toml: --lrr is unknown: did you mean --lr?"),
        ("a.toml", "learning-rate = 1", "--learning-rate is unknown: did you mean --lr?"),
        ("a.toml", 'method = "csp"\ngamma = 1', "--gamma is an option of sac, but csp has none"),
        ("a.toml", 'bank = "off"\ngamma = 1', 'gamma is given but bank is "off", so that nothing'),
        ("a.toml", 'lr = "fast"', "a.toml: lr is 'fast' but must be a number"),
        ("a.toml", 'alignment = "max"', "alignment is 'max' but must be one of patch_max, cls"),
        ("a.toml", "[optim]\nlr = 1", "optim is a group but must be an option"),
        ("a.toml", 'run_dir = "x"', "run_dir is of the command line alone"),
        ("a.toml", "lr = ", "a.toml is damaged but must be TOML"),
        ("a.json", "{", "a.json is damaged but must be JSON"),
        ("a.json", "[1]", "a.json holds a list but must hold options by name"),
        ("a.json", '{"preset": 3}', "preset is 3 but must be a name"),
        ("a.yaml", "lr: 1", "ends in '.yaml' but must end in .json or .toml"),
    ],
)
def test_a_mistake_in_a_file_is_one_line(
    name: str, text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / name, text)
    assert main(["train", "--config", str(file), "--run-dir", str(tmp_path / "run")]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert message in printed.err
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_is_refused_where_a_run_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", "--run-dir", "x", "--config", "a.json"]) == 2
    assert "--config is a.json but must not be given with --resume" in capsys.readouterr().err


def test_the_record_of_a_run_is_such_a_file(tmp_path: Path) -> None:
    from test_cli import begun

    config = preset_for("scenes", "troika").with_options(lr=0.25, seed=4)
    begun(tmp_path, config)
    assert config_of("--config", tmp_path / "config.json") == config
    assert json.loads((tmp_path / "config.json").read_text())["config"]["seed"] == 4
