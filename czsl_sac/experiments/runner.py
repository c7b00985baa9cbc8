"""Runs of a plan: trained once each, continued where they stopped, measured once each."""

import json
import multiprocessing
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from czsl_sac._version import __version__
from czsl_sac.evaluation import CZSLResult
from czsl_sac.experiments.plan import Row, Study, World
from czsl_sac.experiments.quick_data import write_quick_data
from czsl_sac.experiments.setting import QUICK_IMAGES, Setting, configuration, run_dir
from czsl_sac.files import read_json, save_json
from czsl_sac.methods.options import MethodOptions
from czsl_sac.methods.registry import method_class, method_options
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.open_world import OpenWorld
from czsl_sac.training.run import train
from czsl_sac.training.run_folder import RunFolder
from czsl_sac.training.trained import TrainedRun


@dataclass(frozen=True)
class Measurement:
    """A row measured with one seed.

    Attributes:
        row: of the study.
        seed: of the run.
        run_dir: its folder.
        result: metrics on the test split.
        made: version of this package and machine, of who measured it.
    """

    row: Row
    seed: int
    run_dir: Path
    result: CZSLResult
    made: Mapping[str, str] = field(default_factory=dict)


def planned(studies: Iterable[Study], setting: Setting) -> dict[Path, TrainConfig]:
    """Return the runs that studies need, each once."""
    found = {}
    for _, row, seed in cells(studies, setting):
        config = configuration(row, setting, seed)
        found[run_dir(config, setting)] = config
    return found


def missing(runs: Mapping[Path, TrainConfig]) -> dict[Path, TrainConfig]:
    """Return those of the runs, by folder, that are not finished."""
    return {path: config for path, config in runs.items() if not (path / "test.json").is_file()}


def measure(study: Study, setting: Setting, *, processes: int = 1) -> list[Measurement]:
    """Train what is missing for a study and measure its rows.

    Raises:
        FileNotFoundError: the data set is not there.
        ValueError: a run in the folder, or the data set, is damaged.
    """
    if setting.quick_data is not None and setting.data_root is not None:
        write_quick_data(setting.data_root, setting.quick_data, QUICK_IMAGES)
    wanted = [(row, seed) for _, row, seed in cells([study], setting)]
    shared: dict[Path, list[tuple[Row, int]]] = {}
    for row, seed in wanted:
        shared.setdefault(run_dir(configuration(row, setting, seed), setting), []).append(
            (row, seed)
        )
    measured: dict[tuple[str, int], Measurement] = {}
    for found in tqdm(
        _done(shared, study.world, setting, processes),
        study.name,
        len(shared),
        leave=False,
        disable=None,
    ):
        measured.update({(m.row.label, m.seed): m for m in found})
    return [measured[row.label, seed] for row, seed in wanted]


def _done(
    shared: Mapping[Path, list[tuple[Row, int]]], world: World, setting: Setting, processes: int
) -> Iterator[list[Measurement]]:
    """The measurements of each run, as they come."""
    if processes == 1:
        for path, cells in shared.items():
            yield _measure_run(path, cells, world, setting)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, torch.set_num_threads, (1,)) as pool:
        started = [
            pool.submit(_measure_run, path, cells, world, setting) for path, cells in shared.items()
        ]
        for done in as_completed(started):
            yield done.result()


def _measure_run(
    path: Path, cells: list[tuple[Row, int]], world: World, setting: Setting
) -> list[Measurement]:
    """The rows of one run: it is trained unless all of them were measured before."""
    if not all(kept(path, row, world).is_file() for row, _ in cells):
        row, seed = cells[0]
        train(configuration(row, setting, seed), path, resume=RunFolder(path).holds_run)
    return [_measurement(path, row, seed, world, setting) for row, seed in cells]


def cells(studies: Iterable[Study], setting: Setting) -> Iterator[tuple[Study, Row, int]]:
    """Yield every row with every seed; a method without training has no seeds."""
    for study in studies:
        for row in study.rows(setting.dataset):
            trained = method_class(method_options(row.method)()).stages
            for seed in range(setting.seeds if trained else 1):
                yield study, row, seed


def kept(path: Path, row: Row, world: World) -> Path:
    """Return where a row's metrics are kept, in its run's folder."""
    return path / "results" / f"{sha256(_how(row, world).encode()).hexdigest()[:10]}.json"


def _how(row: Row, world: World) -> str:
    return json.dumps({"inference": dict(row.inference), "world": world}, sort_keys=True)


def _measurement(path: Path, row: Row, seed: int, world: World, setting: Setting) -> Measurement:
    """A row with a seed, from the run's folder where it was measured before."""
    file = kept(path, row, world)
    if not file.is_file():
        result = _tested(path, row, world) or _evaluated(path, row, world, setting)
        how = json.loads(_how(row, world))
        values = {"measured": how, "made": _maker(), "result": result.to_dict(details=True)}
        save_json(file, values)
    values = read_json(file, "delete it, it is made again")
    return Measurement(row, seed, path, CZSLResult.from_dict(values["result"]), values["made"])


def _evaluated(path: Path, row: Row, world: World, setting: Setting) -> CZSLResult:
    root = setting.quick_data or setting.data_root
    run = TrainedRun.load(path, data_root=root, **_that_differ(path, row.inference))
    return run.evaluate(open_world=OpenWorld() if world == "open" else None)


def _maker() -> dict[str, str]:
    """What measures here: this package's version, and the machine."""
    where = platform.processor() or platform.machine()
    if torch.cuda.is_available():
        where = torch.cuda.get_device_name()
    return {"version": __version__, "machine": f"{where}, {os.cpu_count()} cores"}


def _tested(path: Path, row: Row, world: World) -> CZSLResult | None:
    """What training itself measured, where the row asks for no more."""
    if world == "open" or _that_differ(path, row.inference):
        return None
    folder = RunFolder(path)
    batch_size = folder.read_record().config.optim.eval_batch_size
    return folder.load_test(folder.weights("best")[0], batch_size)


def _that_differ(path: Path, inference: Mapping[str, Any]) -> dict[str, Any]:
    own: MethodOptions = RunFolder(path).read_record().config.method
    return {name: value for name, value in inference.items() if getattr(own, name) != value}
