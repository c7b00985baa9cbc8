"""Where images are kept: a folder of files, or a store that hands out their bytes by name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class StoredImage:
    """An image that is no file of its own.

    Attributes:
        name: of the image, for messages.
        data: what the file would hold.
    """

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name


class ImageStore(Protocol):
    """Images by name."""

    def image(self, name: str) -> StoredImage | Path:
        """Return an image, or the path of its file."""

    def fingerprint(self) -> str:
        """Return a name of all that is in the store."""


def image_in(folder: Path | ImageStore, name: str) -> StoredImage | Path:
    """Return the image of a name, to be opened: of a path below a folder, or a name in a store.

    Examples:
        >>> image_in(Path("photos"), "ripe_apple/1.jpg").as_posix()
        'photos/ripe_apple/1.jpg'
    """
    return folder / name if isinstance(folder, Path) else folder.image(name)
