"""One of two processes is killed: the other says so and ends, and the run goes on."""

import multiprocessing
import os
import signal
from pathlib import Path
from time import perf_counter

import pytest
import torch
from toy_runs import toy_config, write_table
from two_processes import free_port, join, run_in_two_processes

from czsl_sac.files import load_tensors
from czsl_sac.methods.sac.method import SAC
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.run import train
from czsl_sac.training.run_folder import BEST, MEMORY, RunFolder


def whole(rank: int, config: TrainConfig, folder: Path, resume: bool) -> None:
    """A run that nothing disturbs."""
    train(config, folder, resume=resume)


def doomed(rank: int, config: TrainConfig, folder: Path, victim: int) -> None:
    """A run whose victim is killed in the second epoch; the other tells what it was told."""

    def after_step(self: SAC) -> None:
        if rank == victim and RunFolder(folder).load_checkpoint() is not None:
            os.kill(os.getpid(), signal.SIGKILL)

    SAC.after_step = after_step  # type: ignore[method-assign]
    try:
        train(config, folder)
    except ConnectionError as error:
        (folder.parent / "said.txt").write_text(str(error), "utf-8")
        raise SystemExit(3) from None


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_the_other_process_ends_and_the_run_goes_on(victim: int, tmp_path: Path) -> None:
    config = toy_config(write_table(tmp_path / "data"), bank="train")
    spawn, port = multiprocessing.get_context("spawn"), free_port()
    folder, start = tmp_path / "run", perf_counter()
    children = [
        spawn.Process(target=join, args=(rank, 2, port, doomed, (config, folder, victim)))
        for rank in range(2)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=60)
    codes = [child.exitcode for child in children]
    for child in children:
        child.kill()
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == 3, perf_counter() - start
    assert "another of the 2 processes has ended" in (tmp_path / "said.txt").read_text("utf-8")

    assert len(RunFolder(folder).records()) == 1
    run_in_two_processes(whole, config, folder, True)
    run_in_two_processes(whole, config, tmp_path / "whole", False)
    assert len(RunFolder(folder).records()) == 2
    for name in (BEST, MEMORY):
        expected = load_tensors(tmp_path / "whole" / name)
        for key, value in load_tensors(folder / name).items():
            torch.testing.assert_close(value, expected[key], rtol=0, atol=0, msg=key)
