"""A run that is killed between any two writes ends, when resumed, as one that never was."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from toy_runs import Killed, contents, kill_after, stop_the_clock, toy_config, write_table

from czsl_sac import files
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.run import train
from czsl_sac.training.run_folder import RunFolder

WAYS = {
    ("joint", "dynamic"): 10,
    ("joint", "off"): 10,
    ("staged", "dynamic"): 15,
    ("staged", "off"): 15,
}
"""Schedule and bank, and how often such a run writes."""


@cache
def table() -> Path:
    return write_table(Path(mkdtemp(prefix="toy-runs-")) / "data")


def config(schedule: str, bank: str) -> TrainConfig:
    return toy_config(table(), schedule=schedule, bank=bank)


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    stop_the_clock(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict]:
    """The files of uninterrupted runs, made when first asked for."""
    known: dict[tuple[str, str], dict[str, str]] = {}

    class Runs(dict):
        def __missing__(self, way: tuple[str, str]) -> dict[str, str]:
            folder = tmp_path_factory.mktemp("whole") / "run"
            with pytest.MonkeyPatch.context() as patch:
                written = kill_after(patch, 0)  # never
                train(config(*way), folder)
            assert len(written) == WAYS[way]
            self[way] = contents(folder)
            return self[way]

    return Runs(known)


def check(way: tuple[str, str], writes: int, expected: dict[str, str], folder: Path) -> None:
    """Kill a run after so many writes, go on with it, and compare every byte."""
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, writes)
        with pytest.raises(Killed):
            train(config(*way), folder)
    train(config(*way), folder, resume=RunFolder(folder).holds_run)
    assert contents(folder) == expected


@pytest.mark.parametrize(
    ("way", "writes"),
    [
        (("joint", "dynamic"), 1),  # before the folder is a run
        (("joint", "dynamic"), 2),  # before its first epoch has ended
        (("joint", "dynamic"), 6),  # an epoch has ended, its best weights are not written
        (("joint", "off"), 7),
        (("joint", "dynamic"), 9),  # the bank is written, the test result is not
        (("staged", "dynamic"), 8),  # between the two stages
        (("staged", "off"), 12),
    ],
)
def test_a_killed_run_ends_as_an_uninterrupted_one(
    way: tuple[str, str], writes: int, whole: dict, tmp_path: Path
) -> None:
    check(way, writes, whole[way], tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "writes"), [(way, n) for way, count in WAYS.items() for n in range(1, count)]
)
def test_killed_after_every_write(
    way: tuple[str, str], writes: int, whole: dict, tmp_path: Path
) -> None:
    check(way, writes, whole[way], tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("way", [("joint", "dynamic"), ("staged", "dynamic")])
def test_killed_twice(way: tuple[str, str], whole: dict, tmp_path: Path) -> None:
    for first in range(1, WAYS[way], 2):
        for second in (1, 2, 4):
            folder = tmp_path / f"{first}-{second}"
            for writes in (first, second):
                with pytest.MonkeyPatch.context() as patch, suppress(Killed):
                    kill_after(patch, writes)
                    train(config(*way), folder, resume=RunFolder(folder).holds_run)
            train(config(*way), folder, resume=RunFolder(folder).holds_run)
            assert contents(folder) == whole[way]


def die_half_way(folder: Path, settings: TrainConfig, writes: int) -> None:
    """Train, and be killed by the system in the middle of a write."""
    with pytest.MonkeyPatch.context() as patch:
        stop_the_clock(patch)
        write, written = files.write_atomically, []

        def killed(path: Path, content: object) -> None:
            if len(written) == writes:
                (path.parent / f".{path.name}.half.tmp").write_bytes(b"half")
                os.kill(os.getpid(), signal.SIGKILL)
            write(path, content)
            written.append(path)

        patch.setattr(files, "write_atomically", killed)
        train(settings, folder)


def test_a_process_that_the_system_killed_leaves_nothing_in_the_way(
    whole: dict, tmp_path: Path
) -> None:
    way, folder = ("joint", "dynamic"), tmp_path / "run"
    child = multiprocessing.get_context("spawn").Process(
        target=die_half_way, args=(folder, config(*way), 5)
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert {".claim.json", ".best.safetensors.half.tmp"} <= contents(folder).keys() or {
        ".claim.json",
        ".last.pt.half.tmp",
    } <= contents(folder).keys()
    train(config(*way), folder, resume=True)
    assert contents(folder) == whole[way]


def hold(folder: Path, held: object, let_go: object) -> None:
    """Hold a folder as a training does, until told to let go."""
    with RunFolder(folder).claim():
        held.set()  # type: ignore[attr-defined]
        let_go.wait()  # type: ignore[attr-defined]


def test_the_second_training_into_a_folder_is_told_who_holds_it(
    whole: dict, tmp_path: Path
) -> None:
    spawn, folder = multiprocessing.get_context("spawn"), tmp_path / "run"
    held, let_go = spawn.Event(), spawn.Event()
    child = spawn.Process(target=hold, args=(folder, held, let_go), daemon=True)
    child.start()
    assert held.wait(timeout=60)
    before = contents(folder)
    for _ in range(2):
        with pytest.raises(FileExistsError, match=f"process {child.pid} of .* trains there now"):
            train(config("joint", "dynamic"), folder)
        assert contents(folder) == before
    let_go.set()
    child.join()
    assert not folder.exists()  # nothing came of it
    train(config("joint", "dynamic"), folder)
    assert contents(folder) == whole["joint", "dynamic"]


def test_a_run_that_another_process_finished_meanwhile_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, folder = RunFolder.claim, tmp_path / "run"

    def late(self: RunFolder) -> object:
        monkeypatch.setattr(RunFolder, "claim", claim)
        train(config("joint", "off"), folder)  # by somebody else, who was faster
        return claim(self)

    monkeypatch.setattr(RunFolder, "claim", late)
    with pytest.raises(FileExistsError, match="must hold no run yet"):
        train(toy_config(table(), lr=0.5), folder)
    assert RunFolder(folder).read_record().config.optim.lr == 1e-2
