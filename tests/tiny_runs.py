"""Runs on a few scenes, made once a session, for tests of what is done with a finished run."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from torchvision.utils import save_image

from czsl_sac import Scenes
from czsl_sac.clip import load_backbone
from czsl_sac.training.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from czsl_sac.training.presets import PRESETS
from czsl_sac.training.run import train

_ROOT = TemporaryDirectory(prefix="tiny-runs-")  # removed when the tests end
DATA = DataConfig(images_per_pair=1, eval_images_per_pair=1)


@cache
def tiny_run(**model: object) -> Path:
    """The folder of a run of one epoch: SAC, or with other options of the method."""
    folder = Path(mkdtemp(dir=_ROOT.name)) / "run"
    config = TrainConfig(
        data=DATA,
        backbone=PRESETS["scenes"].backbone,
        model=ModelConfig(num_blocks=1, **model),  # type: ignore[arg-type]
        optim=OptimConfig(epochs=1, batch_size=48, lr=2e-3, eval_batch_size=16),
    )
    train(config, folder)
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
