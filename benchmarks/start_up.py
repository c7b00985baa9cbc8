"""Start-up of the command line: seconds of each command in a process of its own.

    python -m benchmarks start_up
    python -m benchmarks start_up --before CHECKOUT

The named peer is `import torch`, timed in the same turns. `--before` measures another checkout of
this package too, in turns with this one. Every checkout trains its own run of one epoch first.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import tyro
from tabulate import tabulate

from benchmarks.loading import write_files
from benchmarks.measure import RESULTS, append_rows, environment, interleaved

ROOT = Path(__file__).parent.parent
PEER = "import torch"
COMMANDS = {
    "czsl-sac --help": ["--help"],
    "predict, one image": ["predict", "run", "photos/red_car/0.jpg"],
    "check-data, 2,400 small JPEGs": ["check-data", "photos"],
    "evaluate, 960 scenes": ["evaluate", "run"],
    "report, 960 scenes": ["report", "run"],
}


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        before: another checkout of this package, measured beside this one.
        rounds: timed turns of every command.
        csv: where rows are appended.
    """

    before: Path | None = None
    rounds: int = 3
    csv: Path = RESULTS / "start_up.csv"


def main(argv: list[str] | None = None) -> None:
    """Measure every command, print the rows, and append them to the CSV."""
    options = tyro.cli(Options, args=argv, prog="python -m benchmarks start_up")
    checkouts = {"now": ROOT}
    if options.before is not None:
        checkouts["before"] = options.before.resolve()
    with tempfile.TemporaryDirectory() as work:
        calls: dict[str, Callable[[], object]] = {
            PEER: partial(run, [sys.executable, "-c", PEER], ROOT, Path(work))
        }
        for which, checkout in checkouts.items():
            folder = Path(work) / which
            write_photos(folder / "photos")
            train = ["train", "--preset", "scenes", "--epochs", "1", "--run-dir", "run"]
            run(command(train), checkout, folder)
            for name, arguments in COMMANDS.items():
                calls[f"{which}: {name}"] = partial(run, command(arguments), checkout, folder)
        timings = interleaved(calls, rounds=options.rounds, label="start-up")
    rows: list[dict[str, object]] = [
        {
            "command": name,
            "seconds": round(timing.median, 2),
            "times_import_torch": round(timing.ratio(timings[PEER]), 2),
            "rounds": options.rounds,
            **environment("cpu"),
        }
        for name, timing in timings.items()
    ]
    print(tabulate([list(row.values())[:3] for row in rows], headers=[*rows[0]][:3]))
    append_rows(options.csv, rows)


def write_photos(folder: Path) -> None:
    """Write 200 JPEGs of 128×96 pixels for each of 12 compositions."""
    pairs = product(("red", "blue", "green"), ("car", "cat", "cup", "tree"))
    for seed, (attribute, obj) in enumerate(pairs):
        own = folder / f"{attribute}_{obj}"
        own.mkdir(parents=True)
        write_files(own, 200, (128, 96), seed)


def command(arguments: list[str]) -> list[str]:
    """Return the command line of a checkout, which `run` puts before the installed package."""
    return [sys.executable, "-m", "czsl_sac", *arguments]


def run(arguments: list[str], checkout: Path, folder: Path) -> None:
    """Run a command in a folder, with the package of a checkout, on one thread.

    Raises:
        RuntimeError: it failed.
    """
    own = {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        arguments, cwd=folder, env={**os.environ, **own}, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed: {done.stderr[-2000:]}")


if __name__ == "__main__":
    main()
