"""Readers of image files: what comes out is the same, whoever decodes, resizes and finishes it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Subset
from torchvision.transforms import functional

from czsl_sac.data.distortion import distort, plane_maps, sample
from czsl_sac.data.images import ImageDataset
from czsl_sac.data.stores import StoredImage
from czsl_sac.data.transforms import ImageReader, ImageTransform
from czsl_sac.training.batches import Batches
from czsl_sac.training.session import Session

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CPU = torch.device("cpu")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(6):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((80, 60), Image.Resampling.BICUBIC).save(tmp_path / f"{number}.jpg")
    return tmp_path


def dataset(folder: Path, reader: ImageReader = "torch", *, augment: bool = False) -> ImageDataset:
    transform = ImageTransform(32, MEAN, STD, augment=augment, reader=reader)
    return ImageDataset(folder, [(f"{n}.jpg", n) for n in range(6)], transform)


def stacked(batches: Batches) -> Tensor:
    return torch.cat([images for images, _ in batches])


@pytest.mark.parametrize("reader", ["pil", "torch"])
def test_batches_are_the_items(photos: Path, reader: ImageReader) -> None:
    items = dataset(photos, reader)
    alone = torch.stack([image for image, _ in items])  # type: ignore[attr-defined]
    for workers in (0, 2):
        assert torch.equal(stacked(Batches(items, 4, CPU, num_workers=workers)), alone)
    some = Batches(Subset(items, [5, 2]), 4, CPU)
    assert [targets.tolist() for _, targets in some] == [[5, 2]]
    assert torch.equal(stacked(some), alone[[5, 2]])
    assert alone.dtype == torch.float32
    assert items.pixels(0)[0].dtype == torch.uint8


class Store:
    """The photos without files of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def image(self, name: str) -> StoredImage:
        return StoredImage(f"store {name}", (self.folder / name).read_bytes())

    def fingerprint(self) -> str:
        return "photos"


def test_images_of_a_store_and_parts_of_a_data_set_travel_as_bytes(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = dataset(photos)
    expected = stacked(Batches(items, 4, CPU))
    items.folder = Store(photos)
    finished: list[tuple[int, torch.dtype]] = []
    finish = ImageTransform.finish

    def noting(transform: ImageTransform, pixels: Tensor) -> Tensor:
        finished.append((len(pixels), pixels.dtype))
        return finish(transform, pixels)

    monkeypatch.setattr(ImageTransform, "finish", noting)
    assert torch.equal(stacked(Batches(items, 4, CPU, num_workers=2)), expected)
    some = Session(batch_size=2).batches(Subset(items, [5, 2, 0]), "reading", own=True)
    assert torch.equal(torch.cat([images for images, _ in some]), expected[[5, 2, 0]])
    assert finished == [(size, torch.uint8) for size in (4, 2, 2, 1)]


@pytest.mark.parametrize("reader", ["pil", "torch"])
def test_augmentation_is_decided_by_the_seed_alone(photos: Path, reader: ImageReader) -> None:
    def epoch(seed: int, workers: int, *, before: Batches | None = None) -> Tensor:
        generator = torch.Generator()
        batches = before or Batches(
            dataset(photos, reader, augment=True),
            2,
            CPU,
            num_workers=workers,
            generator=generator,
        )
        (batches._generator or generator).manual_seed(seed)
        torch.manual_seed(seed)
        return stacked(batches)

    alone = epoch(7, 0)
    assert torch.equal(alone, epoch(7, 0))
    assert torch.equal(alone, epoch(7, 1))
    assert torch.equal(alone, epoch(7, 2))
    assert not torch.equal(alone, epoch(8, 0))
    # workers that stay for the next epoch follow its seed, as those of a resumed run do
    kept = Batches(
        dataset(photos, reader, augment=True), 2, CPU, num_workers=1, generator=torch.Generator()
    )
    assert torch.equal(epoch(8, 1, before=kept), epoch(8, 0))
    assert torch.equal(epoch(7, 1, before=kept), alone)


def one(*, mirrored: bool = False, corners: list[list[int]] | None = None, angle: float = 0.0):
    moved = torch.tensor([corners or [[0, 0]] * 4])
    return plane_maps(32, torch.tensor([mirrored]), moved, torch.tensor([angle]))


def test_each_part_of_the_distortion_is_torchvisions() -> None:
    image = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(sample(image, one()), image, atol=1e-5, rtol=0)
    mirrored = sample(image, one(mirrored=True))
    torch.testing.assert_close(mirrored, image.flip(-1), atol=1e-5, rtol=0)
    bilinear = functional.InterpolationMode.BILINEAR
    turned = functional.rotate(image, 4.0, interpolation=bilinear)
    inside = (..., slice(3, -3), slice(3, -3))  # at its edge torchvision darkens twice
    torch.testing.assert_close(sample(image, one(angle=4.0))[inside], turned[inside])
    corners = [[2, 3], [5, 1], [4, 6], [0, 7]]
    ends = [[2, 3], [31 - 5, 1], [31 - 4, 31 - 6], [0, 31 - 7]]
    starts = [[0, 0], [31, 0], [31, 31], [0, 31]]
    tilted = functional.perspective(image, starts, ends, interpolation=bilinear)
    mask = functional.perspective(torch.ones_like(image), starts, ends, interpolation=bilinear) == 1
    found = sample(image, one(corners=corners))
    torch.testing.assert_close(found[mask], tilted[mask], atol=1e-3, rtol=0)
    assert mask.float().mean() > 0.3
    both = one(mirrored=True, corners=corners, angle=4.0)
    maps = one(mirrored=True) @ one(corners=corners) @ one(angle=4.0)
    torch.testing.assert_close(both, maps)


def test_distortion_has_the_published_probabilities() -> None:
    torch.manual_seed(0)
    # a ramp: mirrored images fall from left to right
    ramp = torch.linspace(1, 2, 32).expand(400, 1, 32, 32)
    found = distort(ramp)
    falls = found[:, 0, 16, 20] < found[:, 0, 16, 12]
    assert 0.42 < falls.float().mean() < 0.58
    # a tilt brings the black of outside to the middle of a side; a small turn to the corners
    tilted = (found[:, 0, 16] == 0).any(-1) | (found[:, 0, :, 16] == 0).any(-1)
    assert 0.35 < tilted.float().mean() < 0.58
