"""Runs on a few scenes, made once a session, for tests of what is done with a finished run."""

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from torchvision.utils import save_image

from czsl_sac import Scenes
from czsl_sac.clip import load_backbone
from czsl_sac.methods.options import MethodOptions
from czsl_sac.methods.registry import method_options
from czsl_sac.training.config import DataConfig, OptimConfig, TrainConfig
from czsl_sac.training.presets import DATA_SETS
from czsl_sac.training.run import train
from czsl_sac.training.run_folder import RunFolder

_ROOT = TemporaryDirectory(prefix="tiny-runs-")  # removed when the tests end
DATA = DataConfig(images_per_pair=1, eval_images_per_pair=1)


def options_of(method: str = "sac", **values: object) -> MethodOptions:
    """A method's options: its defaults, and the values given."""
    return method_options(method)(**values)


def tiny_config(method: str = "sac", **values: object) -> TrainConfig:
    """One epoch on a few scenes."""
    return TrainConfig(
        data=DATA,
        backbone=DATA_SETS["scenes"].backbone,
        method=options_of(method, **({"num_blocks": 1} if method == "sac" else {}), **values),
        optim=OptimConfig(epochs=1, batch_size=48, lr=2e-3, eval_batch_size=16),
    )


@cache
def tiny_run(method: str = "sac", **values: object) -> Path:
    """The folder of a run of one epoch: SAC, or with other options of the method."""
    folder = Path(mkdtemp(dir=_ROOT.name)) / "run"
    train(tiny_config(method, **values), folder)
    return folder


def copy_of(run: Path, folder: Path, **changes: object) -> Path:
    """A copy of a run, as if some attributes of its record had been others all along."""
    shutil.copytree(run, folder)
    copied = RunFolder(folder)
    checkpoint = copied.load_checkpoint()
    assert checkpoint is not None
    best = checkpoint.progress.best
    memory = copied.load_memory(best)
    assert memory is not None
    copied.write_record(replace(copied.read_record(), **changes))
    copied.save_checkpoint(checkpoint)
    copied.save_memory(memory, best)
    return folder


def scenes() -> Scenes:
    """The data set of the tiny runs."""
    backbone = load_backbone("tiny")
    return Scenes(
        images_per_pair=DATA.images_per_pair,
        eval_images_per_pair=DATA.eval_images_per_pair,
        mean=backbone.mean,
        std=backbone.std,
    )


def write_scenes(folder: Path, count: int) -> list[Path]:
    """Write the first test images as PNG files."""
    data = scenes()
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        image, target = data.split("test")[number]
        path = folder / f"{number:02d}_{'_'.join(data.space.pairs[target])}.png"
        image = image * image.new_tensor(data.std)[:, None, None]
        save_image(image + image.new_tensor(data.mean)[:, None, None], path)
        paths.append(path)
    return paths
