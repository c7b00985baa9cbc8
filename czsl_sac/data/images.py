"""The items of a split of image files, and the published methods' transforms."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from czsl_sac.data.reading import Exif, UnreadableImageError, read_image
from czsl_sac.data.stores import ImageStore, StoredImage, image_in

if TYPE_CHECKING:
    from torchvision import transforms

__all__ = ["EvaluationTransform", "ImageDataset", "image_transform"]


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Images from files: (image `[3, H, W]` float32, normalised; target).

    Args:
        folder: what the paths are relative to, or the store that has images by name.
        records: path and target of each item.
        transform: from an RGB image to a tensor; its `repr` says all that it does.
        exif: turn photographs as their EXIF orientation says, or leave the pixels as stored.

    Raises:
        UnreadableImageError: on access, if a file is missing or damaged; the message has its path.
    """

    def __init__(
        self,
        folder: Path | ImageStore,
        records: Sequence[tuple[str, int]],
        transform: Callable[[Image.Image], Tensor],
        *,
        exif: Exif = "follow",
    ) -> None:
        self.folder = folder
        self.records = records
        self.transform = transform
        self.exif = exif

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, target = self.records[index]
        try:
            return self.transform(read_image(image_in(self.folder, path), exif=self.exif)), target
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


@dataclass(frozen=True)
class EvaluationTransform:
    """The published methods' transform of an RGB image, without augmentation.

    Resize the shorter side (bicubic), crop the centre, scale to [0, 1], normalise. It is
    torchvision's, to the last bit, without torchvision, whose import takes seconds.

    Args:
        image_size: height and width of the result.
        mean: subtracted from each colour in [0, 1].
        std: divides each colour afterwards.

    Examples:
        >>> transform = EvaluationTransform(224, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        >>> transform(Image.new("RGB", (300, 260))).shape
        torch.Size([3, 224, 224])
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, image: Image.Image) -> Tensor:
        """Return the image as a tensor `[3, image_size, image_size]`.

        Args:
            image: of any size.
        """
        size, shorter = self.image_size, min(image.size)
        if shorter != size:
            width, height = (size * side // shorter for side in image.size)
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (round((side - size) / 2) for side in image.size)
        cropped = np.array(image.crop((left, top, left + size, top + size)))
        pixels = torch.from_numpy(cropped).permute(2, 0, 1).contiguous().div(255)
        mean, std = (torch.tensor(each)[:, None, None] for each in (self.mean, self.std))
        return (pixels - mean) / std


def image_transform(
    image_size: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    *,
    augment: bool = False,
) -> "EvaluationTransform | transforms.Compose":
    """Return the published methods' transform of an RGB image to a normalised tensor.

    Resize the shorter side (bicubic), crop the centre; with `augment` also mirror, tilt
    (`RandomPerspective`, its defaults) and turn by up to 5 degrees.

    Args:
        image_size: height and width of the result.
        mean: subtracted from each colour in [0, 1].
        std: divides each colour afterwards.
        augment: for training.
    """
    if not augment:
        return EvaluationTransform(image_size, mean, std)
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.Resize(image_size, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(image_size),
            transforms.RandomHorizontalFlip(),
            transforms.RandomPerspective(),
            transforms.RandomRotation(5),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
