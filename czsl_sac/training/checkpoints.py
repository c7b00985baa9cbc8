"""Checkpoints of a run: written whole or not at all, read without running code.

A run folder holds `last.pt` (everything that continues the run), `best.safetensors` (the
trained weights of the best epoch), `memory.safetensors` (the memory bank filled from the
training images with those weights), `config.json` and `metrics.jsonl`.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from czsl_sac.files import load_tensors, write_atomically


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read the safetensors of a run: trained weights, or the memory bank.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or of another format.
    """
    _require(path)
    return load_tensors(path)


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
        reason = str(error).partition("\n")[0] or type(error).__name__
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
