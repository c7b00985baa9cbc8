"""`czsl-sac train`: start a run from a preset, or continue one."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from czsl_sac.cli.config_file import read_config_file
from czsl_sac.cli.options import parse_options, peek_options, refuse_unread
from czsl_sac.training.config import TrackerName, TrainConfig
from czsl_sac.training.presets import PresetName, preset_for


@dataclass(frozen=True)
class TrainOptions:
    """Train a method. Preset and method set every option; a file and the options given change it.

    The run folder receives the record of the run, the metrics as JSON lines, and two checkpoints:
    last, and best by validation AUC.
    """

    configuration: Annotated[TrainConfig, tyro.conf.arg(name="")]
    config: Path | None = None
    """File of options (.json or .toml, or a run's config.json), laid over the preset; options on
    the command line go over it."""
    print_config: bool = False
    """Print what would be trained as JSON that --config takes, and train nothing."""
    preset: PresetName = "scenes"
    """Data set whose settings, for the method, are the defaults shown here."""
    method: str = "sac"
    """Method to train, by name or MODULE:CLASS; it decides which options there are."""
    run_dir: Path | None = None
    """Folder of the run; None makes a new one under runs/."""
    resume: bool = False
    """Continue the run in --run-dir with its own configuration, changed by the options given."""
    track: tuple[TrackerName, ...] = ()
    """Show losses, learning rates, validation figures, curve and examples in these trackers."""


@dataclass(frozen=True)
class _Start:
    """The options that decide which others there are, and their defaults."""

    preset: str | None = None
    method: str | None = None
    run_dir: Path | None = None
    resume: bool = False
    config: Path | None = None


def run(arguments: list[str]) -> int:
    """Run the command with its options."""
    options = parse(arguments)
    if options.print_config:
        preset = {} if options.resume else {"preset": options.preset}
        print(json.dumps({**preset, **options.configuration.options()}, indent=2))
        return 0
    if options.run_dir is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "run_dir is None but must be named, since several processes write to it: "
            "add --run-dir DIR."
        )

    from czsl_sac.cli.tables import result_table  # these load torch
    from czsl_sac.run import new_run_dir
    from czsl_sac.training.run import train

    run_dir = options.run_dir or new_run_dir(options.configuration)
    try:
        summary = train(options.configuration, run_dir, resume=options.resume, track=options.track)
    except KeyboardInterrupt:
        if (run_dir / "config.json").is_file():
            raise KeyboardInterrupt(
                f"to continue: czsl-sac train --resume --run-dir {run_dir}"
            ) from None
        raise
    if os.environ.get("RANK", "0") == "0":
        scored = "best epoch" if summary.records else "untrained"
        if summary.test is not None:
            print(result_table(summary.test, summary.config, f"test split, {scored}"))
        done = f"{summary.seconds:.0f} s" if summary.trained else "the run had ended before"
        print(f"{done}; to score the run again: czsl-sac evaluate {run_dir}")
    return 0


def parse(arguments: list[str]) -> TrainOptions:
    """Return the options on top of their preset or resumed run.

    Raises:
        ValueError: an option is unknown, out of range, contradicts another, or is read by nothing.
        FileNotFoundError: the run to resume is not there.
    """
    default = _defaults(peek_options(_Start, "train", arguments))
    options = parse_options(TrainOptions, "train", arguments, default=default)
    refuse_unread(arguments, options.configuration.unread())
    return options


def _defaults(start: _Start) -> TrainOptions:
    if not start.resume:
        file = None if start.config is None else read_config_file(start.config)
        name: Any = start.preset or (file and file.preset) or "scenes"
        asked = file.method if file is not None and start.method is None else start.method
        method = "sac" if asked is None else asked
        config = preset_for(name, method)
        if file is not None:
            config = file.over(config)
        return TrainOptions(config, config=start.config, preset=name, method=method)
    for option, given in (("preset", start.preset), ("config", start.config)):
        if given is None:
            continue
        raise ValueError(
            f"--{option} is {given} but must not be given with --resume, which goes on with "
            "the run's own configuration: leave it out."
        )
    if start.run_dir is None:
        raise ValueError(
            "--run-dir is missing but --resume must have the folder of the run to continue: "
            "add --run-dir DIR."
        )
    config = read_config(start.run_dir)
    if start.method not in (None, config.method.name, config.method.implementation):
        raise ValueError(
            f"--method is {start.method} but must be {config.method.name}, as the run in "
            f"{start.run_dir} was begun: leave it out, or begin another run."
        )
    return TrainOptions(config, method=start.method or config.method.name)


def read_config(run_dir: Path) -> TrainConfig:
    """Return the configuration of a run, without loading torch.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: its record is damaged, or of another version.
    """
    from czsl_sac.training.run_folder import RunFolder

    return RunFolder(run_dir).read_record().config
