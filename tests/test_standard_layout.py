"""The standard layout: splits, candidates, counts and what is said when something is wrong."""

import datetime
import warnings
from pathlib import Path

import pytest
import torch
from photographs import LOOK, write_image
from PIL import Image
from shared_data import SHARED, needs

from czsl_sac.clip import load_backbone
from czsl_sac.data.checks.data import check_data
from czsl_sac.data.counts import TAB7_COUNTS
from czsl_sac.data.sources.standard import METADATA, PAIR_LISTS, read_pairs
from czsl_sac.data.standard import StandardLayout
from czsl_sac.data.transforms import ImageReader, ImageTransform
from czsl_sac.training.build import build_data
from czsl_sac.training.config import DataConfig

PAIRS = {
    "train": ["ripe apple", "unripe mango", "ripe mango"],
    "val": ["unripe apple", "ripe apple"],
    "test": ["old mango", "ripe mango"],
}
RECORDS = [
    ("ripe apple", "train"),
    ("unripe mango", "train"),
    ("unripe apple", "val"),
    ("ripe apple", "val"),
    ("old mango", "test"),
    ("ripe mango", "test"),
    ("NA mango", "train"),
    ("ripe apple", "NA"),
    ("old apple", "test"),  # a pair of no list
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / PAIR_LISTS).mkdir()
    for split, pairs in PAIRS.items():
        (tmp_path / PAIR_LISTS / f"{split}_pairs.txt").write_text("\n".join(pairs) + "\n")
    records = []
    for number, (pair, split) in enumerate(RECORDS):
        attribute, obj = pair.split()
        path = Path("images") / pair.replace(" ", "_") / f"{number}.jpg"
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L" if number == 0 else "RGB", (60, 40), 25 * number).save(tmp_path / path)
        records.append(
            {
                "image": str(path.relative_to("images")),
                "attr": attribute,
                "obj": obj,
                "set": split,
            }
        )
    torch.save(records, tmp_path / f"metadata_{PAIR_LISTS}.t7")
    return tmp_path


def test_records_go_by_their_set_and_na_is_dropped(root: Path) -> None:
    data = StandardLayout(root, name="fruit", **LOOK)
    named = {
        split: [(path, data.space.pairs[target]) for path, target in records]
        for split, records in data.records.items()
    }
    assert named == {
        "train": [
            ("ripe_apple/0.jpg", ("ripe", "apple")),
            ("unripe_mango/1.jpg", ("unripe", "mango")),
        ],
        "val": [
            ("unripe_apple/2.jpg", ("unripe", "apple")),
            ("ripe_apple/3.jpg", ("ripe", "apple")),
        ],
        "test": [("old_mango/4.jpg", ("old", "mango")), ("ripe_mango/5.jpg", ("ripe", "mango"))],
    }
    assert data.space.attributes == ("old", "ripe", "unripe")
    assert data.space.seen == (("ripe", "apple"), ("ripe", "mango"), ("unripe", "mango"))


def test_candidates_are_the_split_and_the_training_pairs(root: Path) -> None:
    data = StandardLayout(root, name="fruit", **LOOK)
    for split in PAIRS:
        wanted = {tuple(p.split()) for p in [*PAIRS[split], *PAIRS["train"]]}
        chosen = data.candidates(split)
        assert {p for p, c in zip(data.space.pairs, chosen.tolist(), strict=True) if c} == wanted


def test_images_are_resized_cropped_and_normalised(root: Path) -> None:
    image, target = StandardLayout(root, name="fruit", **LOOK).split("val")[0]
    assert target == StandardLayout(root, name="fruit", **LOOK).space.index("unripe", "apple")
    torch.testing.assert_close(
        image[0], torch.full((32, 32), (50 / 255 - 0.5) / 0.25), atol=0.05, rtol=0
    )
    torch.testing.assert_close(image[1:], torch.full((2, 32, 32), -2.0), atol=0.05, rtol=0)


def test_gray_images_become_rgb(root: Path) -> None:
    image, _ = StandardLayout(root, name="fruit", **LOOK).split("train")[0]
    assert image.shape == (3, 32, 32)


@pytest.mark.parametrize("reader", ["pil", "torch"])
def test_augmentation_follows_torch_seed(reader: ImageReader) -> None:
    picture = Image.linear_gradient("L").convert("RGB")
    transform = ImageTransform(32, (0.5,) * 3, (0.25,) * 3, augment=True, reader=reader)

    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return transform.finish(transform.pixels(picture)[None])

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))


def test_counts_that_differ_from_the_paper_are_named(root: Path) -> None:
    with pytest.warns(UserWarning, match=r"attributes 3 instead of 16 \(-13\); objects 2 instead"):
        data = StandardLayout(root, name="ut-zappos", **LOOK)
    assert data.counts() == {
        "attributes": 3,
        "objects": 2,
        "seen pairs": 3,
        "train images": 2,
        "val seen pairs": 1,
        "val unseen pairs": 1,
        "val images": 2,
        "test seen pairs": 1,
        "test unseen pairs": 1,
        "test images": 2,
    }
    assert set(TAB7_COUNTS["cgqa"]) == set(data.counts())


def test_missing_files_are_named(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no pair list at .*train_pairs.txt"):
        StandardLayout(root / "images", name="fruit", **LOOK)
    (root / f"metadata_{PAIR_LISTS}.t7").unlink()
    with pytest.raises(FileNotFoundError, match=r"no metadata at .*natural.t7"):
        StandardLayout(root, name="fruit", **LOOK)


def test_a_damaged_image_is_named(root: Path) -> None:
    dataset = StandardLayout(root, name="fruit", **LOOK).split("train")
    path = root / "images/unripe_mango/1.jpg"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"unripe_mango/1.jpg is no readable image \("):
        dataset[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a pickle", "t7 is damaged, or no file of torch.save: fetch it again"),
        (b"", "t7 is damaged, or no file of torch.save: fetch it again"),
        ([datetime.date.today()], "holds Python objects, and reading those would run code"),
        (
            [{"image": 1, "attr": "ripe", "obj": "apple", "set": "val"}],
            r"record 0 \(counted from 0\) has '1' \(int\) as image, which must be text",
        ),
        ([{"image": "a.jpg"}], "record 0 .* has no attr: fetch"),
        (
            [{"image": "a.jpg", "attr": "ripe", "obj": "apple", "set": "train"}],
            "has no val image",
        ),
    ],
)
def test_damaged_metadata_is_named(root: Path, content: object, message: str) -> None:
    path = root / f"metadata_{PAIR_LISTS}.t7"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        StandardLayout(root, name="fruit", **LOOK)


def test_a_line_of_three_words_is_named(root: Path) -> None:
    (root / PAIR_LISTS / "val_pairs.txt").write_text("ripe apple\nvery ripe apple\n")
    with pytest.raises(ValueError, match=r"val_pairs.txt, line 2 is 'very ripe apple'"):
        StandardLayout(root, name="fruit", **LOOK)


def test_unknown_split(root: Path) -> None:
    data = StandardLayout(root, name="fruit", **LOOK)
    with pytest.raises(
        ValueError,
        match="name is 'training' but must be one of train, val, test: did you mean train",
    ):
        data.split("training")  # type: ignore[arg-type]
    with pytest.raises(
        ValueError,
        match="name is 'training' but must be one of train, val, test: did you mean train",
    ):
        data.candidates("training")  # type: ignore[arg-type]


def test_an_empty_pair_list_is_named(root: Path) -> None:
    (root / PAIR_LISTS / "test_pairs.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"test_pairs.txt is empty but must hold"):
        StandardLayout(root, name="fruit", **LOOK)


def test_metadata_in_the_old_format_of_torch_save_is_read(root: Path) -> None:
    wanted = StandardLayout(root, name="fruit", **LOOK).records
    path = root / METADATA
    records = torch.load(path, weights_only=True)
    torch.save(records, path, _use_new_zipfile_serialization=False)
    assert StandardLayout(root, name="fruit", **LOOK).records == wanted


def test_files_may_be_a_folder_in_the_standard_layout(root: Path) -> None:
    config = DataConfig(dataset="files", data_root=root)
    data = build_data(config, load_backbone("tiny"))
    assert isinstance(data, StandardLayout)
    assert (data.name, data.split("val")[0][0].shape) == (root.name, (3, 64, 64))


def test_other_keys_of_a_record_mean_nothing(root: Path) -> None:
    wanted = StandardLayout(root, name="fruit", **LOOK).records
    records = torch.load(root / METADATA, weights_only=True)
    for record in records:
        record["_image"] = "where UT-Zappos had it before.jpg"
    torch.save(records, root / METADATA)
    assert StandardLayout(root, name="fruit", **LOOK).records == wanted


def test_a_record_outside_its_splits_pairs_is_named(root: Path) -> None:
    path = root / METADATA
    records = torch.load(path, weights_only=True)
    records.append({"image": "x.jpg", "attr": "old", "obj": "mango", "set": "train"})
    records.append({"image": "y.jpg", "attr": "old", "obj": "mango", "set": "val"})
    torch.save(records[:-1], path)
    with pytest.raises(
        ValueError, match=r"images in the train split whose .* \(1\): x.jpg \(old man"
    ):
        StandardLayout(root, name="fruit", **LOOK)
    torch.save([*records[:-2], records[-1]], path)
    with pytest.raises(
        ValueError, match=r"images in the val split whose .* \(1\): y.jpg \(old man"
    ):
        StandardLayout(root, name="fruit", **LOOK)


def lay_out(root: Path, name: str, pairs: dict[str, list[tuple[str, str]]]) -> None:
    """Write real pair lists with as many records as Tab. 7 has images, none of them on disk."""
    (root / PAIR_LISTS).mkdir(parents=True)
    records = []
    for split, listed in pairs.items():
        lines = [" ".join(pair) for pair in listed]
        (root / PAIR_LISTS / f"{split}_pairs.txt").write_text("\n".join(lines))
        for number in range(TAB7_COUNTS[name][f"{split} images"]):
            attribute, obj = listed[number % len(listed)]
            path = f"{split}/{number}.jpg"
            records.append({"image": path, "attr": attribute, "obj": obj, "set": split})
    torch.save(records, root / METADATA)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs(f"splits/{name}")) for name in sorted(TAB7_COUNTS)]
)
def test_the_real_pair_lists_have_every_count_of_table_7(name: str, tmp_path: Path) -> None:
    lists = SHARED / "splits" / name
    pairs = {"train": read_pairs(lists / "train_pairs.txt")}
    if name == "mit-states":  # its unseen pairs of validation and test are not told apart
        unseen = read_pairs(lists / "unseen_pairs_val_plus_test.txt")
        pairs["val"] = [*unseen[:300], *pairs["train"][:300]]
        pairs["test"] = [*unseen[300:], *pairs["train"][:400]]
    else:
        pairs |= {split: read_pairs(lists / f"{split}_pairs.txt") for split in ("val", "test")}
    lay_out(tmp_path / "data", name, pairs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = StandardLayout(tmp_path / "data", name=name, **LOOK)
    assert data.counts() == TAB7_COUNTS[name]


@needs("fruit-ripeness")
def test_real_photographs() -> None:
    data = StandardLayout(SHARED / "fruit-ripeness", name="fruit-ripeness", **LOOK)
    assert data.counts() == {
        "attributes": 3,
        "objects": 5,
        "seen pairs": 10,
        "train images": 1129,
        "val seen pairs": 10,
        "val unseen pairs": 2,
        "val images": 700,
        "test seen pairs": 10,
        "test unseen pairs": 3,
        "test images": 714,
    }
    image, _ = data.split("test")[0]
    assert image.shape == (3, 32, 32)


@pytest.mark.parametrize(("name", "meant"), [("valid", "val"), ("Test", "test"), ("dev", "")])
def test_a_record_of_an_unknown_set_is_named(root: Path, name: str, meant: str) -> None:
    records = torch.load(root / METADATA, weights_only=True)
    records[3]["set"] = name
    torch.save(records, root / METADATA)
    hint = rf": did you mean {meant}\?" if meant else ""
    found = rf"set that is not train, val or test \(1\): ripe_apple/3.jpg \('{name}'{hint}\). Corr"
    with pytest.raises(ValueError, match=found):
        StandardLayout(root, name="fruit", **LOOK)
    problems = {problem.title: problem for problem in check_data(root).problems}
    assert problems["images with a set that is not train, val or test"].spoils


def test_a_byte_order_mark_is_no_part_of_a_name(root: Path) -> None:
    wanted = StandardLayout(root, name="fruit", **LOOK)
    for split, pairs in PAIRS.items():
        (root / PAIR_LISTS / f"{split}_pairs.txt").write_text("\n".join(pairs), "utf-8-sig")
    marked = StandardLayout(root, name="fruit", **LOOK)
    assert (marked.space, marked.records) == (wanted.space, wanted.records)
    (root / PAIR_LISTS / "val_pairs.txt").write_bytes("unripe äpple".encode("latin-1"))
    with pytest.raises(ValueError, match=r"val_pairs.txt is no text in UTF-8 \(invalid .* byte 7"):
        StandardLayout(root, name="fruit", **LOOK)


def test_a_faulty_record_is_told_by_number_and_key(root: Path) -> None:
    records = torch.load(root / METADATA, weights_only=True)
    for content, message in (
        ({**records[5], "attr": None}, r"record 5 .* has 'None' \(NoneType\) as attr, which must"),
        ({"image": "a.jpg", "attr": "ripe", "obj": "fig"}, "record 5 .* has no set: fetch"),
        ({**records[5], "image": " "}, "record 5 .* has an empty image: fetch"),
        ("ripe_fig/1.jpg", r"record 5 .* is 'ripe_fig/1.jpg' \(str\) but must be a dictionary"),
    ):
        torch.save([*records[:5], content, *records[6:]], root / METADATA)
        with pytest.raises(ValueError, match=message):
            StandardLayout(root, name="fruit", **LOOK)
    torch.save({"train": records}, root / METADATA)
    with pytest.raises(ValueError, match=r"\(dict\) but must hold a list of records"):
        StandardLayout(root, name="fruit", **LOOK)


def test_paths_of_records_are_found_below_images_or_refused(root: Path) -> None:
    wanted = StandardLayout(root, name="fruit", **LOOK).records
    records = torch.load(root / METADATA, weights_only=True)
    for record, prefix in zip(records, ("images/", "/", "\\", "/images/", "./", ""), strict=False):
        record["image"] = prefix + record["image"].replace("/", "\\")
    torch.save(records, root / METADATA)
    assert StandardLayout(root, name="fruit", **LOOK).records == wanted
    records[2]["image"] = "../../secret.jpg"
    torch.save(records, root / METADATA)
    with pytest.raises(
        ValueError, match=r"outside .* folder images/ \(1\): ../../secret.jpg. Move"
    ):
        StandardLayout(root, name="fruit", **LOOK)


def test_names_that_clip_reads_alike_are_refused(root: Path) -> None:
    path = root / PAIR_LISTS / "train_pairs.txt"
    path.write_text(path.read_text() + "Ripe apple\n")
    with pytest.raises(ValueError, match=r"same words \(1\): attributes 'Ripe' = 'ripe'. CLIP wou"):
        StandardLayout(root, name="fruit", **LOOK)
    problems = {problem.title: problem for problem in check_data(root).problems}
    assert problems["names read as the same words"].cases == ["attributes 'Ripe' = 'ripe'"]
    assert problems["names read as the same words"].spoils


def test_a_folder_that_does_not_exist_is_said_not_to(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no data set at .*x: the folder does not exist"):
        StandardLayout(root / "x", name="fruit", **LOOK)


def test_lists_of_vaw_czsl_part_the_names_by_a_plus_sign(tmp_path: Path) -> None:
    """As OADis' loader reads them; the records are those of the standard layout."""
    pairs = {
        "train": [("light blue", "traffic light"), ("wet", "dog")],
        "val": [("wet", "dog"), ("light blue", "dog")],
        "test": [("wet", "dog"), ("wet", "traffic light")],
    }
    (tmp_path / PAIR_LISTS).mkdir()
    records = []
    for split, listed in pairs.items():
        text = "".join(f"{attribute}+{obj}\n" for attribute, obj in listed)
        (tmp_path / PAIR_LISTS / f"{split}_pairs.txt").write_text(text)
        for attribute, obj in listed:
            image = f"{len(records)}.jpg"
            write_image(tmp_path / "images" / image, len(records))
            records.append({"image": image, "attr": attribute, "obj": obj, "set": split})
    torch.save(records, tmp_path / f"metadata_{PAIR_LISTS}.t7")
    data = StandardLayout(tmp_path, name="vaw-czsl", **LOOK)
    assert {split: [*own] for split, own in data.pairs.items()} == pairs
    assert data.space.attributes == ("light blue", "wet")
    (tmp_path / PAIR_LISTS / "val_pairs.txt").write_text("wet+dog\nwet+cat\nold dog\n")
    with pytest.raises(ValueError, match=r"line 3 is 'old dog' but .*, separated by a plus sign"):
        StandardLayout(tmp_path, name="vaw-czsl", **LOOK)
