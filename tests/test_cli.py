"""The command line: options reach the configuration, mistakes are one line and exit code 2."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from czsl_sac.cli import evaluate, main, train
from czsl_sac.clip import load_backbone
from czsl_sac.space import CompositionSpace
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.presets import DATA_SETS, preset_for
from czsl_sac.training.record import RunRecord
from czsl_sac.training.run_folder import RunFolder


def config_of(*arguments: str) -> TrainConfig:
    options = train.parse(list(arguments))
    assert options is not None
    return options.configuration


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a refused command prints, checked to be one line on stderr with exit code 2."""
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("czsl-sac: error: ")
    assert printed.err.count("\n") == 1
    assert printed.err.endswith("\n")
    return printed.err.removeprefix("czsl-sac: error: ").rstrip("\n")


def test_a_preset_is_the_default_of_every_option() -> None:
    assert config_of() == preset_for("scenes")
    for name in DATA_SETS:
        assert config_of("--preset", name) == config_of(f"--preset={name}") == preset_for(name)


def test_options_change_a_preset_whatever_their_order() -> None:
    options = train.parse(
        ["--alignment", "cls", "--seed", "1", "--run-dir", "a/b", "--preset", "scenes"]
    )
    assert options is not None
    assert (options.configuration.method.alignment, options.configuration.seed) == ("cls", 1)
    assert (options.run_dir, options.resume) == (Path("a/b"), False)
    changed = options.configuration.to_dict()
    changed["method"]["alignment"], changed["seed"] = "patch_max", 0
    assert TrainConfig.from_dict(changed) == preset_for("scenes")


def test_the_method_decides_the_settings_of_a_preset() -> None:
    troika = preset_for("mit-states", "troika")
    chosen = ["--method", "troika", "--alignment", "patch_max", "--preset", "mit-states"]
    assert config_of(*chosen) == troika.with_options(alignment="patch_max")
    assert config_of("--preset", "mit-states", "--method=troika") == troika
    assert config_of("--method", "csp") == preset_for("scenes", "csp")


def test_options_of_every_kind_reach_their_field() -> None:
    config = config_of(
        *("--preset", "mit-states", "--data-root", "/data/mit", "--backbone", "ViT-B/32"),
        *("--lora-targets", "q", "v", "--lora-layers", "10", "11", "--temperature", "0.02"),
        *("--prompt-dropout", "0.1", "--bank", "off", "--lr", "1e-3", "--condenser-lr", "None"),
        *("--schedule", "end_to_end", "--lora_alpha", "2", "--no-train-context"),
    )
    assert config.data.data_root == Path("/data/mit")
    assert (config.backbone.backbone, config.backbone.lora_alpha) == ("ViT-B/32", 2.0)
    assert (config.backbone.lora_targets, config.backbone.lora_layers) == (("q", "v"), (10, 11))
    assert (config.method.temperature, config.method.train_context) == (0.02, False)
    assert (config.method.bank, config.method.prompt_dropout) == ("off", 0.1)
    assert (config.optim.lr, config.method.condenser_lr) == (1e-3, None)
    assert config.method.schedule == "end_to_end"
    assert config.optim.epochs == preset_for("mit-states").optim.epochs
    assert not config_of("--no-condense", "--bank", "off").method.condense


def test_evaluate_takes_the_run_and_its_choices(tmp_path: Path) -> None:
    config = preset_for("scenes", "csp")
    begun(tmp_path, config)
    run, method = str(tmp_path), config.method
    options = evaluate.parse([run, "--split", "val", "--protocol", "legacy"])
    expected = evaluate.EvaluateOptions(tmp_path, split="val", protocol="legacy", method=method)
    assert options == expected
    assert evaluate.parse([run]) == evaluate.EvaluateOptions(tmp_path, method=method)
    options = evaluate.parse(["--class-weight", "0.5", run])
    assert isinstance(options, evaluate.EvaluateOptions)
    assert options.method == replace(method, class_weight=0.5)
    with pytest.raises(ValueError, match=r"--beta is an option of sac, .*csp has none"):
        evaluate.parse([run, "--beta", "0.5"])


def begun(folder: Path, config: TrainConfig) -> None:
    """Begin a run of this configuration, of which no epoch has ended."""
    space = CompositionSpace.closed_world([("red", "car"), ("blue", "cat")])
    RunFolder(folder).write_record(RunRecord(config, space, "tiny", "0" * 64, {}))


def test_resume_starts_from_the_configuration_of_the_run(tmp_path: Path) -> None:
    saved = config_of("--preset", "scenes", "--beta", "0.25", "--epochs", "3")
    begun(tmp_path, saved)
    assert config_of("--resume", "--run-dir", str(tmp_path)) == saved
    longer = config_of("--run-dir", str(tmp_path), "--epochs", "9", "--resume")
    assert (longer.method.beta, longer.optim.epochs) == (0.25, 9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "command is 'trian' but must be one of train, tune, evaluate, "),
        (["trian"], "did you mean train?"),
        (["--alignment"], "command is '--alignment' but must be one of train, tune, evaluate, "),
        (["train", "--alignmnt", "cls"], "--alignmnt is unknown: did you mean --alignment? (czsl"),
        (["train", "--preset", "scenez"], "preset is 'scenez' but must be one of scenes, ut-zapp"),
        (["train", "--preset", "scenez"], "did you mean scenes?"),
        (["train", "--preset", "x"], "preset is 'x' but must be one of scenes, ut-zappos, mit-st"),
        (["train", "--method", "cps"], "method is 'cps' but must be one of "),
        (["train", "--method", "cps"], "did you mean csp?"),
        (["train", "--preset"], "Missing value for argument '--preset'."),
        (
            ["train", "--lr", "fast"],
            "Error parsing --lr: could not convert string to float: 'fast'",
        ),
        (["train", "--alignment", "max"], "invalid choice 'max' for argument '--alignment'."),
        (["train", "--beta", "2"], "error: beta is 2.0 but must be at most 1: lower it. ("),
        (
            ["train", "--seed", "-1"],
            "error: seed is -1 but must be at least 0: raise it.",
        ),
        (["train", "--no-condense"], 'bank is "dynamic" but condense is off'),
        (["train", "stray"], "'stray' belongs to no option but every value must follow one: rem"),
        (
            ["train", "--method", "csp", "--gamma", "1"],
            "--gamma is an option of sac, but csp has none: ",
        ),
        (["train", "--method", "csp", "--no-condense"], "--no-condense is an option of sac, but "),
        (["train", "--tokens", "all"], "--tokens is unknown: did you mean --token-choice?"),
        (
            ["train", "--train-backbone", "none", "--lora-rank", "4"],
            '--lora-rank is given but train_backbone is "none", so that nothing reads it: leave it',
        ),
        (
            ["train", "--lora-targets=q", "--train-backbone=full"],
            '--lora-targets is given but train_backbone is "full", so that nothing reads it',
        ),
        (
            ["train", "--alignment", "cls", "--reduction", "mean"],
            '--reduction is given but alignment is "cls", so that nothing reads it',
        ),
        (
            ["train", "--bank", "off", "--gamma", "0.1"],
            '--gamma is given but bank is "off", so that nothing reads it',
        ),
        (
            ["train", "--data-root", "somewhere"],
            '--data-root is given but dataset is "scenes", so that nothing reads it',
        ),
        (["train", "--resume"], "--run-dir is missing but --resume must have the folder of the ru"),
        (
            ["train", "--resume", "--run-dir", "nowhere"],
            "there is no run in nowhere: the folder",
        ),
        (
            ["train", "--resume", "--preset", "cgqa"],
            "--preset is cgqa but must not be given with --resume",
        ),
        (["train", "--preset", "cgqa", "--backbone", "tiny"], "data_root is missing"),
        (["train", "--backbone", "nowhere/clip.pt"], "nowhere/clip.pt"),
        (["evaluate"], "Missing from czsl-sac evaluate: PATH Folder of the run."),
        (["evaluate", "nowhere"], "there is no run in nowhere: the folder nowhere does not exist"),
        (
            ["evaluate", "r", "--protocl", "legacy"],
            "--protocl is unknown: did you mean --protoco",
        ),
        (["evaluate", "r", "--threshold", "0.2"], "--threshold is of the open world: add --world"),
        (["evaluate", "r", "--feasibility-rule", "legacy"], "--feasibility-rule is of the open"),
        (["evaluate", "r", "--world", "wide"], "invalid choice 'wide' for argument '--world'"),
        (["evaluate", "r", "--alpha", "0.1"], "alpha is 0.1 but must be 0.5, as the run was train"),
        (["info", "--verbose"], "--verbose is unknown: it is no option of this command."),
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
    monkeypatch.chdir(tmp_path)  # where a run folder would be made, had the mistake gone through
    begun(tmp_path / "r", preset_for("scenes"))
    assert message in "error: " + complaint(capsys, *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_several_processes_need_a_named_run_folder(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "--run-dir DIR" in complaint(capsys, "train")


def test_traceback_shows_where_an_error_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "nowhere", "--traceback"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback (most recent call last):")
    assert "FileNotFoundError: there is no run in nowhere" in printed


@pytest.mark.parametrize("colours", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_help_and_mistakes_read_well_on_any_terminal(encoding: str, colours: bool) -> None:
    environment = {"PYTHONIOENCODING": encoding, "COLUMNS": "50", "PATH": "/usr/bin:/bin"}
    if colours:
        environment["FORCE_COLOR"] = "1"
    wrong, right = (
        subprocess.run(
            [sys.executable, "-m", "czsl_sac", "train", option],
            env=environment,
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        for option in ("--alignmnt", "--help")
    )
    assert wrong.returncode == 2
    assert wrong.stderr == (
        "czsl-sac: error: --alignmnt is unknown: did you mean --alignment? "
        "(czsl-sac train --help lists the options)\n"
    )
    assert right.returncode == 0
    assert "--retrieval-temperature" in right.stdout


def test_help_shows_the_values_of_the_preset_and_loads_no_torch() -> None:
    code = (
        "import sys; from czsl_sac.cli import main; "
        "code = main(['train', '--preset', 'mit-states', '--help']); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    words = " ".join(done.stdout.replace("│", " ").split())
    assert "Samples N that the bank keeps per composition. (default: 24)" in words


def test_the_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["-h"]) == main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {name} " in printed for name in ("train", "evaluate", "info"))


def test_info_names_versions_devices_and_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert torch.__version__.partition("+")[0] in printed
    assert f"{torch.get_num_threads()} threads" in printed
    assert "patch_max" in printed


def test_train_resume_and_evaluate_a_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--images-per-pair", "1", "--eval-images-per-pair", "1", "--run-dir", "run"]
    assert main(["train", "--preset", "scenes", *small, "--epochs", "1"]) == 0
    printed = capsys.readouterr().out
    assert "test split, best epoch" in printed
    assert "transductive" in printed
    assert "czsl-sac evaluate run" in printed
    assert RunFolder("run").read_record().config.data.images_per_pair == 1

    assert "run_dir is run but must hold no run yet: pass" in complaint(capsys, "train", *small)

    assert main(["train", "--resume", "--run-dir", "run", "--epochs", "2"]) == 0
    lines = Path("run/metrics.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]

    capsys.readouterr()
    assert main(["evaluate", "run", "--split", "test", "--protocol", "legacy"]) == 0
    assert "legacy" in capsys.readouterr().out

    assert main(["evaluate", "run", "--world", "open", "--json", "out/open.json"]) == 0
    printed = capsys.readouterr().out
    assert "open world, in percent" in printed
    written = json.loads(Path("out/open.json").read_text("utf-8"))
    assert f"Feasible at {written['threshold']:.4f} or more, seen ones included: " in printed
    assert f"{written['candidates']:,} compositions" in printed
    gap = written["modality_gap"]["condensed"]
    assert f"condensed feature: relative {gap['relative_modality_gap']:.4f}" in printed
    assert (written["world"], written["feasibility"], written["split"]) == ("open", "clip", "test")
    assert written["transductive"] is True
    assert len(written["curve"]["seen"]) == len(written["curve"]["bias"]) > 1
    assert all(0 <= recall <= 1 for recall in written["attribute_recall"].values())
    assert main(["evaluate", "run", "--world", "open", "--feasibility", "none"]) == 0
    assert "All 144 compositions count as feasible." in capsys.readouterr().out
    refused = complaint(capsys, "evaluate", "run", "--world", "open", "--feasibility", "glove")
    assert "feasibility is 'glove' but must be clip, none, or an existing file" in refused

    folder = RunFolder("run")
    record = folder.read_record()
    assert (record.backbone, record.checksum) == ("tiny", load_backbone("tiny").base_checksum)
    longer = ["train", "--resume", "--run-dir", "run", "--epochs", "3"]
    was = f"trained on 'tiny' with weights of checksum {record.checksum[:12]}, but 'tiny' now has"
    for command in (["evaluate", "run"], longer):
        with monkeypatch.context() as patch:
            patch.setattr("czsl_sac.clip.backbone.weights_checksum", lambda module: "0" * 64)
            assert f"{was} 000000000000" in complaint(capsys, *command)

    wider = record.config.with_options(lora_rank=record.config.backbone.lora_rank + 1)
    folder.write_record(replace(record, config=wider))
    assert "run/last.pt is of another run" in complaint(capsys, "evaluate", "run")


def test_no_arguments_show_three_examples_that_parse(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    examples = capsys.readouterr().out.partition("examples:\n")[2].partition("\n\n")[0]
    assert len(examples.splitlines()) == 3
    for call in examples.replace("&&", "\n").splitlines():
        program, command, *_ = call.split()
        assert (program, main([command, "--help"])) == ("czsl-sac", 0)
