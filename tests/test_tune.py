"""`czsl-sac tune`: studies on validation that can be stopped, and refuse what does not fit."""

import json
from pathlib import Path

import pandas as pd
import pytest
from toy_runs import Killed, contents, kill_after, toy_clip, toy_config, write_table

from czsl_sac.cli import main
from czsl_sac.cli.config_file import read_options
from czsl_sac.cli.train import parse
from czsl_sac.cli.tune import TuneOptions, read_objective
from czsl_sac.training import loop
from czsl_sac.training.run import train
from czsl_sac.training.run_folder import RunFolder
from czsl_sac.training.trained import TrainedRun

pytest.importorskip("optuna")

FIXED = {
    "dataset": "files",
    "epochs": 2,
    "batch_size": 4,
    "eval_batch_size": 4,
    "num_blocks": 1,
    "num_heads": 1,
    "capacity": 2,
}
LR = {"low": 1e-3, "high": 1e-1, "log": True}


def write_space(folder: Path, searched: dict[str, object], **fixed: object) -> Path:
    """A table of pictures and a search space on it, in JSON."""
    table = folder / "data" / "images.csv"
    if not table.is_file():
        write_table(table.parent)
    own = {"preset": "scenes", **FIXED, "data_root": str(table), "backbone": str(toy_clip())}
    path = folder / "space.json"
    path.write_text(json.dumps({**own, **fixed, **searched}))
    return path


def tune(space: Path, out: Path, *options: object) -> pd.DataFrame:
    assert main(["tune", str(space), "--out", str(out), *map(str, options)]) == 0
    return pd.read_csv(out / "trials.csv", keep_default_na=False)


def runs(out: Path) -> list[Path]:
    return sorted((out / "runs").iterdir())


def damage_test_images(table: Path) -> None:
    """Leave nothing in the test images that could be read as one."""
    rows = pd.read_csv(table)
    for name in rows.image[rows.split == "test"]:
        (table.parent / name).write_bytes(b"no image")


def test_the_best_is_what_evaluate_says_and_no_test_image_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = write_space(tmp_path, {"lr": LR, "num_blocks": {"low": 1, "high": 2}})
    damage_test_images(tmp_path / "data/images.csv")
    out = tmp_path / "tuned"
    trials = tune(space, out, "--trials", 3)
    assert list(trials.columns) == [
        *("trial", "num_blocks", "lr", "seen", "unseen", "hm", "auc", "why"),
    ]
    assert len(trials) == len(runs(out)) == 3
    assert trials.lr.between(1e-3, 1e-1).all()
    assert trials.num_blocks.isin([1, 2]).all()
    measured = {}
    for run in runs(out):
        assert not (run / "test.json").exists()
        loaded = TrainedRun.load(run)
        measured[loaded.config.optim.lr] = loaded.evaluate(split="val").auc
    assert trials.set_index("lr").auc.to_dict() == measured
    best = trials.loc[trials.auc.idxmax()]
    options = parse(["--config", str(out / "best.json")])
    assert options is not None
    assert options.configuration.optim.lr == best.lr
    assert options.configuration.method.num_blocks == best.num_blocks
    printed = capsys.readouterr().out
    command = printed.partition("The same from the preset: czsl-sac train ")[2].split("\n")[0]
    again = parse(command.split())
    assert again is not None
    assert again.configuration == options.configuration


@pytest.mark.parametrize("writes", [4, 13])
def test_a_killed_study_goes_on_as_if_it_had_not_been(
    writes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = write_space(tmp_path, {"lr": LR, "seed": {"values": [0, 1, 2]}})
    whole = tune(space, tmp_path / "whole", "--trials", 3, "--sampler", "random")
    out, kept = tmp_path / "part", ("--trials", "3", "--sampler", "random")
    written = kill_after(monkeypatch, writes)
    with pytest.raises(Killed):
        main(["tune", str(space), "--out", str(out), *kept])
    assert len(written) == writes
    monkeypatch.undo()
    part = tune(space, out, *kept)
    assert part.equals(whole)
    assert [r.name for r in runs(out)] == [r.name for r in runs(tmp_path / "whole")]
    before = contents(out / "runs")
    assert tune(space, out, *kept).equals(whole)  # again, on a finished study
    assert contents(out / "runs") == before


def test_more_trials_follow_and_what_was_found_decides_them(tmp_path: Path) -> None:
    """The estimator draws at random for ten trials, then from them; stopped or not."""
    run = tmp_path / "run"
    train(toy_config(write_table(tmp_path / "data")), run)
    space = tmp_path / "space.toml"
    space.write_text("[beta]\nlow = 0\nhigh = 1\n[gamma]\nlow = 0\nhigh = 2\n")
    whole = tune(space, tmp_path / "whole", "--run", run, "--trials", 12)
    first = tune(space, tmp_path / "part", "--run", run, "--trials", 10)
    assert first.equals(whole.head(10))
    assert tune(space, tmp_path / "part", "--run", run, "--trials", 12).equals(whole)


def test_a_configuration_is_trained_once(tmp_path: Path) -> None:
    """Without a bank nothing reads gamma, so that two points are one configuration."""
    space = write_space(
        tmp_path,
        {"bank": {"values": ["off", "train"]}, "gamma": {"values": [0.25, 0.5]}},
        capacity=2,
        epochs=1,
    )
    values = json.loads(space.read_text())
    del values["capacity"]
    space.write_text(json.dumps(values))
    trials = tune(space, tmp_path / "tuned", "--sampler", "grid")
    assert trials[["bank", "gamma"]].to_numpy().tolist() == [
        ["off", 0.25],
        ["off", 0.5],
        ["train", 0.25],
        ["train", 0.5],
    ]
    assert len(runs(tmp_path / "tuned")) == 3
    assert trials.auc[0] == trials.auc[1]


def test_a_grid_over_a_run_is_what_evaluate_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, table = tmp_path / "run", write_table(tmp_path / "data")
    damage_test_images(table)
    train(toy_config(table), run, test=False)
    before = contents(run)
    space = tmp_path / "space.toml"
    space.write_text("[beta]\nvalues = [0.0, 1.0]\n[gamma]\nvalues = [0, 5.0]\n")
    trials = tune(space, tmp_path / "tuned", "--run", run, "--sampler", "grid")
    assert contents(run) == before
    assert not (tmp_path / "tuned/best.json").exists()
    for row in trials.itertuples():
        loaded = TrainedRun.load(run, beta=row.beta, gamma=row.gamma)
        assert row.auc == loaded.evaluate(split="val").auc
    best = trials.loc[trials.auc.idxmax()]
    line = f"czsl-sac evaluate {run} --beta {best.beta} --gamma {best.gamma:g}"
    assert line in capsys.readouterr().out.replace(".0\n", "\n")


def test_a_loss_that_is_not_finite_ends_a_trial_and_not_the_study(tmp_path: Path) -> None:
    space = write_space(tmp_path, {"lr": {"values": [1e30, 1e-2]}}, epochs=1)
    trials = tune(space, tmp_path / "tuned", "--sampler", "grid")
    assert "loss is nan after epoch 1" in trials.why[0]
    assert (trials.auc[0], trials.why[1]) == ("", "")
    assert 0 <= float(trials.auc[1]) <= 1


def test_what_contradicts_itself_is_a_trial_without_metrics(tmp_path: Path) -> None:
    space = write_space(
        tmp_path,
        {"condense": {"values": [True, False]}, "bank": {"values": ["off", "train"]}},
        epochs=1,
    )
    values = json.loads(space.read_text())
    for name in ("capacity", "num_blocks", "num_heads"):
        del values[name]
    space.write_text(json.dumps(values))
    trials = tune(space, tmp_path / "tuned", "--sampler", "grid")
    assert [bool(why) for why in trials.why] == [False, False, False, True]
    assert 'bank is "train" but condense is off' in trials.why[3]


def test_a_run_that_falls_behind_is_stopped_and_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of seven runs the last ones are worse after their first epoch than all others."""
    calls = 0
    evaluate = loop.evaluate_method

    def worse(*arguments: object, **options: object) -> object:
        from dataclasses import replace

        nonlocal calls
        calls += 1
        result = evaluate(*arguments, **options)  # type: ignore[arg-type]
        return replace(result, auc=0.5 if calls <= 10 else 0.1)

    monkeypatch.setattr(loop, "evaluate_method", worse)
    space = write_space(tmp_path, {"seed": {"values": [0, 1, 2, 3, 4, 5]}})
    trials = tune(space, tmp_path / "tuned", "--sampler", "grid", "--prune")
    assert [bool(why) for why in trials.why] == [False] * 5 + [True]
    (stopped,) = [r for r in runs(tmp_path / "tuned") if r.name.startswith("sac-5-")]
    assert len(RunFolder(stopped).records()) == 1
    assert f"czsl-sac train --resume --run-dir {stopped}" in trials.why[5]
    monkeypatch.undo()
    assert main(["train", "--resume", "--run-dir", str(stopped)]) == 0
    assert len(RunFolder(stopped).records()) == 2


def test_another_study_and_another_folder_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tuned"
    tune(write_space(tmp_path, {"seed": {"values": [0]}}, epochs=1), out, "--sampler", "grid")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/study.db").write_text("mine")
    other = write_space(tmp_path, {"seed": {"values": [0]}}, epochs=2)
    before = contents(tmp_path)
    capsys.readouterr()
    for folder, options, message in (
        (out, ("--sampler", "grid"), "epochs is 2 but must be 1, as the study in"),
        (tmp_path / "other", (), "must be a new folder or that of a study"),
        (tmp_path / "data/images.csv", (), "must be a new folder or that of a study"),
    ):
        assert main(["tune", str(other), "--out", str(folder), *options]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert message in error
    assert contents(tmp_path) == before


def test_a_damaged_study_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tuned"
    space = write_space(tmp_path, {"seed": {"values": [0, 1]}}, epochs=1)
    whole = tune(space, out, "--sampler", "grid")
    (out / "study.db").write_bytes(b"no database" * 100)
    before = contents(out / "runs")
    assert main(["tune", str(space), "--out", str(out), "--sampler", "grid"]) == 2
    assert "study.db is damaged but must be a study" in capsys.readouterr().err
    (out / "study.db").unlink()
    assert tune(space, out, "--sampler", "grid").equals(whole)
    assert contents(out / "runs") == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr = 1\n", "the search space is empty but must hold options to choose"),
        ("[lrr]\nvalues = [1]\n", "--lrr is unknown: did you mean --lr?"),
        ("[lr]\nvalue = [1]\n", "lr has 'value' but must have values, or low and high"),
        ("[lr]\nvalues = []\n", "must have a list of values and nothing else"),
        ("[lr]\nlow = 1\n", "lr has high None but must have a number"),
        ("[lr]\nlow = 1\nhigh = 1\n", "must have low below high: correct the range"),
        ("[lr]\nlow = 0\nhigh = 1\nlog = true\n", "must have low above 0 where log is on"),
        (
            "[epochs]\nlow = 1\nhigh = 2.5\n",
            "epochs has {'low': 1, 'high': 2.5} but must",
        ),
        ("[bank]\nlow = 0\nhigh = 1\n", "bank has a range but must have values"),
        ("[beta]\nlow = 0\nhigh = 2\n", "beta is 2.0 but must be at most 1: lower it."),
        ("[bank]\nvalues = ['of']\n", "bank is 'of' but must be one of off, train, dynamic"),
        ("bank = 'off'\n[gamma]\nvalues = [1]\n", "gamma is searched but bank is"),
        (
            "[adapter_scale]\nvalues = [1.0]\n",
            "adapter_scale is searched but train_backbone is",
        ),
        ("[run_dir]\nvalues = ['x']\n", "run_dir is of the command line alone"),
    ],
)
def test_a_mistake_in_a_space_is_one_line(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = tmp_path / "space.toml"
    space.write_text(text)
    assert main(["tune", str(space), "--out", str(tmp_path / "tuned")]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert message in printed.err
    assert f"{space}: " in printed.err
    assert [path.name for path in tmp_path.iterdir()] == ["space.toml"]


def test_mistakes_about_a_run_and_its_data_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(toy_config(write_table(tmp_path / "data")), run)
    space = tmp_path / "space.toml"
    for text, options, message in (
        ("[lr]\nvalues = [1.0]\n", ("--run", run), "lr is searched but was decided when"),
        ("seed = 1\n[beta]\nvalues = [1.0]\n", ("--run", run), "seed is given but was decided"),
        ("[beta]\nlow = 0\nhigh = 1\n", ("--run", run, "--sampler", "grid"), "beta has a range"),
        ("[beta]\nvalues = [1.0]\n", ("--run", run, "--prune"), "--prune is given but nothing is"),
        ("[beta]\nvalues = [1.0]\n", ("--trials", "0"), "trials is 0 but must be at least 1"),
        ("preset = 'cgqa'\n[beta]\nvalues = [1.0]\n", (), "data_root is missing"),
        ("backbone = 'no.pt'\n[beta]\nvalues = [1.0]\n", (), "no.pt"),
    ):
        space.write_text(text)
        before = contents(tmp_path)
        capsys.readouterr()
        words = ["tune", space, "--out", tmp_path / "tuned", *options]
        assert main([str(word) for word in words]) == 2
        error = capsys.readouterr().err
        assert (error.count("\n"), message in error) == (1, True), error
        assert contents(tmp_path) == before


@pytest.mark.parametrize("number", [0, 1])
def test_the_spaces_of_the_guide_are_read(number: int, tmp_path: Path) -> None:
    page = Path(__file__).parent.parent / "docs/workflows.md"
    text = page.read_text("utf-8").split("```toml\n")[number + 1].partition("```")[0]
    space = tmp_path / "space.toml"
    space.write_text(text)
    objective = read_objective(TuneOptions(space), read_options(space))
    assert len(objective.space.searched) == 2
