"""`czsl-sac train`: start a run from a preset, or continue one."""

import difflib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast, get_args

import tyro

from czsl_sac.cli.options import parse_options, peek_options
from czsl_sac.cli.tables import result_table
from czsl_sac.training.presets import PRESETS, MethodName, PresetName, TrainConfig, preset_for


@dataclass(frozen=True)
class TrainOptions:
    """Train a method. Preset and method set every option; the options given change it.

    The run folder receives the configuration, the metrics as JSON lines, and two checkpoints:
    last, and best by validation AUC.
    """

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    preset: PresetName = "scenes"
    """Data set whose settings, for the method, are the defaults shown here."""
    run_dir: Path | None = None
    """Folder of the run; None makes a new one under runs/."""
    resume: bool = False
    """Continue the run in --run-dir with its own configuration, changed by the options given."""


@dataclass(frozen=True)
class _Start:
    """The options that decide the default of every other."""

    preset: str | None = None
    method: str = "sac"
    run_dir: Path | None = None
    resume: bool = False


def run(arguments: list[str]) -> int:
    """Run the command.

    Args:
        arguments: Its options.
    """
    options = parse(arguments)
    if options is None:
        return 0
    config = options.config
    if options.run_dir is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("several processes write to one run folder: name it with --run-dir DIR")
    stamp = f"{config.data.dataset}-{config.model.method}-{time.strftime('%Y%m%d-%H%M%S')}"
    run_dir = options.run_dir or Path("runs") / stamp

    from czsl_sac.training.run import train  # loads torch

    summary = train(config, run_dir, resume=options.resume)
    if os.environ.get("RANK", "0") == "0":
        print(result_table(summary.test, config, "test split, best epoch"))
        print(f"{summary.seconds:.0f} s; to score the run again: czsl-sac evaluate {run_dir}")
    return 0


def parse(arguments: list[str]) -> TrainOptions | None:
    """Return the options on top of their preset or resumed run; None if help was shown.

    Args:
        arguments: Options of the command.

    Raises:
        ValueError: If an option is unknown, out of range, or contradicts another.
        FileNotFoundError: If the run to resume is not there.
    """
    start = peek_options(_Start, "train", arguments)
    return parse_options(TrainOptions, "train", arguments, default=_defaults(start))


def _defaults(start: _Start) -> TrainOptions:
    if not start.resume:
        name = start.preset or "scenes"
        if name not in PRESETS:
            near = difflib.get_close_matches(name, PRESETS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(PRESETS)}"
            raise ValueError(f"unknown preset {name!r}: {hint}")
        # The parser of all options says what is wrong with an unknown method.
        method = start.method if start.method in get_args(MethodName) else "sac"
        config = preset_for(cast(PresetName, name), cast(MethodName, method))
        return TrainOptions(config, preset=cast(PresetName, name))
    if start.preset:
        raise ValueError(
            "--resume continues with the run's own configuration, so --preset cannot be given too"
        )
    if start.run_dir is None:
        raise ValueError("--resume needs the folder of the run to continue: add --run-dir DIR")
    return TrainOptions(TrainConfig.load(start.run_dir / "config.json"))
