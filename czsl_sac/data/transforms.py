"""From an image file to a normalised tensor: bytes first, the rest for a whole batch at once.

Two readers give the bytes. `"pil"` is the published methods' way, to the last bit. `"torch"`
resizes bytes with torch's own kernel, several times faster, and is within a gray level or two of
it. Pillow decodes for both: torchvision's decoders, faster by a quarter, are deprecated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from czsl_sac.checks import check_choice
from czsl_sac.data.distortion import distort
from czsl_sac.data.reading import Exif, read_image
from czsl_sac.data.stores import StoredImage

ImageReader = Literal["pil", "torch"]
"""Who resizes images: Pillow, as the published methods do, or torch."""


@dataclass(frozen=True)
class ImageTransform:
    """The published methods' transform of an image file to a normalised tensor.

    Resize the shorter side (bicubic), crop the centre; with `augment` also mirror, tilt
    (torchvision's `RandomPerspective`, its defaults) and turn by up to 5 degrees; scale to [0, 1],
    normalise. Without augmentation and with `reader="pil"` it is torchvision's own, to the last
    bit, without torchvision, whose import takes seconds.

    Args:
        image_size: height and width of the result.
        mean: subtracted from each colour in [0, 1].
        std: divides each colour afterwards.
        augment: for training. The reader `"pil"` distorts each image as the published loaders do;
            `"torch"` leaves that to `finish`, see `czsl_sac.data.distortion`.
        reader: who resizes.

    Raises:
        ValueError: the reader is unknown.

    Examples:
        >>> transform = ImageTransform(224, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        >>> pixels = transform.pixels(Image.new("RGB", (300, 260)))
        >>> pixels.shape, pixels.dtype
        (torch.Size([3, 224, 224]), torch.uint8)
        >>> transform.finish(pixels[None]).shape
        torch.Size([1, 3, 224, 224])
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    augment: bool = False
    reader: ImageReader = "pil"

    def __post_init__(self) -> None:
        check_choice("reader", self.reader, get_args(ImageReader))

    @property
    def draws_in_reading(self) -> bool:
        """Whether `read` draws random numbers."""
        return self.augment and self.reader == "pil"

    def prepare(self) -> None:
        """Import what takes long, once for all processes that read."""
        if self.draws_in_reading:
            _ = self._published_distortion

    def read(self, path: Path | StoredImage, *, exif: Exif = "follow") -> Tensor:
        """Return the pixels of an image file, `[3, image_size, image_size]` uint8.

        Args:
            path: the file, of any format that Pillow reads, or its content.
            exif: turn the image as its EXIF orientation says, or leave it as stored.

        Raises:
            UnreadableImageError: the file is missing, cut short, too large, or no image.
        """
        return self.pixels(read_image(path, exif=exif))

    def pixels(self, image: Image.Image) -> Tensor:
        """Return the pixels of an RGB image, `[3, image_size, image_size]` uint8."""
        if self.reader == "torch":
            return self._crop(torch.from_numpy(np.array(image)).permute(2, 0, 1))
        if self.augment:
            return self._published_distortion(image)
        size, shorter = self.image_size, min(image.size)
        if shorter != size:
            width, height = (size * side // shorter for side in image.size)
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (round((side - size) / 2) for side in image.size)
        cropped = np.array(image.crop((left, top, left + size, top + size)))
        return torch.from_numpy(cropped).permute(2, 0, 1).contiguous()

    def finish(self, pixels: Tensor) -> Tensor:
        """Return images of pixels: distorted where that is left to do, in [0, 1], normalised.

        Args:
            pixels: of a batch, `[B, 3, image_size, image_size]` uint8, on any device.

        Returns:
            Images of the same shape and device, float32.
        """
        device = pixels.device
        if self.augment and self.reader == "torch":
            pixels = distort(pixels.float())
        # By tensors: a GPU multiplies by the inverse of a number, which is a bit off.
        full = torch.tensor(255.0, device=device)
        mean, std = (
            torch.tensor(each, device=device)[:, None, None] for each in (self.mean, self.std)
        )
        return pixels.div(full).sub_(mean).div_(std)

    def _crop(self, pixels: Tensor) -> Tensor:
        """Resize and crop `[3, H, W]` uint8 as `pixels` does, with torch's kernel."""
        size, (height, width) = self.image_size, pixels.shape[1:]
        shorter = min(height, width)
        if shorter != size:
            shape = (size * height // shorter, size * width // shorter)
            pixels = F.interpolate(pixels[None], shape, mode="bicubic", antialias=True)[0]
        top, left = (round((side - size) / 2) for side in pixels.shape[1:])
        return pixels[:, top : top + size, left : left + size].contiguous()

    @cached_property
    def _published_distortion(self) -> Callable[[Image.Image], Tensor]:
        from torchvision import transforms

        composed: Callable[[Image.Image], Tensor] = transforms.Compose(
            [
                transforms.Resize(
                    self.image_size, interpolation=transforms.InterpolationMode.BICUBIC
                ),
                transforms.CenterCrop(self.image_size),
                transforms.RandomHorizontalFlip(),
                transforms.RandomPerspective(),
                transforms.RandomRotation(5),
                transforms.PILToTensor(),
            ]
        )
        return composed
