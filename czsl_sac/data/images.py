"""The items of a split of image files, in a folder or a store."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from czsl_sac.data.reading import Exif, UnreadableImageError
from czsl_sac.data.stores import ImageStore, StoredImage, image_in
from czsl_sac.data.transforms import ImageTransform


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Images from files: (image `[3, H, W]` float32, normalised; target).

    Args:
        folder: what the paths are relative to, or the store that has images by name.
        records: path and target of each item.
        transform: from a file to a tensor; its `repr` says all that it does.
        exif: turn photographs as their EXIF orientation says, or leave the pixels as stored.

    Raises:
        UnreadableImageError: on access, if a file is missing or damaged; the message has its path.
    """

    def __init__(
        self,
        folder: Path | ImageStore,
        records: Sequence[tuple[str, int]],
        transform: ImageTransform,
        *,
        exif: Exif = "follow",
    ) -> None:
        self.folder = folder
        self.records = records
        self.transform = transform
        self.exif = exif
        transform.prepare()

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels, target = self.pixels(index)
        return self.transform.finish(pixels[None])[0], target

    def pixels(self, index: int) -> tuple[Tensor, int]:
        """Return the pixels of an item, `[3, H, W]` uint8, and its target.

        What is left to do, `transform.finish` does with a whole batch on any device.

        Raises:
            UnreadableImageError: the file is missing or damaged; the message has its path.
        """
        path, target = self.records[index]
        try:
            return self.transform.read(image_in(self.folder, path), exif=self.exif), target
        except UnreadableImageError as error:
            raise UnreadableImageError(
                f"{error}. czsl-sac check-data names every such image; "
                "--on-bad-image skip trains without them."
            ) from error

    def fingerprint(self) -> str:
        """Return a name of all that decides the items: files, targets, transform, orientation.

        Files go by path, size and time; a missing one counts as empty. Features that are cached on
        disk are known again by it.
        """
        digest = sha256(f"{self.transform!r} {self.exif}".encode())
        if not isinstance(self.folder, Path):
            digest.update(f"{self.folder.fingerprint()} {self.records}".encode())
            return digest.hexdigest()
        for path, target in self.records:
            file = self.folder / path
            found = file.stat() if file.is_file() else None
            state = (found.st_size, found.st_mtime_ns) if found else None
            digest.update(f"{file.resolve()} {state} {target}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def identity(self) -> str:
        """Return a checksum of the images and labels: paths below the folder, sizes, targets."""
        digest = sha256()
        for path, target in self.records:
            size = _size(image_in(self.folder, path))
            digest.update(f"{path} {size} {target}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()


def _size(image: Path | StoredImage) -> int | None:
    if isinstance(image, StoredImage):
        return len(image.data)
    return image.stat().st_size if image.is_file() else None


class PixelDataset(Dataset[tuple[Tensor, int]]):
    """The items of an `ImageDataset` as bytes: (pixels `[3, H, W]` uint8, target).

    A quarter of the memory to hand over between processes and to copy to a GPU.

    Args:
        images: the data set, whose transform's `finish` makes images of batches of these.

    Attributes:
        seed: `[]` int64 in memory that reading processes share. Not negative: what is random about
            an item follows from this number and the item's index alone, whoever reads it.
    """

    def __init__(self, images: ImageDataset) -> None:
        self.images = images
        self.seed = torch.tensor(-1).share_memory_()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        seed = int(self.seed)
        if seed < 0 or not self.images.transform.draws_in_reading:
            return self.images.pixels(index)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed((seed * 2**32 + index) % 2**63)
            return self.images.pixels(index)
