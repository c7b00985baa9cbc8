"""Write generated scenes as PNG files, to try `czsl-sac predict` on something.

    python examples/scenes_to_predict.py scenes --count 12

The names of the files say what they show: 003_blue_star.png.
"""

import argparse
from pathlib import Path

import torch
from torchvision.utils import save_image

from czsl_sac import Scenes


def write_scenes(folder: Path, count: int, split: str = "test") -> list[Path]:
    """Write scenes of a split, evenly spread over it, and return the files."""
    data = Scenes(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))  # colours as they are, in [0, 1]
    items = data.split(split)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in torch.linspace(0, len(items) - 1, count).round().long().tolist():
        image, target = items[index]
        attribute, obj = data.space.pairs[target]
        paths.append(folder / f"{index:03d}_{attribute}_{obj}.png")
        save_image(image, paths[-1])
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="where the files go")
    parser.add_argument("--count", type=int, default=12, help="how many")
    parser.add_argument("--split", choices=["train", "val", "test"], default="test")
    options = parser.parse_args()
    print(
        f"{len(write_scenes(options.folder, options.count, options.split))} scenes in "
        f"{options.folder}"
    )


if __name__ == "__main__":
    main()
