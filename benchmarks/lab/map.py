"""The map: all cells, in several processes on one device, each row kept as soon as it is there."""

import contextlib
import io
import multiprocessing
import os
import queue
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from benchmarks.draw import latest_rows
from benchmarks.lab.cells import WAYS, Cell, finish_cell, grid
from benchmarks.measure import RESULTS, append_rows, environment
from czsl_sac.data.scenes.scenes import Context

CSV = RESULTS / "laboratory_map.csv"
TODAY = "today"
KEY = tuple(field.name for field in fields(Cell))


@dataclass(frozen=True)
class MapOptions:
    """Train and measure the cells of the map that have no row yet."""

    clip: Path | None = None
    """Weights of the chosen CLIP; None: the map of the built-in one alone."""
    today: bool = True
    """Whether the built-in CLIP has its part of the map too."""
    contexts: tuple[Context, ...] = ("labels", "foreign")
    """Where small objects come from."""
    clutters: tuple[float, ...] = (0.5, 0.75, 1.0)
    """Clutter of the scenes."""
    budgets: tuple[int, ...] = (11_520, 46_080)
    """Presentations of an image in training."""
    ways: tuple[str, ...] = tuple(WAYS)
    """How images and texts are compared."""
    seeds: int = 5
    """Seeds 0, 1, ... of initialisation and order."""
    processes: int = 2
    """Trainings at a time."""
    seconds: float = float("inf")
    """No training is begun after this time."""
    device: str = "cpu"
    """Where to train: cpu or cuda."""
    runs: Path = Path("runs/laboratory/map")
    """Folder of the runs."""
    csv: Path = CSV
    """Measured rows, one a cell."""


def run_map(options: MapOptions) -> None:
    """Train and measure what is missing.

    Args:
        options: of the command line.

    Raises:
        RuntimeError: a cell failed.
    """
    clips = {TODAY: None} if options.today else {}
    if options.clip is not None:
        clips[options.clip.stem] = options.clip.resolve()
    known = latest_rows(options.csv, KEY) if options.csv.is_file() else {}
    cells = [
        cell
        for cell in grid(
            tuple(clips),
            options.contexts,
            options.clutters,
            options.budgets,
            options.ways,
            options.seeds,
        )
        if cell.key not in known
    ]
    print(f"{len(cells)} cells to do, {len(known)} rows are there", flush=True)
    start = time.monotonic()
    for done, row in enumerate(_rows(options, clips, cells, start), 1):
        append_rows(options.csv, [{**row, **environment(options.device)}])
        spent = time.monotonic() - start
        print(
            f"{done}/{len(cells)} after {spent:.0f} s: {' '.join(row[name] for name in KEY)}: "
            f"test AUC {100 * float(row['test_auc']):.1f}, point {100 * float(row['point']):.0f} %",
            flush=True,
        )


def _rows(
    options: MapOptions, clips: dict[str, Path | None], cells: list[Cell], start: float
) -> Any:
    """Yield the rows of the cells in the order in which they are done."""
    context = multiprocessing.get_context("spawn")
    # A process keeps to one kind of scene, so that it draws its images once.
    kinds = defaultdict(list)
    for cell in cells:
        kinds[cell.context, cell.clutter].append(cell)
    waiting = {kind: context.Queue() for kind in kinds}
    for kind, members in kinds.items():
        for cell in members:
            waiting[kind].put((cell, clips[cell.clip]))
    results = context.Queue()
    deadline = time.time() + options.seconds - (time.monotonic() - start)
    order = list(kinds)
    workers = []
    for number in range(min(options.processes, len(cells))):
        own = order[number % len(order) :] + order[: number % len(order)]
        queues = [waiting[kind] for kind in own]
        worker = context.Process(
            target=_work, args=(queues, results, options.runs, deadline, options.device)
        )
        worker.start()
        workers.append(worker)
    try:
        while any(worker.is_alive() for worker in workers) or not results.empty():
            try:
                row = results.get(timeout=0.5)
            except queue.Empty:
                continue
            if "error" in row:
                raise RuntimeError(row["error"])
            yield row
    finally:
        for worker in workers:
            worker.terminate()


def _work(queues: list[Any], results: Any, runs: Path, deadline: float, device: str) -> None:
    """Finish cells of the first queue, then of the others, until all are empty or time is up."""
    if device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    os.environ["TQDM_DISABLE"] = "1"
    torch.set_num_threads(1)
    for waiting in queues:
        while time.time() < deadline:
            try:
                cell, weights = waiting.get(timeout=0.2)
            except queue.Empty:
                break
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    results.put(finish_cell(cell, weights, runs))
            except Exception as error:
                results.put({**asdict(cell), "error": f"{cell.name}: {error!r}"})
                raise
