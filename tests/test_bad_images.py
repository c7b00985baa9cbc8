"""A missing or damaged image: stops a run by its path, or is named, counted and left out."""

from pathlib import Path

import pandas as pd
import pytest
from photographs import LOOK, write_image
from torch.utils.data import DataLoader

from czsl_sac.cli import main
from czsl_sac.data.reading import UnreadableImageError
from czsl_sac.data.table import ImageTable

SPLITS = {
    ("ripe", "apple"): ["train"] * 6 + ["val", "test"],
    ("green", "fig"): ["train"] * 6 + ["val", "test"],
    ("ripe", "fig"): ["val"] * 6,
    ("green", "apple"): ["test"] * 6,
}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """28 images; one of training is cut short, one of test is missing."""
    rows = []
    for (attribute, obj), splits in SPLITS.items():
        for number, split in enumerate(splits):
            image = f"{attribute}_{obj}/{number}.jpg"
            write_image(tmp_path / image, len(rows))
            rows.append((image, attribute, obj, split))
    bad = tmp_path / "green_fig/3.jpg"
    bad.write_bytes(bad.read_bytes()[:-400])
    (tmp_path / "green_apple/5.jpg").unlink()
    path = tmp_path / "split.csv"
    pd.DataFrame(rows, columns=["image", "attribute", "object", "split"]).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_stops_with_the_path(table: Path, workers: int) -> None:
    loader = DataLoader(ImageTable(table, **LOOK).split("train"), 4, num_workers=workers)
    with pytest.raises(
        UnreadableImageError, match=r"green_fig/3.jpg is no readable image \(.*trun"
    ):
        list(loader)


def test_a_missing_image_is_told_from_a_damaged_one(table: Path) -> None:
    with pytest.raises(UnreadableImageError, match=r"green_apple/5.jpg is missing. czsl-sac check"):
        ImageTable(table, **LOOK).split("test")[7]


def test_a_folder_with_a_space_is_found_out(table: Path) -> None:
    folder = table.parent / "green_apple"
    folder.rename(folder.with_name("green apple"))
    with pytest.raises(
        UnreadableImageError, match=r"0.jpg is missing, but stands in .*green apple:"
    ):
        ImageTable(table, **LOOK).split("test")[2]


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_named_counted_and_left_out_on_request(table: Path, workers: int) -> None:
    with pytest.warns(UserWarning, match=r"2 of 28 images of .*split.csv cannot be read") as told:
        data = ImageTable(table, on_bad_image="skip", **LOOK)
    message = str(told[0].message)
    assert "green_fig/3.jpg (no readable image (image file is truncated" in message
    assert "green_apple/5.jpg (missing)" in message
    assert set(data.skipped) == {"green_fig/3.jpg", "green_apple/5.jpg"}
    assert [len(data.records[split]) for split in ("train", "val", "test")] == [11, 8, 7]
    loader = DataLoader(data.split("train"), 4, num_workers=workers)
    assert sum(len(targets) for _, targets in loader) == 11


def test_good_images_warn_of_nothing(table: Path, recwarn: pytest.WarningsRecorder) -> None:
    frame = pd.read_csv(table).drop(index=[11, 27])
    frame.to_csv(table, index=False)
    assert ImageTable(table, on_bad_image="skip", **LOOK).skipped == {}
    assert not recwarn.list


def test_a_composition_of_bad_images_alone_is_refused(table: Path) -> None:
    for path in (table.parent / "ripe_fig").iterdir():
        path.write_text("damaged")
    with (
        pytest.warns(UserWarning, match="8 of 28 images"),
        pytest.raises(ValueError, match=r"split.csv has no val image of an unseen composition"),
    ):
        ImageTable(table, on_bad_image="skip", **LOOK)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_training_says_it_in_one_line_and_goes_on_if_asked_to(
    table: Path, workers: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ["train", "--preset", "fruit-ripeness", "--dataset", "files", "--epochs", "1"]
    command += ["--data-root", str(table), "--num-workers", workers, "--no-condense"]
    command += ["--bank", "off", "--train-backbone", "none"]
    assert main([*command, "--run-dir", str(tmp_path / "stops")]) == 2
    last = capsys.readouterr().err.splitlines()[-1].rpartition("\r")[2]
    assert last.rpartition("czsl-sac: error: ")[2].startswith(f"{table.parent}/green_fig/3.jpg is ")
    assert "Traceback" not in last
    skip = ["--on-bad-image", "skip", "--run-dir", str(tmp_path / "goes_on")]
    assert main([*command, *skip]) == 0
    printed = capsys.readouterr()
    assert "czsl-sac: warning: 2 of 28 images of" in printed.err
    assert main(["evaluate", str(tmp_path / "goes_on")]) == 0
    assert "czsl-sac: warning: 2 of 28 images of" in capsys.readouterr().err
