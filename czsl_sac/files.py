"""Files of tensors and of JSON: written whole or not at all, read without running code."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = ["load_tensors", "read_metadata", "save_json", "save_tensors", "write_atomically"]


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a temporary file beside `path`, then rename it to `path`.

    Args:
        path: the file to make or replace.
        write: receives the temporary path. If it fails, `path` stays as it was.

    Examples:
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
        temporary.chmod(0o666 & ~_umask())  # mkstemp's files are its owner's alone
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    """The process's mask of permissions, which can be read only by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def save_json(path: Path, content: object, *, indent: int | None = 2) -> None:
    """Write JSON in UTF-8.

    Args:
        path: the file to make or replace.
        content: of JSON types.
        indent: of nested lines; None writes one line.
    """
    text = json.dumps(content, indent=indent, ensure_ascii=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors as safetensors.

    Args:
        path: the file to make or replace.
        tensors: by name, on any device.
        metadata: texts that the file's header keeps beside them.
    """
    whole = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    write_atomically(path, lambda temporary: save_file(whole, temporary, metadata))


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
        raise ValueError(f"{path} is no safetensors file ({error}): make it again.") from error


def read_metadata(path: Path) -> dict[str, str]:
    """Read the texts in the header of a file that `save_tensors` wrote, and no tensor.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or of another format.
    """
    _require(path)
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file ({error}): make it again.") from error


def _require(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
