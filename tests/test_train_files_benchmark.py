"""Training from image files: every way hands over the same pixels, and its rate is what it says."""

from pathlib import Path

import pytest
import torch
from test_train_step_benchmark import CASE, SMALL

from benchmarks import loading, train_files, train_step
from benchmarks.loading import write_files
from benchmarks.train_files import STEP, Options, Published, measure, time_epoch, ways


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(train_step, "VIT_L_14", SMALL)
    monkeypatch.setitem(train_step.CASES, train_files.CASE, CASE)
    for module in (loading, train_files):
        monkeypatch.setattr(module, "SIZE", SMALL.image_size)
    train_step.random_clip.cache_clear()
    yield Options(files=3, size=(32, 24), batch=2, steps=2, warmup=1, device="cpu")
    train_step.random_clip.cache_clear()


def test_the_published_way_and_ours_give_the_same_images(small: Options, tmp_path: Path) -> None:
    paths = [str(path) for path in write_files(tmp_path, small.files, small.size)]
    found = {name: list(make()) for name, make in ways(paths, small).items()}
    assert all(len(batches) >= small.warmup + small.steps for batches in found.values())
    given = {  # by target, for each way has its own order
        name: {
            int(t): image
            for images, targets in batches
            for image, t in zip(images, targets, strict=True)
        }
        for name, batches in found.items()
    }
    alone = next(name for name in given if name.startswith("pil"))
    published = next(name for name in given if name.startswith("published"))
    assert given[alone].keys() == given[published].keys()
    for target, image in given[alone].items():
        torch.testing.assert_close(image, given[published][target])
    assert Published(paths, [0, 1, 2], augment=False)[1][1] == 1


def test_rows_compare_each_way_with_the_step_alone(small: Options, tmp_path: Path) -> None:
    paths = [str(path) for path in write_files(tmp_path, small.files, small.size)]
    rows = measure(paths, small)
    assert rows[0]["way"] == STEP
    assert float(rows[0]["to_step_alone"]) == 1
    for row in rows:
        slower = float(rows[0]["images_per_s"]) / float(row["images_per_s"])
        assert float(row["to_step_alone"]) == pytest.approx(slower, rel=0.02)


def test_too_few_batches_are_no_time(small: Options) -> None:
    batch = torch.zeros(2, 3, 4, 4), torch.zeros(2)
    with pytest.raises(RuntimeError, match="there were 2 batches, too few to time 2 steps"):
        time_epoch([batch] * 2, lambda images, targets: None, small)
