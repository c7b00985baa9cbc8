"""One memory-mapped file of image features, filled in blocks, each with a checksum."""

import os
import shutil
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from czsl_sac.files import write_atomically

BLOCK = 256
"""Items that are encoded, and checked, together."""


class FeatureFile:
    """Tokens and targets of a split on disk.

    `tokens.npy` `[n, T, D]` float32 and `targets.npy` `[n]` are written in place, a block at a
    time; `blocks.npy` holds the checksum of each block that is there, 0 for the others. So an
    interrupted pass goes on with the blocks that are missing, and processes may share them.

    Args:
        folder: of the files.
        count: items n.
        shape: of an item's tokens, `(T, D)`.
    """

    def __init__(self, folder: Path, count: int, shape: tuple[int, int]) -> None:
        self.folder, self.count, self.shape = folder, count, shape
        self.blocks = -(-count // BLOCK)

    def create(self) -> None:
        """Make the files where they are not there yet; their space on the disk is taken at once.

        Raises:
            OSError: the disk is full.
            ValueError: a file is damaged.
        """
        if all((self.folder / f"{name}.npy").is_file() for name in self._layout()):
            for name in self._layout():
                self._open(name, "r")
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        for name, (dtype, shape) in self._layout().items():
            allocate = partial(_allocate, dtype=dtype, shape=shape)
            write_atomically(self.folder / f"{name}.npy", allocate)

    def missing(self, first: int, step: int) -> Iterator[int]:
        """Yield the blocks that are not there yet, every `step`-th from `first`.

        Args:
            first: number of the process.
            step: how many processes there are.
        """
        there = self._open("blocks", "r")
        yield from (block for block in range(first, self.blocks, step) if not there[block])

    def items(self, block: int) -> range:
        """Return the items of a block."""
        return range(block * BLOCK, min((block + 1) * BLOCK, self.count))

    def write(self, block: int, tokens: Tensor, targets: Tensor) -> None:
        """Write a block, then its checksum.

        Args:
            block: its number.
            tokens: `[b, T, D]`.
            targets: `[b]`.
        """
        rows = slice(self.items(block).start, self.items(block).stop)
        for name, values in (("tokens", tokens), ("targets", targets)):
            file = self._open(name, "r+")
            file[rows] = values.cpu().numpy()
            file.flush()
        there = self._open("blocks", "r+")
        there[block] = self._checksum(block)
        there.flush()

    def check(self) -> None:
        """Compare every block with its checksum.

        Raises:
            ValueError: the features are not those that were written.
        """
        there = self._open("blocks", "r")
        for block in range(self.blocks):
            if there[block] != self._checksum(block):
                raise self._damaged("tokens", "a block is not what was encoded")

    def open(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return tokens and targets, mapped into memory."""
        return self._open("tokens", "r"), self._open("targets", "r")

    def _checksum(self, block: int) -> int:
        rows = slice(self.items(block).start, self.items(block).stop)
        tokens, targets = (file[rows].tobytes() for file in self.open())
        return zlib.crc32(targets, zlib.crc32(tokens)) or 1

    def _layout(self) -> dict[str, tuple[type, tuple[int, ...]]]:
        return {
            "tokens": (np.float32, (self.count, *self.shape)),
            "targets": (np.int64, (self.count,)),
            "blocks": (np.uint32, (self.blocks,)),  # last: it says what the others hold
        }

    def _open(self, name: str, mode: Any) -> "np.memmap[Any, Any]":
        path = self.folder / f"{name}.npy"
        dtype, shape = self._layout()[name]
        try:
            file: np.memmap[Any, Any] = np.load(path, mmap_mode=mode, allow_pickle=False)
        except (OSError, ValueError, EOFError, SyntaxError) as error:
            raise self._damaged(name, str(error).partition("\n")[0]) from error
        if file.dtype != dtype or file.shape != shape:
            raise self._damaged(name, f"it holds {file.dtype} of shape {list(file.shape)}")
        return file

    def _damaged(self, name: str, reason: str) -> ValueError:
        return ValueError(
            f"{self.folder / name}.npy is damaged but must hold {self.count} items' features "
            f"({reason}): delete {self.folder}, it is made again."
        )


class CachedFeatures(Dataset[tuple[Tensor, int]]):
    """Items from a file: (tokens `[T, D]`, or `[1, D]` of the class token alone; target).

    The file is mapped when an item is first asked for, in each process that reads.

    Args:
        file: complete.
    """

    def __init__(self, file: FeatureFile) -> None:
        self._file = file
        self._mapped: tuple[NDArray[Any], NDArray[Any]] | None = None

    def __len__(self) -> int:
        return self._file.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"index {index} is out of range for {count} items")
        if self._mapped is None:
            self._mapped = self._file.open()
        tokens, targets = self._mapped
        return torch.from_numpy(tokens[index].copy()), int(targets[index])

    def __getstate__(self) -> dict[str, Any]:
        """Return what a process that reads needs: it maps the file itself."""
        return {**self.__dict__, "_mapped": None}


def _allocate(path: Path, *, dtype: type, shape: tuple[int, ...]) -> None:
    open_memmap(path, mode="w+", dtype=dtype, shape=shape).flush()
    if hasattr(os, "posix_fallocate"):  # or a full disk would kill whoever writes to the map
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
