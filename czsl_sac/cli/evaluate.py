"""`czsl-sac evaluate`: score a run, or CLIP as it comes, in the closed or the open world."""

import os
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from czsl_sac.cli.options import parse_options, peek_options, refuse_unread
from czsl_sac.cli.predictor_options import PredictorOptions
from czsl_sac.cli.train import read_config
from czsl_sac.methods.options import MethodOptions
from czsl_sac.training.config import BackboneConfig, DataConfig, OptimConfig, TrainConfig
from czsl_sac.training.presets import DATA_SETS, preset_for

if TYPE_CHECKING:
    from czsl_sac.evaluation import CZSLResult
    from czsl_sac.training.open_world import OpenWorld


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """How a split is scored."""

    split: Literal["val", "test"] = "test"
    """Part of the data set."""
    protocol: Literal["exact", "legacy"] = "exact"
    """Every breakpoint of the bias, or the published evaluator's sample of them."""
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
    json: Path | None = None
    """File to write the result to: metrics, curve, accuracy by attribute and by object, gap."""

    def open_world(self) -> "OpenWorld | None":
        """Return how to evaluate in the open world; None for the closed world."""
        from czsl_sac.training.open_world import OpenWorld  # loads torch

        if self.world == "closed":
            return None
        return OpenWorld(
            feasibility=self.feasibility,
            rule=self.feasibility_rule,
            threshold=self.threshold,
            aliases=self.word_aliases,
        )


@dataclass(frozen=True)
class EvaluateOptions(ScoringOptions):
    """Evaluate a run that czsl-sac train made, or without one, CLIP as it comes.

    A memory bank that is updated on the stream starts from the training images and sees the split
    in its fixed order; such results are transductive. Of the method's options those that inference
    alone reads may differ from the run's own.

    Without a run: --method zero-shot --dataset files --data-root DIR --backbone ViT-B/32; --method
    zero-shot --help lists these options.
    """

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    checkpoint: Literal["best", "last"] = "best"
    """Best epoch by validation AUC, or the last."""
    data_root: Path | None = None
    """Where the data set is now; None: where it was when the run was trained."""
    method: Annotated[MethodOptions, tyro.conf.arg(name="")] = field(default_factory=MethodOptions)


@dataclass(frozen=True, kw_only=True)
class UntrainedOptions(ScoringOptions):
    """Evaluate a method that needs no training on a data set: no run is read and none is left.

    The options are those of czsl-sac train, without what only training reads.
    """

    method: str
    """The method, by name or MODULE:CLASS."""
    data: Annotated[DataConfig, tyro.conf.arg(name="")]
    backbone: Annotated[BackboneConfig, tyro.conf.arg(name="")]
    method_options: Annotated[MethodOptions, tyro.conf.arg(name="")]
    eval_batch_size: int = 64
    """Images per batch."""
    precision: Literal["auto", "no", "tf32", "bf16", "fp16"] = "auto"
    """Precision: no is float32, tf32 lets a GPU round the factors of its products, bf16 and fp16
    are mixed; auto is bf16 on a GPU that has it, else float32."""

    def configuration(self) -> TrainConfig:
        """Return what a run of the same options would be."""
        optim = OptimConfig(eval_batch_size=self.eval_batch_size, precision=self.precision)
        return TrainConfig(self.data, self.backbone, self.method_options, optim)


@dataclass(frozen=True)
class _Start:
    """The options that decide which others there are, and their defaults."""

    method: str | None = None
    dataset: str | None = None


def run(arguments: list[str]) -> int:
    """Run the command with its options."""
    options = parse(arguments)
    _check_world(options)
    if isinstance(options, UntrainedOptions):
        return _score_untrained(options)
    return _score_run(options)


def _score_run(options: EvaluateOptions) -> int:
    config = read_config(options.run)
    changes: dict[str, Any] = {
        option.name: getattr(options.method, option.name)
        for option in fields(options.method)
        if getattr(options.method, option.name) != getattr(config.method, option.name)
    }

    from czsl_sac.training.trained import TrainedRun, changed  # loads torch

    changed(config, **changes)  # refuses before anything is loaded
    open_world = options.open_world()
    run = TrainedRun.load(
        options.run, checkpoint=options.checkpoint, data_root=options.data_root, **changes
    )
    result = run.evaluate(split=options.split, protocol=options.protocol, open_world=open_world)
    _show(
        result,
        run.config,
        options,
        f"{options.split} split, {options.checkpoint} epoch",
        {"run": str(options.run), "checkpoint": options.checkpoint},
    )
    return 0


def _score_untrained(options: UntrainedOptions) -> int:
    from czsl_sac.training.untrained import evaluate_untrained  # loads torch

    config = options.configuration()
    result = evaluate_untrained(
        config, split=options.split, protocol=options.protocol, open_world=options.open_world()
    )
    scored = (
        f"{config.method.label}, {config.backbone.backbone}, on {config.data.dataset}: "
        f"{options.split} split"
    )
    _show(result, config, options, scored, {"backbone": config.backbone.backbone})
    return 0


def _show(
    result: "CZSLResult",
    config: TrainConfig,
    options: ScoringOptions,
    scored: str,
    of: dict[str, Any],
) -> None:
    """Print a result, and write it where it was asked for."""
    if os.environ.get("RANK", "0") != "0":
        return
    from czsl_sac.cli.tables import result_table
    from czsl_sac.files import save_json

    print(result_table(result, config, scored))
    if options.json is None:
        return
    opened = options.world == "open"
    record = {
        **of,
        "dataset": config.data.dataset,
        "method": config.method.name,
        "split": options.split,
        "transductive": config.method.is_transductive,
        "feasibility": options.feasibility if opened else None,
        "feasibility_rule": options.feasibility_rule if opened else None,
        **result.to_dict(details=True),
    }
    save_json(options.json, record)


def _check_world(options: ScoringOptions) -> None:
    """Refuse options that the closed world does not read."""
    defaults = ScoringOptions()
    for name in ("feasibility", "feasibility_rule", "threshold", "word_aliases"):
        if options.world == "closed" and getattr(options, name) != getattr(defaults, name):
            option = name.replace("_", "-")
            raise ValueError(f"--{option} is of the open world: add --world open.")


def parse(arguments: list[str]) -> EvaluateOptions | UntrainedOptions:
    """Return the options.

    Raises:
        ValueError: an option is unknown, has a value that does not fit, or is read by nothing.
    """
    # The run, or the method, decides which options there are.
    folders = [Path(a) for a in arguments if not a.startswith("-")]
    run = next((path for path in folders if (path / "config.json").is_file()), None)
    if run is None and folders and folders[0] == Path(arguments[0]):
        run = folders[0]
    start = peek_options(_Start, "evaluate", arguments)
    if start.method is not None:
        return _parse_untrained(start, start.method, run, arguments)
    if run is None and start.dataset is not None:
        raise ValueError(
            f"--dataset is {start.dataset} but there is neither a run nor a method: add --method "
            "zero-shot, or name a run, which knows its data set."
        )
    default = None if run is None else EvaluateOptions(run, method=read_config(run).method)
    return parse_options(EvaluateOptions, "evaluate", arguments, default=default)


def _parse_untrained(
    start: _Start, method: str, run: Path | None, arguments: list[str]
) -> UntrainedOptions:
    if run is not None:
        raise ValueError(
            f"--method is {method} but must not be given with the run {run}, which has its own: "
            "leave out one of them."
        )
    dataset = start.dataset if start.dataset in DATA_SETS else None
    config = preset_for(dataset or "scenes", method)
    backbone = replace(config.backbone, train_backbone="none")
    if start.dataset is not None and dataset is None:  # no preset says which CLIP
        backbone = replace(backbone, backbone=PredictorOptions.backbone)
    default = UntrainedOptions(
        method=method,
        data=replace(config.data, augment=False),
        backbone=backbone,
        method_options=config.method,
        eval_batch_size=config.optim.eval_batch_size,
    )
    options = parse_options(UntrainedOptions, "evaluate", arguments, default=default)
    configuration = options.configuration()
    idle = dict.fromkeys(_TRAINING, "nothing is trained")
    if not configuration.backbone.patch_drop_eval:
        idle["patch_drop"] = "patch_drop_eval is off"
    refuse_unread(arguments, {**configuration.unread(), **idle})
    return options


_TRAINING = (
    *("augment", "images_per_pair", "keep_images"),
    *("train_backbone", "checkpoint_vision"),
)
"""Options of data and backbone that training alone reads."""
