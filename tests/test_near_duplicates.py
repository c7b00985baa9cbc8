"""Difference hashes and the pairs among them, against slow loops."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from photographs import write_image
from PIL import Image, ImageEnhance, ImageOps

from czsl_sac.data.near_duplicates import (
    difference_hash,
    group_near_duplicates,
    near_pairs,
    thumbnail,
)
from czsl_sac.data.reading import read_image
from czsl_sac.data.scan import scan_images

FRUIT = Path(__file__).parents[1].parent / "shared/data/fruit-ripeness"


def distance(a: int, b: int) -> int:
    return (a ^ b).bit_count()


def alike(hashes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of pictures whose thumbnails are all the same."""
    return np.array(hashes, dtype=np.uint64), np.zeros((len(hashes), 192), dtype=np.uint8)


# Few bits vary, so that near ones are common.
hash_lists = st.lists(st.integers(0, 2**10 - 1).map(lambda n: n | n << 50), max_size=40)


@settings(max_examples=60, deadline=None)
@given(hashes=hash_lists, limit=st.integers(0, 6), chunk=st.sampled_from([1, 3, 64]))
def test_pairs_are_those_of_a_loop(hashes: list[int], limit: int, chunk: int) -> None:
    wanted = {
        (i, j)
        for j in range(len(hashes))
        for i in range(j)
        if distance(hashes[i], hashes[j]) <= limit
    }
    found = [
        pair
        for i, j in near_pairs(*alike(hashes), limit, chunk_size=chunk)
        for pair in zip(i.tolist(), j.tolist(), strict=True)
    ]
    assert len(found) == len(wanted)
    assert set(found) == wanted


@settings(max_examples=60, deadline=None)
@given(hashes=hash_lists, limit=st.integers(0, 6))
def test_groups_are_those_of_a_loop(hashes: list[int], limit: int) -> None:
    wanted = list(range(len(hashes)))
    for j in range(len(hashes)):
        for i in range(j):
            if distance(hashes[i], hashes[j]) <= limit:
                wanted = [wanted[i] if group == wanted[j] else group for group in wanted]
    groups = group_near_duplicates(*alike(hashes), limit).tolist()
    assert len(set(groups)) == len(set(wanted)) == len(set(zip(groups, wanted, strict=True)))


def test_the_hash_survives_what_does_not_change_the_picture(tmp_path: Path) -> None:
    for number in (0, 1):
        write_image(tmp_path / f"{number}.png", number)
    picture, other = (Image.open(tmp_path / f"{number}.png") for number in (0, 1))
    own = difference_hash(picture)
    picture.save(tmp_path / "poor.jpg", quality=40)
    for same in (
        picture.resize((240, 160)),
        ImageEnhance.Brightness(picture).enhance(0.8),
        Image.open(tmp_path / "poor.jpg"),
    ):
        assert distance(own, difference_hash(same)) <= 4
    assert distance(own, difference_hash(other)) > 16
    assert distance(own, difference_hash(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT))) > 16


def test_the_hash_reads_rows_from_the_left_and_top() -> None:
    gray = np.zeros((8, 9), dtype=np.uint8)
    gray[0, 1] = 255  # brighter than its left neighbour: the first bit alone
    assert difference_hash(Image.fromarray(gray)) == 1 << 63


@pytest.mark.parametrize("decode", [True, False])
def test_a_scan_tells_what_it_saw(tmp_path: Path, decode: bool) -> None:
    write_image(tmp_path / "a.jpg", 0)
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes())
    write_image(tmp_path / "c.jpg", 0, format="PNG")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-400])
    (tmp_path / "text.jpg").write_text("no image")
    names = ["a.jpg", "b.jpg", "a.jpg", "c.jpg", "cut.jpg", "text.jpg", "gone.jpg"]
    a, b, c, cut, text, gone = scan_images(tmp_path, names, decode=decode)
    assert [fact.path for fact in (a, b, c, cut)] == ["a.jpg", "b.jpg", "c.jpg", "cut.jpg"]
    assert (a.problem, a.format, c.format) == (None, "JPEG", "PNG")
    assert a.digest == b.digest != c.digest
    assert (a.hash is not None, a.hash) == (decode, b.hash)
    assert (len(a.thumbnail), a.bits) == (192 * decode, 8)
    assert (cut.problem is not None) == decode
    assert "no readable image" in (text.problem or "")
    assert gone.problem == "missing"


def test_colour_and_detail_tell_apart_what_the_hash_takes_for_one(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", 0)
    picture = Image.open(tmp_path / "a.png")
    turned = Image.merge("RGB", picture.split()[::-1])  # red for blue: other colours
    altered = [
        ImageEnhance.Brightness(picture).enhance(0.8),
        ImageEnhance.Contrast(picture).enhance(1.2),
        picture.resize((240, 160)),
        turned,
        ImageOps.invert(picture),
        Image.new("RGB", (60, 40), "white"),
    ]
    looks = np.stack([np.frombuffer(thumbnail(p), np.uint8) for p in [picture, *altered]])
    same = np.zeros(len(looks), dtype=np.uint64)
    assert group_near_duplicates(same, looks).tolist() == [0, 0, 0, 0, 1, 2, 3]


def test_flat_pictures_are_alike() -> None:
    rng = np.random.default_rng(0)
    looks = (200 + rng.integers(-3, 3, (4, 192))).astype(np.uint8)
    assert group_near_duplicates(np.zeros(4, dtype=np.uint64), looks).tolist() == [0] * 4


@pytest.mark.skipif(not FRUIT.is_dir(), reason="the photographs are not on this machine")
@pytest.mark.parametrize(
    ("alter", "share"),
    [
        (lambda p: ImageEnhance.Brightness(p).enhance(1.2), 0.9),
        (lambda p: ImageEnhance.Brightness(p).enhance(0.8), 0.98),
        (lambda p: ImageEnhance.Contrast(p).enhance(1.2), 0.98),
        (lambda p: p.resize((p.width // 2, p.height // 2)), 0.98),
        (lambda p: p.crop((3, 3, p.width - 3, p.height - 3)), 0.6),
    ],
)
def test_altered_photographs_are_found(
    alter: Callable[[Image.Image], Image.Image], share: float
) -> None:
    pictures = [read_image(path) for path in sorted(FRUIT.rglob("*.jpg"))[::25]]
    both = [picture for one in pictures for picture in (one, alter(one))]
    hashes = np.array([difference_hash(picture) for picture in both], dtype=np.uint64)
    looks = np.stack([np.frombuffer(thumbnail(p), np.uint8) for p in both])
    groups = group_near_duplicates(hashes, looks)
    assert (groups[::2] == groups[1::2]).mean() > share
    assert np.bincount(groups).max() <= 4
