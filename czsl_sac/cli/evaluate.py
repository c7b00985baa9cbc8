"""`czsl-sac evaluate`: score a finished run on a split, in the closed or the open world."""

import os
from dataclasses import dataclass, field
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
    world: Literal["closed", "open"] = "closed"
    """Candidates: the compositions of the data set, or every attribute with every object."""
    feasibility: str = "clip"
    """Open world: leave out compositions that are infeasible by CLIP's text features (clip), by a
    file of word vectors such as GloVe's (its path), or none."""
    feasibility_rule: Literal["exclude", "legacy"] = "exclude"
    """Open world: infeasible compositions are never predicted, or their score becomes 0 (and that
    of seen ones is doubled where the threshold is not positive) as in the published code."""
    threshold: float | None = None
    """Open world: feasibility that an unseen composition must reach; None chooses it on validation
    among 50."""
    word_aliases: dict[str, str] = field(default_factory=dict)
    """Open world: what to look up in the file of word vectors instead of a name, in lower case:
    name word name word ..."""
    bank: Literal["off", "train", "dynamic"] | None = None
    """SAC: memory bank to predict with; None keeps the run's own."""
    beta: float | None = None
    """SAC: weight of the alignment's prediction (Eq. 12); None keeps the run's own."""
    gamma: float | None = None
    """SAC: weight of the bank's prediction (Eq. 12); None keeps the run's own."""
    json: Path | None = None
    """File to write the result to: metrics, curve, accuracy by attribute and by object, gap."""


def run(arguments: list[str]) -> int:
    """Run the command.

    Args:
        arguments: Its options.
    """
    options = parse(arguments)
    if options is None:
        return 0
    _check_world(options)

    given: dict[str, Any] = {name: getattr(options, name) for name in ("bank", "beta", "gamma")}
    changes = {name: value for name, value in given.items() if value is not None}
    config = TrainConfig.load(options.run / "config.json").with_model(**changes)

    from czsl_sac.files import save_json  # these load torch
    from czsl_sac.training.open_world import OpenWorld
    from czsl_sac.training.run import evaluate

    open_world = None
    if options.world == "open":
        open_world = OpenWorld(
            feasibility=options.feasibility,
            rule=options.feasibility_rule,
            threshold=options.threshold,
            aliases=options.word_aliases,
        )
    result = evaluate(
        options.run,
        split=options.split,
        protocol=options.protocol,
        checkpoint=options.checkpoint,
        open_world=open_world,
        **changes,
    )
    if os.environ.get("RANK", "0") != "0":
        return 0
    scored = f"{options.split} split, {options.checkpoint} epoch"
    print(result_table(result, config, scored))
    if options.json is not None:
        record = {
            "run": str(options.run),
            "dataset": config.data.dataset,
            "method": config.model.method,
            "split": options.split,
            "checkpoint": options.checkpoint,
            "transductive": config.is_transductive,
            "feasibility": options.feasibility if open_world else None,
            "feasibility_rule": options.feasibility_rule if open_world else None,
            **result.to_dict(details=True),
        }
        save_json(options.json, record)
    return 0


def _check_world(options: EvaluateOptions) -> None:
    """Refuse options that the closed world does not read."""
    defaults = EvaluateOptions(options.run)
    for name in ("feasibility", "feasibility_rule", "threshold", "word_aliases"):
        if options.world == "closed" and getattr(options, name) != getattr(defaults, name):
            option = name.replace("_", "-")
            raise ValueError(f"--{option} is of the open world: add --world open")


def parse(arguments: list[str]) -> EvaluateOptions | None:
    """Return the options; None if help was shown.

    Args:
        arguments: Options of the command.

    Raises:
        ValueError: If an option is unknown or has a value that does not fit.
    """
    return parse_options(EvaluateOptions, "evaluate", arguments)
