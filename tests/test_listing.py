"""Own images from tables and folders: what is read, and what is said when something is wrong."""

import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from photographs import LOOK, write_folders, write_image
from shared_data import SHARED, needs

from czsl_sac.data.checks.data import check_data
from czsl_sac.data.listing import Entry
from czsl_sac.data.names import read_alike, read_as
from czsl_sac.data.sources.read import read_listing
from czsl_sac.data.sources.standard import read_pairs
from czsl_sac.data.table import ImageTable

ROWS = [
    ("a.jpg", "very ripe", "apple", "train"),
    ("b.jpg", "NA", "apple", "train"),
    ("c.jpg", "NA", "fig", "val"),
    ("c2.jpg", "NA", "apple", "val"),
    ("d.jpg", "very ripe", "fig", "test"),
    ("d2.jpg", "very ripe", "apple", "test"),
]
COLUMNS = ["image", "attribute", "object", "split"]


def write_table(path: Path, rows: list[tuple[str, ...]] = ROWS, **options: object) -> Path:
    frame = pd.DataFrame(rows, columns=COLUMNS[: len(rows[0])])
    path.parent.mkdir(exist_ok=True)
    frame.to_csv(path, index=False, **options)  # type: ignore[call-overload]
    for number, row in enumerate(rows):
        write_image(path.parent / row[0], number)
    return path


def test_a_table_is_a_data_set(tmp_path: Path) -> None:
    data = ImageTable(write_table(tmp_path / "fruit.csv"), **LOOK)
    assert data.name == "fruit"
    assert data.space.attributes == ("NA", "very ripe")  # a word like any other here
    assert data.space.seen == (("NA", "apple"), ("very ripe", "apple"))
    assert data.records["val"] == [
        ("c.jpg", data.space.index("NA", "fig")),
        ("c2.jpg", data.space.index("NA", "apple")),
    ]
    chosen = data.space.mask([*data.space.seen, ("very ripe", "fig")])
    assert data.candidates("test").equal(chosen)
    image, target = data.split("test")[0]
    assert (tuple(image.shape), target) == ((3, 32, 32), data.space.index("very ripe", "fig"))
    assert data.counts()["val unseen pairs"] == 1


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_columns_may_stand_in_any_order_beside_others(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text("object,note,image,attribute\nÄpfel,x, p/1.jpg ,reif\n", encoding=encoding)
    listing = read_listing(path)
    assert listing.entries == [Entry("p/1.jpg", ("reif", "Äpfel"), None)]
    assert (listing.folder, listing.has_splits) == (tmp_path, False)


def test_parquet_is_read_like_csv(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv")
    pd.read_csv(table, keep_default_na=False).to_parquet(tmp_path / "t.parquet")
    assert read_listing(tmp_path / "t.parquet").entries == read_listing(table).entries
    typed = {"image": ["a", None], "attribute": pd.array([1, 2], "Int64"), "object": ["c", "d"]}
    pd.DataFrame(typed).astype({"object": "category"}).to_parquet(tmp_path / "t.parquet")
    listing = read_listing(tmp_path / "t.parquet")
    assert listing.entries == [Entry("a", ("1", "c"), None)]
    assert listing.problems[0].cases == ["row 2"]
    (tmp_path / "t.parquet").write_bytes(b"PAR1 damaged")
    with pytest.raises(ValueError, match=r"t.parquet cannot be read as a table"):
        read_listing(tmp_path / "t.parquet")


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("pyarrow", "fastparquet"):
        monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(ImportError, match=r"t.parquet is a Parquet table, which needs pyarrow"):
        read_listing(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"t.csv cannot be read as a table \(No columns"),
        ("picture,attribute\n", "lacks the column image and object; it has picture, attribute:"),
        ("image,attribute,object\n", "lists no image but must list some. A folder"),
        (
            "image,attribute,object\na,b\n,c,d\n",
            r"rows without .* \(2\): row 2, row 3. Fill or drop",
        ),
        (
            "image,attribute,object,split\na,b,c,train\na,b,c,valid\n",
            r"rows with a split .* \(1\): row 3 \('valid': did you mean val\?\)",
        ),
        ("image,attribute,object\na,b,c\n", "does not say which images are for training"),
        (
            "image,attribute,object,split\na,b,c,train\nd,e,f,val\n",
            "has no test image whose composition",
        ),
        (
            "image,attribute,object,split\na,b,c,train\nd,b,e,val\nd,b,c,test\n",
            "t.csv has no val image of a seen composition, and the metrics need some of both",
        ),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        ImageTable(tmp_path / "t.csv", **LOOK)


def test_bytes_that_are_no_text_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("image,attribute,object\nä,b,c\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"t.csv cannot be read as a table .* in UTF-8"):
        read_listing(tmp_path / "t.csv")


def test_other_things_are_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no data set at .*nowhere: the path does not exist; give a folder"
    ):
        read_listing(tmp_path / "nowhere")
    (tmp_path / "t.txt").touch()
    with pytest.raises(
        ValueError, match=r"t.txt is no table: its suffix is '.txt' but must be .csv or .parquet"
    ):
        read_listing(tmp_path / "t.txt")


def test_folders_are_attribute_and_object(tmp_path: Path) -> None:
    write_folders(tmp_path, [("ripe", "apple"), ("very-ripe", "fig")], 2)
    write_image(tmp_path / "ripe_apple/x.PNG", 7)
    (tmp_path / "ripe_apple/notes.txt").touch()
    (tmp_path / ".cache").mkdir()
    listing = read_listing(tmp_path)
    assert listing.problems == []
    assert listing.entries == [
        Entry("ripe_apple/00.jpg", ("ripe", "apple"), None),
        Entry("ripe_apple/01.jpg", ("ripe", "apple"), None),
        Entry("ripe_apple/x.PNG", ("ripe", "apple"), None),
        Entry("very-ripe_fig/00.jpg", ("very-ripe", "fig"), None),
        Entry("very-ripe_fig/01.jpg", ("very-ripe", "fig"), None),
    ]
    with pytest.raises(ValueError, match=f"let czsl-sac split {re.escape(str(tmp_path))} decide"):
        ImageTable(tmp_path, **LOOK)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        (
            "very_ripe_apple",
            r"folders with several underscores, .* \(1\): very_ripe_apple. Keep one",
        ),
        ("apple", r"folders not named attribute_object \(1\): apple. Rename or remove them."),
        ("_apple", r"folders not named attribute_object \(1\): _apple"),
        ("ripe__apple", r"folders not named attribute_object \(1\): ripe__apple"),
    ],
)
def test_folder_names_that_say_too_little_are_refused(
    tmp_path: Path, folder: str, message: str
) -> None:
    (tmp_path / folder).mkdir()
    write_image(tmp_path / "ripe_fig/1.jpg", 0)
    with pytest.raises(ValueError, match=message):
        read_listing(tmp_path).require_sound()


def test_a_folder_with_a_split_is_the_table_in_it(tmp_path: Path) -> None:
    write_table(tmp_path / "split.csv")
    assert ImageTable(tmp_path, **LOOK).name == tmp_path.name
    assert len(ImageTable(tmp_path, **LOOK).records["train"]) == 2
    assert read_listing(tmp_path, use_split=False).entries == []


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_other_separators_are_understood(tmp_path: Path, separator: str) -> None:
    text = 'image,attribute,object,note\n"a;b.jpg",ripe,apple,x\n'.replace(",", separator)
    (tmp_path / "t.csv").write_text(text)
    (entry,) = read_listing(tmp_path / "t.csv").entries
    assert entry == Entry("a;b.jpg", ("ripe", "apple"), None)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_no_part_of_a_name(tmp_path: Path, encoding: str) -> None:
    text = "image,attribute,object\na.jpg,reif,Äpfel\n"
    (tmp_path / "t.csv").write_text(text, encoding=encoding)
    assert read_listing(tmp_path / "t.csv").entries == [Entry("a.jpg", ("reif", "Äpfel"), None)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,attribute,object\na.jpg,ripe,apple,train\n", "Expected 3 fields in line 2, saw 4"),
        ("image,attribute,object,image\na.jpg,b,c,d.jpg\n", "has the column image twice: keep one"),
        ("image, image,attribute,object\na.jpg,b.jpg,c,d\n", "has the column image twice: keep"),
        ("im\x1bage,attribute,object\n", r"lacks the column image; it has im\\x1bage, attribute"),
    ],
)
def test_a_crooked_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_listing(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("ripe_fig\\1.jpg", "ripe_fig/1.jpg"),
        ("/ripe_fig/1.jpg", "ripe_fig/1.jpg"),
        ("images/ripe_fig/1.jpg", "ripe_fig/1.jpg"),
        ("\\images\\ripe_fig\\1.jpg", "ripe_fig/1.jpg"),
        ("./ripe_fig//1.jpg", "ripe_fig/1.jpg"),
        ("ripe_fig/x/../1.jpg", "ripe_fig/1.jpg"),
        (" ripe_fig/1.jpg ", "ripe_fig/1.jpg"),
        ("ripe_fig/ 2.jpg", "ripe_fig/ 2.jpg"),
        (" 3.jpg", " 3.jpg"),  # where there is such a file
        ("../data/ripe_fig/1.jpg", "ripe_fig/1.jpg"),
        ("FOLDER/ripe_fig/1.jpg", "ripe_fig/1.jpg"),  # absolute
        ("C:\\photos\\1.jpg", "C:/photos/1.jpg"),
        ("/nowhere/1.jpg", "/nowhere/1.jpg"),
        ("..\\1.jpg", "../1.jpg"),
    ],
)
def test_a_path_is_the_file_that_is_meant(tmp_path: Path, written: str, found: str) -> None:
    for name in ("ripe_fig/1.jpg", "ripe_fig/ 2.jpg", " 3.jpg", "../1.jpg"):
        write_image(tmp_path / "data" / name, 0)
    table = tmp_path / "data/t.csv"
    written = written.replace("FOLDER", str(table.parent))
    pd.DataFrame([(written, "ripe", "fig")], columns=COLUMNS[:3]).to_csv(table, index=False)
    assert read_listing(table).entries == [Entry(found, ("ripe", "fig"), None)]


def test_images_outside_the_folder_are_told(tmp_path: Path) -> None:
    rows = [(f"../{row[0]}", *row[1:]) if row[0] == "a.jpg" else row for row in ROWS]
    table = write_table(tmp_path / "data/t.csv", rows)
    with pytest.warns(
        UserWarning, match=r"images of .*t.csv outside its folder are read \(1\): ../a"
    ):
        ImageTable(table, **LOOK)
    cases = {p.title: (p.spoils, p.cases) for p in check_data(table).problems}
    assert cases["images outside the table's folder"] == (False, ["../a.jpg"])


def test_a_table_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(tmp_path / "split.csv")
    monkeypatch.chdir(tmp_path)
    for source in (Path("split.csv"), Path()):
        data = ImageTable(source, **LOOK)
        assert data.name == ("split" if source.suffix else tmp_path.name)
        assert data.split("train")[0][0].shape == (3, 32, 32)


def test_what_systems_leave_is_no_data(tmp_path: Path) -> None:
    write_folders(tmp_path, [("ripe", "apple"), ("very-ripe", "fig")], 2)
    for name in ("__MACOSX/ripe_apple/._00.jpg", "ripe_apple/.DS_Store", "@eaDir/x_y/1.jpg"):
        write_image(tmp_path / name, 1, format="JPEG")
    for name in ("Thumbs.db", "desktop.ini", "._00.jpg"):
        (tmp_path / "ripe_apple" / name).touch()
    listing = read_listing(tmp_path)
    assert (len(listing.entries), listing.problems) == (4, [])
    assert {problem.title for problem in check_data(tmp_path).problems} == {
        "reasons for which czsl-sac split refuses these images"
    }


def test_names_that_clip_reads_alike_are_refused(tmp_path: Path) -> None:
    assert read_as("Caf\u00e9 ") == read_as("cafe\u0301") == read_as("CAFE\u0301\u200b") == "café"
    same = (
        "very ripe",
        "Very.Ripe",
        " very  ripe",
        "very\u00a0ripe",
        "very ri\u200bpe",
        "VERY RIPE",
    )
    for name in same[1:]:
        rows = [(image, a.replace("NA", name), o, s) for image, a, o, s in ROWS]
        listed = read_alike([("very ripe", "apple"), (name, "fig")])
        assert len(listed) == 1
        assert "'very ripe'" in listed[0]
        if name != " very  ripe":  # a table's cells are stripped
            table = write_table(tmp_path / "t.csv", rows)
            with pytest.raises(
                ValueError, match=r"read as the same words \(1\): attributes '.* = '"
            ):
                ImageTable(table, **LOOK)
    assert read_alike([("very", "ripe apple"), ("very ripe", "apple")]) == [
        "compositions 'very + ripe apple' = 'very ripe + apple'"
    ]
    assert read_alike([("Faux.Fur", "shoes"), ("faux-fur", "shoe"), ("faux_fur", "shoes")]) == []


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=needs(f"splits/{n}")) for n in ("ut-zappos", "mit-states", "cgqa")],
)
def test_the_benchmarks_names_are_all_read_differently(name: str) -> None:
    assert (
        read_alike(p for path in (SHARED / "splits" / name).glob("*.txt") for p in read_pairs(path))
        == []
    )


def test_the_identity_of_a_split_is_its_images_and_labels(tmp_path: Path) -> None:
    rows = [*ROWS, ("e.jpg", "NA", "apple", "train")]
    write_table(tmp_path / "one/t.csv", rows)

    def identities(folder: str, rows: list[tuple[str, ...]]) -> list[str]:
        shutil.copytree(tmp_path / "one", tmp_path / folder, dirs_exist_ok=True)
        pd.DataFrame(rows, columns=COLUMNS).to_csv(tmp_path / folder / "t.csv", index=False)
        data = ImageTable(tmp_path / folder / "t.csv", **LOOK)
        return [data.split(split).identity() for split in ("train", "val", "test")]

    first = identities("two", rows)
    assert len(set(first)) == 3
    assert identities("three", rows) == first
    splits = {"c2.jpg": "train", "b.jpg": "val"}
    changed = identities("four", [(*row[:3], splits.get(row[0], row[3])) for row in rows])
    assert [a == b for a, b in zip(first, changed, strict=True)] == [False, False, True]
    labels = {"b.jpg": "very ripe"}
    changed = identities("five", [(row[0], labels.get(row[0], row[1]), *row[2:]) for row in rows])
    assert [a == b for a, b in zip(first, changed, strict=True)] == [False, True, True]
    write_image(tmp_path / "two/d.jpg", 99)
    data = ImageTable(tmp_path / "two/t.csv", **LOOK)
    assert data.split("test").identity() != first[2]
    assert data.split("train").identity() == first[0]
