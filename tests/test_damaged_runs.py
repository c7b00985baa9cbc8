"""Every file of a run, damaged in every way: a sentence that names it, or what was there before."""

import io
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_runs import contents, toy_config, write_table

from czsl_sac.cli import main
from czsl_sac.files import save_json, save_tensors, seal
from czsl_sac.training.record import RunRecord
from czsl_sac.training.run import train
from czsl_sac.training.run_folder import BEST, LAST, MEMORY, METRICS, RECORD, TEST, RunFolder

FILES = (RECORD, LAST, BEST, MEMORY, METRICS, TEST)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    root = tmp_path_factory.mktemp("made")
    train(toy_config(write_table(root / "data")), root / "run")
    return root / "run"


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to damage."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def flipped(content: bytes, where: float) -> bytes:
    """One bit is another, at a share of the file."""
    place = min(int(where * len(content)), len(content) - 1)
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def foreign_torch(content: bytes) -> bytes:
    buffer = io.BytesIO()
    torch.save({"weights": {"a": torch.zeros(2)}}, buffer)
    return buffer.getvalue()


class Evil:
    """A pickle that would make a file, were it unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("evil",)


def code_to_run(content: bytes) -> bytes:
    buffer = io.BytesIO()
    torch.save({"progress": Evil()}, buffer)
    return buffer.getvalue()


def nest(text: str) -> Callable[[bytes], bytes]:
    return lambda content: text.encode()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "last byte gone": lambda content: content[:-1],
    "first byte gone": lambda content: content[1:],
    "random bytes": lambda content: random.Random(0).randbytes(len(content)),
    "zeros": lambda content: bytes(len(content)),
    "twice": lambda content: content + content,
    "text behind": lambda content: content + b"and more",
    "bit at the start": lambda content: flipped(content, 0.0),
    "bit in the first tenth": lambda content: flipped(content, 0.05),
    "bit in the middle": lambda content: flipped(content, 0.5),
    "bit near the end": lambda content: flipped(content, 0.98),
    "last bit": lambda content: flipped(content, 1.0),
    "empty dictionary": nest("{}"),
    "list": nest("[]"),
    "null": nest("null"),
    "number": nest("7"),
    "word": nest('"word"'),
    "foreign dictionary": nest('{"a": [1, {"b": null}], "weights": 3, "result": [], "format": 2}'),
    "wrong types": nest('{"format": 2, "config": [], "space": 1, "backbone": "x", "splits": 0}'),
    "very deep": nest("[" * 200_000 + "]" * 200_000),
    "very deep dictionary": nest('{"a":' * 100_000),
    "huge number": nest("9" * 100_000),
    "infinity": nest('{"format": 1e999, "weights": NaN}'),
    "no UTF-8": lambda content: b"\xff\xfe\xfa" + content,
    "UTF-16": lambda content: "{}".encode("utf-16"),
    "foreign torch file": foreign_torch,
    "code to run": code_to_run,
}


def damage(path: Path, how: str) -> None:
    path.write_bytes(DAMAGES[how](path.read_bytes()))


def put_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def what_it_says(folder: RunFolder) -> dict[str, object]:
    """All that can be read from a run, with tensors as lists."""
    record, tag = folder.read_record(), "joint:2"
    best, last = folder.weights("best"), folder.weights("last")
    memory, test = folder.load_memory(tag), folder.load_test(tag, 4)
    return {
        "record": record.to_dict(),
        "records": folder.records(),
        "best": (best.tag, listed(best.tensors)),
        "last": (last.tag, listed(last.tensors)),
        "memory": listed(memory),
        "test": None if test is None else test.to_dict(details=True),
    }


def listed(tensors: dict[str, torch.Tensor] | None) -> dict[str, list] | None:
    return None if tensors is None else {name: t.tolist() for name, t in tensors.items()}


@pytest.mark.parametrize("how", [*DAMAGES, "a folder in its place"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_or_made_again(
    name: str, how: str, made: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    expected = what_it_says(RunFolder(made))
    before = contents(run)
    if how in DAMAGES:
        damage(run / name, how)
        assert contents(run) != before
    else:
        put_a_folder(run / name)
    found, said = expected, ""
    try:
        found = what_it_says(RunFolder(run))
    except (ValueError, FileNotFoundError) as error:
        said = str(error)
    if said:
        assert str(run / name) in said or (name == RECORD and "has no config.json" in said)
        assert said.endswith(".")
        assert len(said) < 700
    else:
        # Nothing needs the epochs' lines, nor a line's end; memory and result that belong to no
        # known weights are made again.
        again = {MEMORY: ("memory",), TEST: ("test",)}.get(name, ())
        for what, value in found.items():
            assert value == expected[what] or (what in again and value is None), what
    assert not Path("evil").exists()


def tell(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code and what is printed, checked to be a result or one line."""
    capsys.readouterr()
    code = main(list(map(str, arguments)))
    printed = capsys.readouterr()
    assert code in (0, 2)
    if code == 2:
        assert printed.out == ""
        assert printed.err.startswith("czsl-sac: error: ")
        assert printed.err.count("\n") == 1
    return code, printed.out, printed.err


def check_commands(
    name: str, how: str, made: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, expected, _ = tell(capsys, "evaluate", made)
    damage(run / name, how)
    code, printed, said = tell(capsys, "evaluate", run)
    if code == 2:
        assert str(run / name) in said
    else:
        assert printed == expected
    resumed, printed, said = tell(capsys, "train", "--resume", "--run-dir", run)
    if resumed == 2:
        assert str(run / name) in said
        (run / name).unlink()  # the remedy that the sentence names
        if name not in (RECORD, LAST):
            assert tell(capsys, "train", "--resume", "--run-dir", run)[0] == 0
            assert tell(capsys, "evaluate", run)[:2] == (0, expected)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        (RECORD, "bit in the middle"),
        (RECORD, "very deep"),
        (LAST, "bit in the middle"),
        (LAST, "half"),
        (BEST, "bit near the end"),
        (MEMORY, "empty"),
        (TEST, "bit in the middle"),
        (METRICS, "random bytes"),
    ],
)
def test_commands_say_it_in_one_line(
    name: str, how: str, made: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_commands(name, how, made, run, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_every_command_on_every_damage(
    name: str,
    how: str,
    made: Path,
    run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(run.parent)
    check_commands(name, how, made, run, capsys)
    assert not Path("evil").exists()


OTHERS: dict[str, Callable[[dict], dict]] = {
    "other names": lambda tensors: {f"x{name}": t for name, t in tensors.items()},
    "other shapes": lambda tensors: {
        name: t.repeat(2, *[1] * t.dim()) for name, t in tensors.items()
    },
    "fewer": lambda tensors: dict([*tensors.items()][1:]),
    "more": lambda tensors: {**tensors, "more": torch.zeros(1)},
    "numbers for vectors": lambda tensors: {name: torch.tensor(0.0) for name in tensors},
}


@pytest.mark.parametrize("how", OTHERS)
@pytest.mark.parametrize("name", [BEST, MEMORY])
def test_tensors_of_another_method_are_refused(
    name: str, how: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(run)
    tensors = folder.weights("best").tensors if name == BEST else folder.load_memory("joint:2")
    assert tensors is not None
    identity = folder.read_record().identity
    save_tensors(run / name, OTHERS[how](tensors), {"weights": "joint:2", "run": identity})
    code, _, said = tell(capsys, "evaluate", run)
    assert code == 2
    assert str(run / name) in said


def test_a_checkpoint_of_another_run_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = RunFolder(run).read_record().config.data.data_root
    assert table is not None
    train(toy_config(table, seed=1), tmp_path / "other")
    _, expected, _ = tell(capsys, "evaluate", run)
    own = {name: (run / name).read_bytes() for name in FILES}
    for name in (LAST, BEST, MEMORY, TEST):
        shutil.copy(tmp_path / "other" / name, run / name)
        before = contents(run)
        code, printed, said = tell(capsys, "evaluate", run)
        if name == LAST:
            for command in (
                ["train", "--resume", "--epochs", 3, "--run-dir", run],
                ["report", run],
            ):
                code, _, said = tell(capsys, *command)
                assert code == 2
                assert f"{run / LAST} is of another run but must be of the one in {run}" in said
        else:
            assert (code, printed) == (0, expected)
        assert contents(run) == before
        (run / name).write_bytes(own[name])
    shutil.copy(tmp_path / "other" / BEST, run / BEST)
    (run / LAST).unlink()
    assert f"{run / BEST} is of another run but must" in tell(capsys, "evaluate", run)[2]


def test_a_changed_record_with_a_checksum_of_its_own_is_checked_too(run: Path) -> None:
    """Values of wrong types in any place: an error that names the file, or a record."""
    path = run / RECORD
    values = {k: v for k, v in json.loads(path.read_text()).items() if k != "sha256"}
    refused = 0
    for place in places(values):
        for wrong in (None, "word", -1, 10**30, 0.5, [], {}, [[]], {"a": {}}, True):
            changed = json.loads(json.dumps(values))
            *outer, last = place
            inner = changed
            for key in outer:
                inner = inner[key]
            if inner[last] == wrong:
                continue
            inner[last] = wrong
            save_json(path, seal(changed))
            record, said = None, ""
            try:
                record = RunFolder(run).read_record()
            except ValueError as error:
                said = str(error)
                refused += 1
            if record is None:
                assert str(path) in said
            else:
                texts = [*record.splits.values(), *record.versions.values(), record.created]
                assert all(isinstance(t, str) for t in (*texts, record.backbone, record.checksum))
                assert RunRecord.from_dict(record.to_dict()).to_dict() == record.to_dict()
    assert refused > 500


def places(values: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where a value stands: keys and indices, outermost first; of long lists the first."""
    items: list[tuple[Any, Any]] = []
    if isinstance(values, dict):
        items = [*values.items()]
    elif isinstance(values, list):
        items = [*enumerate(values)][:2]
    for key, value in items:
        yield (*above, key)
        yield from places(value, (*above, key))
