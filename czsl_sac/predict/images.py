"""Image files as a user names them: found, read, and the bad ones told apart from the good."""

import glob
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from czsl_sac.data.reading import UnreadableImageError, read_image
from czsl_sac.data.sources.paths import files_below
from czsl_sac.data.transforms import ImageTransform
from czsl_sac.words import visible

MAX_RATIO = 100
"""An image's longer side over its shorter one; above it, resizing would fill the memory."""


class ImageBatch(NamedTuple):
    """Some files of a list, read.

    Attributes:
        paths: of the images.
        images: pixels `[B, 3, H, W]` uint8, in the order of `paths`; B may be 0.
        unreadable: what is wrong with each of the other files.
    """

    paths: list[Path]
    images: Tensor
    unreadable: list[str]


def find_files(names: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Return the files that names stand for, each once.

    A folder stands for all files below it, those with a leading dot left out; a pattern for what
    it matches, `**` for any number of folders. A name that is itself a file is never taken for a
    pattern.

    Args:
        names: paths of files and folders, and patterns.

    Returns:
        The files, in the order of the names and sorted within one; and what is wrong with the
        names that stand for no file.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("b.png", "a.png", ".hidden"):
        ...     (folder / name).touch()
        >>> files, missing = find_files([f"{folder}/*.png", str(folder), "nowhere/*.jpg"])
        >>> [file.name for file in files], missing
        (['a.png', 'b.png'], ['nowhere/*.jpg matches no file'])
    """
    found: dict[Path, None] = {}
    missing = []
    for name in names:
        path = Path(name)
        is_pattern = not path.exists() and glob.has_magic(name)
        matches = [Path(match) for match in sorted(glob.glob(name, recursive=True))]
        files = [f for match in (matches if is_pattern else [path]) for f in _files_at(match)]
        if not files:
            missing.append(f"{name} {'matches no file' if is_pattern else _what_is_wrong(path)}")
        found.update(dict.fromkeys(files))
    return list(found), missing


class ImageFiles(Dataset[tuple[Path, Tensor | str]]):
    """Image files: (path, pixels `[3, H, W]` uint8), or (path, what is wrong with it).

    Args:
        paths: the files.
        transform: from an RGB image to its pixels; the test transform of the run's data.
    """

    def __init__(self, paths: Sequence[Path], transform: ImageTransform) -> None:
        self.paths = paths
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Path, Tensor | str]:
        path = self.paths[index]
        try:
            with _named_warnings(path):
                image = read_image(path)
                narrow, wide = sorted(image.size)
                if wide > MAX_RATIO * narrow:
                    return path, f"{path} has sides of {image.width} × {image.height}: crop it"
                return path, self.transform.pixels(image)
        except UnreadableImageError as error:
            return path, str(error)
        except (ArithmeticError, MemoryError, OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            return path, f"{path} cannot be brought to the backbone's size ({reason})"


@contextmanager
def _named_warnings(path: Path) -> Iterator[None]:
    """Let what warns of an image, such as Pillow of its EXIF, say which one."""
    with warnings.catch_warnings(record=True) as caught:
        try:
            yield
        finally:
            found = {" ".join(str(warning.message).split()) for warning in caught}
    for message in sorted(found):
        warnings.warn(f"{visible(path)}: {message}", stacklevel=2)


def collate(items: list[tuple[Path, Tensor | str]]) -> ImageBatch:
    """Return items of `ImageFiles` as a batch of those that could be read."""
    read = [(path, image) for path, image in items if isinstance(image, Tensor)]
    unreadable = [problem for _, problem in items if isinstance(problem, str)]
    stacked = torch.stack([image for _, image in read]) if read else torch.empty(0)
    return ImageBatch([path for path, _ in read], stacked, unreadable)


def _files_at(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path] if path.is_file() else []
    return list(files_below(path))


def _what_is_wrong(path: Path) -> str:
    if path.is_dir():
        return "holds no file"
    if path.exists():
        return "is no regular file"
    if "\\" in str(path) and Path(str(path).replace("\\", "/")).exists():
        return "is missing: folders are parted by / here"
    missing = next((p for p in reversed(path.parents) if not p.exists()), None)
    return "is missing" if missing is None else f"is missing: there is no folder {missing}"
