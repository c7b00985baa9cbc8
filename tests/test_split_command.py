"""czsl-sac split: a folder of images becomes a table that trains and that check-data accepts."""

import errno
import runpy
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from photographs import LOOK, write_folders, write_standard_layout
from PIL import Image, ImageDraw

from czsl_sac.cli import main
from czsl_sac.data import Scenes
from czsl_sac.data.near_duplicates import group_near_duplicates
from czsl_sac.data.scan import hashes_of, scan_images
from czsl_sac.data.sources.read import read_listing
from czsl_sac.data.splitting.listing import split_listing
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
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    assert main(["split", str(photos), "--overwrite"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"czsl-sac: error: the disk is full: {photos}/split.csv could not be wr")
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


def test_photographs_on_white_ground_are_not_all_one(tmp_path: Path) -> None:
    """Their difference hashes nearly agree, since they are white around much the same outline."""
    rng = np.random.default_rng(0)
    for attribute, obj in PAIRS:
        for number in range(12):
            noise = Image.fromarray(rng.integers(0, 160, (3, 3, 3), dtype=np.uint8))
            picture, outline = Image.new("RGB", (64, 64), "white"), Image.new("L", (64, 64))
            ImageDraw.Draw(outline).ellipse((20, 12, 44, 52), fill=255)
            picture.paste(noise.resize((64, 64), Image.Resampling.BICUBIC), (0, 0), outline)
            path = tmp_path / f"{attribute}_{obj}/{number:02}.png"
            path.parent.mkdir(exist_ok=True)
            picture.save(path)
    listing = read_listing(tmp_path)
    facts = scan_images(tmp_path, [entry.image for entry in listing.entries])
    hashes, looks = hashes_of(facts)
    assert np.bincount(group_near_duplicates(hashes, np.zeros_like(looks))).max() > 60  # of 108
    made = split_listing(listing)
    assert len(made.largest_group) < 10
    assert len(made.conflicting) < 4


def test_a_group_that_swallows_a_fifth_is_told_with_the_remedy(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(7):
        for obj in ("apple", "fig", "pear"):
            shutil.copy(photos / "green_fig/00.jpg", photos / f"ripe_{obj}/copy{number}.jpg")
    assert main(["split", str(photos)]) == 0
    told = capsys.readouterr().err
    assert "one group of near-duplicates holds 22 of 111 images, which all" not in told
    for number in range(7, 9):
        shutil.copy(photos / "green_fig/00.jpg", photos / f"ripe_fig/copy{number}.jpg")
    assert main(["split", str(photos), "--overwrite"]) == 0
    told = capsys.readouterr().err
    assert "czsl-sac: warning: one group of near-duplicates holds 24 of 113 images" in told
    assert "pass a smaller --near-duplicates (such as 4 or 0), or None to compare no images" in told


def test_check_data_says_that_split_will_refuse(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for attribute, obj in PAIRS:
        if attribute != "green" and obj != "fig":
            shutil.rmtree(photos / f"{attribute}_{obj}")
    assert main(["check-data", str(photos)]) == 1
    told = capsys.readouterr().out
    assert "ERROR: reasons for which czsl-sac split refuses these images (1)" in told
    assert main(["split", str(photos)]) == 2
    error = capsys.readouterr().err.removeprefix("czsl-sac: error: ").strip()
    assert error.startswith("of 5 compositions 1 can be unseen")
    assert f"  {error}\n" in told


def test_too_few_compositions_are_told_before_any_image_is_read(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in photos.iterdir():
        if folder.name != "green_fig":
            shutil.rmtree(folder)
    (photos / "green_fig/00.jpg").write_text("damaged")
    assert main(["split", str(photos)]) == 2
    assert "of 1 composition 0 can be unseen" in capsys.readouterr().err


def test_names_with_control_characters(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "green_fig").rename(photos / "d\x1b[31med_fig")
    assert main(["split", str(photos)]) == 0
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    assert ("d\x1b[31med", "fig") in ImageTable(photos, **LOOK).space.pairs
    (photos / "d\x1b[31med_fig/00.jpg").write_text("damaged")
    assert main(["split", str(photos), "--overwrite"]) == 2
    assert "(1): d\\x1b[31med_fig/00.jpg (no readable" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--out", "--outputs"])
def test_near_misses_of_output_are_suggested(
    photos: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["split", str(photos), option, "a.csv"]) == 2
    assert "did you mean --output?" in capsys.readouterr().err


def test_a_folder_with_a_split_of_its_own_is_not_split_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_standard_layout(tmp_path, {s: ["a b"] for s in ("train", "val", "test")}, [])
    assert main(["split", str(tmp_path)]) == 2
    assert "is in the standard layout, which has a split of its own" in capsys.readouterr().err
    assert main(["split", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: the path does not exist; give a folder" in capsys.readouterr().err
