"""`czsl-sac compare`: finished runs side by side, on a page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from czsl_sac.checks import check_not_folder, check_range
from czsl_sac.cli.options import parse_options


@dataclass(frozen=True)
class CompareOptions:
    """Show runs on the same data side by side: figures, curves, and where they differ.

    Runs that differ in the seed alone are one row, with intervals over the seeds. The figures are
    printed too. The page is one HTML file that needs no other and no network.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of the runs; differences are to the first."""
    split: Literal["val", "test"] = "test"
    """Part of the data set to score."""
    protocol: Literal["exact", "legacy"] = "exact"
    """Every breakpoint of the bias, or the published evaluator's sample of them."""
    checkpoint: Literal["best", "last"] = "best"
    """Best epoch by validation AUC, or the last."""
    data_root: Path | None = None
    """Where the data set is now; None: where it was when the run was trained."""
    examples: int = 6
    """Images shown of each kind."""
    output: Path = Path("comparison.html")
    """File to write."""

    def __post_init__(self) -> None:
        check_range("examples", self.examples, low=0)
        check_not_folder("output", self.output)


def run(arguments: list[str]) -> int:
    """Run the command with its options."""
    options = parse_options(CompareOptions, "compare", arguments)

    from czsl_sac.files import write_atomically
    from czsl_sac.pictures import require_matplotlib
    from czsl_sac.report.comparison import compare_runs  # loads torch, as does the following
    from czsl_sac.report.comparison_page import figures_table, render

    require_matplotlib("the comparison's plots")
    comparison = compare_runs(
        options.runs,
        split=options.split,
        checkpoint=options.checkpoint,
        examples=options.examples,
        data_root=options.data_root,
        show_progress=True,
    )
    page = render(comparison, options.protocol)
    write_atomically(options.output, lambda temporary: temporary.write_text(page, "utf-8"))
    print(f"{options.split} split, {options.protocol} protocol, in percent:\n")
    print(f"{figures_table(comparison, options.protocol)}\n\n{options.output}")
    return 0
