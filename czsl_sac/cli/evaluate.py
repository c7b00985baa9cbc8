"""`czsl-sac evaluate`: score a finished run on a split, in the closed or the open world."""

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from czsl_sac.cli.options import parse_options
from czsl_sac.cli.train import read_config
from czsl_sac.methods.options import MethodOptions


@dataclass(frozen=True)
class EvaluateOptions:
    """Evaluate a run that czsl-sac train made.

    A memory bank that is updated on the stream starts from the training images and sees the split
    in its fixed order; such results are transductive. Of the method's options those that inference
    alone reads may differ from the run's own.
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
    file of word vectors such as GloVe's (its path), by the method itself (method; cds-czsl), or
    none."""
    feasibility_rule: Literal["exclude", "legacy"] = "exclude"
    """Open world: infeasible compositions are never predicted, or their score becomes 0 (and that
    of seen ones is doubled where the threshold is not positive) as in the published code."""
    threshold: float | None = None
    """Open world: feasibility that an unseen composition must reach; None chooses it on validation
    among 50."""
    word_aliases: dict[str, str] = field(default_factory=dict)
    """Open world: what to look up in the file of word vectors instead of a name, in lower case:
    name word name word ..."""
    data_root: Path | None = None
    """Where the data set is now; None: where it was when the run was trained."""
    method: Annotated[MethodOptions, tyro.conf.arg(name="")] = field(default_factory=MethodOptions)
    json: Path | None = None
    """File to write the result to: metrics, curve, accuracy by attribute and by object, gap."""


def run(arguments: list[str]) -> int:
    """Run the command.

    Args:
        arguments: its options.
    """
    options = parse(arguments)
    if options is None:
        return 0
    _check_world(options)

    config = read_config(options.run)
    changes: dict[str, Any] = {
        option.name: getattr(options.method, option.name)
        for option in fields(options.method)
        if getattr(options.method, option.name) != getattr(config.method, option.name)
    }

    from czsl_sac.cli.tables import result_table  # these load torch
    from czsl_sac.files import save_json
    from czsl_sac.training.open_world import OpenWorld
    from czsl_sac.training.trained import TrainedRun, changed

    changed(config, **changes)  # refuses before anything is loaded
    open_world = None
    if options.world == "open":
        open_world = OpenWorld(
            feasibility=options.feasibility,
            rule=options.feasibility_rule,
            threshold=options.threshold,
            aliases=options.word_aliases,
        )
    run = TrainedRun.load(
        options.run, checkpoint=options.checkpoint, data_root=options.data_root, **changes
    )
    result = run.evaluate(split=options.split, protocol=options.protocol, open_world=open_world)
    if os.environ.get("RANK", "0") != "0":
        return 0
    scored = f"{options.split} split, {options.checkpoint} epoch"
    print(result_table(result, run.config, scored))
    if options.json is not None:
        record = {
            "run": str(options.run),
            "dataset": config.data.dataset,
            "method": config.method.name,
            "split": options.split,
            "checkpoint": options.checkpoint,
            "transductive": run.config.method.is_transductive,
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
            raise ValueError(f"--{option} is of the open world: add --world open.")


def parse(arguments: list[str]) -> EvaluateOptions | None:
    """Return the options; None if help was shown.

    Args:
        arguments: options of the command.

    Raises:
        ValueError: an option is unknown or has a value that does not fit.
    """
    # The run decides which options there are.
    folders = [Path(a) for a in arguments if not a.startswith("-")]
    run = next((path for path in folders if (path / "config.json").is_file()), None)
    if run is None and folders and folders[0] == Path(arguments[0]):
        run = folders[0]
    default = None if run is None else EvaluateOptions(run, method=read_config(run).method)
    return parse_options(EvaluateOptions, "evaluate", arguments, default=default)
