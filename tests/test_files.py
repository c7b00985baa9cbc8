"""Files are written whole or not at all; a full disk and a damaged file are one sentence."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from czsl_sac import files
from czsl_sac.files import (
    clear_temporaries,
    load_tensors,
    read_json,
    save_json,
    save_tensors,
    write_atomically,
    write_bytes,
)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_bytes(path, b"old")

    def fails(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_atomically(path, fails)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("there", [False, True])
def test_a_full_disk_is_one_sentence(
    tmp_path: Path, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.safetensors"
    if there:
        save_tensors(path, {"a": torch.zeros(2)})
    before = path.read_bytes() if there else None

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OSError, match=r"the disk is full: \S+weights.safetensors could not"
    ) as told:
        save_tensors(path, {"a": torch.ones(2)})
    assert ("the file before it is untouched" in str(told.value)) is there
    assert (path.read_bytes() if there else None) == before
    assert len(list(tmp_path.iterdir())) == there


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid"), reason="mounts are Unix's")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if mount is None or os.geteuid() != 0 or subprocess.run(command, check=False).returncode:
        pytest.skip("a small disk can be mounted by root alone")
    try:
        save_json(disk / "small.json", {"a": 1})
        with pytest.raises(OSError, match=r"the disk is full: \S+disk/large could not be written"):
            write_bytes(disk / "large", b"x" * 200_000)
        assert read_json(disk / "small.json", "") == {"a": 1}
        assert [p.name for p in disk.iterdir()] == ["small.json"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_what_killed_writers_left_is_cleared(tmp_path: Path) -> None:
    write_bytes(tmp_path / "kept", b"")
    (tmp_path / ".last.pt.abc.tmp").write_bytes(b"half")
    (tmp_path / ".hidden").write_bytes(b"mine")
    clear_temporaries(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"kept", ".hidden"}


def test_a_write_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    replace, fsync = os.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("flush"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("rename"), replace(a, b)))
    write_bytes(tmp_path / "file", b"x")
    assert order == ["flush", "rename", "flush"]  # the file, its name, the folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_a_flipped_bit_in_a_tensor_is_seen(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"a": torch.ones(3, dtype=dtype), "b": torch.zeros((), dtype=dtype)})
    assert load_tensors(path)["a"].tolist() == torch.ones(3, dtype=dtype).tolist()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a.safetensors is damaged but must be .*: make it again"):
        load_tensors(path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_json_that_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a.json is damaged but must be JSON .*: do this\.$"):
        read_json(tmp_path / "a.json", "do this")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        files.read_json(tmp_path / "b.json", "do this")
