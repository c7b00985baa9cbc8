"""Cached features are those of the images, in training and evaluation, whatever happens to them."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import options_of
from torch.testing import assert_close
from two_processes import run_in_two_processes

from czsl_sac import Scenes, apply_lora, load_backbone
from czsl_sac.data.images import ImageDataset
from czsl_sac.data.transforms import ImageTransform
from czsl_sac.training import feature_file
from czsl_sac.training.config import (
    BackboneConfig,
    DataConfig,
    OptimConfig,
    TrainConfig,
)
from czsl_sac.training.feature_cache import FeatureCache
from czsl_sac.training.feature_file import FeatureFile
from czsl_sac.training.run import train
from czsl_sac.training.session import Session
from czsl_sac.training.trained import TrainedRun


def config(method: str, alignment: str, cache: Path | None) -> TrainConfig:
    own = {"sac": {"bank": "train", "prompt_dropout": 0.0}, "csp": {"prompt_dropout": 0.0}}
    return TrainConfig(
        data=DataConfig(images_per_pair=1, eval_images_per_pair=1, feature_cache=cache),
        backbone=BackboneConfig(train_backbone="none"),
        method=options_of(method, alignment=alignment, **own.get(method, {})),
        optim=OptimConfig(epochs=1, batch_size=16, lr=1e-2),
    )


def scenes() -> Scenes:
    return Scenes(images_per_pair=1, eval_images_per_pair=1)


def make(folder: Path, *, alone: bool = False, **options) -> FeatureCache:
    backbone = load_backbone("tiny").requires_grad_(False)
    return FeatureCache(scenes(), folder, backbone, Session(), class_token_alone=alone, **options)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(feature_file, "BLOCK", 10)


def blocks(folder: Path) -> np.ndarray:
    return np.load(folder / "blocks.npy", mmap_mode="r+")


@pytest.mark.parametrize("alone", [False, True])
def test_items_are_the_backbones_tokens(tmp_path, small_blocks, alone):
    cache = make(tmp_path, alone=alone)
    items, images = cache.split("val"), scenes().split("val")
    assert len(items) == len(images)
    with torch.no_grad():
        for index in (0, 9, 10, len(images) - 1, -1):
            image, target = images[index]
            tokens = cache._backbone.encode_image(image[None])
            assert items[index][1] == target
            assert_close(items[index][0], tokens[0, : 1 if alone else None], rtol=1e-4, atol=1e-5)
            again = cache._backbone.encode_image(items[index][0][None])
            assert torch.equal(again[0], items[index][0])
    with pytest.raises(IndexError, match="out of range for"):
        items[len(items)]
    assert torch.equal(cache.candidates("val"), scenes().candidates("val"))
    folders = list(tmp_path.iterdir())
    assert len(folders) == 1
    files = {path.name for path in folders[0].iterdir()}
    assert files == {"about.json", "blocks.npy", "targets.npy", "tokens.npy"}
    assert blocks(folders[0]).shape == (-(-len(images) // 10),)
    shape = (len(images), 1 if alone else 65, 128)
    assert np.load(folders[0] / "tokens.npy", mmap_mode="r").shape == shape
    about = json.loads((folders[0] / "about.json").read_text())
    assert (about["split"], about["tokens"]) == ("val", "class" if alone else "all")


def test_an_interrupted_pass_goes_on_and_a_finished_one_reads_no_image(
    tmp_path, small_blocks, monkeypatch
):
    cache = make(tmp_path)
    before = [item[0] for item in cache.split("val")]
    (folder,) = tmp_path.iterdir()
    blocks(folder)[1] = 0  # as if the pass had ended before the second block
    np.load(folder / "tokens.npy", mmap_mode="r+")[10:20] = 0
    encoded, encode = [], cache._backbone.encode_image
    cache._backbone.encode_image = lambda images: encoded.append(len(images)) or encode(images)
    cache.split("val")
    assert encoded == [10]
    assert all(torch.equal(a, b[0]) for a, b in zip(before, cache.split("val"), strict=True))
    monkeypatch.setattr(cache._backbone, "encode_image", None)
    cache.split("val")
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_other_weights_precision_or_images_are_other_features(tmp_path):
    make(tmp_path).split("val")
    make(tmp_path, precision="bf16").split("val")
    make(tmp_path, alone=True).split("val")
    other = make(tmp_path)
    with torch.no_grad():
        other._backbone.visual.proj += 0.1
    replaced = FeatureCache(
        scenes(), tmp_path, other._backbone, other._session, class_token_alone=False
    )
    replaced.split("val")
    for options, activation in (({}, "quick_gelu"), ({"patch_features": "value"}, "gelu")):
        changed = load_backbone("tiny", **options).requires_grad_(False)
        changed.config = replace(changed.config, activation=activation)
        session = other._session
        FeatureCache(scenes(), tmp_path, changed, session, class_token_alone=False).split("val")
    assert len(list(tmp_path.iterdir())) == 6


def test_fingerprints_of_image_files(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    look = ImageTransform(8, (0.5,) * 3, (0.2,) * 3)
    whole = ImageDataset(tmp_path, [("a.png", 0)], look)
    first = whole.fingerprint()
    assert first == ImageDataset(tmp_path, [("a.png", 0)], look).fingerprint()
    others = {
        ImageDataset(tmp_path, [("a.png", 1)], look).fingerprint(),
        ImageDataset(tmp_path, [("b.png", 0)], look).fingerprint(),
        ImageDataset(
            tmp_path, [("a.png", 0)], ImageTransform(8, (0.4,) * 3, (0.2,) * 3)
        ).fingerprint(),
    }
    os.utime(tmp_path / "a.png", ns=(1, 1))
    others.add(whole.fingerprint())
    assert len(others | {first}) == 5


@pytest.mark.parametrize(
    ("method", "alignment"),
    [("zero-shot", "cls"), ("csp", "cls"), ("coop", "patch_max"), ("sac", "patch_max")],
)
def test_a_run_on_cached_features_ends_as_one_on_images(tmp_path, method, alignment):
    plain = train(config(method, alignment, None), tmp_path / "plain")
    fast = train(config(method, alignment, tmp_path / "cache"), tmp_path / "fast")
    assert fast.test.auc == pytest.approx(plain.test.auc, abs=1e-3)
    for mine, theirs in zip(fast.records, plain.records, strict=True):
        assert mine["losses"] == pytest.approx(theirs["losses"], rel=1e-3)
    splits = {path.name.split("-")[0] for path in (tmp_path / "cache").iterdir()}
    assert splits == ({"test"} if method == "zero-shot" else {"train", "val", "test"})
    again = TrainedRun.load(tmp_path / "fast").evaluate()
    assert again.auc == pytest.approx(fast.test.auc, abs=1e-6)


LORA = BackboneConfig(lora_layers=(3, 2), lora_rank=4, lora_alpha=8.0)


@pytest.mark.parametrize(
    ("method", "backbone", "first"),
    [
        ("sac", LORA, 2),
        ("csp", replace(LORA, checkpoint_vision=True), 2),
        ("sac", BackboneConfig(train_backbone="adaptformer", adapter_layers=(1,)), 1),
        ("sac", BackboneConfig(train_backbone="last_block", patch_features="value"), 3),
    ],
)
def test_layers_below_the_first_that_learns_run_once(tmp_path, method, backbone, first):
    """States that enter the first trained layer take the images' place; all figures stay."""
    alignment = "cls" if method == "csp" else "patch_max"
    plain = replace(config(method, alignment, None), backbone=backbone)
    if backbone.train_backbone == "adaptformer":  # dropout draws other numbers for other shapes
        plain = replace(plain, backbone=replace(backbone, adapter_dropout=0.0))
    fast = replace(plain, data=replace(plain.data, feature_cache=tmp_path / "cache"))
    one, two = train(plain, tmp_path / "plain"), train(fast, tmp_path / "fast")
    assert two.test.auc == pytest.approx(one.test.auc, abs=1e-3)
    for mine, theirs in zip(two.records, one.records, strict=True):
        assert mine["losses"] == pytest.approx(theirs["losses"], rel=1e-3)
    folders = sorted((tmp_path / "cache").iterdir())
    assert [path.name.split("-")[0] for path in folders] == ["test", "train", "val"]
    for folder in folders:
        about = json.loads((folder / "about.json").read_text())
        assert about["tokens"] == f"states before layer {first}"
    run = TrainedRun.load(tmp_path / "fast")
    assert run.evaluate().auc == pytest.approx(two.test.auc, abs=1e-6)
    assert sorted((tmp_path / "cache").iterdir()) == folders  # the trained run's own features
    tower = run.method.backbone.visual
    assert tower.first_block == first
    image = scenes().split("test")[0][0][None]
    with torch.no_grad():
        state = tower.layer_states(image, [first - 1])[0]
        assert_close(tower(state), tower(image), rtol=1e-4, atol=1e-5)
        assert_close(run.data.split("test")[0][0], state[0], rtol=1e-4, atol=1e-5)
        with pytest.raises(ValueError, match=f"must be {first} or more: the states given"):
            tower.layer_states(state, [0, 3])


def test_a_layer_that_learns_below_is_refused(tmp_path):
    backbone = load_backbone("tiny").requires_grad_(False)
    apply_lora(backbone.visual, layers=[1, 3])
    for first, message in ((0, "below layer 4"), (2, "below layer 2"), (None, "below layer 4")):
        with pytest.raises(ValueError, match=message):
            FeatureCache(
                scenes(),
                tmp_path,
                backbone,
                Session(),
                class_token_alone=False,
                first_trained_layer=first,
            )
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_cached_is_refused(tmp_path):
    cache = make(tmp_path)
    with pytest.raises(ValueError, match="augment is True but a cache must hold the same images"):
        cache.split("train", augment=True)
    with pytest.raises(ValueError, match="has a vision tower that is trained"):
        FeatureCache(
            scenes(),
            tmp_path,
            apply_lora(load_backbone("tiny").requires_grad_(False)),
            Session(),
            class_token_alone=False,
        )
    good = config("csp", "cls", tmp_path)
    for change, message in (
        (
            {"backbone": BackboneConfig()},
            "an image: take lora_layers that leave out layer 0, or set train_backbone to none, or",
        ),
        ({"backbone": BackboneConfig(train_backbone="full")}, "image: set train_backbone to none"),
        ({"data": replace(good.data, augment=True)}, "turn augment off"),
        ({"method": options_of("dfsp")}, "DFSP reads inner states.*take another method, or"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(good, **change)
    assert TrainConfig.from_dict(good.to_dict()) == good
    backbone = load_backbone("tiny")
    for shape in ((2, 66, 128), (2, 7, 127)):
        with pytest.raises(ValueError, match=r"must be \[B, 3, 64, 64\], or tokens \[B, 1 to"):
            backbone.encode_image(torch.zeros(shape))


def encode_half(rank: int, folder: Path) -> None:
    """What each of two processes does: its share of the blocks, then all of them are there."""
    feature_file.BLOCK = 10
    written = []
    write = FeatureFile.write
    FeatureFile.write = lambda self, block, *rows: (
        written.append(block) or write(self, block, *rows)
    )
    items = make(folder / "two").split("val")
    torch.save((written, [items[i][1] for i in range(len(items))]), folder / f"{rank}.pt")


def test_two_processes_share_the_encoding(tmp_path, small_blocks):
    run_in_two_processes(encode_half, tmp_path)
    alone = make(tmp_path / "one").split("val")
    (one,), (two,) = ([*(tmp_path / name).iterdir()] for name in ("one", "two"))
    targets = [alone[i][1] for i in range(len(alone))]
    for rank in range(2):
        shared = [*range(len(blocks(one)))][rank::2]
        assert torch.load(tmp_path / f"{rank}.pt") == (shared, targets)
    mine, other = (np.load(folder / "tokens.npy") for folder in (one, two))
    np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["tokens", "targets", "blocks"])
@pytest.mark.parametrize("how", ["empty", "cut", "noise", "another shape", "a flipped bit"])
def test_a_damaged_file_is_named(tmp_path, small_blocks, name, how):
    make(tmp_path, alone=True).split("val")
    (folder,) = tmp_path.iterdir()
    path = folder / f"{name}.npy"
    content = bytearray(path.read_bytes())
    if how == "another shape":
        np.save(path, np.zeros((3, 2)))
    elif how == "a flipped bit":
        content[-1] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes({"empty": b"", "cut": content[:-8], "noise": b"x" * len(content)}[how])
    with pytest.raises(ValueError, match=rf"{folder.name}/\w+.npy is damaged.*delete .*made again"):
        make(tmp_path, alone=True).split("val")


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"the disk is full: .*tokens.npy could not be written"):
        make(tmp_path).split("val")
