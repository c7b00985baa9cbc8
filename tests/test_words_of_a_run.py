"""What a training says: at once, while it runs, at its end, and when it is stopped."""

from pathlib import Path

import pytest

from czsl_sac._version import __version__
from czsl_sac.cli import main
from czsl_sac.training import build, loop, session
from czsl_sac.training.run_folder import RunFolder

SMALL = ["--images-per-pair", "1", "--eval-images-per-pair", "1", "--run-dir", "run"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_header_comes_first_and_a_line_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    csp = ["train", "--method", "csp", "--epochs", "2", *SMALL]
    assert main(csp) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "CSP on scenes into run: cpu, float32, 1 process."
    assert lines[1].startswith("Images: 96 train, 48 val, 48 test. Compositions: 144, 96 seen. Tra")
    assert lines[2].startswith(f"czsl-sac {__version__}, ")
    assert [line[:9] for line in lines[3:5]] == ["train 1/2", "train 2/2"]
    assert lines[5] == "test split, best epoch, closed world, in percent:"
    assert lines[-1].endswith("; to score the run again: czsl-sac evaluate run")
    versions = RunFolder("run").read_record().versions
    assert {
        "czsl-sac",
        "torch",
        "openai-clip",
        "open_clip_torch",
        "transformers",
    } <= versions.keys()


def test_what_is_not_trained_has_no_best_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--method", "zero-shot", *SMALL]) == 0
    printed = capsys.readouterr().out
    assert "test split, untrained, closed world" in printed
    assert "epoch" not in printed.partition("to score")[0]


def test_a_stopped_run_says_how_it_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop._StageTrainer, "train_epoch", stopped)
        assert main(["train", "--method", "csp", "--epochs", "1", *SMALL]) == 130
    told = capsys.readouterr().err
    command = "czsl-sac train --resume --run-dir run"
    assert told == f"czsl-sac: interrupted; to continue: {command}\n"
    assert main(command.split()[1:]) == 0


def test_a_log_file_gets_a_line_at_intervals(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_SECONDS", -1.0)
    assert list(session.Session().bar(["a", "b"], "scoring val")) == ["a", "b"]
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in told] == [
        "scoring val: 0 of 2",
        "scoring val: 1 of 2",
    ]


def test_what_is_cheap_is_checked_before_clip_is_loaded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*arguments: object, **options: object) -> None:
        raise AssertionError("CLIP is loaded")

    monkeypatch.setattr(build, "load_backbone", loaded)
    assert main(["train", "--preset", "mit-states", "--run-dir", "run"]) == 2
    assert "data_root is missing but dataset is 'mit-states'" in capsys.readouterr().err
    assert main(["train", "--preset", "mit-states", "--data-root", "nowhere"]) == 2
    assert "nowhere does not exist: correct the path." in capsys.readouterr().err
    assert not Path("run").exists()
