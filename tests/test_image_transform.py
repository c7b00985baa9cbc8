"""The transform of evaluation is torchvision's, without torchvision."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from czsl_sac.data.images import EvaluationTransform, image_transform

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
    assert torch.equal(image_transform(size, MEAN, STD)(image), expected)


def test_what_it_prints_says_all_that_it_does() -> None:
    transform = EvaluationTransform(8, MEAN, STD)
    others = [EvaluationTransform(9, MEAN, STD), EvaluationTransform(8, STD, STD)]
    others.append(EvaluationTransform(8, MEAN, MEAN))
    assert len({repr(each) for each in (transform, *others)}) == 4


def test_the_built_in_clip_and_the_transform_load_without_torchs_compiler() -> None:
    code = """
        import sys
        from czsl_sac import load_backbone
        from czsl_sac.data.images import image_transform
        from PIL import Image
        backbone = load_backbone("tiny")
        transform = image_transform(backbone.image_size, backbone.mean, backbone.std)
        backbone.encode_image(transform(Image.new("RGB", (70, 80)))[None])
        slow = {"torch._dynamo", "torchvision", "pandas", "matplotlib", "scipy"}
        assert not slow & set(sys.modules), slow & set(sys.modules)
    """
    code = "\n".join(line.strip() for line in code.splitlines())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
