"""The two ways that the open-world benchmark compares give one answer."""

from itertools import product
from pathlib import Path

import pytest
import torch
from evaluation_cases import evaluate, make_case

from benchmarks.open_world import (
    WAYS,
    FeatureData,
    Options,
    RandomFeatures,
    published_auc,
    read_splits,
)
from czsl_sac.space import CompositionSpace


def test_the_plain_way_and_the_chunks_agree() -> None:
    everything = list(product("abcdef", "uvwxyz"))
    splits = {"train": everything[::3], "val": everything[::2], "test": everything[1::2]}
    options = Options(images=200, dim=16, batch_size=32, training_images=60)
    data = FeatureData(splits, options.images, options.dim)
    method = RandomFeatures(data.space, options.dim, options.training_images)
    chunks, plain = (WAYS[way](method, data, options) for way in ("chunks", "plain"))
    assert chunks == pytest.approx(plain)
    assert 0.01 < chunks["auc"] < 0.95  # neither hopeless nor perfect


@pytest.mark.parametrize("seed", range(3))
def test_the_published_arithmetic_is_that_of_the_legacy_protocol(seed: int) -> None:
    space, _, scores, targets = make_case(seed, samples=200, world="open")
    auc, hm = published_auc(scores, targets, space.seen_mask)
    result = evaluate(space, None, scores, targets, protocol="legacy")
    assert (auc, hm) == pytest.approx((result.auc, result.hm), abs=1e-7)


def test_generated_pairs_have_the_sizes_of_cgqa(tmp_path: Path) -> None:
    splits, source = read_splits(tmp_path / "none")
    space = CompositionSpace.closed_world(**splits)
    assert source == "generated"
    assert (len(space.attributes), len(space.objects), len(space.seen)) == (413, 674, 5592)
    val, test = (torch.tensor(len(set(splits[name]) - set(space.seen))) for name in ("val", "test"))
    assert (int(val), int(test)) == (1040, 923)
