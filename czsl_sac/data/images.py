"""Images from files: reading, the published methods' transforms, and the items of a split."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms

__all__ = ["ImageDataset", "UnreadableImageError", "image_transform", "read_image"]


class UnreadableImageError(ValueError):
    """An image file is missing or damaged; the message has its path and the reason."""


def read_image(path: Path) -> Image.Image:
    """Return an image file as RGB, all of it decoded.

    Args:
        path: the file, of any format that Pillow reads, whatever its suffix.

    Raises:
        UnreadableImageError: the file is missing, cut short, or no image.

    Examples:
        >>> read_image(Path("nowhere/apple.jpg"))
        Traceback (most recent call last):
            ...
        czsl_sac.data.images.UnreadableImageError: nowhere/apple.jpg is missing
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise UnreadableImageError(f"{path} is missing{_renamed(path)}") from None
    except Exception as error:  # a damaged file makes Pillow's decoders raise many types
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImageError(f"{path} is no readable image ({reason})") from error


def _renamed(path: Path) -> str:
    """What is known of a missing file: MIT-States comes with spaces in its folders' names."""
    spaced = path.parent.with_name(path.parent.name.replace("_", " "))
    if spaced != path.parent and (spaced / path.name).is_file():
        return f", but stands in {spaced}: write the folder's name with underscores"
    return ""


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Images from files: (image `[3, H, W]` float32, normalised; target).

    Args:
        folder: what the paths are relative to.
        records: path and target of each item.
        transform: from an RGB image to a tensor.

    Raises:
        UnreadableImageError: on access, if a file is missing or damaged; the message has its path.
    """

    def __init__(
        self, folder: Path, records: Sequence[tuple[str, int]], transform: transforms.Compose
    ) -> None:
        self.folder = folder
        self.records = records
        self.transform = transform

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, target = self.records[index]
        try:
            pixels: Tensor = self.transform(read_image(self.folder / path))
        except UnreadableImageError as error:
            raise UnreadableImageError(
                f"{error}. czsl-sac check-data names every such image; "
                "--on-bad-image skip trains without them."
            ) from error
        return pixels, target

    def fingerprint(self) -> str:
        """Names all that decides the items: files by path, size and time, targets, transform.

        Features that are cached on disk are known again by it. A missing file counts as empty.
        """
        digest = sha256(repr(self.transform).encode())
        for path, target in self.records:
            file = self.folder / path
            found = file.stat() if file.is_file() else None
            state = (found.st_size, found.st_mtime_ns) if found else None
            digest.update(f"{file.resolve()} {state} {target}\n".encode())
        return digest.hexdigest()

    def identity(self) -> str:
        """Return a checksum of the images and labels: paths below the folder, sizes, targets."""
        digest = sha256()
        for path, target in self.records:
            file = self.folder / path
            size = file.stat().st_size if file.is_file() else None
            digest.update(f"{path} {size} {target}\n".encode())
        return digest.hexdigest()


def image_transform(
    image_size: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    *,
    augment: bool = False,
) -> transforms.Compose:
    """Return the published methods' transform of an RGB image to a normalised tensor.

    Resize the shorter side (bicubic), crop the centre; with `augment` also mirror, tilt
    (`RandomPerspective`, its defaults) and turn by up to 5 degrees.

    Args:
        image_size: height and width of the result.
        mean: subtracted from each colour in [0, 1].
        std: divides each colour afterwards.
        augment: for training.

    Examples:
        >>> transform = image_transform(224, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        >>> transform(Image.new("RGB", (300, 260))).shape
        torch.Size([3, 224, 224])
    """
    size = [
        transforms.Resize(image_size, interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(image_size),
    ]
    random = [
        transforms.RandomHorizontalFlip(),
        transforms.RandomPerspective(),
        transforms.RandomRotation(5),
    ]
    last = [transforms.ToTensor(), transforms.Normalize(mean, std)]
    return transforms.Compose([*size, *(random if augment else []), *last])
