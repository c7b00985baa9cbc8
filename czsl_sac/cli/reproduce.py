"""`czsl-sac reproduce`: the paper's tables and figures, one command each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from czsl_sac.checks import check_choice, check_range
from czsl_sac.cli.options import parse_options

_CHANGES = ("backbone", "epochs", "images_per_pair", "precision")
"""Options of this command that are options of every run."""


@dataclass(frozen=True)
class ReproduceOptions:
    """Measure tables and figures of the paper: train what is missing, write CSV, table, picture.

    Runs are kept and shared between tables; what was interrupted goes on.
    """

    what: tyro.conf.Positional[tuple[str, ...]]
    """Tables and figures: tab1 to tab11, fig1 to fig10, newer, or all."""
    dataset: Literal["scenes", "ut-zappos", "mit-states", "cgqa"] = "scenes"
    """Data set; scenes are generated."""
    data_root: Path | None = None
    """Folder of the data set; not used by scenes."""
    backbone: str | None = None
    """CLIP; None takes the preset's."""
    epochs: int | None = None
    """Epochs of every run; None takes each method's own."""
    images_per_pair: int | None = None
    """Scenes: training images per seen composition; None takes the preset's."""
    precision: Literal["auto", "no", "tf32", "bf16", "fp16"] | None = None
    """Precision of every run; None takes the preset's."""
    processes: int = 1
    """Runs that are trained side by side."""
    seeds: int = 3
    """Seeds 0, 1, ... of every trained row."""
    out: Path = Path("reproduced")
    """Folder of runs, tables and pictures."""
    quick: bool = False
    """One epoch on few images: shows that everything runs; the figures mean nothing."""
    dry_run: bool = False
    """Say what would be trained and how long it may take, and do nothing."""

    def __post_init__(self) -> None:
        for name in ("seeds", "epochs", "images_per_pair", "processes"):
            check_range(name, getattr(self, name), low=1)


def run(arguments: list[str]) -> int:
    """Run the command.

    Args:
        arguments: its options.
    """
    options = parse_options(ReproduceOptions, "reproduce", arguments)
    if options is None:
        return 0

    from czsl_sac.data.words import counted
    from czsl_sac.experiments.figures import draw  # these load torch
    from czsl_sac.experiments.plan import STUDIES
    from czsl_sac.experiments.runner import (
        Setting,
        measure,
        missing,
        planned,
        seconds_needed,
    )
    from czsl_sac.experiments.tables import frame, markdown
    from czsl_sac.files import write_bytes

    if not options.what:
        raise ValueError(
            f"what is empty but must name tables and figures: give all, or some of "
            f"{', '.join(STUDIES)}."
        )
    names = list(STUDIES) if "all" in options.what else list(options.what)
    for name in names:
        check_choice("what", name, STUDIES)
    studies = [STUDIES[name] for name in names]
    given = {name: getattr(options, name) for name in _CHANGES}
    changes = {name: value for name, value in given.items() if value is not None}
    setting = Setting(
        options.dataset,
        1 if options.quick else options.seeds,
        options.out,
        options.data_root,
        options.quick,
        changes,
    )
    runs = planned(studies, setting)
    todo = missing(runs)
    hours = seconds_needed(runs) / 3600
    print(
        f"{counted(len(studies), 'table or figure', 'tables and figures')} from "
        f"{counted(len(runs), 'run')}, {len(todo)} of them to be trained: about {hours:.1f} hours "
        "on this machine."
    )
    if options.dry_run:
        for path, config in todo.items():
            print(f"{path.name}: {config.method.label}, seed {config.seed}")
        return 0
    for study in studies:
        measured = measure(study, setting, processes=options.processes)
        table = frame(study, measured, setting)
        base = options.out / f"{study.name}-{options.dataset}"
        write_bytes(base.with_suffix(".csv"), table.to_csv(index=False).encode())
        page = markdown(study, measured, setting)
        write_bytes(base.with_suffix(".md"), page.encode())
        if study.x:
            draw(study, measured, setting, base.with_suffix(".png"))
        print(f"\n{page.partition('Made by')[0].strip()}\n\nWritten to {base}.md and .csv")
    return 0
