"""SAC's whole training step on a GPU: time, images a second, memory, and what the GPU waits for.

    python -m benchmarks train_step_gpu
    python -m benchmarks train_step_gpu --case cgqa --only "ours, bf16, chunk 8192"

The model is that of `train_step`: ViT-L/14 with random weights, the paper's batch size and
compositions. A step is forward, backward and Adam, timed on the host's clock with the GPU idle
before and after: a step that waits for its launches shows it. `kernels` counts what the profiler
saw in one more step and `busy_ms` adds up their time; the rest of `step_ms` the GPU is idle.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Literal

import torch
import tyro
from tabulate import tabulate
from torch import Tensor

from benchmarks import train_step
from benchmarks.measure import (
    MIB,
    RESULTS,
    Precision,
    Timing,
    append_rows,
    environment,
    products_in,
)
from benchmarks.train_step import CASES, WAYS, build, loss, sizes, write_as
from czsl_sac import SAC


@dataclass(frozen=True)
class Setting:
    """How a step is computed.

    Attributes:
        way: key of `WAYS`.
        precision: float32 without and with TF32, or bfloat16 by autocast.
        chunk_size: prompts that the text tower runs at once; not the peers', which run all.
        frozen: precision that frozen weights are kept in.
        compiled: the vision tower goes through `torch.compile`.
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
            parts.append("vision compiled")
        return ", ".join(parts)


SETTINGS = (
    *(Setting("ours", precision) for precision in ("float32", "TF32", "bf16")),
    *(Setting("ours", precision, 8192) for precision in ("float32", "TF32", "bf16")),
    Setting("ours", "bf16", 1024),
    Setting("ours", "bf16", 8192, torch.bfloat16),
    Setting("ours, checkpointed", "bf16", 8192, torch.bfloat16),
    Setting("peers, 8 tokens", "TF32"),
    Setting("peers, 8 tokens", "bf16"),
    Setting("ours", "bf16", 8192, compiled=True),
)


@dataclass(frozen=True)
class Options:
    """What is measured, and where it goes."""

    case: Literal["all", "ut-zappos", "mit-states", "cgqa"] = "all"
    """One data set's sizes, or all."""
    only: tuple[str, ...] = ()
    """Names of settings; by default all but the compiled one, whose compilation takes minutes."""
    rounds: int = 5
    """Timed steps of each setting, after two that do not count."""
    device: str = "cuda"
    """Where it runs; "cpu" only to see that it does."""
    csv: Path = RESULTS / "train_step_gpu.csv"
    """File that the rows are appended to."""


def measure(name: str, setting: Setting, options: Options) -> dict[str, object]:
    """Return the row of one data set's sizes in one setting.

    Args:
        name: key of `CASES`.
        setting: how the step is computed.
        options: of the command line.
    """
    case, device = CASES[name], options.device
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
    return {
        "case": name,
        "setting": setting.name,
        "compositions": case.seen,
        "batch": case.batch,
        "frozen_mib": f"{frozen / MIB:.0f}",
        "trained_mib": f"{trained / MIB:.0f}",
        **{
            key: found.get(key, "")
            for key in ("step_ms", "images_per_s", "peak_gib", "kernels", "busy_ms")
        },
        **environment(device),
    }


def prepare(model: SAC, setting: Setting, batch: int, device: str) -> Callable[[], Tensor]:
    """Return one training step, ready to run."""
    way = WAYS[setting.way]
    write_as(model, way)
    if way.tokens is None:
        model.backbone.text.chunk_size = setting.chunk_size
    if setting.compiled:
        model.backbone.visual = torch.compile(model.backbone.visual)
    learns = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(learns, lr=1e-5, fused=device != "cpu")
    size = train_step.VIT_L_14.image_size
    images = torch.randn(batch, 3, size, size, device=device)
    targets = torch.arange(batch, device=device)

    def step() -> Tensor:
        optimizer.zero_grad()
        with products_in(setting.precision, device):
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
    chosen = [s for s in SETTINGS if s.name in options.only or not (options.only or s.compiled)]
    for name in CASES if options.case == "all" else [options.case]:
        rows = []
        for setting in chosen:
            if options.device != "cpu":
                torch.cuda.empty_cache()
            rows.append(measure(name, setting, options))
            append_rows(options.csv, rows[-1:])
        shown = [key for key in rows[0] if key not in environment(options.device)]
        print(tabulate([[row[key] for key in shown] for row in rows], headers=shown), flush=True)
