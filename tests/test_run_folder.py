"""What is refused leaves a run as it was; what may change is recorded; what has ended is served."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_runs import (
    SPLITS,
    Killed,
    contents,
    stop_the_clock,
    toy_clip,
    toy_config,
    write_clip,
    write_table,
)

from czsl_sac import SAC
from czsl_sac.cli import main
from czsl_sac.files import read_metadata, save_json
from czsl_sac.training import run as run_module
from czsl_sac.training import trained
from czsl_sac.training.record import CHANGEABLE, differences
from czsl_sac.training.run import train
from czsl_sac.training.run_folder import BEST, MEMORY, RunFolder
from czsl_sac.training.trained import TrainedRun


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished run and the table of its data set."""
    root = tmp_path_factory.mktemp("made")
    table = write_table(root / "data")
    with pytest.MonkeyPatch.context() as patch:
        stop_the_clock(patch)
        train(toy_config(table), root / "run")
    return root / "run", table


@pytest.fixture
def run(made: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of it, to do things to."""
    return Path(shutil.copytree(made[0], tmp_path / "run"))


def sentence(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a refused command says, checked to be one line with exit code 2."""
    capsys.readouterr()
    assert main(list(map(str, arguments))) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err.removeprefix("czsl-sac: error: ")


def move_images(table: Path) -> None:
    """Let an image of validation and one of the test split, of the same composition, swap."""
    rows = [row.split(",") for row in table.read_text().splitlines()]
    (one, *_), (other, *_) = (
        [row for row in rows if row[1:3] == ["red", "cat"] and row[3] == split]
        for split in ("train", "test")
    )
    one[3], other[3] = other[3], one[3]
    table.write_text("\n".join(map(",".join, rows)) + "\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "csp"], "--method is csp but must be sac, as the run in"),
        (["--lr", "5"], "lr is 5.0 but must be 0.01, as the run was begun: leave it out, or begin"),
        (["--seed", "3"], "seed is 3 but must be 0, as the run was begun"),
        (["--gamma", "0.25"], "gamma is 0.25 but must be 0.5, as the run was begun"),
        (["--backbone", "tiny"], "backbone is 'tiny' but must be '"),
        (["--dataset", "scenes"], "dataset is 'scenes' but must be 'files', as the run was begun"),
        (["--data-root", "nowhere.csv", "--epochs", "3"], "nowhere.csv does not exist"),
        (["--epochs", "1"], "epochs is 1 but must be at least 2, as many as have ended: raise it"),
        (["--epochs", "0"], "epochs is 0 but must be at least 1: raise it"),
        (["--prset", "x"], "--prset is unknown: did you mean --preset?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refused_options_leave_the_run_as_it_was(
    capsys: pytest.CaptureFixture[str], run: Path, options: list[str], message: str
) -> None:
    before = contents(run)
    assert message in sentence(capsys, "train", "--resume", "--run-dir", run, *options)
    assert contents(run) == before
    assert {path.name for path in run.parent.iterdir()} == {"run"}


def test_the_options_that_may_change_are_options() -> None:
    config = toy_config(Path("images.csv"))
    changed = config.with_options(
        data_root=Path("other.csv"),
        num_workers=1,
        eval_batch_size=2,
        epochs=9,
        checkpoint_vision=True,
        compile=True,
    )
    cached = config.with_options(train_backbone="none")
    other = replace(cached, data=replace(cached.data, feature_cache=Path("cache")))
    found = {*differences(config, changed), *differences(cached, other)}
    assert found == CHANGEABLE


def test_a_data_set_in_other_words_is_refused(
    capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path
) -> None:
    other = write_table(tmp_path / "data", {"red": "wet"})
    before = contents(run)
    arguments = ("train", "--resume", "--run-dir", run, "--data-root", other, "--epochs", 3)
    assert "data_root holds " in (said := sentence(capsys, *arguments))
    assert "on which the run in" in said
    assert contents(run) == before


@pytest.fixture
def own(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A run of one epoch whose data and backbone are its own: folder, table, weights."""
    table, clip = write_table(tmp_path / "data"), tmp_path / "clip.pt"
    shutil.copy(toy_clip(), clip)
    train(toy_config(table, backbone=str(clip), epochs=1), tmp_path / "run")
    return tmp_path / "run", table, clip


def test_images_that_moved_between_splits_are_refused(
    capsys: pytest.CaptureFixture[str], own: tuple[Path, Path, Path]
) -> None:
    run, table, _ = own
    move_images(table)
    before = contents(run)
    for command in (["train", "--resume", "--run-dir", run, "--epochs", 2], ["evaluate", run]):
        said = sentence(capsys, *command)
        assert "the train and test split of images has changed but must be the one that" in said
        assert contents(run) == before


def test_weights_of_another_backbone_are_refused(
    capsys: pytest.CaptureFixture[str], own: tuple[Path, Path, Path]
) -> None:
    run, _, clip = own
    write_clip(clip, seed=1)
    before = contents(run)
    for command in (["train", "--resume", "--run-dir", run, "--epochs", 2], ["evaluate", run]):
        assert "was trained on 'clip' with weights of checksum" in sentence(capsys, *command)
        assert contents(run) == before


def test_a_refused_new_run_leaves_no_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = sentence(capsys, "train", "--backbone", "no.pt", "--run-dir", "a/b/run")
    assert "no.pt" in said
    assert [*tmp_path.iterdir()] == []
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "mine.txt").write_text("mine")
    sentence(capsys, "train", "--backbone", "no.pt", "--run-dir", kept)
    assert [path.name for path in kept.iterdir()] == ["mine.txt"]


def test_more_epochs_are_trained_and_recorded(
    made: tuple[Path, Path], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_the_clock(monkeypatch)
    longer = train(toy_config(made[1], epochs=3, eval_batch_size=3), run, resume=True)
    assert [record["epoch"] for record in longer.records] == [1, 2, 3]
    record = RunFolder(run).read_record()
    assert record.config.optim.epochs == 3
    assert list(record.changes) == [
        {"option": "epochs", "from": 2, "to": 3, "after_epoch": 2},
        {"option": "eval_batch_size", "from": 4, "to": 3, "after_epoch": 2},
    ]
    again = train(toy_config(made[1], epochs=4, eval_batch_size=3), run, resume=True)
    record = RunFolder(run).read_record()
    assert [*record.changes][2:] == [{"option": "epochs", "from": 3, "to": 4, "after_epoch": 3}]
    assert again.records[:3] == longer.records
    whole = train(toy_config(made[1], epochs=4, eval_batch_size=3), tmp_path / "whole")
    for one, other in zip(again.records[2:], whole.records[2:], strict=True):
        assert one == other
    tags = [RunFolder(path).weights("last").tag for path in (run, tmp_path / "whole")]
    assert tags == ["joint:4"] * 2
    last, other = (RunFolder(p).load_checkpoint() for p in (run, tmp_path / "whole"))
    assert all(torch.equal(last.weights[name], value) for name, value in other.weights.items())


def test_a_finished_run_says_so_at_once(
    capsys: pytest.CaptureFixture[str],
    made: tuple[Path, Path],
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("a finished run needs none of this")

    expected = TrainedRun.load(run).evaluate()
    for module, name in (
        (run_module, "build_data"),
        (run_module, "build_backbone"),
        (run_module, "build_method"),
        (trained, "build_data"),
        (SAC, "fill_memory"),
    ):
        monkeypatch.setattr(module, name, never)
    before = contents(run)
    summary = train(toy_config(made[1]), run, resume=True)
    assert (summary.trained, summary.run_dir) == (False, run)
    assert summary.test.to_dict(details=True) == expected.to_dict(details=True)
    assert [record["epoch"] for record in summary.records] == [1, 2]
    assert main(["train", "--resume", "--run-dir", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "the run had ended before" in printed
    assert f"{100 * expected.auc:.2f}" in printed
    assert contents(run) == before
    with pytest.raises(AssertionError, match="needs none of this"):  # the result is of batches of 4
        train(toy_config(made[1], eval_batch_size=2), run, resume=True)


def test_a_run_without_training_ends_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = toy_config(write_table(tmp_path / "data"), "zero-shot", train_backbone="none")
    first = train(config, tmp_path / "run")
    assert first.records == []
    monkeypatch.setattr(run_module, "build_data", None)
    again = train(config, tmp_path / "run", resume=True)
    assert not again.trained
    assert again.test.to_dict() == first.test.to_dict()
    for checkpoint in ("best", "last"):
        run = TrainedRun.load(tmp_path / "run", checkpoint=checkpoint)
        assert run.evaluate().to_dict() == first.test.to_dict()


def test_an_old_bank_is_never_served(
    made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished run goes on, finds better weights, and is killed before its bank is made anew."""
    stop_the_clock(monkeypatch)
    table, longer, run = made[1], toy_config(made[1], epochs=2), tmp_path / "run"
    train(toy_config(table, epochs=1), run)
    old = read_metadata(run / MEMORY)["weights"]
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_memory", kill)
        with pytest.raises(Killed):
            train(longer, run, resume=True)
    best = read_metadata(run / BEST)["weights"]
    assert (best, old) == ("joint:2", "joint:1") == (best, read_metadata(run / MEMORY)["weights"])
    expected = TrainedRun.load(made[0])
    served = TrainedRun.load(run)
    for name, value in expected.method.memory_state().items():
        assert torch.equal(served.method.memory_state()[name], value), name
    assert served.evaluate().to_dict() == expected.evaluate().to_dict()
    train(longer, run, resume=True)
    left_out = ("config.json", "last.pt")  # which say that the run went on
    after, whole = contents(run), contents(made[0])
    assert {k: v for k, v in after.items() if k not in left_out} == {
        k: v for k, v in whole.items() if k not in left_out
    }


def kill(*arguments: object) -> None:
    raise Killed


def test_a_run_of_the_first_version_says_which_made_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    old = {name: {} for name in ("data", "backbone", "model", "optim")}
    save_json(tmp_path / "config.json", {**old, "seed": 0})
    for command in (
        ["evaluate", tmp_path],
        ["train", "--resume", "--run-dir", tmp_path],
        ["predict", tmp_path, tmp_path / "config.json"],
        ["report", tmp_path],
    ):
        said = sentence(capsys, *command)
        assert f"{tmp_path / 'config.json'}: the run was made by czsl-sac 0.1 but must be" in said


def test_a_run_of_a_later_version_is_refused_by_its_number(
    capsys: pytest.CaptureFixture[str], run: Path
) -> None:
    values = json.loads((run / "config.json").read_text())
    save_json(run / "config.json", {**values, "format": 3})
    assert "the run has format 3 but must have 2: it was made by" in sentence(
        capsys, "evaluate", run
    )


def test_what_was_evaluated_with_other_options_leaves_the_run_as_it_was(
    capsys: pytest.CaptureFixture[str], run: Path
) -> None:
    before = contents(run)
    assert main(["evaluate", str(run), "--beta", "0.1", "--split", "val"]) == 0
    assert main(["evaluate", str(run), "--capacity", "1"]) == 0
    assert main(["evaluate", str(run), "--checkpoint", "last", "--world", "open"]) == 0
    assert "alpha is 0.1 but must be 0.5, as the run was trained: of sac's options" in sentence(
        capsys, "evaluate", run, "--alpha", "0.1"
    )
    assert contents(run) == before


def test_the_toy_is_what_the_tests_take_it_for(made: tuple[Path, Path]) -> None:
    record = RunFolder(made[0]).read_record()
    assert {" ".join(pair) for pair in record.space.seen} == set(SPLITS["train"])
    assert set(record.splits) == {"train", "val", "test"}
    assert read_metadata(made[0] / BEST)["weights"] == "joint:2"
