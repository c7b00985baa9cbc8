"""Training from image files: does a GPU wait for them?

    python -m benchmarks train_files

SAC on ViT-L/14 with random weights, at the sizes of MIT-States, in bf16, trains on JPEGs that are
written for the measurement, as `loading` writes them. Each row is a way in which batches reach the
device; the first trains on one batch that stays there, so that its time is the step's alone. The
published way is a `DataLoader` of torchvision's transforms whose processes hand over normalised
floats. Files are in the system's cache: disks are not measured.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter

import torch
import tyro
from PIL import Image
from tabulate import tabulate
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.loading import SIZE, published_transform, write_files
from benchmarks.measure import RESULTS, Precision, append_rows, environment
from benchmarks.train_step import CASES, build
from benchmarks.train_step_gpu import training_step
from czsl_sac.clip.backbone import OPENAI_MEAN, OPENAI_STD
from czsl_sac.data.images import ImageDataset
from czsl_sac.data.transforms import ImageTransform
from czsl_sac.training.batches import Batches, reading_processes

CSV = RESULTS / "train_files.csv"
CASE = "mit-states"
STEP = "one batch that stays"


@dataclass(frozen=True)
class Options:
    """What is measured, and where it goes."""

    files: int = 1280
    """JPEGs that are written, read again and again."""
    size: tuple[int, int] = (640, 480)
    """Width and height of the files."""
    batch: int = 64
    """Images of a step."""
    steps: int = 40
    """Timed steps of each way, after --warmup others."""
    warmup: int = 10
    """Steps before the clock counts: reading processes start, kernels compile."""
    precision: Precision = "bf16"
    """Of a step."""
    checkpoint: bool = False
    """Recompute the vision tower's blocks."""
    device: str = "cuda"
    """Where it trains; "cpu" with few images."""
    csv: Path = CSV
    """File that the rows are appended to."""


class Published(Dataset[tuple[Tensor, int]]):
    """Image files as the published loaders give them: normalised floats `[3, 224, 224]`.

    Args:
        paths: of the files.
        targets: one for each.
        augment: distort them at random.
    """

    def __init__(self, paths: list[str], targets: list[int], *, augment: bool) -> None:
        self.paths, self.targets = paths, targets
        self.transform = published_transform(augment)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.open(self.paths[index]).convert("RGB")
        return self.transform(image), self.targets[index]


def main(argv: list[str] | None = None) -> None:
    """Measure every way, print the rows, and append them to the CSV.

    Args:
        argv: options; None takes them from the command line.
    """
    options = tyro.cli(Options, args=argv, description=__doc__)
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(p) for p in write_files(Path(folder), options.files, options.size)]
        rows = measure(paths, options)
    append_rows(options.csv, rows)
    shown = [key for key in rows[0] if key not in environment()]
    print(tabulate([[row[key] for key in shown] for row in rows], headers=shown))


def measure(paths: list[str], options: Options) -> list[dict[str, object]]:
    """Return a row for each way.

    Args:
        paths: of the files.
        options: of the command line.
    """
    torch.manual_seed(0)
    model = build(CASES[CASE]).to(options.device)
    model.backbone.visual.transformer.gradient_checkpointing = options.checkpoint
    model.backbone.text.chunk_size = 8192
    step = training_step(model, options.precision, options.device)
    rows: list[dict[str, object]] = []
    for name, batches in ways(paths, options).items():
        seconds = time_epoch(batches(), step, options)
        rate = options.steps * options.batch / seconds
        alone = float(rows[0]["images_per_s"]) if rows else rate  # type: ignore[arg-type]
        rows.append(
            {
                "way": name,
                "files": f"{options.size[0]}x{options.size[1]}",
                "batch": options.batch,
                "checkpointed": options.checkpoint,
                "precision": options.precision,
                "images_per_s": f"{rate:.1f}",
                "to_step_alone": f"{alone / rate:.3f}",
                "steps": options.steps,
                "cores": len(os.sched_getaffinity(0)),
                **environment(options.device),
            }
        )
        print(f"{name}: {rate:.1f} images a second", flush=True)
    return rows


def ways(
    paths: list[str], options: Options
) -> dict[str, Callable[[], Iterable[tuple[Tensor, Tensor]]]]:
    """Return how batches reach the device, by name.

    Args:
        paths: of the files.
        options: of the command line.
    """
    device, batch = torch.device(options.device), options.batch
    classes = CASES[CASE].seen
    # as many epochs' worth of items as the steps take, so that no epoch ends between them
    times = -(-(options.steps + options.warmup + 1) * batch // len(paths))
    repeated = paths * times
    targets = [number % classes for number in range(len(repeated))]
    some = reading_processes(None, batches=len(repeated) // batch)

    def stays() -> Iterable[tuple[Tensor, Tensor]]:
        one = torch.randn(batch, 3, SIZE, SIZE, device=device)
        labels = torch.arange(batch, device=device) % classes
        return [(one, labels)] * (options.steps + options.warmup + 1)

    def ours(reader: str, augment: bool, workers: int | None) -> Iterable[tuple[Tensor, Tensor]]:
        transform = ImageTransform(SIZE, OPENAI_MEAN, OPENAI_STD, augment=augment, reader=reader)
        images = ImageDataset(Path("/"), list(zip(repeated, targets, strict=True)), transform)
        generator = torch.Generator().manual_seed(0)
        return Batches(images, batch, device, num_workers=workers, generator=generator)

    def published(augment: bool) -> Iterator[tuple[Tensor, Tensor]]:
        data = Published(repeated, targets, augment=augment)
        for images, labels in DataLoader(data, batch, shuffle=True, num_workers=some):
            yield images.to(device), labels.to(device)

    found: dict[str, Callable[[], Iterable[tuple[Tensor, Tensor]]]] = {STEP: stays}
    for augment in (False, True):
        end = ", augmented" if augment else ""
        found[f"torch, {some} processes{end}"] = lambda a=augment: ours("torch", a, None)  # type: ignore[misc]
        found[f"pil, {some} processes{end}"] = lambda a=augment: ours("pil", a, None)  # type: ignore[misc]
        found[f"published, {some} processes{end}"] = lambda a=augment: published(a)  # type: ignore[misc]
    found["torch, no process"] = lambda: ours("torch", False, 0)
    return found


def time_epoch(
    batches: Iterable[tuple[Tensor, Tensor]],
    step: Callable[[Tensor, Tensor], object],
    options: Options,
) -> float:
    """Return the seconds of some steps in a row, loading included.

    Args:
        batches: on the device.
        step: trains on one.
        options: of the command line.

    Raises:
        RuntimeError: the batches ended too early.
    """

    def wait() -> None:
        if options.device != "cpu":
            torch.cuda.synchronize()

    start, done = 0.0, 0
    for images, targets in islice(batches, options.warmup + options.steps):
        if done == options.warmup:
            wait()
            start = perf_counter()
        step(images, targets)
        done += 1
    wait()
    if done < options.warmup + options.steps:
        raise RuntimeError(f"there were {done} batches, too few to time {options.steps} steps.")
    return perf_counter() - start


if __name__ == "__main__":
    main()
