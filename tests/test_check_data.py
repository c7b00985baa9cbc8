"""czsl-sac check-data: all faults are found at once; the exit code says if one spoils a result."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from photographs import write_folders, write_image, write_standard_layout
from shared_data import SHARED, needs

from czsl_sac.cli import main
from czsl_sac.data.checks.checks import check_data
from czsl_sac.data.standard import METADATA, SPLIT

PAIRS = {
    "train": ["ripe apple", "unripe fig"],
    "val": ["ripe apple", "ripe fig"],
    "test": ["unripe fig", "unripe apple"],
}
RECORDS = [(pair, split) for split, pairs in PAIRS.items() for pair in pairs for _ in range(2)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The standard layout without a fault: 12 images."""
    write_standard_layout(tmp_path / "data", PAIRS, RECORDS)
    return tmp_path / "data"


def edit_records(root: Path, *added: tuple[str, str, str, str], drop: str = "-") -> None:
    records = torch.load(root / METADATA, weights_only=True)
    records = [record for record in records if record["image"] != drop]
    keys = ("image", "attr", "obj", "set")
    records += [dict(zip(keys, record, strict=True)) for record in added]
    torch.save(records, root / METADATA)


def append(root: Path, split: str, pair: str) -> None:
    with (root / SPLIT / f"{split}_pairs.txt").open("a") as file:
        file.write(f"{pair}\n")


def faults(source: Path, **options: object) -> dict[str, tuple[bool, list[str]]]:
    """What check_data found: title -> (whether it spoils, cases)."""
    problems = check_data(source, **options).problems  # type: ignore[arg-type]
    return {problem.title: (problem.spoils, list(problem.cases)) for problem in problems}


def test_a_sound_data_set_has_no_fault(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-data", str(root)]) == 0
    assert capsys.readouterr().out == (
        "12 images, 2 attributes × 2 objects, 4 compositions\n\n"
        "split      seen compositions    their images    unseen compositions    their images\n"
        "-------  -------------------  --------------  ---------------------  --------------\n"
        "train                      2               4                      0               0\n"
        "val                        1               2                      1               2\n"
        "test                       1               2                      1               2\n\n"
        "Nothing found that would spoil a result; 0 notes.\n"
    )


def test_all_faults_are_told_at_once_with_remedies(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (0, 1):
        (root / f"images/ripe_apple/{number}.jpg").unlink()
    append(root, "val", "unripe apple")
    assert main(["check-data", str(root), "--examples", "1"]) == 1
    told = capsys.readouterr().out
    assert (
        "\nERROR: 2 images are missing or damaged\n  ripe_apple/0.jpg (missing)\n  and 1 more\n"
        "  Restore them, drop them from the list, or train with --on-bad-image skip.\n"
    ) in told
    assert "\nERROR: 1 unseen pairs stand in two lists, val_pairs.txt and test_pairs.txt\n" in told
    assert "\nnote: 1 pairs of a validation or test list have no image in that split\n" in told
    assert told.endswith("2 kinds of problem would spoil a result; 1 notes.\n")


def test_missing_and_damaged_images(root: Path) -> None:
    (root / "images/ripe_apple/0.jpg").unlink()
    cut = root / "images/ripe_apple/1.jpg"
    cut.write_bytes(cut.read_bytes()[:-400])
    (root / "images/unripe_fig/2.jpg").write_text("no image")
    ((title, (spoils, cases)),) = faults(root).items()
    assert (title, spoils, len(cases)) == ("images are missing or damaged", True, 3)
    assert cases[0] == "ripe_apple/0.jpg (missing)"
    assert cases[1].startswith("ripe_apple/1.jpg (no readable image (image file is truncated")
    assert cases[2].startswith("unripe_fig/2.jpg (no readable image")
    assert len(faults(root, decode=False)[title][1]) == 2  # the header alone does not tell


def test_wrong_suffixes_and_files_in_no_list(root: Path) -> None:
    write_image(root / "images/ripe_apple/0.jpg", 0, format="PNG")
    write_image(root / "images/ripe_apple/new.jpg", 77)
    (root / "images/ripe_apple/Thumbs.db").touch()
    assert faults(root) == {
        "images have the wrong suffix": (False, ["ripe_apple/0.jpg (holds PNG)"]),
        "image files are in no list": (False, ["ripe_apple/new.jpg"]),
        "files among the images have no suffix of an image": (False, ["ripe_apple/Thumbs.db"]),
    }


def test_records_of_no_list_and_without_a_label(root: Path) -> None:
    write_image(root / "images/a.jpg", 50)
    write_image(root / "images/b.jpg", 51)
    edit_records(root, ("a.jpg", "old", "fig", "test"), ("b.jpg", "NA", "fig", "test"))
    found = faults(root)
    assert found["images are of a composition that stands in no pair list"] == (
        *(False, ["a.jpg (old fig)"]),
    )
    assert found["images have no attribute, object or split (NA)"] == (False, ["b.jpg"])


def test_pairs_without_images(root: Path) -> None:
    append(root, "train", "ripe fig")
    append(root, "test", "ripe apple")
    assert faults(root) == {
        "training pairs have no training image": (True, ["train: ripe fig"]),
        "pairs of a validation or test list have no image in that split": (
            *(False, ["test: ripe apple"]),
        ),
        "kinds of composition have no image in a split that is measured on both kinds": (
            *(True, ["val: unseen"]),
        ),
    }


def test_pairs_in_two_lists_or_twice_in_one(root: Path) -> None:
    write_image(root / "images/a.jpg", 50)
    append(root, "test", "ripe fig")
    append(root, "test", "ripe fig")
    edit_records(root, ("a.jpg", "ripe", "fig", "test"))
    assert faults(root) == {
        "unseen pairs stand in two lists, val_pairs.txt and test_pairs.txt": (True, ["ripe fig"]),
        "pairs stand twice in one list": (False, ["test: ripe fig"]),
    }


def test_records_outside_their_splits_pairs(root: Path) -> None:
    write_image(root / "images/a.jpg", 50)
    edit_records(root, ("a.jpg", "ripe", "fig", "train"))
    assert faults(root) == {
        "images have a split whose list, and the training list, lack their pair": (
            *(True, ["a.jpg (ripe fig in train)"]),
        )
    }


def test_the_trap_of_splitting_by_pair_lists(root: Path) -> None:
    """Every image of a pair goes to each split whose list holds it: test sees training images."""
    records = torch.load(root / METADATA, weights_only=True)
    by_list = [
        (record["image"], record["attr"], record["obj"], split)
        for record in records
        for split, pairs in PAIRS.items()
        if f"{record['attr']} {record['obj']}" in pairs
    ]
    torch.save([], root / METADATA)
    edit_records(root, *by_list)
    found = faults(root)
    spoils, cases = found.pop("images stand in two splits")
    assert (spoils, len(cases), found) == (True, 8, {})
    assert "unripe_fig/2.jpg (test, train)" in cases
    table = root / "images/by_list.csv"
    columns = ["image", "attribute", "object", "split"]
    pd.DataFrame(by_list, columns=columns).to_csv(table, index=False)
    assert list(faults(table)) == ["images stand in two splits"]


def test_duplicates_across_splits(root: Path) -> None:
    images = root / "images"
    shutil.copy(images / "ripe_apple/0.jpg", images / "unripe_apple/10.jpg")
    write_image(images / "ripe_fig/6.jpg", 1, quality=50)  # that of training image 1, recompressed
    edit_records(root, ("ripe_apple/0.jpg", "ripe", "apple", "train"))
    assert faults(root) == {
        "images stand in two splits as byte-identical copies": (
            *(True, ["ripe_apple/0.jpg (train) = unripe_apple/10.jpg (test)"]),
        ),
        "images have a near-duplicate in an earlier split (at most 8 of 64 bits of the difference "
        "hash differ)": (False, ["ripe_fig/6.jpg (val) ~ ripe_apple/1.jpg (train)"]),
        "images are listed twice in one split": (False, ["ripe_apple/0.jpg (train)"]),
    }
    assert len(faults(root, max_distance=None)) == 2


def test_folders_with_spaces(root: Path) -> None:
    (root / "images/ripe_apple").rename(root / "images/ripe apple")
    found = faults(root)
    assert found["folders have spaces in their names"] == (False, ["ripe apple"])
    cases = found["images are missing or damaged"][1]
    assert cases[0].startswith("ripe_apple/0.jpg (missing, but stands in")
    assert cases[0].endswith("images/ripe apple: write the folder's name with underscores)")


def test_names_that_training_never_has(root: Path) -> None:
    write_image(root / "images/a.jpg", 50)
    append(root, "test", "old kiwi")
    edit_records(root, ("a.jpg", "old", "kiwi", "test"))
    assert faults(root) == {
        "attributes of validation or test stand in no training composition": (True, ["old"]),
        "objects of validation or test stand in no training composition": (True, ["kiwi"]),
    }


def test_a_split_without_images(root: Path) -> None:
    for image in ("ripe_apple/4.jpg", "ripe_apple/5.jpg", "ripe_fig/6.jpg", "ripe_fig/7.jpg"):
        edit_records(root, drop=image)
    assert faults(root)["splits have no image"] == (True, ["val"])


def test_files_of_the_layout(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / METADATA).write_bytes(b"")
    (root / SPLIT / "val_pairs.txt").unlink()
    assert main(["check-data", str(root)]) == 1
    told = capsys.readouterr().out
    assert "ERROR: 2 files of the layout cannot be read\n" in told
    assert "no pair list at" in told
    assert f"{METADATA} cannot be read (EOFError)" in told


def test_counts_of_table_7(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-data", str(root), "--dataset", "ut-zappos", "--examples", "2"]) == 0
    told = capsys.readouterr().out
    assert "note: 10 counts differ from those of ut-zappos in the paper's Tab. 7\n" in told
    assert "  attributes 2 instead of 16 (-14)\n" in told
    named = root.rename(root.with_name("cgqa"))
    assert main(["check-data", str(named)]) == 0
    assert "counts differ from those of cgqa" in capsys.readouterr().out


def test_own_folders_and_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folders(tmp_path, [("ripe", "apple"), ("ripe", "fig")], 2)
    assert main(["check-data", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "4 images of 2 compositions, without a split: make one with czsl-sac split" in told
    (tmp_path / "very_ripe_apple").mkdir()
    (tmp_path / "t.csv").write_text("image,attribute,object\nripe_apple/00.jpg,ripe,\n")
    assert main(["check-data", str(tmp_path)]) == 1
    assert "ERROR: 1 folders have several underscores" in capsys.readouterr().out
    assert main(["check-data", str(tmp_path / "t.csv")]) == 1
    assert "ERROR: 1 rows lack image, attribute or object\n  row 2\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no data set at nowhere: give a folder"),
        ([".", "--near-duplicates", "65"], "near_duplicates must be at most 64, got 65"),
        ([".", "--examples", "-1"], "examples must be at least 0, got -1"),
        ([], "Missing from czsl-sac check-data: PATH Folder in the standard layout"),
    ],
)
def test_a_wrong_request_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-data", *arguments]) == 2
    assert message in capsys.readouterr().err


@needs("fruit-ripeness")
def test_real_photographs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-data", str(SHARED / "fruit-ripeness")]) == 0
    told = capsys.readouterr().out
    assert "2543 images, 3 attributes × 5 objects, 15 compositions" in told
    # Their near-duplicates were parted at full size; three pairs differ at 128 pixels.
    assert "note: 3 images have a near-duplicate in an earlier split" in told
