"""Files of tensors and of JSON: written whole or not at all, read without running code."""

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:  # torch takes seconds, which files of text do without
    from torch import Tensor

_DIGEST = "sha256"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a temporary file beside `path`, then rename it to `path`, for good.

    Args:
        path: the file to make or replace.
        write: receives the temporary path. If it fails, `path` stays as it was.

    Raises:
        OSError: the disk is full; the message names disk and file.

    Examples:
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_atomically(folder / "a.txt", lambda p: p.write_text("whole"))
        >>> [p.name for p in folder.iterdir()], (folder / "a.txt").read_text()
        (['a.txt'], 'whole')
    """
    with _no_space(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            temporary.chmod(0o666 & ~_umask())  # mkstemp's files are its owner's alone
            _flush(temporary)
            os.replace(temporary, path)
            _flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes as `write_atomically` does."""
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def clear_temporaries(folder: Path) -> None:
    """Remove what killed writers left in a folder, in which nobody writes now."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _no_space(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        was = "the file before it is untouched" if path.exists() else "nothing was written"
        raise OSError(
            f"the disk is full: {path.resolve()} could not be written, and {was}; free some "
            f"space on the disk of {path.resolve().parent} and run the command again."
        ) from error


def _umask() -> int:
    """The process's mask of permissions, which can be read only by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def save_json(path: Path, content: object) -> None:
    """Write what is of JSON types, in UTF-8."""
    write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path, remedy: str) -> Any:
    """Read JSON; where that cannot be done, the message ends with the remedy.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or of another format.
    """
    _require(path)
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged but must be JSON ({error}): {remedy}.") from error


def seal(values: dict[str, Any]) -> dict[str, Any]:
    """Return a dictionary of JSON types with a checksum of what it holds.

    Examples:
        >>> is_sealed(seal({"auc": 0.5})), is_sealed({**seal({"auc": 0.5}), "auc": 0.7})
        (True, False)
    """
    return {**values, _DIGEST: sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()}


def is_sealed(values: object) -> bool:
    """Return whether what was read from a file is a dictionary as `seal` returned it."""
    if not isinstance(values, dict):
        return False
    return values == seal({name: value for name, value in values.items() if name != _DIGEST})


def tensor_digest(tensors: "Mapping[str, Tensor]") -> str:
    """Return a checksum of tensors on any device, their names, types and shapes.

    Examples:
        >>> import torch
        >>> one, other = ({"a": torch.tensor([x, 0.0])} for x in (0.0, -0.0))
        >>> tensor_digest(one) == tensor_digest(one), tensor_digest(one) == tensor_digest(other)
        (True, False)
    """
    import torch

    digest = sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_tensors(
    path: Path, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors as safetensors, with their checksum; what is the same is so to the byte.

    Args:
        path: the file to make or replace.
        tensors: by name, on any device.
        metadata: texts that the file's header keeps beside them.
    """
    from safetensors.torch import save

    whole = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    content = save(whole, {**(metadata or {}), _DIGEST: tensor_digest(whole)})
    # safetensors writes the texts in any order.
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    write_bytes(path, len(header).to_bytes(8, "little") + header + content[8 + size :])


def load_tensors(
    path: Path, *, remedy: str = "make it again", checked: bool = False
) -> "dict[str, Tensor]":
    """Read tensors that `save_tensors` wrote.

    Args:
        path: the file.
        remedy: what to do if it cannot be read, for the message.
        checked: refuse a file without a checksum, as other programs write them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or of another format.
    """
    from safetensors.torch import load_file

    digest = read_metadata(path, remedy=remedy).get(_DIGEST)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error, remedy) from error
    if digest != (tensor_digest(tensors) if checked or digest is not None else None):
        raise _damaged(path, "its tensors are not those that were written", remedy)
    return tensors


def read_metadata(path: Path, *, remedy: str = "make it again") -> dict[str, str]:
    """Read the texts in the header of such a file, and no tensor; errors as of `load_tensors`."""
    _require(path)
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error, remedy) from error


def _damaged(path: Path, reason: object, remedy: str) -> ValueError:
    return ValueError(f"{path} is damaged but must be a safetensors file ({reason}): {remedy}.")


def _require(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
