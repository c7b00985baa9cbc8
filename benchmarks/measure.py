"""What every benchmark shares: interleaved times, peak extra memory, where it ran, the CSV."""

import csv
import multiprocessing
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

RESULTS = Path(__file__).parent / "results"
MIB = 2**20
Precision = Literal["float32", "TF32", "bf16"]


@dataclass(frozen=True)
class Timing:
    """Seconds of one candidate, one entry per round.

    Args:
        seconds: the rounds in the order they ran.
    """

    seconds: tuple[float, ...]

    def quantile(self, q: float) -> float:
        """Return the ``q`` quantile in seconds, between the two nearest rounds."""
        return float(torch.tensor(self.seconds, dtype=torch.float64).quantile(q))

    @property
    def median(self) -> float:
        """Median in seconds."""
        return statistics.median(self.seconds)

    def ratio(self, baseline: "Timing") -> float:
        """Return the median over rounds of this time by the baseline's of the same round.

        Rounds of candidates measured together share what else the machine was doing.
        """
        pairs = zip(self.seconds, baseline.seconds, strict=True)
        return statistics.median(mine / other for mine, other in pairs)


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int = 1,
    label: str = "",
    device: str = "cpu",
) -> dict[str, Timing]:
    """Time the candidates in turns, so that a change of load touches all of them.

    Args:
        candidates: name and what to run. What it returns is dropped before the next runs.
        rounds: timed turns of every candidate.
        warmup: turns before the clock counts.
        label: shown beside the progress bar.
        device: what they run on. On "cuda" the GPU's own clock is read, with a cold L2 cache.

    Returns:
        A timing per candidate, in the order given.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in tqdm(range(warmup + rounds), desc=label, disable=None, leave=False):
        for name, run in candidates.items():
            spent = _seconds(run) if device == "cpu" else _cuda_seconds(run, device)
            if turn >= warmup:
                seconds[name].append(spent)
    return {name: Timing(tuple(spent)) for name, spent in seconds.items()}


def peak_extra_memory(prepare: Callable[..., Callable[[], object]], **kwargs: Any) -> int:
    """Return how far one run raises the memory of the process above its inputs, in bytes.

    On a CPU ``prepare`` runs in a fresh process, and the peak of resident memory is read from
    Linux's ``VmHWM``, reset just before the run. On CUDA the caching allocator counts, in this
    process.

    Args:
        prepare: builds the inputs and returns what to run; importable by name, since another
            process calls it. It should run something small itself, so that thread pools and
            libraries have started before memory is counted.
        **kwargs: passed to ``prepare``; ``device="cuda"`` selects the allocator's count.
    """
    if kwargs.get("device", "cpu") != "cpu":
        run = prepare(**kwargs)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    return fresh_run(prepare, keep_result=False, **kwargs).peak


@dataclass(frozen=True)
class FreshRun:
    """One run in a process of its own, on the CPU.

    Args:
        seconds: its time.
        peak: how far it raised the memory of the process above its inputs, in bytes.
        result: what it returned.
    """

    seconds: float
    peak: int
    result: Any


def fresh_run(
    prepare: Callable[..., Callable[[], object]], *, keep_result: bool = True, **kwargs: Any
) -> FreshRun:
    """Time one run in a fresh process and read its peak memory.

    Args:
        prepare: as for `peak_extra_memory`.
        keep_result: send what the run returns to this process, which pickles it.
        **kwargs: passed to ``prepare``.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_report_run, args=(sender, prepare, kwargs, torch.get_num_threads(), keep_result)
    )
    process.start()
    sender.close()
    try:
        run: FreshRun = receiver.recv()
    except EOFError:
        raise RuntimeError(
            f"the process measuring {prepare.__name__} ended without a result: "
            "its own message is above."
        ) from None
    finally:
        process.join()
    return run


@contextmanager
def products_in(precision: Precision, device: str) -> Iterator[None]:
    """Compute matrix products in float32 without TF32, with it, or in bfloat16 by autocast.

    Args:
        precision: which of the three.
        device: "cpu" or "cuda"; a CPU knows no TF32.
    """
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = precision != "float32"
    try:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def environment(device: str = "cpu") -> dict[str, str]:
    """Return the columns that say where and when a row was measured."""
    if device == "cpu":
        hardware, threads = _processor(), str(torch.get_num_threads())
    else:
        hardware, threads = torch.cuda.get_device_name(device), ""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "hardware": hardware,
        "threads": threads,
        "load": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "cuda": torch.version.cuda or "",
    }


def append_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Append rows to a CSV, writing its header first where the file is new.

    Args:
        path: the file.
        rows: all with the same columns.

    Raises:
        ValueError: the file has other columns.
    """
    if not rows:
        return
    columns = list(rows[0])
    new = not path.exists()
    if not new:
        with path.open(newline="") as file:
            header = next(csv.reader(file), [])
        if header != columns:
            raise ValueError(
                f"{path} has the columns {header} but the rows have {columns}: "
                "move the old file away first."
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _cuda_seconds(run: Callable[[], object], device: str) -> float:
    """Return the seconds between two events on the GPU.

    What is written before them empties the L2 cache, and keeps the GPU busy for about two
    milliseconds in which the host can enqueue the whole run: its launches are not timed.
    """
    cache = torch.empty(2**28, dtype=torch.int8, device=device)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    for _ in range(24):
        cache.zero_()
    start.record()
    run()
    end.record()
    torch.cuda.synchronize(device)
    return start.elapsed_time(end) / 1e3


def _report_run(
    sender: Any,
    prepare: Callable[..., Callable[[], object]],
    kwargs: dict[str, Any],
    threads: int,
    keep_result: bool,
) -> None:
    """Run in the fresh process: build, reset the high-water mark, run, send what was measured."""
    torch.set_num_threads(threads)
    run = prepare(**kwargs)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    peak = _status("VmHWM") - before
    sender.send(FreshRun(seconds, peak, result if keep_result else None))


def _status(field: str) -> int:
    """Return a field of ``/proc/self/status`` in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}: memory on a CPU is read on Linux only.")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
            return f"{name}, {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} CPUs"
    return platform.processor()


def _commit() -> str:
    """Return what git says of this folder; a copy without git names its commit in the variable."""
    if named := os.environ.get("BENCHMARK_COMMIT"):
        return named
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
