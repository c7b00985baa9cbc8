"""Training in two processes ends where one process with the whole batch does."""

import os
import socket
from pathlib import Path

import pytest
import torch
from test_training_loop import Toy, config, make_method

from czsl_sac.training.checkpoints import load_tensors
from czsl_sac.training.loop import BEST, fit
from czsl_sac.training.run import make_accelerator

SCHEDULES = {"joint": 3, "staged": 6}


def train(folder: Path, schedule: str, processes: int) -> list[dict]:
    """Train the toy for epochs of one step: on its 12 images, shared out to the processes."""
    method = make_method(schedule, dropout=0.0)  # dropout draws its masks for a batch
    settings = config(batch_size=12 // processes, schedule=schedule)
    return fit(method, Toy(), settings, folder, make_accelerator(settings))


def process(rank: int, folder: Path, port: int) -> None:
    """What each of two processes on this machine does."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_USE_CPU")
    values = (rank, rank, 2, "127.0.0.1", port, "true")
    os.environ.update(zip(names, map(str, values), strict=True))
    torch.set_num_threads(1)
    for schedule in SCHEDULES:
        records = train(folder / schedule, schedule, 2)
        if rank == 0:
            torch.save(records, folder / schedule / "records.pt")


def test_two_processes_train_and_score_as_one_does(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(process, (tmp_path, port), nprocs=2)
    for schedule, epochs in SCHEDULES.items():
        expected = train(tmp_path / f"one-{schedule}", schedule, 1)
        records = torch.load(tmp_path / schedule / "records.pt")
        assert len(records) == len(expected) == epochs
        for record, other in zip(records, expected, strict=True):
            assert record["losses"] == pytest.approx(other["losses"], rel=1e-4)
            gaps = [entry["val"].pop("modality_gap") for entry in (record, other)]
            assert record["val"] == pytest.approx(other["val"], abs=1e-3)
            for name, gap in gaps[1].items():
                assert gaps[0][name] == pytest.approx(gap, abs=1e-3)
        weights = load_tensors(tmp_path / schedule / BEST)
        for name, value in load_tensors(tmp_path / f"one-{schedule}" / BEST).items():
            torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-3, msg=name)
