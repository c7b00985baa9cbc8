"""The architecture page and its picture show the rooms that there are, in their order."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from test_import import LAYERS

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/architecture.md"
ROOMS = [layer for layer in LAYERS if not layer.startswith("_")]


def heights() -> dict[str, float]:
    """How far below the top of the picture each room stands."""
    picture = ElementTree.parse(ROOT / "docs/images/architecture.svg")
    texts = picture.iter("{http://www.w3.org/2000/svg}text")
    heads = [text for text in texts if text.get("font-weight") == "bold"]
    return {name: float(head.get("y", 0)) for head in heads for name in str(head.text).split(" · ")}


def test_every_room_is_in_the_picture_and_in_the_table() -> None:
    table = PAGE.read_text("utf-8").partition("\n| room ")[2].partition("\n\n")[0]
    listed = [re.findall(r"`(\w+)`", row.split("|")[1]) for row in table.split("\n") if "|" in row]
    assert sorted(name for row in listed for name in row) == sorted(ROOMS)
    assert heights().keys() == set(ROOMS)


@pytest.mark.parametrize("number", range(1, len(ROOMS)), ids=lambda n: ROOMS[n])
def test_no_room_stands_below_one_that_it_may_import(number: int) -> None:
    y = heights()
    assert all(y[ROOMS[number]] <= y[lower] for lower in ROOMS[:number])


def test_the_walk_names_something_at_every_step() -> None:
    walk = PAGE.read_text("utf-8").partition("| step |")[2].partition("\n\n")[0].split("\n")[2:]
    assert len(walk) >= 12
    for row in walk:
        assert re.search(r"`czsl_sac(\.\w+)+`", row), row
