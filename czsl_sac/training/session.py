"""A session: device, precision, processes, loaders and bars of one call."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager
from time import perf_counter
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DataLoaderConfiguration, parse_flag_from_env, send_to_device
from torch import Tensor
from torch.utils.data import Dataset, Subset
from tqdm import tqdm

from czsl_sac.clip.processes import Processes
from czsl_sac.clip.text_tower import TextTower
from czsl_sac.methods.base import CZSLMethod
from czsl_sac.training.batches import Batches
from czsl_sac.training.by_device import copies_overlap
from czsl_sac.training.config import TrainConfig

_Item = TypeVar("_Item")

_SECONDS = 60.0  # between two lines where there is no terminal


class Session:
    """What training and evaluation run on, so that nothing else has to know of it.

    Args:
        precision: `"no"` (float32), `"tf32"`, `"bf16"`, `"fp16"`, or `"auto"`: bf16 on a GPU that
            has it, else float32.
        batch_size: images of a batch where nothing is trained, those of all processes together.
        num_workers: processes that read images; 0 reads them in the main process, None takes as
            many as the machine has cores for, for image files.

    Attributes:
        accelerator: of the library accelerate.
        precision: the one in use, never `"auto"`.

    Examples:
        >>> session = Session(batch_size=2)
        >>> [batch.tolist() for batch in session.loader([1, 2, 3])]
        [[1, 2], [3]]
    """

    def __init__(
        self, *, precision: str = "no", batch_size: int = 64, num_workers: int | None = None
    ) -> None:
        # Not by accelerate's state: whoever makes it first decides whether processes join.
        on_gpu = torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU")
        if precision == "auto":
            precision = "bf16" if on_gpu and torch.cuda.is_bf16_supported() else "no"
        self.precision = precision
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        self.accelerator = Accelerator(
            mixed_precision=precision if precision in ("bf16", "fp16") else "no",
            dataloader_config=DataLoaderConfiguration(
                non_blocking=copies_overlap(torch.device("cuda" if on_gpu else "cpu"))
            ),
        )
        self.batch_size, self.num_workers = batch_size, num_workers

    @classmethod
    def of(cls, config: TrainConfig) -> "Session":
        """Return the session that a run's configuration and its launcher describe."""
        return cls(
            precision=config.optim.precision,
            batch_size=config.optim.eval_batch_size,
            num_workers=config.data.num_workers,
        )

    @property
    def device(self) -> torch.device:
        """Where tensors go."""
        device: torch.device = self.accelerator.device
        return device

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return bool(self.accelerator.is_main_process)

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context in which models run in this session's precision."""
        context: AbstractContextManager[None] = self.accelerator.autocast()
        return context

    def bar(self, items: Iterable[_Item], description: str) -> Iterator[_Item]:
        """Yield items under a progress bar, in the main process alone.

        Where there is no terminal, as in a log file, a line is written once a minute.

        Args:
            items: what to go through.
            description: what is being done.
        """
        if not self.is_main:
            return iter(items)
        if sys.stderr.isatty():
            return iter(tqdm(items, desc=description, leave=False))
        return _with_lines(items, description)

    def loader(
        self,
        dataset: Any,
        *,
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
        shared: bool = False,
    ) -> Batches:
        """Return batches of a data set on the device, in its order or shuffled.

        Args:
            dataset: with indexed items.
            batch_size: None takes the session's.
            generator: shuffles; None keeps the order.
            shared: share them out to the processes; otherwise each has all.
        """
        return Batches(
            dataset,
            batch_size or self.batch_size,
            self.device,
            num_workers=self.num_workers,
            sharing=self.accelerator.num_processes,
            generator=generator,
            prepare=self.accelerator.prepare if shared else None,
        )

    def shared_loader(self, dataset: Dataset) -> Batches:
        """Return batches in the data set's order, each shared out to the processes.

        Args:
            dataset: with indexed items.
        """
        share = -(-self.batch_size // self.accelerator.num_processes)
        return self.loader(dataset, batch_size=share, shared=True)

    def trainer(self, method: CZSLMethod, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        """Return method and optimizer for the training of one stage by all processes.

        Their batches come from `loader` with `shared=True`.

        Args:
            method: the steps of a stage may leave parameters idle, as the first loop of Alg. 1 does
                the condenser; always the same ones, unless it says `steps_differ`.
            optimizer: of the stage.
        """
        self.accelerator.ddp_handler = DistributedDataParallelKwargs(
            static_graph=not method.steps_differ, find_unused_parameters=method.steps_differ
        )
        prepared: tuple[Any, Any] = self.accelerator.prepare(method, optimizer)
        return prepared

    @contextmanager
    def together(self) -> Iterator[None]:
        """Say so where the exchange with another process fails because that one is gone.

        Raises:
            ConnectionError: another process has ended before its work was done.
        """
        try:
            yield
        except RuntimeError as error:
            # What gloo raises has no class of its own.
            if not (isinstance(error, torch.distributed.DistError) or "gloo" in str(error)):
                raise
            count = self.accelerator.num_processes
            raise ConnectionError(
                f"another of the {count} processes has ended but must take part until the end: "
                "see what ended it, then start them again, a training with --resume."
            ) from error

    @contextmanager
    def sharing_texts(self, tower: TextTower) -> Iterator[None]:
        """Let the processes share out the prompts of a tower, which all then have to encode alike.

        Args:
            tower: of the method that all of them run.
        """
        before = tower.processes
        accelerator = self.accelerator
        tower.processes = Processes(accelerator.process_index, accelerator.num_processes)
        try:
            yield
        finally:
            tower.processes = before

    def batches(
        self, dataset: Dataset, description: str, *, own: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images and targets in their order, on the device; every process sees all.

        Args:
            dataset: of images and targets.
            description: what is being done, for the bar.
            own: of all batches yield those of this process alone, a run of successive ones.
        """
        if own:
            batches = -(-len(dataset) // self.batch_size)  # type: ignore[arg-type]
            accelerator = self.accelerator
            part = Processes(accelerator.process_index, accelerator.num_processes).part(batches)
            last = min(part.stop * self.batch_size, len(dataset))  # type: ignore[arg-type]
            dataset = Subset(dataset, range(part.start * self.batch_size, last))
        yield from self.bar(self.loader(dataset), description)

    @property
    def gather(self) -> Callable[[Any], Any]:
        """What makes a batch's rows of all processes, in the data's order, of those of each."""
        if self.accelerator.num_processes == 1:
            return lambda rows: rows
        # What the last batch was filled up with, so that all processes have as much, is dropped.
        return lambda rows: self.accelerator.gather_for_metrics(send_to_device(rows, self.device))

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.accelerator.wait_for_everyone()


def _with_lines(items: Iterable[_Item], description: str) -> Iterator[_Item]:
    """Yield items, and say once a minute how many it has been."""
    total = f" of {len(items)}" if isinstance(items, Sized) else ""
    start = said = perf_counter()
    for count, item in enumerate(items):
        if perf_counter() - said > _SECONDS:
            said = perf_counter()
            print(f"{description}: {count}{total}, {said - start:.0f} s", file=sys.stderr)
        yield item
