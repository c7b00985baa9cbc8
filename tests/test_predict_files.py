"""`czsl-sac predict`: files that are no images, odd names, and streams that are full."""

import contextlib
import csv
import io
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image
from predicting import COUNT, of_the_command
from tiny_runs import scenes, tiny_run, write_scenes

from czsl_sac.cli import main
from czsl_sac.predict.formats import Format, write_predictions
from czsl_sac.predict.images import find_files
from czsl_sac.predict.run_predictor import RunPredictor
from czsl_sac.words import visible


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return write_scenes(tmp_path / "images", COUNT)


def test_files_that_are_no_images_are_reported_and_the_rest_goes_on(
    capsys: pytest.CaptureFixture[str], images: list[Path], tmp_path: Path
) -> None:
    folder = images[0].parent
    (folder / "notes.txt").write_text("no image", "utf-8")
    whole = images[1].read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / ".hidden").write_bytes(b"not looked at")
    output = tmp_path / "out.jsonl"
    arguments = [str(tiny_run()), str(folder), "nowhere/*.png", "--format", "jsonl"]
    assert main(["predict", *arguments, "--output", str(output), "--batch-size", "2"]) == 1
    said = capsys.readouterr().err
    assert "czsl-sac: nowhere/*.png matches no file" in said
    assert f"czsl-sac: {folder / 'notes.txt'} is no readable image" in said
    assert f"czsl-sac: {folder / 'cut.png'} is no readable image" in said
    assert f"{COUNT} images predicted; 3 could not be read" in said
    lines = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    assert [line["image"] for line in lines] == [str(path) for path in images]


def test_a_strip_is_refused_before_it_fills_the_memory(
    capsys: pytest.CaptureFixture[str], images: list[Path]
) -> None:
    strip = images[0].with_name("strip.png")
    Image.new("RGB", (30_000, 1)).save(strip)
    assert main(["predict", str(tiny_run()), str(images[0]), str(strip)]) == 1
    assert f"{strip} has sides of 30000 × 1: crop it" in capsys.readouterr().err


def test_a_warning_names_its_image(
    capsys: pytest.CaptureFixture[str], images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def warns(path: Path) -> Image.Image:
        if path == images[1]:
            warnings.warn("Corrupt EXIF data", stacklevel=1)
        return Image.open(path)

    monkeypatch.setattr("czsl_sac.predict.images.read_image", warns)
    assert main(["predict", str(tiny_run()), *map(str, images)]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "EXIF" in line]
    assert said == [f"czsl-sac: warning: {images[1]}: Corrupt EXIF data"]


def test_nothing_but_bad_files_is_a_mistake(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nonsense")
    output = tmp_path / "out.csv"
    arguments = ["predict", str(tiny_run()), str(bad), "--format", "csv", "--output", str(output)]
    assert main(arguments) == 2
    assert "1 file given, but none is an image that can be read" in capsys.readouterr().err
    assert not output.exists()


STRANGE = {
    "bytes that are no Unicode": os.fsdecode(b"cat\xff.png"),
    "a newline": "two\nlines.png",
    "what moves a cursor": "\x1b[2Jcat\u202e.png",
    "a line of Unicode's own": "two\u2028lines.png",
    "a comma and quotes": 'a,"b".png',
}


@pytest.mark.parametrize("name", STRANGE.values(), ids=STRANGE)
@pytest.mark.parametrize("format", ["jsonl", "csv", "table"])
def test_no_file_name_costs_the_output_of_the_others(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, format: str
) -> None:
    first, last = write_scenes(tmp_path / "images", 2)
    strange = first.rename(first.with_name(name))
    output = tmp_path / "predictions"
    arguments = [str(tiny_run()), str(strange), str(last), "--format", format]
    assert main(["predict", *arguments, "--output", str(output)]) == 0
    capsys.readouterr()
    text = output.read_bytes().decode("utf-8")  # whatever the names are
    if format == "jsonl":
        assert [json.loads(line)["image"] for line in text.splitlines()] == [
            str(strange),
            str(last),
        ]
    elif format == "csv":
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        names = list(dict.fromkeys(row["image"] for row in rows))
        assert names == [str(strange).replace("\udcff", "\\udcff"), str(last)]
    else:
        assert [line.split("  ")[0] for line in text.splitlines() if ".png" in line] == [
            visible(strange),
            str(last),
        ]
        assert all(character.isprintable() for character in text.replace("\n", ""))


def test_a_problem_is_named_without_control_characters(
    capsys: pytest.CaptureFixture[str], images: list[Path]
) -> None:
    bad = images[0].with_name("\x1b[2J\n.png")
    bad.write_bytes(b"nonsense")
    assert main(["predict", str(tiny_run()), str(images[0]), str(bad)]) == 1
    said = capsys.readouterr().err
    assert "\\x1b[2J\\n.png is no readable image" in said
    assert "\x1b" not in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
@pytest.mark.parametrize("format", ["jsonl", "csv", "table"])
def test_a_full_disk_is_met_while_there_is_somebody_to_tell(
    images: list[Path], format: Format
) -> None:
    predictor = RunPredictor(of_the_command())
    full = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115, closing it fails
    with pytest.raises(OSError, match="No space left"):
        write_predictions(predictor.predict(images[:1]), format, full)
    with contextlib.suppress(OSError):
        full.close()


def test_an_image_that_is_given_twice_is_predicted_twice(images: list[Path]) -> None:
    predictor = RunPredictor(of_the_command())
    (batch,) = predictor.batches([images[0], images[0]])
    assert batch.paths == [images[0], images[0]]
    assert torch.equal(batch.probabilities[0], batch.probabilities[1])


def test_names_stand_for_files_folders_and_patterns(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    for path in (deep / "2.png", tmp_path / "a" / "1.png", tmp_path / "[x].png"):
        path.touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "a" / "Thumbs.db").touch()
    (tmp_path / "a" / "__MACOSX").mkdir()
    (tmp_path / "a" / "__MACOSX" / "1.png").touch()
    os.mkfifo(tmp_path / "pipe")

    def found(*names: str) -> list[str]:
        files, _ = find_files([f"{tmp_path}/{name}" for name in names])
        return [str(file.relative_to(tmp_path)) for file in files]

    assert found("a") == found("a/[1b]*") == ["a/1.png", "a/b/2.png"]
    assert found("a/b*") == ["a/b/2.png"]  # a folder that matches stands for its files
    assert found("[x].png") == ["[x].png"]
    assert found("a/b/2.png", "a") == ["a/b/2.png", "a/1.png"]
    wrong = {
        "empty": "empty holds no file",
        "pipe": "pipe is no regular file",
        "a\\b\\2.png": "a\\b\\2.png is missing: folders are parted by / here",
        "b/c/1.png": f"b/c/1.png is missing: there is no folder {tmp_path}/b",
    }
    for name, problem in wrong.items():
        assert find_files([f"{tmp_path}/{name}"]) == ([], [f"{tmp_path}/{problem}"])


def test_photographs_are_cropped_as_the_test_images_are(tmp_path: Path) -> None:
    wide = tmp_path / "wide.jpg"
    Image.new("L", (300, 128), 200).save(wide)
    predictor = RunPredictor(of_the_command())
    (batch,) = predictor.batches([wide])
    assert batch.images.shape == (1, 3, 64, 64)
    mean, std = (torch.tensor(v) for v in (scenes().mean, scenes().std))
    torch.testing.assert_close(batch.images[0, :, 30, 30], (200 / 255 - mean) / std)


def test_control_characters_in_a_mistake_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "no\x1b[2Jrun", "x.png"]) == 2
    assert main(["predict", str(tiny_run()), "no\x1b[2Jimage"]) == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert said.count("no\\x1b[2J") >= 1


def test_a_reader_that_has_read_enough_is_no_mistake() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "czsl_sac", "--help"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
@pytest.mark.parametrize("asked", [["--help"], ["split", "--help"]])
def test_a_full_standard_output_is_one_sentence(asked: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "czsl_sac", *asked]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert done.stderr == b"czsl-sac: error: [Errno 28] No space left on device\n"
