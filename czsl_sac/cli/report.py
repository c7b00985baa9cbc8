"""`czsl-sac report`: one page about a finished run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from czsl_sac.checks import check_not_folder, check_range
from czsl_sac.cli.options import parse_options


@dataclass(frozen=True)
class ReportOptions:
    """Make a page about a run: scores, curves, errors, and examples beside a baseline's.

    The page is one HTML file that needs no other and no network. The run and the baseline are
    scored on the split for it.
    """

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    split: Literal["val", "test"] = "test"
    """Part of the data set to score."""
    checkpoint: Literal["best", "last"] = "best"
    """Best epoch by validation AUC, or the last."""
    baseline: Path | None = None
    """Folder of a run to compare with; None takes zero-shot CLIP of the same backbone."""
    data_root: Path | None = None
    """Where the data set is now; None: where it was when the run was trained."""
    examples: int = 6
    """Images shown of each kind."""
    output: Path | None = None
    """File to write; None takes report.html in the folder of the run."""

    def __post_init__(self) -> None:
        check_range("examples", self.examples, low=0)
        check_not_folder("output", self.output)


def run(arguments: list[str]) -> int:
    """Run the command with its options."""
    options = parse_options(ReportOptions, "report", arguments)

    from czsl_sac.files import write_atomically
    from czsl_sac.pictures import require_matplotlib
    from czsl_sac.report.run_page import render  # loads torch, as do the following
    from czsl_sac.report.run_report import collect_report

    require_matplotlib("the report's plots")
    report = collect_report(
        options.run,
        split=options.split,
        checkpoint=options.checkpoint,
        baseline=options.baseline,
        examples=options.examples,
        data_root=options.data_root,
    )
    page = render(report)
    path = options.output or options.run / "report.html"
    write_atomically(path, lambda temporary: temporary.write_text(page, "utf-8"))
    print(path)
    return 0
