"""czsl-sac prepare: unpacked downloads and the archive of the splits become the standard layout."""

import io
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from photographs import LOOK, write_image

from czsl_sac.cli import main
from czsl_sac.data.counts import TAB7_COUNTS
from czsl_sac.data.sources.standard import METADATA, PAIR_LISTS, read_pairs
from czsl_sac.data.standard import StandardLayout

LISTS = Path(__file__).parents[1].parent / "shared/data/splits/ut-zappos"

PAIRS = {
    "train": ["Faux.Fur Boots", "Suede Heels"],
    "val": ["Faux.Fur Boots", "Suede Boots"],
    "test": ["Suede Heels", "Faux.Fur Heels"],
}


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def write_archive(path: Path) -> list[dict[str, str]]:
    """Write the archive of the splits with two data sets and a hostile member; return records."""
    records = []
    for split, listed in PAIRS.items():
        for pair in listed:
            attribute, obj = pair.split()
            number = len(records)
            records.append(
                {
                    "image": f"{attribute}_{obj}/{number}.jpg",
                    "_image": f"{obj}/A. Maker/{number}.jpg",
                    "attr": attribute,
                    "obj": obj,
                    "set": split,
                }
            )
    metadata = io.BytesIO()
    torch.save(records, metadata)
    with tarfile.open(path, "w:gz") as archive:
        for folder in ("ut-zap50k", "mit-states"):
            top = f"compositional_split_natural/{folder}"
            add(archive, f"{top}/{METADATA}", metadata.getvalue())
            for split, listed in PAIRS.items():
                text = "\n".join(listed).encode()
                add(archive, f"{top}/{PAIR_LISTS}/{split}_pairs.txt", text)
        add(archive, "../evil.txt", b"evil")
    return records


def test_shoes_by_category_are_linked_by_composition(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = write_archive(tmp_path / "splits.tar.gz")
    root = tmp_path / "shoes"
    for number, record in enumerate(records):
        write_image(root / "ut-zap50k-images" / record["_image"], number)
    command = ["prepare", "ut-zappos", str(root), "--splits", str(tmp_path / "splits.tar.gz")]
    assert main(command) == 1  # 6 images are not all of Tab. 7's
    told = capsys.readouterr().out
    assert "Linked 6 images into folders attribute_object in images/.\n" in told
    assert "6 images, 2 attributes × 2 objects, 4 compositions\n" in told
    assert "Missing" not in told
    assert "Not the ut-zappos of the paper's Tab. 7: attributes 2 instead of 16 (-14);" in told
    for record in records:
        original = root / "ut-zap50k-images" / record["_image"]
        assert (root / "images" / record["image"]).read_bytes() == original.read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"shoes", "splits.tar.gz"}  # nothing evil
    assert StandardLayout(root, name="shoes", **LOOK).split("test")[0][0].shape == (3, 32, 32)
    (root / "images/Suede_Boots/3.jpg").unlink()  # as if it had been interrupted
    assert main(command) == 1
    assert "Linked 1 image into" in capsys.readouterr().out
    (root / "ut-zap50k-images/Boots/A. Maker/3.jpg").unlink()
    (root / "images/Suede_Boots/3.jpg").unlink()
    assert main(command[:3]) == 1
    assert "\nMissing: 1 image, Suede_Boots/3.jpg.\n" in capsys.readouterr().out


def test_folders_with_spaces_get_underscores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = write_archive(tmp_path / "splits.tar.gz")
    root = tmp_path / "states"
    for number, record in enumerate(records):
        spaced = record["image"].replace("_", " ")
        write_image(root / "release_dataset/images" / spaced, number)
    command = ["prepare", "mit-states", str(root), "--splits", str(tmp_path / "splits.tar.gz")]
    assert main(command) == 1
    told = capsys.readouterr().out
    assert "Moved release_dataset/images/ to images/.\n" in told
    assert "Wrote underscores for spaces in the names of 4 folders: Faux.Fur Boots, Faux" in told
    assert "Missing" not in told
    assert main(command) == 1
    assert "Moved" not in capsys.readouterr().out


@pytest.mark.skipif(not LISTS.is_dir(), reason="the pair lists are not on this machine")
def test_a_whole_data_set_is_said_to_be_that_of_table_7(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(LISTS, tmp_path / PAIR_LISTS)
    records = []
    for split in ("train", "val", "test"):
        pairs = read_pairs(LISTS / f"{split}_pairs.txt")
        for number in range(TAB7_COUNTS["ut-zappos"][f"{split} images"]):
            attribute, obj = pairs[number % len(pairs)]
            records.append({"image": "1.jpg", "attr": attribute, "obj": obj, "set": split})
    torch.save(records, tmp_path / METADATA)
    write_image(tmp_path / "images/1.jpg", 0)
    assert main(["prepare", "ut-zappos", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "\nAll counts are those of ut-zappos in the paper's Tab. 7.\n" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cgqa", "nowhere"], "no folder nowhere: unpack the images' archive into it"),
        (["cgqa", "data"], "no metadata at data/metadata"),
        (
            ["cgqa", "data", "--splits", "splits.tar.gz"],
            "splits.tar.gz holds no compositional-",
        ),
        (["mit-states", "data", "--splits", "text.tar.gz"], "text.tar.gz is damaged but must be"),
        (
            ["mit-states", "data", "--splits", "cut.tar.gz"],
            "cut.tar.gz is damaged but must be a",
        ),
        (
            ["mit-states", "data", "--splits", "splits.tar.gz"],
            "no images in data: unpack the arc",
        ),
        (
            ["ut-zappos", "data", "--splits", "splits.tar.gz"],
            "it holds ut-zap50k-images/ or _ima",
        ),
    ],
)
def test_what_is_not_there_is_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_archive(tmp_path / "splits.tar.gz")
    (tmp_path / "text.tar.gz").write_text("text")
    (tmp_path / "cut.tar.gz").write_bytes((tmp_path / "splits.tar.gz").read_bytes()[:300])
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_paths_out_of_the_folder_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = write_archive(tmp_path / "splits.tar.gz")
    root = tmp_path / "shoes"
    (root / "_images").mkdir(parents=True)
    main(["prepare", "ut-zappos", str(root), "--splits", str(tmp_path / "splits.tar.gz")])
    capsys.readouterr()
    for key in ("image", "_image"):
        torch.save([{**records[0], key: "a/../../../secret"}], root / METADATA)
        assert main(["prepare", "ut-zappos", str(root)]) == 2
        assert "paths out of the folder (1) but they must stay in it" in capsys.readouterr().err
