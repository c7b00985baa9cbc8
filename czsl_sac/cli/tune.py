"""`czsl-sac tune`: choose options on the validation split."""

import os
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from czsl_sac.checks import check_range
from czsl_sac.cli.config_file import config_file, read_options
from czsl_sac.cli.options import parse_options
from czsl_sac.cli.train import read_config
from czsl_sac.training.presets import preset_for

if TYPE_CHECKING:
    from czsl_sac.experiments.tuning import Objective, Tuned

_SHOWN = 10


@dataclass(frozen=True)
class TuneOptions:
    """Choose options by validation AUC; the test split is not read.

    The file names preset, method and fixed options as those of train --config do, and under a
    heading [NAME] each option to choose: values = [...], or low and high with log = true or step.
    A study that was stopped goes on with the same command.
    """

    space: tyro.conf.Positional[Path]
    """File of the search space (.toml or .json)."""
    run: Path | None = None
    """Folder of a trained run: choose options that inference reads, such as beta and gamma, and
    train nothing; None trains a run for each trial."""
    trials: int | None = None
    """How many there shall be in all; None: 20, or the whole grid."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """How points are chosen: by what was found so far, at random, or all of a grid."""
    prune: bool = False
    """Stop a run that is worse after an epoch than half of those before it were."""
    out: Path = Path("tuned")
    """Folder of the study: its runs, trials.csv, and best.json for czsl-sac train --config."""
    data_root: Path | None = None
    """Where the data set is; None: where the file, or the run, says."""

    def __post_init__(self) -> None:
        check_range("trials", self.trials, low=1)
        if self.prune and self.run is not None:
            raise ValueError(
                "--prune is given but nothing is trained with --run, so that nothing reads it: "
                "leave it out."
            )


def run(arguments: list[str]) -> int:
    """Run the command with its options."""
    options = parse_options(TuneOptions, "tune", arguments)
    if find_spec("optuna") is None:
        raise ImportError(
            'options are chosen with optuna, which is not installed: pip install "czsl-sac[tune]"'
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']} but must be 1, since one process tunes: "
            "start czsl-sac tune without a launcher."
        )
    values = read_options(options.space)

    from czsl_sac.experiments.tuning import tune  # loads torch, as does the following
    from czsl_sac.training.build import check_data_root

    objective = read_objective(options, values)
    check_data_root(objective.space.base.data)
    try:
        found = tune(
            objective,
            options.out,
            trials=options.trials,
            sampler=options.sampler,
            prune=options.prune,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on") from None
    _show(found, objective, options)
    return 0


def read_objective(options: TuneOptions, values: dict[str, Any]) -> "Objective":
    """Return what is to be measured.

    Raises:
        ValueError: an option is unknown, does not fit, or was decided in training.
        FileNotFoundError: there is no such run.
    """
    from czsl_sac.experiments.search_space import SearchSpace
    from czsl_sac.experiments.tuning import Objective

    searched = {name: value for name, value in values.items() if isinstance(value, dict)}
    fixed = {name: value for name, value in values.items() if name not in searched}
    file = config_file(options.space, fixed)
    if options.run is None:
        preset: Any = file.preset or "scenes"
        start = preset_for(preset, file.method) if file.method else preset_for(preset)
        base = file.over(start)
    else:
        for name in fixed:
            raise ValueError(
                f"{options.space}: {name} is given but was decided when the run in {options.run} "
                "was trained: leave it out, or leave out --run."
            )
        preset, base = None, read_config(options.run)
    file.check_names(searched, base)
    root = options.data_root or base.data.data_root
    if root is not None:
        base = replace(base, data=replace(base.data, data_root=root.resolve()))
    try:
        return Objective(SearchSpace.read(searched, base), preset, options.run)
    except ValueError as error:
        raise ValueError(f"{options.space}: {error}") from error


def _show(found: "Tuned", objective: "Objective", options: TuneOptions) -> None:
    """Print the best trials, and how to go on."""
    from tabulate import tabulate

    frame = found.trials
    figures = ["seen", "unseen", "hm", "auc"]
    if found.best is None:
        print("No trial has metrics: see the column why of trials.csv.")
        return
    shown = frame.dropna(subset="auc").sort_values("auc", ascending=False, kind="stable")
    shown = shown.assign(**{name: 100 * shown[name].astype(float) for name in figures})
    print("\nThe best of the validation split, exact protocol, in percent:\n")
    names = ["trial", *(option.name for option in objective.space.searched)]
    rows = shown[[*names, *figures]].head(_SHOWN).astype({"trial": str})
    headers = [*names, "S", "U", "HM", "AUC"]
    formats = [*(".4g" for _ in names), *(".2f" for _ in figures)]
    print(tabulate(rows.to_numpy().tolist(), headers, tablefmt="simple", floatfmt=formats))
    print(f"\nAll trials: {options.out / 'trials.csv'}")
    if options.run is not None:
        print(f"The best, on the test split: {found.command}")
        return
    print(f"The best, on the test split: czsl-sac evaluate {found.folder}")
    best = options.out / "best.json"
    print(f"With another seed: czsl-sac train --config {best} --seed 1")
    print(f"The same from the preset: {found.command}")
