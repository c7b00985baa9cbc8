"""Train a run into its folder, or go on with one."""

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, get_args

import torch
from tqdm import tqdm

from czsl_sac.data import CZSLData, SplitName
from czsl_sac.data.sources.hub import HUB_PREFIX
from czsl_sac.evaluation import CZSLResult
from czsl_sac.methods.base import CZSLMethod
from czsl_sac.training.build import build_backbone, build_data, build_method, check_data_root
from czsl_sac.training.checkpoint import Checkpoint
from czsl_sac.training.compiling import check_compiler, compile_parts
from czsl_sac.training.config import TrackerName, TrainConfig
from czsl_sac.training.feature_cache import cached
from czsl_sac.training.fingerprint import split_fingerprints
from czsl_sac.training.loop import EpochEnd, fit
from czsl_sac.training.memory import fill_memory
from czsl_sac.training.record import RunRecord
from czsl_sac.training.run_folder import RunFolder
from czsl_sac.training.scoring import evaluate_method
from czsl_sac.training.session import Session
from czsl_sac.training.tracking import check_trackers, tracking
from czsl_sac.training.trained import check_backbone, open_data


@dataclass(frozen=True)
class RunSummary:
    """What a run has to show when it ends.

    Attributes:
        run_dir: its folder.
        config: its configuration.
        records: one record per epoch, as in `metrics.jsonl`.
        test: metrics of the best epoch's weights on the test split, exact protocol; None if they
            were not asked for.
        seconds: time of this call.
        trained: whether this call trained anything.
    """

    run_dir: Path
    config: TrainConfig
    records: list[dict[str, Any]]
    test: CZSLResult | None
    seconds: float
    trained: bool


def train(
    config: TrainConfig,
    run_dir: str | os.PathLike[str],
    *,
    resume: bool = False,
    test: bool = True,
    track: Sequence[TrackerName] = (),
    after_epoch: Callable[[EpochEnd], None] | None = None,
) -> RunSummary:
    """Train into a folder, fill the method's memory, and evaluate on the test split.

    What is refused leaves the folder as it was. A run that is continued takes from `config` what
    may change (see `record.CHANGEABLE`), and records it; a finished one is not trained again.

    Args:
        config: the run.
        run_dir: folder for the record, the metrics and the checkpoints.
        resume: continue a run; without it the folder must not hold one.
        test: evaluate on the test split; without it no test image is read.
        track: trackers that show the run, see `Tracking`; they change nothing of it.
        after_epoch: see `fit`.

    Returns:
        Records and test result.

    Raises:
        FileExistsError: the folder already holds a run and `resume` is False, or another process
            trains there.
        FileNotFoundError: there is nothing to resume, or the data is not there.
        ValueError: the configuration, the data or a checkpoint does not fit.
        DivergedError: a loss is no longer finite.
        ConnectionError: another of several processes has ended before its work was done, or a
            tracker cannot be started.
        ImportError: a tracker is not installed.
    """
    start = perf_counter()
    check_trackers(track)
    folder = RunFolder(run_dir)
    config = _absolute(config)
    found = _found(folder, config) if resume else None
    if found is not None:
        done = _finished(folder, *found, start, test)
        if done is not None:
            _show_finished(done, found[0], folder, track)
            return done
    session = Session.of(config)
    if session.is_main and not resume:
        _check_new(folder)
    check_data_root(config.data)
    if config.optim.compile:
        check_compiler(session.device)
    with folder.claim() if session.is_main else nullcontext():
        # Another process may have trained here until now.
        if resume:
            record, checkpoint = _found(folder, config)
        else:
            record, checkpoint = None, None
            if session.is_main:
                _check_new(folder)
        torch.manual_seed(config.seed)
        backbone = build_backbone(config.backbone, precision=session.precision)
        backbone.remember_base()  # once a run: hashing a large CLIP takes seconds
        if record is None:
            data = build_data(config.data, backbone)
            record = RunRecord(
                config,
                data.space,
                backbone.name,
                backbone.base_checksum,
                split_fingerprints(data),
            )
        else:
            check_backbone(folder, record, backbone)
            data = open_data(config, backbone, record, folder)
        method = build_method(config, backbone, data.space).to(session.device)
        if config.optim.compile:
            compile_parts(method)
        with tracking(track if session.is_main else (), record, folder) as tracked:
            if session.is_main:
                folder.write_record(record)
                if checkpoint is not None:
                    folder.derive(checkpoint)
                tqdm.write(_header(method, data, record, folder, session, checkpoint))
            images = data  # a tracker shows them, which a cache of features does not hold
            data = cached(data, config, backbone, session)

            def hooks(end: EpochEnd) -> None:
                if tracked is not None:
                    tracked.epoch(end, images, backbone)
                if after_epoch is not None:
                    after_epoch(end)

            with session.together(), session.sharing_texts(method.backbone.text):
                progress = fit(
                    method,
                    data,
                    record.config,
                    folder,
                    session,
                    checkpoint=checkpoint,
                    after_epoch=hooks,
                )
                tested = _fill_and_test(method, data, folder, session, progress.best, test)
            if tracked is not None:
                tracked.missed(progress.records)
                if tested is not None:
                    tracked.test(tested, len(progress.records))
    return RunSummary(
        folder.path,
        record.config,
        progress.records,
        tested,
        perf_counter() - start,
        trained=True,
    )


def _show_finished(
    done: RunSummary, record: RunRecord, folder: RunFolder, track: Sequence[TrackerName]
) -> None:
    """Send what trackers have missed of a run that has ended."""
    if not track or not Session.of(record.config).is_main:
        return
    with folder.claim(), tracking(track, record, folder) as tracked:
        if tracked is not None:
            tracked.missed(done.records)
            if done.test is not None:
                tracked.test(done.test, len(done.records))


def _fill_and_test(
    method: CZSLMethod,
    data: CZSLData,
    folder: RunFolder,
    session: Session,
    best: str,
    test: bool,
) -> CZSLResult | None:
    """Bring in line what follows from the best weights: memory, and test result if asked for."""
    method.eval()
    fill_memory(method, lambda: data.split("train"), session)
    result = evaluate_method(method, data, "test", session) if test else None
    if session.is_main:
        folder.save_memory(method.memory_state(), best)
        if result is not None:
            folder.save_test(result, best, session.batch_size)
    session.wait()
    return result


def _header(
    method: CZSLMethod,
    data: CZSLData,
    record: RunRecord,
    folder: RunFolder,
    session: Session,
    checkpoint: Checkpoint | None,
) -> str:
    """What runs where, in three lines, and from where it goes on."""
    config = record.config
    images = ", ".join(f"{len(data.split(n))} {n}" for n in get_args(SplitName))  # type: ignore[arg-type]
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    processes = session.accelerator.num_processes
    precision = "float32" if session.precision == "no" else session.precision
    compiled = ", compiled" if config.optim.compile else ""
    versions = ", ".join(f"{name} {number}" for name, number in record.versions.items())
    return (
        f"{config.method.label} on {data.name} into {folder.path}: {session.device}, "
        f"{precision}{compiled}, "
        f"{processes} process{'es' if processes > 1 else ''}.\n"
        f"Images: {images}. Compositions: {len(data.space)}, {int(data.space.seen_mask.sum())} "
        f"seen. Trained parameters: {trained:,}.\n{versions}.{_ended(checkpoint)}"
    )


def _ended(checkpoint: Checkpoint | None) -> str:
    if checkpoint is None:
        return ""
    progress = checkpoint.progress
    if progress.finished:
        return "\nAll epochs have ended."
    stage = progress.records[-1]["stage"]
    return f"\nGoing on after epoch {progress.epoch} of stage {stage}."


def _check_new(folder: RunFolder) -> None:
    if folder.holds_run:
        raise FileExistsError(
            f"run_dir is {folder.path} but must hold no run yet: pass --resume to continue it, or "
            "another --run-dir."
        )


def _found(folder: RunFolder, config: TrainConfig) -> tuple[RunRecord, Checkpoint | None]:
    """Return record and checkpoint of a run to continue with `config`, or refuse to."""
    if not folder.holds_run:
        raise FileNotFoundError(
            f"there is no run to resume in {folder.path}: leave out --resume to start one."
        )
    record, checkpoint = folder.read_record(), folder.load_checkpoint()
    records = checkpoint.progress.records if checkpoint else []
    continued = record.continued(config, len(records))
    if checkpoint is None:
        return continued, None
    progress = checkpoint.progress
    later_stage = any(done["stage"] != records[0]["stage"] for done in records)
    if config.optim.epochs != record.config.optim.epochs:
        if later_stage:
            raise ValueError(
                f"epochs is {config.optim.epochs} but must be {record.config.optim.epochs}: the "
                "run's first stage has ended with that many; leave it out, or begin another run."
            )
        if config.optim.epochs < progress.epoch:
            raise ValueError(
                f"epochs is {config.optim.epochs} but must be at least {progress.epoch}, as many "
                "as have ended: raise it, or begin another run."
            )
        progress.finished = progress.finished and config.optim.epochs == progress.epoch
    return continued, checkpoint


def _finished(
    folder: RunFolder, record: RunRecord, checkpoint: Checkpoint | None, start: float, test: bool
) -> RunSummary | None:
    """Return what a finished run has to show; None if something is still to be done."""
    if checkpoint is None or not checkpoint.progress.finished:
        return None
    if folder.stale(checkpoint):
        return None
    tag = checkpoint.progress.best
    tested = folder.load_test(tag, record.config.optim.eval_batch_size) if test else None
    if (test and tested is None) or folder.load_memory(tag) is None:
        return None
    return RunSummary(
        folder.path,
        record.config,
        checkpoint.progress.records,
        tested,
        perf_counter() - start,
        trained=False,
    )


def _absolute(config: TrainConfig) -> TrainConfig:
    """Return the configuration with paths that hold from any folder."""
    data = config.data
    place = data.dataset.removeprefix(HUB_PREFIX)
    local = data.of_hub and Path(place).is_dir()
    return replace(
        config,
        data=replace(
            data,
            dataset=f"{HUB_PREFIX}{Path(place).resolve()}" if local else data.dataset,
            data_root=None if data.data_root is None else data.data_root.resolve(),
            feature_cache=None if data.feature_cache is None else data.feature_cache.resolve(),
        ),
    )
