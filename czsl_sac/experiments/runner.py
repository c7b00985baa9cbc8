"""Runs of a plan: trained once each, continued where they stopped, measured once each."""

import json
import multiprocessing
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from czsl_sac.evaluation import CZSLResult
from czsl_sac.experiments.plan import Row, Study
from czsl_sac.files import read_json, save_json
from czsl_sac.methods.options import MethodOptions
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.open_world import OpenWorld
from czsl_sac.training.presets import preset_for
from czsl_sac.training.run import train
from czsl_sac.training.run_folder import RunFolder
from czsl_sac.training.trained import TrainedRun

SECONDS_AN_IMAGE = 0.012
"""What one presentation of a scene takes the tiny CLIP on two cores, until a run here has told."""


@dataclass(frozen=True)
class Setting:
    """On what all rows of a study are measured.

    Attributes:
        dataset: name of the preset.
        seeds: how many, from 0.
        out: folder of runs and results.
        data_root: folder of the data set; None for scenes.
        quick: one epoch on few images: shows that everything runs, and measures nothing.
        options: of data, backbone and optimisation that differ from every preset.
    """

    dataset: str
    seeds: int
    out: Path
    data_root: Path | None = None
    quick: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """A row measured with one seed.

    Attributes:
        row: of the study.
        seed: of the run.
        run_dir: its folder.
        result: metrics on the test split.
    """

    row: Row
    seed: int
    run_dir: Path
    result: CZSLResult


def configuration(row: Row, setting: Setting, seed: int) -> TrainConfig:
    """Return what a row trains.

    Args:
        row: of a study.
        setting: on what it is measured.
        seed: of the run.
    """
    config = preset_for(setting.dataset, row.method)
    if setting.data_root is not None:
        config = replace(config, data=replace(config.data, data_root=setting.data_root.resolve()))
    if setting.quick:
        config = config.with_options(epochs=1)
        if setting.dataset == "scenes":
            config = config.with_options(images_per_pair=2, eval_images_per_pair=2)
    return config.with_options(**setting.options, **row.training, seed=seed)


def run_dir(config: TrainConfig, setting: Setting) -> Path:
    """Return the folder of a run: the same for the same configuration, whatever asks for it.

    Args:
        config: of the run.
        setting: whose folder it is in.
    """
    text = json.dumps(config.to_dict(), sort_keys=True)
    digest = sha256(text.encode()).hexdigest()[:10]
    return setting.out / "runs" / f"{setting.dataset}-{config.method.name}-{config.seed}-{digest}"


def planned(studies: Iterable[Study], setting: Setting) -> dict[Path, TrainConfig]:
    """Return the runs that studies need, each once.

    Args:
        studies: tables and figures.
        setting: on what they are measured.
    """
    found = {}
    for _, row, seed in _cells(studies, setting):
        config = configuration(row, setting, seed)
        found[run_dir(config, setting)] = config
    return found


def missing(runs: Mapping[Path, TrainConfig]) -> dict[Path, TrainConfig]:
    """Return the runs that are not finished.

    Args:
        runs: by folder.
    """
    return {path: config for path, config in runs.items() if not (path / "test.json").is_file()}


def seconds_needed(runs: Mapping[Path, TrainConfig]) -> float:
    """Return an estimate of what it takes to train what is missing.

    Args:
        runs: by folder; those that are finished tell how fast this machine is.
    """
    images = seconds = 0.0
    for path, config in runs.items():
        if (path / "test.json").is_file():
            records = RunFolder(path).records()
            seconds += sum(record["seconds"] for record in records)
            images += len(records) * _presentations(config) / config.optim.epochs
    rate = seconds / images if images else SECONDS_AN_IMAGE
    return rate * sum(_presentations(config) for config in missing(runs).values())


def _presentations(config: TrainConfig) -> float:
    """Images times epochs of a run; of a data set of files, as many as the scenes have."""
    return config.data.images_per_pair * 96.0 * config.optim.epochs


def train_all(runs: Mapping[Path, TrainConfig], processes: int) -> None:
    """Train runs side by side, in processes of their own.

    Args:
        runs: by folder.
        processes: how many at a time.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        started = [pool.submit(_train_one, config, path) for path, config in runs.items()]
        for done in tqdm(as_completed(started), "runs", len(started), disable=None):
            done.result()


def _train_one(config: TrainConfig, path: Path) -> None:
    torch.set_num_threads(1)  # the others need the cores
    train(config, path, resume=RunFolder(path).holds_run)


def measure(study: Study, setting: Setting) -> list[Measurement]:
    """Train what is missing for a study and measure its rows.

    Args:
        study: table or figure.
        setting: on what it is measured.

    Raises:
        ValueError: a run in the folder is damaged.
    """
    cells = list(_cells([study], setting))
    found = []
    for _, row, seed in tqdm(cells, desc=study.name, leave=False, disable=None):
        config = configuration(row, setting, seed)
        path = run_dir(config, setting)
        train(config, path, resume=RunFolder(path).holds_run)
        found.append(Measurement(row, seed, path, _result(path, row, study)))
    return found


def _cells(studies: Iterable[Study], setting: Setting) -> Iterator[tuple[Study, Row, int]]:
    """Every row with every seed; a method without training has no seeds."""
    for study in studies:
        for row in study.rows(setting.dataset):
            untrained = not _stages(row)
            for seed in range(1 if untrained else setting.seeds):
                yield study, row, seed


def _stages(row: Row) -> tuple[str, ...]:
    from czsl_sac.methods.registry import method_class, method_options

    return method_class(method_options(row.method)()).stages


def _result(path: Path, row: Row, study: Study) -> CZSLResult:
    """The metrics of a row, from the run's folder where they were measured before."""
    key = json.dumps({"inference": dict(row.inference), "world": study.world}, sort_keys=True)
    kept = path / "results" / f"{sha256(key.encode()).hexdigest()[:10]}.json"
    if kept.is_file():
        values = read_json(kept, "delete it, it is made again")
        return CZSLResult.from_dict(values["result"])
    changes = _that_differ(path, row.inference)
    if not changes and study.world == "closed":
        folder = RunFolder(path)
        batch_size = folder.read_record().config.optim.eval_batch_size
        tested = folder.load_test(folder.weights("best")[0], batch_size)
        if tested is not None:
            return tested
    run = TrainedRun.load(path, **changes)
    world = OpenWorld() if study.world == "open" else None
    result = run.evaluate(open_world=world)
    save_json(kept, {"measured": json.loads(key), "result": result.to_dict(details=True)})
    return result


def _that_differ(path: Path, inference: Mapping[str, Any]) -> dict[str, Any]:
    own: MethodOptions = RunFolder(path).read_record().config.method
    return {name: value for name, value in inference.items() if getattr(own, name) != value}
