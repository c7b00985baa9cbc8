"""`czsl-sac card`: a run's model card."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from czsl_sac.checks import check_not_folder
from czsl_sac.cli.options import parse_options


@dataclass(frozen=True)
class CardOptions:
    """Write a model card: data, figures with protocol and chance, backbone and its licence."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    output: Path | None = None
    """Markdown file to write; None takes README.md in the folder of the run."""

    def __post_init__(self) -> None:
        check_not_folder("output", self.output)


def run(arguments: list[str]) -> int:
    """Run the command with its options."""
    options = parse_options(CardOptions, "card", arguments)

    from czsl_sac.files import write_bytes
    from czsl_sac.report.card import model_card  # loads torch, as does the following
    from czsl_sac.training.run_folder import RunFolder

    path = options.output or options.run / "README.md"
    write_bytes(path, model_card(RunFolder(options.run)).encode())
    print(path)
    return 0
