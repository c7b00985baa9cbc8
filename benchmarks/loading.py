"""Reading image files: images a second and core, and how far the pixels of readers differ.

    python -m benchmarks loading

JPEGs are written for the measurement, of coarse colours with noise, at quality 90. Each row is one
way from file to what a model takes, for a batch, on one core; rows are timed in turns.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image
from tabulate import tabulate
from torch import Tensor

from benchmarks.measure import RESULTS, append_rows, environment, interleaved
from czsl_sac.clip.backbone import OPENAI_MEAN, OPENAI_STD
from czsl_sac.data.transforms import ImageTransform

SIZE = 224


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        sizes: width and height of the files, such as 640x480.
        images: files of each size, a batch.
        rounds: timed turns of every row.
        csv: where rows are appended.
    """

    sizes: list[str] = field(default_factory=lambda: ["640x480", "128x96"])
    images: int = 32
    rounds: int = 7
    csv: Path = RESULTS / "loading.csv"


def main(argv: list[str] | None = None) -> None:
    """Measure every way, print the rows, and append them to the CSV."""
    options = tyro.cli(Options, args=argv, prog="python -m benchmarks loading")
    torch.set_num_threads(1)
    for size in options.sizes:
        width, height = (int(side) for side in size.split("x"))
        with tempfile.TemporaryDirectory() as folder:
            paths = write_files(Path(folder), options.images, (width, height))
            rows = measure(paths, size, options.rounds)
        print(tabulate([list(row.values())[:6] for row in rows], headers=[*rows[0]][:6]))
        append_rows(options.csv, rows)


def write_files(folder: Path, count: int, size: tuple[int, int], seed: int = 0) -> list[Path]:
    """Write JPEGs of coarse colours with noise, about as large as photographs of that size."""
    rng = np.random.default_rng(seed)
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        colours = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)).astype(np.float32)
        noisy = colours + rng.normal(0, 6, colours.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return paths


def measure(paths: list[Path], size: str, rounds: int) -> list[dict[str, object]]:
    """Return one row for each way, with and without augmentation."""
    rows: list[dict[str, object]] = []
    for augment in (False, True):
        calls: dict[str, Callable[[], Tensor]] = {
            "PIL and torchvision v1": lambda augment=augment: published(paths, augment),  # type: ignore[misc]
        }
        for reader in ("pil", "torch"):
            transform = ImageTransform(
                SIZE, OPENAI_MEAN, OPENAI_STD, augment=augment, reader=reader
            )
            calls[reader] = lambda transform=transform: ours(paths, transform)  # type: ignore[misc]
            # what reading processes do; the rest is the device's
            calls[f"{reader}, reading alone"] = lambda transform=transform: stacked(  # type: ignore[misc]
                paths, transform
            )
        timings = interleaved(calls, rounds=rounds, label=size)
        exact = stacked(paths, ImageTransform(SIZE, OPENAI_MEAN, OPENAI_STD)).int()
        for name, timing in timings.items():
            reader = "torch" if name.startswith("torch") else "pil"
            found = stacked(
                paths, replace(ImageTransform(SIZE, OPENAI_MEAN, OPENAI_STD), reader=reader)
            )
            apart = (found.int() - exact).abs()
            rows.append(
                {
                    "files": size,
                    "augment": augment,
                    "way": name,
                    "images_per_s_and_core": round(len(paths) / timing.median, 1),
                    "most_levels_off": int(apart.max()),
                    "share_off": round(float((apart > 0).float().mean()), 4),
                    "rounds": rounds,
                    "images": len(paths),
                    **environment("cpu"),
                }
            )
    return rows


def published(paths: list[Path], augment: bool) -> Tensor:
    """Read a batch as the published loaders do."""
    transform = published_transform(augment)
    return torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])


def published_transform(augment: bool) -> Callable[[Image.Image], Tensor]:
    """Return what the published loaders make of an image."""
    from torchvision import transforms

    random = [
        transforms.RandomHorizontalFlip(),
        transforms.RandomPerspective(),
        transforms.RandomRotation(5),
    ]
    composed: Callable[[Image.Image], Tensor] = transforms.Compose(
        [
            transforms.Resize(SIZE, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(SIZE),
            *(random if augment else ()),
            transforms.ToTensor(),
            transforms.Normalize(OPENAI_MEAN, OPENAI_STD),
        ]
    )
    return composed


def stacked(paths: list[Path], transform: ImageTransform) -> Tensor:
    """Read the pixels of a batch."""
    return torch.stack([transform.read(path) for path in paths])


def ours(paths: list[Path], transform: ImageTransform) -> Tensor:
    """Read a batch and finish it."""
    return transform.finish(stacked(paths, transform))


if __name__ == "__main__":
    main()
