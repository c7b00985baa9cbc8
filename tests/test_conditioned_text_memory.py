"""Texts of every image and composition, [B, C, D], are never held: not at test, not in training."""

import itertools

import pytest
from plain_parts import batch, random_backbone
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from czsl_sac import DFSP, Troika
from czsl_sac.methods.base import CZSLMethod
from czsl_sac.space import CompositionSpace

IMAGES, WORDS, DIM = 12, 24, 64
SPACE = CompositionSpace.closed_world(
    train=list(itertools.product([f"a{i}" for i in range(WORDS)], [f"o{i}" for i in range(WORDS)]))
)
ALL_TEXTS = IMAGES * len(SPACE) * DIM


class Largest(TorchDispatchMode):
    """Records the entries of the largest tensor that any operation returns."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.entries = max([self.entries, *sizes])
        return result


def make(method: type[CZSLMethod], alignment: str, chunk_size: int) -> CZSLMethod:
    options = {"fusion": "img2txt"} if method is DFSP else {"traction_layers": 1}
    backbone = random_backbone(dim=DIM).float()
    return method(backbone, SPACE, alignment=alignment, chunk_size=chunk_size, **options)


def largest_in_prediction(model: CZSLMethod) -> int:
    images, _ = batch(model.backbone, SPACE, IMAGES)
    predict = model.eval().predictor(SPACE)
    with Largest() as largest:
        predict(images.float())
    return largest.entries


def largest_in_training(model: CZSLMethod) -> int:
    images, targets = batch(model.backbone, SPACE, IMAGES)
    with Largest() as largest:
        model(images.float(), targets, "train")["total"].backward()
    return largest.entries


@pytest.mark.parametrize("method", [Troika, DFSP])
@pytest.mark.parametrize("alignment", ["cls", "patch_max"])
@pytest.mark.parametrize("largest", [largest_in_prediction, largest_in_training])
def test_no_tensor_comes_near_all_texts(method, alignment, largest) -> None:
    # What is left grows with C·D (the text table), B·C (the scores) or, in DFSP's fusion, B times
    # the number of words: not with B·C·D.
    assert largest(make(method, alignment, chunk_size=16)) < ALL_TEXTS / 4
    assert largest(make(method, alignment, chunk_size=len(SPACE))) >= ALL_TEXTS
