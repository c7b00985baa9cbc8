"""Batches of a data set on the device: image files travel as bytes and are finished there."""

import os
from collections.abc import Callable, Iterator
from multiprocessing import get_start_method
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from czsl_sac.data.images import ImageDataset, PixelDataset
from czsl_sac.training.by_device import loader_options

MOST_WORKERS = 8


def reading_processes(wanted: int | None, *, batches: int, sharing: int = 1) -> int:
    """Return how many processes read image files.

    Args:
        wanted: as the user says; None takes one for each core but one, 8 at most, no more than
            there are batches beside the first, and none where processes start slowly.
        batches: how many there are to read.
        sharing: processes that train on this machine.

    Examples:
        >>> reading_processes(3, batches=1), reading_processes(None, batches=1)
        (3, 0)
    """
    if wanted is not None:
        return wanted
    if get_start_method() != "fork":  # as on macOS and Windows: every process imports torch anew
        return 0
    cores = len(os.sched_getaffinity(0)) // sharing
    return max(0, min(cores - 1, MOST_WORKERS, batches - 1))


class Batches:
    """Batches of a data set, images and targets on the device.

    Args:
        dataset: with indexed items; of an `ImageDataset`, or of a `Subset` of one, the bytes are
            read and its transform finishes whole batches on the device.
        batch_size: items of a batch.
        device: where they go.
        num_workers: see `reading_processes`, for image files; None is 0 for others.
        sharing: processes that train on this machine.
        generator: shuffles; None keeps the order.
        prepare: shares the loader out to processes.

    Examples:
        >>> batches = Batches([1, 2, 3], 2, torch.device("cpu"))
        >>> len(batches), [batch.tolist() for batch in batches]
        (2, [[1, 2], [3]])
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        device: torch.device,
        *,
        num_workers: int | None = None,
        sharing: int = 1,
        generator: torch.Generator | None = None,
        prepare: Callable[[DataLoader], DataLoader] | None = None,
    ) -> None:
        self._device, self._generator = device, generator
        dataset, self._pixels = _as_pixels(dataset)
        if self._pixels is None:
            workers = num_workers or 0
        else:
            count = -(-len(dataset) // batch_size)
            workers = reading_processes(num_workers, batches=count, sharing=sharing)
        loader: DataLoader = DataLoader(
            cast(Dataset, dataset),
            batch_size=batch_size,
            shuffle=generator is not None,
            generator=generator,
            **loader_options(device, workers),
        )
        self._loader = prepare(loader) if prepare else loader
        self._workers, self._begun = workers, False

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        if self._generator is not None and self._begun and self._workers:
            # A loader draws a number before it shuffles, but not where its workers stay: an epoch
            # would have another order than the same epoch of a resumed run.
            torch.empty((), dtype=torch.int64).random_(generator=self._generator)
        self._begun = True
        if self._pixels is None:
            for batch in self._loader:
                yield _moved(batch, self._device)
            return
        if self._generator is not None:
            # Of the seed alone, so that the order of the items stays what it is.
            self._pixels.seed.fill_(self._generator.initial_seed() % 2**31)
        finish = self._pixels.images.transform.finish
        for batch in self._loader:
            pixels, targets = _moved(batch, self._device)
            yield finish(pixels), targets


def _as_pixels(dataset: Any) -> tuple[Any, PixelDataset | None]:
    """Return what to read in place of a data set, and whose items that are, if of images."""
    if isinstance(dataset, Subset):
        whole, pixels = _as_pixels(dataset.dataset)
        return Subset(whole, dataset.indices), pixels
    if isinstance(dataset, ImageDataset):
        pixels = PixelDataset(dataset)
        return pixels, pixels
    return dataset, None


def _moved(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    return [each.to(device, non_blocking=True) for each in batch]
