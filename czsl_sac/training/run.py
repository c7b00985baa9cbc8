"""A run: train from a configuration into a folder, and evaluate that folder."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor

from czsl_sac.clip import CLIPBackbone
from czsl_sac.data import CZSLData, SplitName
from czsl_sac.evaluation import CZSLResult
from czsl_sac.files import save_json, save_tensors, write_atomically
from czsl_sac.methods import CZSLMethod
from czsl_sac.space import CompositionSpace
from czsl_sac.training.build import build_backbone, build_data, build_method
from czsl_sac.training.checkpoints import load_progress, load_weights
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.feature_cache import cached
from czsl_sac.training.loop import BEST, LAST, MEMORY, fit, training_images
from czsl_sac.training.open_world import OpenWorld, evaluate_open_world
from czsl_sac.training.scoring import Protocol, evaluate_method

CONFIG, SPACE, BASE = "config.json", "space.json", "base.json"
INFERENCE_OPTIONS = ("bank", "beta", "gamma")
"""Options of the method that only inference reads, so that they may change after training."""


@dataclass(frozen=True)
class RunSummary:
    """What a finished run has to show.

    Attributes:
        run_dir: its folder.
        records: one record per epoch, as in `metrics.jsonl`.
        test: result of the best epoch's weights on the test split, exact protocol.
        seconds: time of this call.
    """

    run_dir: Path
    records: list[dict[str, Any]]
    test: CZSLResult
    seconds: float


def train(config: TrainConfig, run_dir: Path, *, resume: bool = False) -> RunSummary:
    """Train into `run_dir`, fill the memory bank, and evaluate on the test split.

    Args:
        config: the run.
        run_dir: folder for configuration, metrics and checkpoints.
        resume: continue a run of the same configuration; without it the folder must not hold one.

    Returns:
        Records and test result.

    Raises:
        FileExistsError: the folder already holds a run and `resume` is False.
        FileNotFoundError: there is nothing to resume, or the data is not there.
        ValueError: the configuration, the data or a checkpoint does not fit.
    """
    start = perf_counter()
    if resume and not (run_dir / CONFIG).is_file():
        raise FileNotFoundError(f"no run to resume in {run_dir}: leave out --resume to start one")
    if not resume and (run_dir / CONFIG).is_file():
        raise FileExistsError(
            f"{run_dir} already holds a run: pass --resume to continue it, or another --run-dir"
        )
    accelerator = make_accelerator(config)
    backbone = _backbone(config)
    if resume:
        _check_base(run_dir, backbone)
    data = build_data(config.data, backbone)
    method = build_method(config, backbone, data.space).to(accelerator.device)
    data = cached(data, config, backbone, accelerator)
    if accelerator.is_main_process:
        save_json(run_dir / SPACE, data.space.to_dict(), indent=None)
        save_json(run_dir / BASE, {"name": backbone.name, "checksum": backbone.base_checksum})
        write_atomically(run_dir / CONFIG, config.save)  # last: it is what makes the folder a run
    records = fit(method, data, config, run_dir, accelerator, resume=resume)
    if not method.stages and accelerator.is_main_process:
        save_tensors(run_dir / BEST, method.trained_state())
    method.eval()
    with accelerator.autocast():
        method.fill_memory(training_images(data, config, accelerator))
    if accelerator.is_main_process:
        save_tensors(run_dir / MEMORY, method.memory_state())
    test = _score(method, data, "test", config, accelerator, "exact")
    return RunSummary(run_dir, records, test, perf_counter() - start)


def evaluate(
    run_dir: Path,
    *,
    split: Literal["val", "test"] = "test",
    protocol: Protocol = "exact",
    checkpoint: Literal["best", "last"] = "best",
    open_world: OpenWorld | None = None,
    **changes: Any,
) -> CZSLResult:
    """Evaluate a run on a split.

    What only inference reads, `bank`, `beta` and `gamma`, may differ from the configuration that
    the run was trained with: the rows of Tab. 4 that add the bank need no training, and β and γ
    can be chosen on validation.

    The memory bank comes from the run's `memory.safetensors`; where the checkpoint is
    `"last"`, or the run was stopped before the bank was saved, it is filled anew from the
    training images.

    Args:
        run_dir: folder that `train` wrote.
        split: `"val"` or `"test"`.
        protocol: `"exact"` or `"legacy"`.
        checkpoint: `"best"` by validation AUC, or `"last"`.
        open_world: how to evaluate in the open world; None: the closed world.
        changes: `bank`, `beta` or `gamma`, where not the run's own.

    Returns:
        S, U, HM, AUC and the rest.

    Raises:
        FileNotFoundError: the folder holds no run or no such checkpoint.
        ValueError: the checkpoint does not fit the configuration.
    """
    method, data, config, accelerator = load_run(run_dir, checkpoint=checkpoint, **changes)
    data = cached(data, config, method.backbone, accelerator)
    if open_world is None:
        return _score(method, data, split, config, accelerator, protocol)
    return evaluate_open_world(
        method,
        data,
        split,
        accelerator,
        open_world,
        batch_size=config.optim.eval_batch_size,
        num_workers=config.data.num_workers,
        protocol=protocol,
    )


def load_run(
    run_dir: Path, *, checkpoint: Literal["best", "last"] = "best", **changes: Any
) -> tuple[CZSLMethod, CZSLData, TrainConfig, Accelerator]:
    """Return a run's method, ready to predict, and its data set.

    Args:
        run_dir: folder that `train` wrote.
        checkpoint: `"best"` by validation AUC, or `"last"`.
        changes: options of inference that differ from the run's own; see `evaluate`.

    Returns:
        The method in evaluation mode, the data set, the configuration and the accelerator.

    Raises:
        FileNotFoundError: the folder holds no run or no such checkpoint, or the data set is not
            there.
        ValueError: the checkpoint does not fit the configuration, or the data set has other
            compositions than the run was trained with.
    """
    method, config, accelerator = load_method(run_dir, checkpoint=checkpoint, **changes)
    data = build_data(config.data, method.backbone)
    if data.space != method.space:
        raise ValueError(
            f"the data set has changed since the run in {run_dir} was trained: {data.space} now, "
            f"{method.space} then; train again, or point --data-root to what it was."
        )
    return method, data, config, accelerator


def load_method(
    run_dir: Path, *, checkpoint: Literal["best", "last"] = "best", **changes: Any
) -> tuple[CZSLMethod, TrainConfig, Accelerator]:
    """Return a run's method with its trained weights and memory, ready to predict.

    The data set need not be there, unless a memory bank has to be filled anew from its training
    images; see `evaluate`.

    Args:
        run_dir: folder that `train` wrote.
        checkpoint: `"best"` by validation AUC, or `"last"`.
        changes: options of inference that differ from the run's own; see `evaluate`.

    Returns:
        The method in evaluation mode, the configuration and the accelerator.

    Raises:
        FileNotFoundError: the folder holds no run or no such checkpoint.
        ValueError: the checkpoint does not fit the configuration, or the backbone has other
            weights than the run was trained on.
    """
    config = TrainConfig.load(run_dir / CONFIG)
    unknown = changes.keys() - INFERENCE_OPTIONS
    if unknown:
        raise ValueError(
            f"{min(unknown)} was decided in training: only {', '.join(INFERENCE_OPTIONS)} can "
            "differ from the run's own."
        )
    config = config.with_model(**changes)
    accelerator = make_accelerator(config)
    backbone = _backbone(config)
    _check_base(run_dir, backbone)
    method = build_method(config, backbone, _space(run_dir)).to(accelerator.device)
    if checkpoint == "best":
        method.load_trained_state(load_weights(run_dir / BEST))
    else:
        method.load_trained_state(load_progress(run_dir / LAST)["weights"])
    method.eval()
    with accelerator.autocast():
        memory = load_weights(run_dir / MEMORY) if (run_dir / MEMORY).is_file() else {}
        if checkpoint == "best" and memory:
            method.load_memory_state(memory)
        else:
            method.fill_memory(_training_images(backbone, config, accelerator))
    return method, config, accelerator


def _training_images(
    backbone: CLIPBackbone, config: TrainConfig, accelerator: Accelerator
) -> Iterator[Tensor]:
    """The training images of a run; the data set is opened when the first is asked for."""
    yield from training_images(build_data(config.data, backbone), config, accelerator)


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Return device, mixed precision and processes as the run and its launcher have them.

    Args:
        config: the run.
    """
    # A stage need not use every trainable parameter: the condenser is idle in Alg. 1's first loop.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(mixed_precision=config.optim.precision, kwargs_handlers=[unused])


def _backbone(config: TrainConfig) -> CLIPBackbone:
    torch.manual_seed(config.seed)
    backbone = build_backbone(config.backbone)
    backbone.remember_base()  # once a run: hashing a large CLIP takes seconds
    return backbone


def _check_base(run_dir: Path, backbone: CLIPBackbone) -> None:
    """Refuse weights of a backbone that are not those the run was trained on."""
    path = run_dir / BASE
    if not path.is_file():
        raise FileNotFoundError(f"no record of the backbone at {path}: train the run again")
    trained_on, checksum = json.loads(path.read_text("utf-8")), backbone.base_checksum
    if trained_on["checksum"] != checksum:
        raise ValueError(
            f"the run in {run_dir} was trained on {trained_on['name']!r} with weights of checksum "
            f"{trained_on['checksum'][:12]}, but {backbone.name!r} now has {checksum[:12]}: "
            "put those weights back where the run's configuration looks for them, or train again"
        )


def _space(run_dir: Path) -> CompositionSpace:
    """The compositions that the run was trained with."""
    path = run_dir / SPACE
    if not path.is_file():
        raise FileNotFoundError(f"no compositions at {path}: train the run again")
    try:
        return CompositionSpace.from_dict(json.loads(path.read_text("utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} does not hold compositions ({error}): train again") from error


def _score(
    method: CZSLMethod,
    data: CZSLData,
    split: SplitName,
    config: TrainConfig,
    accelerator: Accelerator,
    protocol: Protocol,
) -> CZSLResult:
    return evaluate_method(
        method,
        data,
        split,
        accelerator,
        batch_size=config.optim.eval_batch_size,
        num_workers=config.data.num_workers,
        protocol=protocol,
    )
