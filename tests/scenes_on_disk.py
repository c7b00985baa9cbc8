"""Generated scenes as files in the standard layout: a stand-in for the paper's data sets."""

from pathlib import Path

import torch
from torchvision.transforms.functional import to_pil_image

from czsl_sac import Scenes
from czsl_sac.data.protocol import SPLITS
from czsl_sac.data.sources.standard import METADATA, PAIR_LISTS


def write_scenes(root: Path, images_per_pair: int = 1) -> Path:
    """Write scenes with their own split, some images of each composition of a split."""
    scenes = Scenes(images_per_pair=images_per_pair, eval_images_per_pair=images_per_pair)
    (root / PAIR_LISTS).mkdir(parents=True)
    records = []
    for number, split in enumerate(SPLITS):
        targets = scenes.space.indices(scenes.pairs[split]).tolist() * images_per_pair
        drawn = scenes.draw(number, torch.arange(len(targets)), torch.tensor(targets)).images
        for place, (image, target) in enumerate(zip(drawn, targets, strict=True)):
            attribute, obj = scenes.space.pairs[target]
            path = root / "images" / f"{attribute}_{obj}" / f"{split}{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            to_pil_image(image).save(path)
            name = path.relative_to(root / "images").as_posix()
            records.append({"image": name, "attr": attribute, "obj": obj, "set": split})
        listed = {" ".join(scenes.space.pairs[target]) for target in targets}
        (root / PAIR_LISTS / f"{split}_pairs.txt").write_text("\n".join(sorted(listed)) + "\n")
    torch.save(records, root / METADATA)
    return root
