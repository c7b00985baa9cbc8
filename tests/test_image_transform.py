"""The transform of evaluation is torchvision's, without torchvision; the fast one is near it."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from czsl_sac.data.transforms import ImageTransform

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.mark.parametrize("size", [32, 33, 224])
@pytest.mark.parametrize(
    "shape", [(32, 32), (33, 32), (224, 224), (300, 260), (259, 701), (31, 17), (1000, 33)]
)
def test_it_is_torchvisions_to_the_last_bit(size: int, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
    expected = transforms.Compose(
        [
            transforms.Resize(size, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )(image)
    transform = ImageTransform(size, MEAN, STD)
    pixels = transform.pixels(image)
    assert torch.equal(transform.finish(pixels[None])[0], expected)
    near = ImageTransform(size, MEAN, STD, reader="torch").pixels(image)
    assert int((near.int() - pixels.int()).abs().max()) <= (1 if size <= min(shape) else 2)


def test_what_it_prints_says_all_that_it_does() -> None:
    transform = ImageTransform(8, MEAN, STD)
    changes = [{"image_size": 9}, {"mean": STD}, {"std": MEAN}, {"augment": True}]
    others = [replace(transform, **each) for each in (*changes, {"reader": "torch"})]
    assert len({repr(each) for each in (transform, *others)}) == 6


def test_the_built_in_clip_and_the_transform_load_without_torchs_compiler() -> None:
    code = """
        import sys
        from czsl_sac import load_backbone
        from czsl_sac.data.transforms import ImageTransform
        from PIL import Image
        backbone = load_backbone("tiny")
        look = (backbone.image_size, backbone.mean, backbone.std)
        transform = ImageTransform(*look, reader="torch")
        pixels = transform.pixels(Image.new("RGB", (70, 80)))
        backbone.encode_image(transform.finish(pixels[None]))
        slow = {"torch._dynamo", "torchvision", "pandas", "matplotlib", "scipy"}
        assert not slow & set(sys.modules), slow & set(sys.modules)
    """
    code = "\n".join(line.strip() for line in code.splitlines())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
