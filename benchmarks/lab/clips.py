"""Candidates for the built-in CLIP: pretrained side by side, then measured zero-shot."""

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import get_args

import torch

from benchmarks.draw import latest_rows
from benchmarks.lab.measures import Views, measure_clip
from benchmarks.lab.policies import POLICIES
from benchmarks.measure import RESULTS, append_rows, environment
from czsl_sac.clip.sources.tiny import TINY_WEIGHTS, tiny_clip
from czsl_sac.clip.vision import PatchFeatures
from czsl_sac.data import Scenes
from czsl_sac.data.scenes.scenes import Context
from czsl_sac.files import read_metadata

CSV = RESULTS / "laboratory_clips.csv"
KEY = ("policy", "seed", "steps", "batch", "clutter", "context", "features")
PROBE = 60  # steps that tell how many fit into the time


@dataclass(frozen=True)
class ClipOptions:
    """Pretrain the policies side by side and measure each CLIP zero-shot on validation."""

    folder: Path = Path("runs/laboratory/clips")
    """Where weights, states and logs go."""
    policies: tuple[str, ...] = tuple(POLICIES)
    """Which policies."""
    seed: int = 0
    """Seed of weights and images."""
    steps: int | None = None
    """Steps of each; None: as many as fit into --seconds, found by a short probe."""
    seconds: float = 300
    """Time for training, where steps are not given."""
    batch: int = 256
    """Images of a step."""
    lr: float = 1e-3
    """Peak learning rate."""
    device: str = "cpu"
    """Where to train and measure: cpu or cuda."""
    processes: int = 2
    """Trainings at a time."""
    clutters: tuple[float, ...] = (0.5, 0.75)
    """Clutter of the scenes to measure on."""
    contexts: tuple[Context, ...] = ("labels", "foreign")
    """Where the small objects to measure on come from."""
    eval_images_per_pair: int = 20
    """Validation images per composition."""
    csv: Path = CSV
    """Measured rows, one a CLIP and kind of scene."""


def run_clips(options: ClipOptions) -> None:
    """Pretrain what is missing, then measure what has no row yet.

    Args:
        options: of the command line.
    """
    steps = options.steps
    if steps is None:
        steps = fitting_steps(options)
    missing = [name for name in options.policies if not is_trained(path_of(options, name), steps)]
    train_side_by_side(options, missing, steps, options.folder)
    clips = {"today": TINY_WEIGHTS}
    clips |= {name: path_of(options, name) for name in options.policies}
    measure_clips(options, {name: path for name, path in clips.items() if path.is_file()})


def path_of(options: ClipOptions, policy: str) -> Path:
    """Return the file of a policy's weights.

    Args:
        options: of the command line.
        policy: name of the policy.
    """
    return options.folder / f"{policy}-{options.seed}.safetensors"


def is_trained(path: Path, steps: int) -> bool:
    """Return whether a file holds the weights of a finished training.

    Args:
        path: the file.
        steps: of the training.
    """
    return path.is_file() and read_metadata(path)["step"] == str(steps)


def fitting_steps(options: ClipOptions) -> int:
    """Return how many steps fit into the time, by a short training of all policies side by side.

    Args:
        options: of the command line.
    """
    start = time.perf_counter()
    train_side_by_side(options, options.policies, PROBE, options.folder / "probe")
    slowest = max(
        torch.load(path, weights_only=True, map_location="cpu")["seconds"]
        for path in (options.folder / "probe").glob("*.state")
    )
    rounds = -(-len(options.policies) // options.processes)
    steps = int(options.seconds / rounds / (slowest / PROBE) / 100) * 100
    probed = time.perf_counter() - start
    print(f"{PROBE} steps took {slowest:.1f} s (probe {probed:.0f} s): {steps} steps", flush=True)
    return max(steps, 100)


def train_side_by_side(
    options: ClipOptions, policies: Sequence[str], steps: int, folder: Path
) -> None:
    """Pretrain each policy in a process of its own, some at a time.

    Args:
        options: of the command line.
        policies: which.
        steps: of each.
        folder: of weights, states and logs.

    Raises:
        RuntimeError: a training failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    waiting, running = list(policies), {}
    while waiting or running:
        while waiting and len(running) < options.processes:
            name = waiting.pop(0)
            out = folder / f"{name}-{options.seed}.safetensors"
            command = [sys.executable, "-m", "benchmarks", "pretrain_tiny_clip", "--quiet"]
            command += ["--out", str(out), "--policy", name, "--steps", str(steps)]
            command += ["--batch", str(options.batch), "--lr", str(options.lr)]
            command += ["--seed", str(options.seed), "--device", options.device]
            command += ["--save-every", str(min(steps, 500))]
            log = out.with_suffix(".log").open("w")
            running[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        for name, process in list(running.items()):
            if process.poll() is None:
                continue
            del running[name]
            if process.returncode:
                for other in running.values():
                    other.terminate()
                log = (folder / f"{name}-{options.seed}.log").read_text()
                raise RuntimeError(f"pretraining {name} failed:\n{log[-2000:]}")
            print(f"{name}: {steps} steps are done", flush=True)
        time.sleep(0.2)


def measure_clips(options: ClipOptions, clips: dict[str, Path]) -> None:
    """Measure CLIPs on every kind of scene and append a row for each to the CSV.

    Args:
        options: of the command line.
        clips: weights by name.
    """
    known = latest_rows(options.csv, KEY) if options.csv.is_file() else {}
    for clutter in options.clutters:
        for context in options.contexts:
            views, rows = None, []
            for (name, path), features in product(clips.items(), get_args(PatchFeatures)):
                made = read_metadata(path)
                names = (name, made["seed"], made["steps"], made["batch"])
                names += (str(clutter), context, features)
                if names in known:
                    continue
                if views is None:
                    data = Scenes(
                        clutter=clutter,
                        context=context,
                        eval_images_per_pair=options.eval_images_per_pair,
                    )
                    views = Views.draw(data, "val")
                clip = tiny_clip(path).to(options.device)
                measured = measure_clip(clip, views, patch_features=features)
                rows.append(
                    {
                        **dict(zip(KEY, names, strict=True)),
                        **{name: f"{value:.4f}" for name, value in measured.items()},
                        **environment(options.device),
                    }
                )
                short = {name: round(100 * value, 1) for name, value in measured.items()}
                print(f"clutter {clutter}, {context}, {name}, {features}: {short}", flush=True)
            append_rows(options.csv, rows)
