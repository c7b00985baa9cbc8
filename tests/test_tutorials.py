"""The tutorials run, and show what they showed when they were committed."""

import re
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from notebooks import TUTORIALS, execute

FIGURE = re.compile(r"\d+\.\d+")
AROUND = 6.0
"""Points by which a figure in percent may differ: other versions and processors round otherwise."""


def printed(cell: NotebookNode) -> str:
    """What a cell prints, without the widths of columns."""
    text = "".join(output.get("text", "") for output in cell.outputs)
    return re.sub(r"-{2,}", "--", re.sub(r" +", " ", text))


def kinds(cell: NotebookNode) -> list[str]:
    """The kinds of what a cell shows."""
    return [kind for output in cell.outputs for kind in output.get("data", {"text": None})]


def test_there_are_tutorials() -> None:
    assert [path.stem for path in TUTORIALS] == ["your_model", "your_photographs"]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_shows_what_it_was_committed_with(path: Path, tmp_path: Path) -> None:
    committed, executed = nbformat.read(path, as_version=4), execute(path, tmp_path)
    assert path.stat().st_size < 150_000
    compared = 0
    for old, new in zip(committed.cells, executed.cells, strict=True):
        if old.cell_type != "code":
            continue
        assert old.execution_count == new.execution_count
        assert kinds(old) == kinds(new), old.source
        if old.metadata.get("varies"):  # names of compositions, seconds, versions
            continue
        assert FIGURE.sub("#", printed(old)) == FIGURE.sub("#", printed(new)), old.source
        figures = [[float(f) for f in FIGURE.findall(printed(cell))] for cell in (old, new)]
        assert figures[1] == pytest.approx(figures[0], abs=AROUND), old.source
        compared += bool(printed(old))
    assert compared >= 4


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_one_line_is_the_readers(path: Path) -> None:
    """What a reader changes for data and model of their own stands in the cell, as a comment."""
    cells = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    lines = "\n".join(cells).splitlines()
    offered = [line.partition("# ")[2] for line in lines if re.match(r"# [\w, ]+ = ", line)]
    assert len(offered) >= 2
    for line in offered:
        compile(line, path.name, "exec")
