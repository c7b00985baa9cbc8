"""Image files as a user names them: found, read, and the bad ones told apart from the good."""

import glob
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset


class Unreadable(NamedTuple):
    """A file that could not be predicted.

    Attributes:
        name: its path, or what was given in its place.
        reason: what is wrong with it.
    """

    name: str
    reason: str


class ImageBatch(NamedTuple):
    """Some files of a list, read.

    Attributes:
        paths: of the images.
        images: `[B, 3, H, W]`, in the order of `paths`; B may be 0.
        unreadable: the other files.
    """

    paths: list[Path]
    images: Tensor
    unreadable: list[Unreadable]


def find_files(names: Sequence[str]) -> tuple[list[Path], list[Unreadable]]:
    """Return the files that names stand for, each once.

    A folder stands for all files below it, those with a leading dot left out; a pattern for what
    it matches, `**` for any number of folders. A name that is itself a file is never taken for a
    pattern.

    Args:
        names: paths of files and folders, and patterns.

    Returns:
        The files, in the order of the names and sorted within one; and the names that stand for
        no file.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("b.png", "a.png", ".hidden"):
        ...     (folder / name).touch()
        >>> files, missing = find_files([f"{folder}/*.png", str(folder), "nowhere/*.jpg"])
        >>> [file.name for file in files], missing
        (['a.png', 'b.png'], [Unreadable(name='nowhere/*.jpg', reason='matches no file')])
    """
    found: dict[Path, None] = {}
    missing = []
    for name in names:
        path = Path(name)
        is_pattern = not path.exists() and glob.has_magic(name)
        matches = [Path(match) for match in sorted(glob.glob(name, recursive=True))]
        files = [f for match in (matches if is_pattern else [path]) for f in _files_at(match)]
        if not files:
            reason = "holds no file" if path.is_dir() else "no such file"
            missing.append(Unreadable(name, "matches no file" if is_pattern else reason))
        found.update(dict.fromkeys(files))
    return list(found), missing


class ImageFiles(Dataset[tuple[Path, Tensor | str]]):
    """Image files: (path, image `[3, H, W]`), or (path, what is wrong with it).

    Args:
        paths: the files.
        transform: from an RGB image to a tensor; the test transform of the run's data.
    """

    def __init__(self, paths: Sequence[Path], transform: Callable[[Image.Image], Tensor]) -> None:
        self.paths = paths
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Path, Tensor | str]:
        path = self.paths[index]
        try:
            with Image.open(path) as image:
                return path, self.transform(image.convert("RGB"))
        except UnidentifiedImageError:
            return path, "no image that can be read"
        # Pillow's decoders raise these for damaged files, and the last for gigantic ones.
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            return path, getattr(error, "strerror", None) or str(error)


def collate(items: list[tuple[Path, Tensor | str]]) -> ImageBatch:
    """Return items of `ImageFiles` as a batch of those that could be read.

    Args:
        items: paths with images or with what is wrong.
    """
    images = {path: image for path, image in items if isinstance(image, Tensor)}
    unreadable = [Unreadable(str(path), text) for path, text in items if isinstance(text, str)]
    stacked = torch.stack(list(images.values())) if images else torch.empty(0)
    return ImageBatch(list(images), stacked, unreadable)


def _files_at(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path] if path.exists() else []
    below = (p for p in sorted(path.rglob("*")) if p.is_file())
    return [p for p in below if not any(x.startswith(".") for x in p.relative_to(path).parts)]
