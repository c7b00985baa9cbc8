"""Hugging Face data sets as a source: local folders in each of their forms, split, trained on."""

import csv
import json
import sys
from pathlib import Path

import datasets
import pytest
from photographs import LOOK, write_folders, write_image
from toy_runs import toy_clip

from czsl_sac.cli import main
from czsl_sac.data.sources.hub import HubSource, read_hub
from czsl_sac.data.table import ImageTable
from czsl_sac.training.run_folder import RunFolder

PAIRS = [(a, o) for a in ("ripe", "raw", "cut") for o in ("fig", "pear", "plum")]
COLUMNS = ("--attribute-column", "state", "--object-column", "fruit")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's cache apart from the user's, and no network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def rows(folder: Path, images: int = 6) -> dict[str, list]:
    """Pictures of nine compositions, written below `folder`, as columns."""
    write_folders(folder, PAIRS, images)
    paths = sorted(folder.rglob("*.jpg"))
    labels = [path.parent.name.split("_") for path in paths]
    return {
        "picture": [str(path) for path in paths],
        "state": [attribute for attribute, _ in labels],
        "fruit": [obj for _, obj in labels],
    }


def as_dataset(columns: dict[str, list]) -> datasets.Dataset:
    states = datasets.ClassLabel(names=["ripe", "raw", "cut"])
    made = datasets.Dataset.from_dict(columns).cast_column("picture", datasets.Image())
    return made.cast_column("state", states)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A data set without splits, saved with its pictures' bytes in it."""
    columns = rows(tmp_path / "photos")
    columns["picture"] = [
        {"bytes": Path(path).read_bytes(), "path": None} for path in columns["picture"]
    ]
    as_dataset(columns).save_to_disk(tmp_path / "fruit")
    return tmp_path / "fruit"


def test_split_check_train_evaluate_and_report(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["check-data", "hf:fruit", *COLUMNS]) == 0
    assert "54 images of 9 compositions, without a split" in capsys.readouterr().out
    assert main(["train", "--dataset", "hf:fruit", *COLUMNS, "--run-dir", "none"]) == 2
    said = capsys.readouterr().err
    assert f"hf:{saved} does not say which images are for training, validation and test" in said
    assert not Path("none/config.json").exists()
    assert main(["split", "hf:fruit", *COLUMNS, "--near-duplicates", "None"]) == 0
    told = capsys.readouterr().out
    command = told.rpartition("To train on it: czsl-sac ")[2].split()
    assert command[3:] == ["--dataset", "hf:fruit", *COLUMNS, "--data-root", "split.csv"]
    table = list(csv.DictReader(Path("split.csv").read_text().splitlines()))
    assert table[0] == {
        **{"image": "all/0", "attribute": "cut", "object": "fig"},
        "split": table[0]["split"],
    }
    assert main(["check-data", "hf:fruit", *COLUMNS, "--split-table", "split.csv"]) in (0, 1)
    assert "54 images, 3 attributes × 3 objects, 9 compositions" in capsys.readouterr().out
    small = ["--epochs", "1", "--batch-size", "8", "--backbone", str(toy_clip())]
    assert main([*command, *small, "--method", "csp", "--run-dir", "run"]) == 0
    alone = ["evaluate", "--method", "zero-shot", *command[3:], "--backbone", str(toy_clip())]
    capsys.readouterr()
    assert main(alone) == 0
    assert ", on hf:fruit: test split, closed world" in capsys.readouterr().out
    record = RunFolder(Path("run")).read_record()
    assert record.config.data.dataset == f"hf:{saved}"  # holds from any folder
    assert len(record.space) == 9
    monkeypatch.chdir(saved)
    assert main(["evaluate", str(tmp_path / "run"), "--json", str(tmp_path / "r.json")]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["dataset"] == f"hf:{saved}"
    assert main(["report", str(tmp_path / "run")]) == 0
    photo = tmp_path / "photos/ripe_fig/00.jpg"
    assert main(["predict", str(tmp_path / "run"), str(photo)]) == 0


def test_every_form_gives_the_same_images(tmp_path: Path) -> None:
    columns = rows(tmp_path / "photos", images=2)
    splits = {  # the eighth composition is unseen in validation, the ninth in test
        **{"train": [*range(0, 14, 2)], "validation": [1, 3, 5, 14, 15]},
        "test": [7, 9, 16, 17],
    }
    parts = {
        name: as_dataset({key: [cells[i] for i in chosen] for key, cells in columns.items()})
        for name, chosen in splits.items()
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    for name, part in parts.items():
        (tmp_path / "parquet").mkdir(exist_ok=True)
        part.to_parquet(tmp_path / "parquet" / f"{name}-00000.parquet")
        folder = tmp_path / "folder" / name
        folder.mkdir(parents=True)
        lines = ["file_name,state,fruit"]
        for i in splits[name]:
            path = Path(columns["picture"][i])
            (folder / f"{i}.jpg").write_bytes(path.read_bytes())
            lines.append(f"{i}.jpg,{columns['state'][i]},{columns['fruit'][i]}")
        (folder / "metadata.csv").write_text("\n".join(lines))
    expected = ImageTable(HubSource(f"hf:{tmp_path}/saved", "state", "fruit"), **LOOK)
    own = expected.pairs["train"]
    chosen = splits["train"]
    assert own == tuple((columns["state"][i], columns["fruit"][i]) for i in chosen)
    assert [len(expected.split(s)) for s in ("train", "val", "test")] == [7, 5, 4]
    image, target = expected.split("val")[3]
    assert expected.space.pairs[target] == (columns["state"][14], columns["fruit"][14])
    assert image.shape == (3, 32, 32)
    for form in ("parquet", "folder"):
        other = ImageTable(HubSource(f"hf:{tmp_path}/{form}", "state", "fruit"), **LOOK)
        assert other.space == expected.space
        found = {(float(i.sum()), t) for i, t in other.split("test")}
        assert found == {(float(i.sum()), t) for i, t in expected.split("test")}


def test_a_column_may_say_the_split_and_bad_rows_are_named(tmp_path: Path) -> None:
    columns = rows(tmp_path / "photos", images=2)
    columns["part"] = ["train", "val"] * 9
    columns["part"][3], columns["fruit"][0] = "trial", None
    as_dataset(columns).save_to_disk(tmp_path / "fruit")
    source = HubSource(f"hf:{tmp_path}/fruit", "state", "fruit", split_column="part")
    listing = read_hub(source)
    assert [problem.cases for problem in listing.problems] == [
        ["all/0"],
        ["all/3 ('trial': did you mean train?)"],
    ]
    assert len(listing.entries) == 16
    assert listing.entries[0] == ("all/1", ("cut", "fig"), "val")
    assert read_hub(source, use_split=False).entries[2].split is None


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (("stat", "fruit"), "attribute_column is 'stat' but must be one of"),
        (("state", "price"), "object_column is 'price', which"),
        (("state", "fruit", "fruit"), "image_column is 'fruit' but must be a column of images"),
    ],
)
def test_columns_of_another_kind_are_refused(
    tmp_path: Path, columns: tuple[str, ...], said: str
) -> None:
    cells = rows(tmp_path / "photos", images=1)
    cells["price"] = [1.5] * 9
    as_dataset(cells).save_to_disk(tmp_path / "fruit")
    with pytest.raises(ValueError, match=said):
        read_hub(HubSource(f"hf:{tmp_path}/fruit", *columns))


def test_a_damaged_image_is_named_by_its_row(saved: Path, tmp_path: Path) -> None:
    made = datasets.load_from_disk(saved).cast_column("picture", datasets.Image(decode=False))
    cells = made[:]
    cells["picture"][4] = {"bytes": b"no image", "path": None}
    datasets.Dataset.from_dict(cells, features=made.features).save_to_disk(tmp_path / "damaged")
    from czsl_sac.data.checks.data import check_data

    problems = check_data(HubSource(f"hf:{tmp_path}/damaged", "state", "fruit")).problems
    assert "all/4 (no readable image (of no known format))" in problems[0].cases


def test_a_table_of_another_version_is_refused(saved: Path, tmp_path: Path) -> None:
    table = tmp_path / "split.csv"
    table.write_text("image,attribute,object,split\nall/0,raw,fig,train\nall/99,raw,fig,test\n")
    with pytest.raises(ValueError, match=r"lacks or labels otherwise \(2\): all/0, all/99"):
        read_hub(HubSource(f"hf:{saved}", "state", "fruit", table=table))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--dataset", "hf:x"], "attribute_column is None but must be a column of hf:x"),
        (["check-data", "hf:x"], "attribute_column is None but must be a column of hf:x"),
        (["train", "--dataset", "filez"], "dataset is 'filez' but must be one of scenes,"),
        (["train", *COLUMNS], '--attribute-column is given but dataset is "scenes"'),
        (["split", ".", *COLUMNS], "--attribute-column is given but . is no Hugging Face data"),
        (["check-data", "hf:nobody/nothing", *COLUMNS], "hf:nobody/nothing cannot be loaded ("),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_without_the_library_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'czsl-sac\[datasets\]'"):
        read_hub(HubSource("hf:x", "a", "b"))


def test_changed_images_make_other_fingerprints(saved: Path, tmp_path: Path) -> None:
    one = ImageTable(HubSource(f"hf:{saved}", "state", "fruit", table=_table(saved)), **LOOK)
    again = ImageTable(HubSource(f"hf:{saved}", "state", "fruit", table=_table(saved)), **LOOK)
    assert one.split("train").fingerprint() == again.split("train").fingerprint()
    assert one.split("train").identity() == again.split("train").identity()
    made = datasets.load_from_disk(saved).cast_column("picture", datasets.Image(decode=False))
    cells = made[:]
    write_image(tmp_path / "other.png", 999)
    for row, cell in enumerate(cells["picture"]):
        cells["picture"][row] = {**cell, "bytes": (tmp_path / "other.png").read_bytes()}
    datasets.Dataset.from_dict(cells, features=made.features).save_to_disk(tmp_path / "changed")
    table = _table(saved)
    other = ImageTable(HubSource(f"hf:{tmp_path}/changed", "state", "fruit", table=table), **LOOK)
    assert one.split("train").identity() != other.split("train").identity()
    assert one.split("train").fingerprint() != other.split("train").fingerprint()


def _table(saved: Path) -> Path:
    table = saved.parent / "table.csv"
    if not table.exists():
        assert main(["split", f"hf:{saved}", *COLUMNS, "--output", str(table)]) == 0
    return table
