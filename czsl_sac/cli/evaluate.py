"""`czsl-sac evaluate`: score a finished run on a split."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from czsl_sac.cli.options import parse_options
from czsl_sac.cli.tables import result_table
from czsl_sac.training.config import TrainConfig


@dataclass(frozen=True)
class EvaluateOptions:
    """Evaluate a run that czsl-sac train made.

    A memory bank that is updated on the stream starts from the training images and sees the split
    in its fixed order; such results are transductive.
    """

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    split: Literal["val", "test"] = "test"
    """Part of the data set."""
    protocol: Literal["exact", "legacy"] = "exact"
    """Every breakpoint of the bias, or the published evaluator's sample of them."""
    checkpoint: Literal["best", "last"] = "best"
    """Best epoch by validation AUC, or the last."""
    bank: Literal["off", "train", "dynamic"] | None = None
    """SAC: memory bank to predict with; None keeps the run's own."""
    beta: float | None = None
    """SAC: weight of the alignment's prediction (Eq. 12); None keeps the run's own."""
    gamma: float | None = None
    """SAC: weight of the bank's prediction (Eq. 12); None keeps the run's own."""


def run(arguments: list[str]) -> int:
    """Run the command.

    Args:
        arguments: Its options.
    """
    options = parse(arguments)
    if options is None:
        return 0

    given: dict[str, Any] = {name: getattr(options, name) for name in ("bank", "beta", "gamma")}
    changes = {name: value for name, value in given.items() if value is not None}

    from czsl_sac.training.run import evaluate  # loads torch

    result = evaluate(
        options.run,
        split=options.split,
        protocol=options.protocol,
        checkpoint=options.checkpoint,
        **changes,
    )
    config = TrainConfig.load(options.run / "config.json").with_model(**changes)
    print(result_table(result, config, f"{options.split} split, {options.checkpoint} epoch"))
    return 0


def parse(arguments: list[str]) -> EvaluateOptions | None:
    """Return the options; None if help was shown.

    Args:
        arguments: Options of the command.

    Raises:
        ValueError: If an option is unknown or has a value that does not fit.
    """
    return parse_options(EvaluateOptions, "evaluate", arguments)
