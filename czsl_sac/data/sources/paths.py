"""Paths of images as data sets write them, and the files that are evidently meant."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from posixpath import normpath

_SYSTEM_FILES = {"__macosx", "@eadir", "thumbs.db", "desktop.ini", "$recycle.bin"}


def locate(folder: Path, path: str) -> str:
    r"""Return the path below a folder of the file that a written path evidently means.

    Slashes may be backslashes, the path may be absolute, start with `/` or `images/`, or have
    spaces around it.
    A path that is written plainly is returned without a look at the disk.

    Returns:
        A path with single slashes; where no file is found, as close to the written one as can be.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "ripe_apple").mkdir()
        >>> (folder / "ripe_apple/1.jpg").touch()
        >>> locate(folder, r"images\ripe_apple\1.jpg"), locate(folder, "/ripe_apple//1.jpg")
        ('ripe_apple/1.jpg', 'ripe_apple/1.jpg')
    """
    plain = path == normpath(path) == path.strip()
    if plain and "\\" not in path and not path.startswith(("/", "../", "images/")):
        return path
    tidy = normpath(path.strip().replace("\\", "/"))
    inner = tidy.lstrip("/")
    for candidate in (normpath(path), tidy, inner, inner.removeprefix("images/")):
        if (folder / candidate).is_file():
            below = Path(os.path.relpath(folder / candidate, folder)).as_posix()
            return candidate if outside([below]) else below
    return tidy


def outside(paths: Iterable[str]) -> list[str]:
    """Return those paths that lead out of the folder they are relative to, each once.

    Args:
        paths: with slashes; relative, or absolute.

    Examples:
        >>> outside(["../other/1.jpg", "..jpg", "/photos/1.jpg", "a/../../1.jpg"])
        ['../other/1.jpg', '/photos/1.jpg', 'a/../../1.jpg']
    """
    return [path for path in dict.fromkeys(paths) if normpath(path).split("/")[0] in ("", "..")]


def is_system_file(path: PurePath) -> bool:
    """Return whether a path is what operating systems leave among files, or hidden.

    Args:
        path: below a data set's folder, which may itself be hidden.

    Examples:
        >>> [is_system_file(PurePath(p)) for p in ("a/.DS_Store", "__MACOSX/a/1.jpg", "a/1.jpg")]
        [True, True, False]
    """
    return any(part.startswith(".") or part.lower() in _SYSTEM_FILES for part in path.parts)


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder in order, without those that systems leave behind."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not is_system_file(path.relative_to(folder)):
            yield path
