"""czsl-sac split: a folder of images becomes a table that trains and that check-data accepts."""

import runpy
import shutil
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
from photographs import LOOK, write_folders
from PIL import Image

from czsl_sac.cli import main
from czsl_sac.data import Scenes
from czsl_sac.data.sources.read import read_listing
from czsl_sac.data.table import ImageTable

PAIRS = list(product(("green", "ripe", "rotten"), ("apple", "fig", "pear")))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_folders(tmp_path / "photos", PAIRS, 10)
    return tmp_path / "photos"


def test_a_folder_is_split_checked_and_read(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["split", str(photos)]) == 0
    told = capsys.readouterr().out
    assert told.startswith("90 images, 3 attributes × 3 objects, 9 compositions\n")
    assert f"Wrote {photos}/split.csv. To train on it: czsl-sac train --preset" in told
    assert [path.name for path in photos.iterdir() if path.is_file()] == ["split.csv"]
    assert main(["check-data", str(photos)]) == 0
    assert "0 notes." in capsys.readouterr().out
    counts = ImageTable(photos, **LOOK).counts()
    assert (counts["seen pairs"], counts["val unseen pairs"], counts["test unseen pairs"]) == (
        *(6, 1, 2),
    )
    assert counts["train images"] + counts["val images"] + counts["test images"] == 90


def test_the_seed_decides(photos: Path) -> None:
    tables = []
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        out = photos.parent / f"{name}.csv"
        assert main(["split", str(photos), "--seed", seed, "--output", str(out)]) == 0
        tables.append(out.read_text())
    assert tables[0] == tables[1] != tables[2]
    assert pd.read_csv(photos.parent / "a.csv")["image"][0].startswith("photos/green_apple/")
    assert len(ImageTable(photos.parent / "a.csv", **LOOK).split("val")[0]) == 2


def test_a_table_is_split_anew(photos: Path) -> None:
    rows = [(f"{a}_{o}/{n:02}.jpg", f"very {a}", o) for a, o in PAIRS for n in range(10)]
    pd.DataFrame(rows, columns=["image", "attribute", "object"]).to_csv(
        photos / "own.csv", index=False
    )
    assert main(["split", str(photos / "own.csv")]) == 0
    assert ImageTable(photos / "split.csv", **LOOK).space.attributes[0] == "very green"


def test_near_duplicates_stay_on_one_side(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for attribute, obj in PAIRS:  # every picture twice
        for path in sorted((photos / f"{attribute}_{obj}").iterdir()):
            shutil.copy(path, path.with_name(f"copy{path.name}"))
    assert main(["split", str(photos)]) == 0
    assert (
        "90 groups of near-duplicates stay together, the largest of 2 images."
        in capsys.readouterr().out
    )
    split = pd.read_csv(photos / "split.csv").set_index("image")["split"]
    assert len(split) == 180
    assert all(split[image] == split[image.replace("copy", "")] for image in split.index)
    assert main(["split", str(photos), "--near-duplicates", "None", "--overwrite"]) == 0
    split = pd.read_csv(photos / "split.csv").set_index("image")["split"]
    assert not all(split[image] == split[image.replace("copy", "")] for image in split.index)
    assert main(["check-data", str(photos)]) == 1


def test_a_table_that_is_there_stays(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "split.csv").write_text("mine")
    assert main(["split", str(photos)]) == 2
    assert "split.csv is already there: pass --overwrite to replace it" in capsys.readouterr().err
    assert (photos / "split.csv").read_text() == "mine"
    assert main(["split", str(photos), "--overwrite"]) == 0


def test_a_failed_write_leaves_the_old_table(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "split.csv").write_text("old")

    def full(self: pd.DataFrame, path: Path, **options: object) -> None:
        Path(path).write_text("half a")
        raise OSError("no space left")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    assert main(["split", str(photos), "--overwrite"]) == 2
    assert "no space left" in capsys.readouterr().err
    assert [p.read_text() for p in photos.iterdir() if p.is_file()] == ["old"]


def test_bad_images_stop_a_split_or_are_left_out(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "green_fig/03.jpg").write_text("damaged")
    assert main(["split", str(photos)]) == 2
    told = capsys.readouterr().err
    assert f"images of {photos} are missing or damaged (1): green_fig/03.jpg (no readable" in told
    assert "--on-bad-image skip" in told
    assert main(["split", str(photos), "--on-bad-image", "skip"]) == 0
    assert (
        "Left out because they cannot be read: 1 image, green_fig/03.jpg" in capsys.readouterr().out
    )
    assert len(pd.read_csv(photos / "split.csv")) == 89


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "split.txt"], "output is split.txt but must end in .csv"),
        (["--unseen-val", "0.9"], "unseen_val and unseen_test are 0.9 and 0.2 but must be above"),
        (["--seed", "-1"], "seed is -1 but must be at least 0: raise it"),
        (["--near-duplicates", "65"], "near_duplicates is 65 but must be at most 64: lower it"),
    ],
)
def test_a_wrong_request_is_one_line(
    arguments: list[str], message: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["split", str(photos), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (photos / "split.csv").exists()


def test_the_worked_example_writes_what_split_reads(tmp_path: Path) -> None:
    script = Path(__file__).parent.parent / "examples/scenes_as_files.py"
    write_scenes = runpy.run_path(str(script))["write_scenes"]
    assert write_scenes(tmp_path, 2) == 288
    listing = read_listing(tmp_path)
    assert (len(listing.entries), listing.problems) == (288, [])
    assert {entry.pair for entry in listing.entries} == set(Scenes().space.pairs)
    with Image.open(tmp_path / listing.entries[0].image) as image:
        assert (image.format, image.size) == ("JPEG", (64, 64))
