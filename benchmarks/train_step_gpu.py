"""SAC's whole training step on a GPU: time, images a second, memory, and what the GPU waits for.

    python -m benchmarks train_step_gpu
    python -m benchmarks train_step_gpu --case cgqa --only "ours, bf16, chunk 8192"
    python -m benchmarks train_step_gpu --count

The model is that of `train_step`: ViT-L/14 with random weights, the paper's batch size and
compositions. A step is forward, backward and Adam, timed on the host's clock with the GPU idle
before and after: a step that waits for its launches shows it. `kernels` counts what the profiler
saw in one more step and `busy_ms` adds up their time; the rest of `step_ms` the GPU is idle.
`--count` needs no GPU: it counts the peak of each setting on shapes alone, as `train_step` does,
with a CPU's autocast.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Literal

import torch
import tyro
from tabulate import tabulate
from torch import Tensor

from benchmarks import train_step
from benchmarks.count_memory import FakeFloats, peak_of_step
from benchmarks.measure import (
    MIB,
    RESULTS,
    Precision,
    Timing,
    append_rows,
    environment,
    products_in,
)
from benchmarks.train_step import CASES, WAYS, Case, build, loss, sizes, write_as
from czsl_sac import SAC
from czsl_sac.training.compiling import compile_parts


@dataclass(frozen=True)
class Setting:
    """How a step is computed.

    Attributes:
        way: key of `WAYS`.
        precision: float32 without and with TF32, or bfloat16 by autocast.
        chunk_size: prompts that the text tower runs at once; not the peers', which run all.
        frozen: precision that frozen weights are kept in.
        compiled: vision tower and alignment head are compiled, as by `czsl-sac train --compile`.
    """

    way: str
    precision: Precision
    chunk_size: int = 256
    frozen: torch.dtype = torch.float32
    compiled: bool = False

    @property
    def name(self) -> str:
        """Return it in words."""
        parts = [self.way, self.precision]
        if not self.way.startswith("peers"):
            parts.append(f"chunk {self.chunk_size}")
        if self.frozen == torch.bfloat16:
            parts.append("frozen bf16")
        if self.compiled:
            parts.append("compiled")
        return ", ".join(parts)


SETTINGS = (
    *(Setting("ours", precision) for precision in ("float32", "TF32", "bf16")),
    *(Setting("ours", precision, 8192) for precision in ("float32", "TF32", "bf16")),
    Setting("ours", "bf16", 1024),
    Setting("ours", "bf16", 8192, torch.bfloat16),
    Setting("ours, checkpointed", "bf16", 8192, torch.bfloat16),
    Setting("peers, 8 tokens", "TF32"),
    Setting("peers, 8 tokens", "bf16"),
    Setting("ours", "float32", 8192, compiled=True),
    Setting("ours", "bf16", 8192, compiled=True),
)


@dataclass(frozen=True)
class Options:
    """What is measured, and where it goes."""

    case: Literal["all", "ut-zappos", "mit-states", "cgqa"] = "all"
    """One data set's sizes, or all."""
    only: tuple[str, ...] = ()
    """Names of settings; by default all but the compiled ones, whose compilation takes minutes."""
    count: bool = False
    """Count the peak of memory on shapes alone, and run nothing."""
    batch: int | None = None
    """Images of a step; None takes the paper's batch size."""
    rounds: int = 5
    """Timed steps of each setting, after two that do not count."""
    device: str = "cuda"
    """Where it runs; "cpu" with few images."""
    csv: Path | None = None
    """File that the rows are appended to; None: that of `benchmarks/results`."""


def measure(name: str, setting: Setting, options: Options) -> dict[str, object]:
    """Return the row of one data set's sizes in one setting.

    Args:
        name: key of `CASES`.
        setting: how the step is computed.
        options: of the command line.
    """
    case, device = sized(name, options), options.device
    found: dict[str, object] = {}
    model = build(case, setting.frozen).to(device)
    frozen, trained = sizes(model)
    try:
        step = prepare(model, setting, case.batch, device)
        timing = time_steps(step, options.rounds, device)
        found["step_ms"] = f"{1e3 * timing.median:.1f}"
        found["images_per_s"] = f"{case.batch / timing.median:.0f}"
        if device != "cpu":
            found["peak_gib"] = f"{torch.cuda.max_memory_allocated() / 2**30:.2f}"
            found["kernels"], busy = profile(step)
            found["busy_ms"] = f"{busy:.1f}"
    except torch.OutOfMemoryError:
        found["step_ms"] = "out of memory"
    keys = ("step_ms", "images_per_s", "peak_gib", "kernels", "busy_ms")
    return {
        **about(name, setting, case, (frozen, trained)),
        **{key: found.get(key, "") for key in keys},
        **environment(device),
    }


def count(name: str, setting: Setting, options: Options) -> dict[str, object]:
    """Return the row of one data set's sizes in one setting, its peak counted on shapes alone.

    Args:
        name: key of `CASES`.
        setting: how the step is computed.
        options: of the command line.
    """
    case, mode = sized(name, options), FakeFloats()
    model = build(case, setting.frozen)
    write(model, setting)
    weights = sizes(model)
    mode.fake_module(model)
    size = train_step.VIT_L_14.image_size
    with mode:
        images, targets = torch.empty(case.batch, 3, size, size), torch.arange(case.batch)

        def step() -> Tensor:
            with products_in(setting.precision, "cpu"):
                return loss(model, images, targets)

        peak = peak_of_step(model, step, [images, targets])
    return {
        **about(name, setting, case, weights),
        "counted_gib": f"{peak / 2**30:.2f}",
        **environment(),
    }


def sized(name: str, options: Options) -> Case:
    """Return a case with the batch size that the options name."""
    case = CASES[name]
    return case if options.batch is None else replace(case, batch=options.batch)


def about(name: str, setting: Setting, case: Case, weights: tuple[int, int]) -> dict[str, object]:
    """Return the columns that say what a row is of."""
    frozen, trained = weights
    return {
        "case": name,
        "setting": setting.name,
        "compositions": case.seen,
        "batch": case.batch,
        "frozen_mib": f"{frozen / MIB:.0f}",
        "trained_mib": f"{trained / MIB:.0f}",
    }


def write(model: SAC, setting: Setting) -> None:
    """Make a model compute its step as the setting says."""
    way = WAYS[setting.way]
    write_as(model, way)
    if way.tokens is None:
        model.backbone.text.chunk_size = setting.chunk_size
    if setting.compiled:
        compile_parts(model)


def prepare(model: SAC, setting: Setting, batch: int, device: str) -> Callable[[], Tensor]:
    """Return one training step, ready to run."""
    write(model, setting)
    size = train_step.VIT_L_14.image_size
    images = torch.randn(batch, 3, size, size, device=device)
    targets = torch.arange(batch, device=device)
    return partial(training_step(model, setting.precision, device), images, targets)


def training_step(
    model: SAC, precision: Precision, device: str
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what takes images and targets, does a step with Adam, and gives the loss."""
    learns = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(learns, lr=1e-5, fused=device != "cpu")

    def step(images: Tensor, targets: Tensor) -> Tensor:
        optimizer.zero_grad()
        with products_in(precision, device):
            value = loss(model, images, targets)
            value.backward()
        optimizer.step()
        return value.detach()

    return step


def time_steps(step: Callable[[], Tensor], rounds: int, device: str) -> Timing:
    """Return the time of some steps, after two; the peak of memory counts from the third on."""
    seconds = []
    for turn in range(2 + rounds):
        if device != "cpu":
            torch.cuda.synchronize()
            if turn == 2:
                torch.cuda.reset_peak_memory_stats()
        start = perf_counter()
        if not step().isfinite():  # waits for the forward pass, as a training loop does
            raise RuntimeError("the loss is not finite: the step was not computed rightly.")
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(perf_counter() - start)
    return Timing(tuple(seconds[2:]))


def profile(step: Callable[[], Tensor]) -> tuple[int, float]:
    """Return how many kernels and copies a step runs on the GPU, and their milliseconds."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as recorded:
        step()
        torch.cuda.synchronize()
    on_gpu = [
        event
        for event in recorded.events() or ()
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]
    return len(on_gpu), sum(event.device_time for event in on_gpu) / 1e3


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark, print a table and append the rows to the CSV, each as it comes.

    Args:
        argv: options; None takes them from the command line.
    """
    options = tyro.cli(Options, args=argv)
    kind = "train_step_counted" if options.count else "train_step_gpu"
    csv = options.csv or RESULTS / f"{kind}.csv"
    chosen = [s for s in SETTINGS if s.name in options.only or not (options.only or s.compiled)]
    if options.count:  # TF32 is float32 in memory
        chosen = [setting for setting in chosen if setting.precision != "TF32"]
    for name in CASES if options.case == "all" else [options.case]:
        rows = []
        for setting in chosen:
            if options.device != "cpu":
                torch.cuda.empty_cache()
            rows.append((count if options.count else measure)(name, setting, options))
            append_rows(csv, rows[-1:])
        shown = [key for key in rows[0] if key not in environment()]
        print(tabulate([[row[key] for key in shown] for row in rows], headers=shown), flush=True)
