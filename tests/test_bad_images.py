"""A missing or damaged image: stops a run by its path, or is named, counted and left out."""

import struct
import subprocess
import sys
from pathlib import Path
from zlib import crc32

import numpy as np
import pandas as pd
import pytest
from photographs import LOOK, write_image, write_standard_layout
from PIL import ExifTags, Image
from torch.utils.data import DataLoader

from czsl_sac.cli import main
from czsl_sac.data.checks.data import check_data
from czsl_sac.data.image_data import ImageData
from czsl_sac.data.reading import UnreadableImageError, read_image
from czsl_sac.data.scan import scan_images
from czsl_sac.data.standard import StandardLayout
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


def gray16(path: Path, values: np.ndarray) -> Path:
    Image.fromarray(values.astype(np.uint16)).save(path)
    return path


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 257, 32896, 65535]] * 2)
    picture = read_image(gray16(tmp_path / f"a.{suffix}", values))
    assert (picture.mode, picture.size) == ("RGB", (4, 2))
    assert np.asarray(picture)[0].tolist() == [[v] * 3 for v in (0, 1, 128, 255)]


def test_twelve_bits_in_a_tiff_are_scaled_to_eight(tmp_path: Path) -> None:
    # 4 gray values of 12 bits in 6 bytes: 0, 0x800, 0xFFF, 0x010.
    rows = bytes([0x00, 0x08, 0x00, 0xFF, 0xF0, 0x10])
    tags = [(256, 4), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1)]
    tags += [(279, len(rows))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = struct.pack("<2sHI", b"II", 42, 8 + len(rows))
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    (tmp_path / "a.tif").write_bytes(head + rows + directory)
    assert np.asarray(read_image(tmp_path / "a.tif"))[0, :, 0].tolist() == [0, 128, 255, 1]


@pytest.mark.parametrize("values", [np.float32, np.int32])
def test_values_of_unknown_range_are_refused(tmp_path: Path, values: type) -> None:
    Image.fromarray(np.ones((4, 4), values)).save(tmp_path / "a.tif")
    with pytest.raises(
        UnreadableImageError, match=r"a.tif is no readable image \(32-bit int.* unkno"
    ):
        read_image(tmp_path / "a.tif")
    (fact,) = scan_images(tmp_path, ["a.tif"], decode=False)
    assert fact.problem is not None
    assert "unknown range: save it with 8 or 16 bits" in fact.problem


def test_check_data_reports_depths(table: Path) -> None:
    gray16(table.parent / "green_fig/3.jpg.png", np.arange(16).reshape(4, 4) * 4000)
    gray16(table.parent / "deep.png", np.arange(16).reshape(4, 4) * 4000)
    with table.open("a") as file:
        file.write("deep.png,green,fig,train\n")
    cases = {problem.title: problem.cases for problem in check_data(table).problems}
    assert cases["images with more than 8 bits a colour"] == ["deep.png (16 bits)"]


def test_orientation_is_followed_or_ignored(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 4), "red")
    picture.paste("blue", (0, 0, 4, 4))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # the camera was turned: rotate by 90° clockwise
    picture.save(tmp_path / "a.png", exif=exif)
    upright = read_image(tmp_path / "a.png")
    assert upright.size == (4, 8)
    assert (upright.getpixel((0, 0)), upright.getpixel((0, 7))) == ((0, 0, 255), (255, 0, 0))
    assert read_image(tmp_path / "a.png", exif="ignore").size == (8, 4)
    with pytest.raises(ValueError, match="exif is 'folow' but must be one of follow, ignore: did"):
        read_image(tmp_path / "a.png", exif="folow")  # type: ignore[arg-type]
    exif[ExifTags.Base.Orientation] = 6000
    picture.save(tmp_path / "b.png", exif=exif)
    assert read_image(tmp_path / "b.png").size == (8, 4)


def test_own_images_are_turned_and_the_benchmarks_are_not(table: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    half = Image.new("RGB", (32, 32), "white")
    half.paste("black", (0, 0, 32, 16))
    half.save(table.parent / "ripe_apple/0.jpg", exif=exif)

    def top(data: ImageData) -> float:
        return float(data.split("train")[0][0][:, 0].mean())

    assert top(ImageTable(table, **LOOK)) > 1 > -1 > top(ImageTable(table, exif="ignore", **LOOK))
    first, second = (ImageTable(table, exif=exif, **LOOK) for exif in ("follow", "ignore"))
    assert first.split("train").fingerprint() != second.split("train").fingerprint()
    pairs = {"train": ["a b", "c d"], "val": ["a b", "a d"], "test": ["a b", "c b"]}
    records = [(pair, split) for split, own in pairs.items() for pair in own]
    write_standard_layout(tmp_path / "layout", pairs, records)
    with pytest.warns(UserWarning, match="is not the cgqa"):
        cgqa = StandardLayout(tmp_path / "layout", name="cgqa", **LOOK)
    fruit = StandardLayout(tmp_path / "layout", name="fruit", **LOOK)
    assert (cgqa.exif, fruit.exif) == ("ignore", "follow")


def png_of_size(path: Path, width: int, height: int) -> None:
    """Write the start of a PNG: what is read of it before it is decoded."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = [header, b"IDAT"]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", crc32(c)) for c in chunks)
    )


@pytest.mark.parametrize("side", [13_000, 20_000])  # 169 megapixels; and over Pillow's own limit
def test_an_image_of_too_many_pixels_is_not_decoded(tmp_path: Path, side: int) -> None:
    png_of_size(tmp_path / "bomb.png", side, side)
    with pytest.raises(
        UnreadableImageError,
        match=r"bomb.png is an image of more than 120 megapixels, which is not decoded: scale it d",
    ):
        read_image(tmp_path / "bomb.png")


def test_a_large_photograph_warns_of_nothing(tmp_path: Path) -> None:
    png_of_size(tmp_path / "large.png", 11_656, 8_742)  # medium format
    code = f"""
from pathlib import Path
from czsl_sac.data.scan import scan_images
print(scan_images(Path({str(tmp_path)!r}), ["large.png"], decode=False)[0].problem)
"""  # in a process of its own: pytest resets what is said of warnings
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("None\n", "")


def test_a_palette_with_transparency_warns_of_nothing(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    write_image(tmp_path / "a.png", 3)
    palette = Image.open(tmp_path / "a.png").quantize(16)
    palette.save(tmp_path / "b.png", transparency=bytes(range(16)))
    assert read_image(tmp_path / "b.png").tobytes() == palette.convert("RGB").tobytes()
    assert not recwarn.list


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("folder", "is a folder, not an image"),
        ("empty.jpg", r"is no readable image \(empty\)"),
        ("text.jpg", r"is no readable image \(of no known format\)"),
        ("photo.jpg", "is missing, but photo.JPG is there: write small and capital letters alike"),
        ("a\0b.jpg", r"a\\x00b.jpg is no readable image \(its path holds a NUL character\)"),
        ("x" * 300, r"is no readable image \(file name too long\)"),
    ],
)
def test_why_a_file_is_no_image(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("text")
    write_image(tmp_path / "photo.JPG", 0, format="JPEG")
    with pytest.raises(UnreadableImageError, match=f"{reason}$"):
        read_image(tmp_path / name)
    assert [bool(fact.problem) for fact in scan_images(tmp_path, [name])] == [True]
