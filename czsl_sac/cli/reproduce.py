"""`czsl-sac reproduce`: the paper's tables and figures, one command each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from czsl_sac.checks import check_range, check_ranges
from czsl_sac.cli.options import parse_options

if TYPE_CHECKING:
    from czsl_sac.experiments.plan import Study
    from czsl_sac.experiments.runner import Measurement
    from czsl_sac.experiments.setting import Setting

_CHANGES = ("backbone", "epochs", "images_per_pair", "precision", "num_workers")
"""Options of this command that are options of every run."""


@dataclass(frozen=True)
class ReproduceOptions:
    """Measure tables and figures of the paper: train what is missing, write CSV, table, picture.

    Runs are kept and shared between tables; what was interrupted goes on.
    """

    what: tyro.conf.Positional[tuple[str, ...]]
    """Tables and figures: tab1 to tab11, fig1 to fig12 (fig4 makes fig4-left and fig4-right),
    newer, alignments, or all."""
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
    num_workers: int | None = None
    """Processes that read images; None takes the preset's, and none in a quick run."""
    processes: int = 1
    """Runs that are trained side by side."""
    seeds: int = 3
    """Seeds 0, 1, ... of every trained row."""
    out: Path = Path("reproduced")
    """Folder of runs, tables and pictures."""
    quick: bool = False
    """One seed, one epoch, one image of each composition in a split: shows that everything runs;
    the figures mean nothing."""
    dry_run: bool = False
    """Say how long it may take, and print the command of each run to be trained; do nothing."""

    def __post_init__(self) -> None:
        check_ranges(self, "seeds", "epochs", "images_per_pair", "processes", low=1)
        check_range("num_workers", self.num_workers, low=0)


def run(arguments: list[str]) -> int:
    """Run the command with its options."""
    options = parse_options(ReproduceOptions, "reproduce", arguments)

    from czsl_sac.experiments.estimate import seconds_needed  # these load torch
    from czsl_sac.experiments.plan import STUDIES, studies_named
    from czsl_sac.experiments.runner import measure, missing, planned
    from czsl_sac.experiments.setting import Setting, command
    from czsl_sac.experiments.tables import gathered
    from czsl_sac.files import write_bytes
    from czsl_sac.training.build import check_data_root
    from czsl_sac.training.config import DataConfig
    from czsl_sac.words import counted

    if not options.what:
        raise ValueError(
            f"what is empty but must name tables and figures: give all, or some of "
            f"{', '.join(STUDIES)}."
        )
    studies = studies_named(options.what)
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
    check_data_root(DataConfig(dataset=options.dataset, data_root=options.data_root))
    runs = planned(studies, setting)
    todo = missing(runs)
    seconds = seconds_needed(studies, setting)
    unknown = "the time is known once one of them has ended here"
    time = unknown if seconds is None else f"about {_spoken(seconds)} on this machine"
    print(
        f"{counted(len(studies), 'table or figure', 'tables and figures')} from "
        f"{counted(len(runs), 'run')}, {len(todo)} of them to be trained: {time}."
    )
    if options.dry_run:
        for config in todo.values():
            print(command(config, setting))
        return 0
    pages = {
        study.name: write_study(
            study, measure(study, setting, processes=options.processes), setting
        )
        for study in studies
    }
    if len(pages) > 1:
        pictures = {study.name for study in studies if study.x or study.looks}
        base = setting.page("all" if len(pages) == len(STUDIES) else "some")
        write_bytes(base.with_suffix(".md"), gathered(pages, pictures, setting).encode())
        print(f"\nAll on one page: {base}.md")
    return 0


def write_study(study: "Study", measured: "Sequence[Measurement]", setting: "Setting") -> str:
    """Write a study's CSV, table and picture, print the table and return its page."""
    from czsl_sac.experiments.figures import draw
    from czsl_sac.experiments.gallery import draw_images
    from czsl_sac.experiments.tables import frame, markdown
    from czsl_sac.files import write_bytes

    base, page = setting.page(study.name), markdown(study, measured, setting)
    table = frame(study, measured, setting)
    write_bytes(base.with_suffix(".csv"), table.to_csv(index=False).encode())
    write_bytes(base.with_suffix(".md"), page.encode())
    picture = ""
    if study.x or study.looks:
        (draw if study.x else draw_images)(study, measured, setting, base.with_suffix(".png"))
        picture = ", .png"
    print(f"\n{page.partition('Made by')[0].strip()}\n\nWritten to {base}.md{picture} and .csv")
    return page


def _spoken(seconds: float) -> str:
    """A time in hours, or in minutes where it is less."""
    if seconds < 3600:
        return f"{max(round(seconds / 60), 1)} min"
    return f"{seconds / 3600:.1f} hours"
