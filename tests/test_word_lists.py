"""Predictions without a run: CLIP as it comes on two lists of words."""

import csv
from pathlib import Path

import pytest
from tiny_runs import write_scenes

from czsl_sac.cli import main


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "attributes.txt").write_text("\ufeffred\n\nblue\nyellow\n", "utf-8")
    (tmp_path / "objects.txt").write_text("cat\nstar\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


GIVEN = ["--attributes", "attributes.txt", "--objects", "objects.txt", "--backbone", "tiny-patches"]


def compositions(path: Path, image: str) -> set[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return {
            f"{row['attribute']} {row['object']}"
            for row in csv.DictReader(file)
            if row["kind"] == "composition" and row["image"].endswith(image)
        }


def test_images_are_named_from_two_lists(words: Path) -> None:
    paths = write_scenes(words / "pictures", 2)
    given = ["predict", "pictures", *GIVEN, "--format", "csv", "--output", "out.csv"]
    assert main([*given, "--top-k", "6", "--heatmaps", "maps"]) == 0
    assert compositions(words / "out.csv", paths[0].name) == {
        f"{a} {o}" for a in ("red", "blue", "yellow") for o in ("cat", "star")
    }
    assert len(list((words / "maps").glob("*.png"))) == 2
    (words / "pairs.txt").write_text("red star\nblue cat\n", "utf-8")
    assert main([*given, "--candidates", "pairs.txt"]) == 0
    assert compositions(words / "out.csv", paths[0].name) == {"red star", "blue cat"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--objects": None}, "objects is missing but must be given with the other list of words"),
        ({"--objects": "none.txt"}, "none.txt"),
        ({"--objects": "empty.txt"}, "objects is empty but must name at least one"),
        ({"--objects": "alike.txt"}, "names that are read as the same words (1): objects 'Star'"),
        ({"--backbone": "tinny"}, "did you mean tiny?"),
        ({"--pairs": "pairs.txt"}, "--pairs is unknown: did you mean --candidates?"),
    ],
)
def test_a_wrong_request_is_one_line(
    change: dict[str, str | None],
    message: str,
    words: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_scenes(words / "pictures", 1)
    (words / "empty.txt").touch()
    (words / "alike.txt").write_text("Star\nstar\n", "utf-8")
    options = dict(zip(GIVEN[::2], GIVEN[1::2], strict=True)) | change
    given = [part for name, value in options.items() if value for part in (name, value)]
    assert main(["predict", "pictures", *given]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert message in told
