"""How long a plan may take, told before it starts."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from czsl_sac.data import Scenes
from czsl_sac.data.protocol import SPLITS
from czsl_sac.data.sources.standard import METADATA, read_records
from czsl_sac.experiments.plan import Study
from czsl_sac.experiments.quick_data import first_records
from czsl_sac.experiments.runner import cells, kept, missing, planned
from czsl_sac.experiments.setting import QUICK_IMAGES, Setting, configuration, run_dir
from czsl_sac.methods.registry import method_class
from czsl_sac.training.config import TrainConfig
from czsl_sac.training.run_folder import RunFolder

SECONDS_A_PASS = 0.0035
"""What one pass of a scene through the tiny CLIP is taken to need, until a run here has told."""

_TRAINING = 3
"""Passes that a training step counts as: forward, and backward twice as long."""


def images_of(config: TrainConfig, setting: Setting) -> dict[str, int]:
    """Return how many images each split has.

    Raises:
        FileNotFoundError: the data set is not there.
        ValueError: its metadata is damaged.
    """
    if setting.dataset == "scenes" or setting.data_root is None:
        data = config.data
        scenes = Scenes(
            images_per_pair=data.images_per_pair,
            eval_images_per_pair=data.eval_images_per_pair,
            split_seed=data.split_seed,
        )
        return {split: len(scenes.split(split)) for split in SPLITS}
    root = setting.data_root
    records = first_records(root, QUICK_IMAGES) if setting.quick else read_records(root / METADATA)
    counts = Counter(record["set"] for record in records)
    return {split: counts[split] for split in SPLITS}


def seconds_needed(studies: Iterable[Study], setting: Setting) -> float | None:
    """Return an estimate of what it takes to train and measure what is missing, one by one.

    Returns:
        None where nothing is known: for another CLIP than the built-in one on a CPU, until a run
        in the folder has ended.
    """
    studies = list(studies)
    runs = planned(studies, setting)
    if not runs:
        return 0.0
    images = images_of(next(iter(runs.values())), setting)
    rate = _rate(runs, images)
    if rate is None:
        return None
    passes = sum(_passes(path, config, images) for path, config in missing(runs).items())
    for study, row, seed in cells(studies, setting):
        path = run_dir(configuration(row, setting, seed), setting)
        if (row.inference or study.world == "open") and not kept(path, row, study.world).is_file():
            passes += images["test"] + (images["val"] if study.world == "open" else 0)
    return rate * passes


def _epoch(images: Mapping[str, int]) -> int:
    return _TRAINING * images["train"] + images["val"]


def _passes(path: Path, config: TrainConfig, images: Mapping[str, int]) -> int:
    """Return the passes still to do; memory and test of a run come after its epochs."""
    folder = RunFolder(path)
    done = len(folder.records()) if folder.holds_run else 0
    left = max(config.optim.epochs - done, 0) if method_class(config.method).stages else 0
    return left * _epoch(images) + images["train"] + images["test"]


def _rate(runs: Mapping[Path, TrainConfig], images: Mapping[str, int]) -> float | None:
    """Seconds a pass, of the epochs that have ended here."""
    records = [
        record for path in runs if RunFolder(path).holds_run for record in RunFolder(path).records()
    ]
    if records:
        return sum(record["seconds"] for record in records) / (len(records) * _epoch(images))
    tiny = all(config.backbone.backbone.startswith("tiny") for config in runs.values())
    return SECONDS_A_PASS if tiny else None
