"""Checkpoints of a run: written whole or not at all, read without running code.

A run folder holds `last.pt` (everything that continues the run), `best.safetensors` (the
trained weights of the best epoch), `memory.safetensors` (the memory bank filled from the
training images with those weights), `config.json` and `metrics.jsonl`.
"""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a temporary file beside `path`, then rename it to `path`.

    Args:
        path: the file to make or replace.
        write: receives the temporary path. If it fails, `path` stays as it was.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_atomically(folder / "a.txt", lambda p: p.write_text("whole"))
        >>> [p.name for p in folder.iterdir()], (folder / "a.txt").read_text()
        (['a.txt'], 'whole')
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as safetensors.

    Args:
        path: the file to make or replace.
        tensors: by name, on any device.
    """
    whole = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    write_atomically(path, lambda temporary: save_file(whole, temporary))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors that `save_tensors` wrote.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or of another format.
    """
    _require(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is no safetensors file ({error}): train the run again."
        ) from error


def save_progress(path: Path, progress: dict[str, Any]) -> None:
    """Write what continues a run: nested dictionaries and lists of tensors and plain values.

    Args:
        path: the file to make or replace.
        progress: what to write.
    """
    write_atomically(path, lambda temporary: torch.save(progress, temporary))


def load_progress(path: Path) -> dict[str, Any]:
    """Read what `save_progress` wrote, tensors on the CPU; runs no code from the file.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or of another format.
    """
    _require(path)
    try:
        progress: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a file that is none of its own
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is no checkpoint ({reason}): train the run again.") from error
    return progress


def save_metrics(path: Path, records: list[dict[str, Any]]) -> None:
    """Write one JSON object a line.

    Args:
        path: the file to make or replace.
        records: JSON-safe dictionaries.
    """
    text = "".join(json.dumps(record) + "\n" for record in records)
    write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))


def _require(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(
            f"no checkpoint at {path}: the folder is not one that czsl-sac train made, "
            "or no epoch has ended yet"
        )
