"""czsl-sac check-data: all faults are found at once; the exit code says if one spoils a result."""

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from photographs import LOOK, write_folders, write_image, write_standard_layout
from shared_data import SHARED, needs

from czsl_sac.cli import main
from czsl_sac.data.checks.data import check_data
from czsl_sac.data.sources.standard import METADATA, PAIR_LISTS
from czsl_sac.data.standard import StandardLayout

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
    with (root / PAIR_LISTS / f"{split}_pairs.txt").open("a") as file:
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
        "chance, in %        S       U     HM    AUC\n"
        "--------------  -----  ------  -----  -----\n"
        "val             50.00  100.00  33.47  25.00\n"
        "test            50.00  100.00  33.47  25.00\n\n"
        "val: 1 unseen composition has images, so U, HM and AUC say little: test at least 3.\n"
        "val: 2 images are of seen compositions: one moves S by 50.0 points, so test at least 50.\n"
        "val: 2 images are of unseen compositions: one moves U by 50.0 points, so test at least "
        "50.\n"
        "test: 1 unseen composition has images, so U, HM and AUC say little: test at least 3.\n"
        "test: 2 images are of seen compositions: one moves S by 50.0 points, so test at least "
        "50.\n"
        "test: 2 images are of unseen compositions: one moves U by 50.0 points, so test at least "
        "50.\n\n"
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
        "\nERROR: images missing or damaged (2)\n  ripe_apple/0.jpg (missing)\n  and 1 more\n"
        "  Restore them, drop them from the list, or train with --on-bad-image skip.\n"
    ) in told
    assert "\nERROR: unseen pairs in two lists, val_pairs.txt and test_pairs.txt (1)\n" in told
    assert "\nnote: pairs of a validation or test list without an image in that split (1)\n" in told
    assert told.endswith("2 kinds of problem would spoil a result; 1 note.\n")


def test_missing_and_damaged_images(root: Path) -> None:
    (root / "images/ripe_apple/0.jpg").unlink()
    cut = root / "images/ripe_apple/1.jpg"
    cut.write_bytes(cut.read_bytes()[:-400])
    (root / "images/unripe_fig/2.jpg").write_text("no image")
    ((title, (spoils, cases)),) = faults(root).items()
    assert (title, spoils, len(cases)) == ("images missing or damaged", True, 3)
    assert cases[0] == "ripe_apple/0.jpg (missing)"
    assert cases[1].startswith("ripe_apple/1.jpg (no readable image (image file is truncated")
    assert cases[2].startswith("unripe_fig/2.jpg (no readable image")
    assert len(faults(root, decode=False)[title][1]) == 2  # the header alone does not tell


def test_wrong_suffixes_and_files_in_no_list(root: Path) -> None:
    write_image(root / "images/ripe_apple/0.jpg", 0, format="PNG")
    write_image(root / "images/ripe_apple/new.jpg", 77)
    (root / "images/ripe_apple/notes.txt").touch()
    assert faults(root) == {
        "images with the wrong suffix": (False, ["ripe_apple/0.jpg (holds PNG)"]),
        "image files in no list": (False, ["ripe_apple/new.jpg"]),
        "files among the images without the suffix of an image": (
            *(False, ["ripe_apple/notes.txt"]),
        ),
    }


def test_records_of_no_list_and_without_a_label(root: Path) -> None:
    write_image(root / "images/a.jpg", 50)
    write_image(root / "images/b.jpg", 51)
    edit_records(root, ("a.jpg", "old", "fig", "test"), ("b.jpg", "NA", "fig", "test"))
    found = faults(root)
    assert found["images of a composition in no pair list"] == (*(False, ["a.jpg (old fig)"]),)
    assert found["images without attribute, object or split (NA)"] == (False, ["b.jpg"])


def test_pairs_without_images(root: Path) -> None:
    append(root, "train", "ripe fig")
    append(root, "test", "ripe apple")
    assert faults(root) == {
        "training pairs without a training image": (True, ["train: ripe fig"]),
        "pairs of a validation or test list without an image in that split": (
            *(False, ["test: ripe apple"]),
        ),
        "kinds of composition without an image in a split that is measured on both kinds": (
            *(True, ["val: unseen"]),
        ),
    }


def test_pairs_in_two_lists_or_twice_in_one(root: Path) -> None:
    write_image(root / "images/a.jpg", 50)
    append(root, "test", "ripe fig")
    append(root, "test", "ripe fig")
    edit_records(root, ("a.jpg", "ripe", "fig", "test"))
    assert faults(root) == {
        "unseen pairs in two lists, val_pairs.txt and test_pairs.txt": (True, ["ripe fig"]),
        "pairs twice in one list": (False, ["test: ripe fig"]),
    }


def test_records_outside_their_splits_pairs(root: Path) -> None:
    write_image(root / "images/a.jpg", 50)
    edit_records(root, ("a.jpg", "ripe", "fig", "train"))
    assert faults(root) == {
        "images with a split whose list, and the training list, lack their pair": (
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
    spoils, cases = found.pop("images in two splits")
    assert (spoils, len(cases), found) == (True, 8, {})
    assert "unripe_fig/2.jpg (test, train)" in cases
    table = root / "images/by_list.csv"
    columns = ["image", "attribute", "object", "split"]
    pd.DataFrame(by_list, columns=columns).to_csv(table, index=False)
    assert list(faults(table)) == ["images in two splits"]


def test_duplicates_across_splits(root: Path) -> None:
    images = root / "images"
    shutil.copy(images / "ripe_apple/0.jpg", images / "unripe_apple/10.jpg")
    write_image(images / "ripe_fig/6.jpg", 1, quality=50)  # that of training image 1, recompressed
    edit_records(root, ("ripe_apple/0.jpg", "ripe", "apple", "train"))
    assert faults(root) == {
        "byte-identical copies in two splits": (
            *(True, ["ripe_apple/0.jpg (train) = unripe_apple/10.jpg (test)"]),
        ),
        "near-duplicates of an image in an earlier split": (
            *(False, ["ripe_fig/6.jpg (val) ~ ripe_apple/1.jpg (train)"]),
        ),
        "images listed twice in one split": (False, ["ripe_apple/0.jpg (train)"]),
    }
    assert len(faults(root, max_distance=None)) == 2


def test_folders_with_spaces(root: Path) -> None:
    (root / "images/ripe_apple").rename(root / "images/ripe apple")
    found = faults(root)
    assert found["folders with spaces in their names"] == (False, ["ripe apple"])
    cases = found["images missing or damaged"][1]
    assert cases[0].startswith("ripe_apple/0.jpg (missing, but stands in")
    assert cases[0].endswith("images/ripe apple: write the folder's name with underscores)")


def test_names_that_training_never_has(root: Path) -> None:
    write_image(root / "images/a.jpg", 50)
    append(root, "test", "old kiwi")
    edit_records(root, ("a.jpg", "old", "kiwi", "test"))
    assert faults(root) == {
        "attributes of validation or test in no training composition": (True, ["old"]),
        "objects of validation or test in no training composition": (True, ["kiwi"]),
    }


def test_a_split_without_images(root: Path) -> None:
    for image in ("ripe_apple/4.jpg", "ripe_apple/5.jpg", "ripe_fig/6.jpg", "ripe_fig/7.jpg"):
        edit_records(root, drop=image)
    assert faults(root)["splits without an image"] == (True, ["val"])


def test_files_of_the_layout(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / METADATA).write_bytes(b"")
    (root / PAIR_LISTS / "val_pairs.txt").unlink()
    assert main(["check-data", str(root)]) == 1
    told = capsys.readouterr().out
    assert "ERROR: unreadable files of the layout (2)\n" in told
    assert "no pair list at" in told
    assert f"{METADATA} is damaged, or no file of torch.save" in told


def test_counts_of_table_7(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-data", str(root), "--dataset", "ut-zappos", "--examples", "2"]) == 0
    told = capsys.readouterr().out
    assert "note: counts that differ from those of ut-zappos in the paper's Tab. 7 (10)\n" in told
    assert "  attributes 2 instead of 16 (-14)\n" in told
    named = root.rename(root.with_name("cgqa"))
    assert main(["check-data", str(named)]) == 0
    assert "counts that differ from those of cgqa" in capsys.readouterr().out


def test_own_folders_and_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folders(tmp_path, [(a, o) for a in ("ripe", "raw") for o in ("apple", "fig", "nut")], 5)
    assert main(["check-data", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "30 images of 6 compositions, without a split: make one with czsl-sac split" in told
    (tmp_path / "very_ripe_apple").mkdir()
    (tmp_path / "t.csv").write_text("image,attribute,object\nripe_apple/00.jpg,ripe,\n")
    assert main(["check-data", str(tmp_path)]) == 1
    assert "ERROR: folders with several underscores" in capsys.readouterr().out
    assert main(["check-data", str(tmp_path / "t.csv")]) == 1
    told = capsys.readouterr().out
    assert "ERROR: rows without image, attribute or object (1)\n  row 2\n" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no data set at nowhere: the path does not exist; give"),
        (
            [".", "--near-duplicates", "65"],
            "near_duplicates is 65 but must be at most 64: lower it",
        ),
        ([".", "--examples", "-1"], "examples is -1 but must be at least 0: raise it"),
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
    assert "test            10.00  33.33  8.66   1.67" in told


def test_names_are_told_with_every_character_visible(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(root / "images/\x1b[2Jnew.jpg", 50)
    append(root, "train", "ri\u200bpe apple")
    append(root, "train", "\x1b[31mred apple")
    edit_records(root, ("gone\n1.jpg", "ripe", "apple", "train"))
    assert main(["check-data", str(root)]) == 1
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert "\u200b" not in told
    assert "image files in no list (1)\n  \\x1b[2Jnew.jpg\n" in told
    assert "names read as the same words (1)\n  attributes 'ripe' = 'ri\\u200bpe'\n" in told
    assert "names with characters that cannot be seen (2)\n  ri\\u200bpe\n" in told
    assert "images missing or damaged (1)\n  gone\\n1.jpg (missing)\n" in told
    with pytest.raises(ValueError, match=r"same words \(1\): attributes 'ripe' = 'ri\\u200bpe'"):
        StandardLayout(root, name="fruit", **LOOK)


def test_one_is_told_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folders(tmp_path, [("ripe", "apple")], 1)
    assert main(["check-data", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert told.startswith("1 image of 1 composition, without a split")
    assert "(1)\n  of 1 composition 0 can be unseen while every attribute and every obj" in told
    assert told.endswith("\n1 kind of problem would spoil a result; 0 notes.\n")


def test_an_empty_folder_is_no_sound_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-data", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert told.startswith(f"No image of {tmp_path} can be used.\n\nERROR: no image found (1)\n")


def test_neither_torch_nor_torchvision_is_loaded_for_own_images(tmp_path: Path) -> None:
    write_folders(tmp_path, [("ripe", "apple")], 1)
    code = f"""
import sys
from czsl_sac.cli import main
main(["check-data", {str(tmp_path)!r}])
print({{"torch", "torchvision"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\nset()\n")
