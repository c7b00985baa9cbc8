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


def measure(study: Study, setting: Setting, *, processes: int = 1) -> list[Measurement]:
    """Train what is missing for a study and measure its rows.

    Args:
        study: table or figure.
        setting: on what it is measured.
        processes: runs that are trained side by side.

    Raises:
        ValueError: a run in the folder is damaged.
    """
    cells = [(row, seed) for _, row, seed in _cells([study], setting)]
    shared: dict[Path, list[tuple[Row, int]]] = {}
    for row, seed in cells:
        shared.setdefault(run_dir(configuration(row, setting, seed), setting), []).append(
            (row, seed)
        )
    measured: dict[tuple[str, int], Measurement] = {}
    for found in tqdm(
        _done(shared, study, setting, processes), study.name, len(shared), leave=False, disable=None
    ):
        measured.update({(m.row.label, m.seed): m for m in found})
    return [measured[row.label, seed] for row, seed in cells]


def _done(
    shared: Mapping[Path, list[tuple[Row, int]]], study: Study, setting: Setting, processes: int
) -> Iterator[list[Measurement]]:
    """The measurements of each run, as they come."""
    if processes == 1:
        for path, cells in shared.items():
            yield _measure_run(path, cells, study, setting)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, torch.set_num_threads, (1,)) as pool:
        started = [
            pool.submit(_measure_run, path, cells, study, setting) for path, cells in shared.items()
        ]
        for done in as_completed(started):
            yield done.result()


def _measure_run(
    path: Path, cells: list[tuple[Row, int]], study: Study, setting: Setting
) -> list[Measurement]:
    """The rows of one run: it is trained unless all of them were measured before."""
    if not all(_kept(path, row, study).is_file() for row, _ in cells):
        train(configuration(*_first(cells, setting)), path, resume=RunFolder(path).holds_run)
    return [Measurement(row, seed, path, _result(path, row, study)) for row, seed in cells]


def _first(cells: list[tuple[Row, int]], setting: Setting) -> tuple[Row, Setting, int]:
    row, seed = cells[0]
    return row, setting, seed


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


def _kept(path: Path, row: Row, study: Study) -> Path:
    """Where a row's metrics are kept, in its run's folder."""
    return path / "results" / f"{sha256(_how(row, study).encode()).hexdigest()[:10]}.json"


def _how(row: Row, study: Study) -> str:
    return json.dumps({"inference": dict(row.inference), "world": study.world}, sort_keys=True)


def _result(path: Path, row: Row, study: Study) -> CZSLResult:
    """The metrics of a row, from the run's folder where they were measured before."""
    kept = _kept(path, row, study)
    if kept.is_file():
        values = read_json(kept, "delete it, it is made again")
        return CZSLResult.from_dict(values["result"])
    result = _tested(path, row, study)
    if result is None:
        run = TrainedRun.load(path, **_that_differ(path, row.inference))
        result = run.evaluate(open_world=OpenWorld() if study.world == "open" else None)
    how = json.loads(_how(row, study))
    save_json(kept, {"measured": how, "result": result.to_dict(details=True)})
    return result


def _tested(path: Path, row: Row, study: Study) -> CZSLResult | None:
    """What training itself measured, where the row asks for no more."""
    if study.world == "open" or _that_differ(path, row.inference):
        return None
    folder = RunFolder(path)
    batch_size = folder.read_record().config.optim.eval_batch_size
    return folder.load_test(folder.weights("best")[0], batch_size)


def _that_differ(path: Path, inference: Mapping[str, Any]) -> dict[str, Any]:
    own: MethodOptions = RunFolder(path).read_record().config.method
    return {name: value for name, value in inference.items() if getattr(own, name) != value}
