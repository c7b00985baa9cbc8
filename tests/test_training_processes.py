"""Training in two processes ends where one process with the whole batch does."""

from pathlib import Path

import pytest
import torch
from test_training_loop import Toy, config, make_method
from toy_runs import toy_config, write_table
from two_processes import run_in_two_processes

from czsl_sac.files import load_tensors
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.loop import fit
from czsl_sac.training.run import train as train_run
from czsl_sac.training.run_folder import BEST, RunFolder
from czsl_sac.training.session import Session
from czsl_sac.training.trained import TrainedRun

SCHEDULES = {"joint": 3, "staged": 6}


def train(folder: Path, schedule: str, processes: int) -> list[dict]:
    """Train the toy for epochs of one step: on its 12 images, shared out to the processes."""
    method = make_method(schedule, dropout=0.0)  # dropout draws its masks for a batch
    settings = config(batch_size=12 // processes)
    return fit(method, Toy(), settings, RunFolder(folder), Session.of(settings)).records


def process(rank: int, folder: Path) -> None:
    """What each of two processes does."""
    for schedule in SCHEDULES:
        records = train(folder / schedule, schedule, 2)
        if rank == 0:
            torch.save(records, folder / schedule / "records.pt")


def test_two_processes_train_and_score_as_one_does(tmp_path: Path) -> None:
    run_in_two_processes(process, tmp_path)
    for schedule, epochs in SCHEDULES.items():
        expected = train(tmp_path / f"one-{schedule}", schedule, 1)
        records = torch.load(tmp_path / schedule / "records.pt")
        assert len(records) == len(expected) == epochs
        for record, other in zip(records, expected, strict=True):
            assert record["losses"] == pytest.approx(other["losses"], rel=1e-4)
            gaps = [entry["val"].pop("modality_gap") for entry in (record, other)]
            shares = [entry["val"].pop("patch_shares") for entry in (record, other)]
            assert shares[0] == pytest.approx(shares[1], abs=1e-3)
            assert record["val"] == pytest.approx(other["val"], abs=1e-3)
            for name, gap in gaps[1].items():
                assert gaps[0][name] == pytest.approx(gap, abs=1e-3)
        weights = load_tensors(tmp_path / schedule / BEST)
        for name, value in load_tensors(tmp_path / f"one-{schedule}" / BEST).items():
            torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-3, msg=name)


def whole_run(rank: int, config: TrainConfig, folder: Path) -> None:
    """What each of two processes does: a run, more epochs of it, and the finished run once more."""
    for epochs, resume in ((1, False), (2, True), (2, True)):
        summary = train_run(config.with_options(epochs=epochs), folder, resume=resume)
        torch.save(summary.test.auc, folder.parent / f"{rank}-{len(summary.records)}.pt")


def test_two_processes_share_a_run_folder(tmp_path: Path) -> None:
    """One of them claims and writes it; both know the result."""
    config = toy_config(write_table(tmp_path / "data"), bank="train", batch_size=6)
    run_in_two_processes(whole_run, config, tmp_path / "run")
    results = [torch.load(tmp_path / f"{rank}-2.pt", weights_only=False) for rank in range(2)]
    run = TrainedRun.load(tmp_path / "run")
    assert [record["epoch"] for record in run.folder.records()] == [1, 2]
    assert results == pytest.approx([run.evaluate().auc] * 2, abs=1e-3)
    assert [change["option"] for change in run.record.changes] == ["epochs"]
    names = {"config.json", "last.pt", "best.safetensors", "memory.safetensors", "metrics.jsonl"}
    assert {path.name for path in run.folder.path.iterdir()} == {*names, "test.json", ".claim"}
