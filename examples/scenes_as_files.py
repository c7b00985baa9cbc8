"""Write generated scenes as JPEG files, one folder a composition: a stand-in for images of one's
own.

    python examples/scenes_as_files.py photos
    czsl-sac check-data photos
    czsl-sac split photos
    czsl-sac train --preset scenes --dataset files --data-root photos --epochs 2
"""

import argparse
from pathlib import Path

import torch
from torchvision.transforms.functional import to_pil_image
from tqdm import tqdm

from czsl_sac import Scenes


def write_scenes(folder: Path, images_per_pair: int) -> int:
    """Write scenes of all 144 compositions and return the number of files.

    Args:
        folder: receives one folder `attribute_object` for each composition.
        images_per_pair: JPEG files in each of them.
    """
    scenes = Scenes(clutter=0.5)
    pairs = torch.arange(len(scenes.space))
    for number in tqdm(range(images_per_pair), desc="rounds"):
        places = number * len(pairs) + pairs
        for column, image in enumerate(scenes.draw(0, places, pairs).images):
            attribute, obj = scenes.space.pairs[column]
            path = folder / f"{attribute}_{obj}" / f"{number:03}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            to_pil_image(image).save(path, quality=90)
    return images_per_pair * len(pairs)


def main() -> None:
    """Read the command line and write the files."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images-per-pair", type=int, default=24)
    options = parser.parse_args()
    number = write_scenes(options.folder, options.images_per_pair)
    print(f"{number} files in {options.folder}")


if __name__ == "__main__":
    main()
