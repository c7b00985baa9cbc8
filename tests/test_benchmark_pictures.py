"""Bars of the benchmarks' pictures: the latest rows, in their places, in colours that stay."""

from pathlib import Path

from matplotlib import pyplot

from benchmarks.draw import grouped_bars, latest_rows

CSV = """case,way,value
a,ours,1
a,theirs,2
b,theirs,5
a,ours,3
"""


def test_the_latest_row_of_a_kind_is_drawn_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(CSV)
    rows = latest_rows(path, ("case", "way"))
    assert {key: row["value"] for key, row in rows.items()} == {
        ("a", "ours"): "3",
        ("a", "theirs"): "2",
        ("b", "theirs"): "5",
    }
    figure, axis = pyplot.subplots()
    series = ["ours", "absent", "theirs", "unknown"]
    grouped_bars(axis, rows, (), ["a", "b"], series, "value", label=lambda row: row["way"])
    drawn = {
        bars.get_label(): [(round(bar.get_center()[0], 6), bar.get_height()) for bar in bars]
        for bars in axis.containers
    }
    assert drawn == {"ours": [(-0.3, 3)], "theirs": [(0.1, 2), (1.1, 5)]}
    assert [text.get_text() for text in axis.texts] == ["ours", "theirs", "theirs"]
    alone, other = pyplot.subplots()
    grouped_bars(other, rows, (), ["b"], series, "value")
    assert other.patches[0].get_facecolor() == axis.containers[1][0].get_facecolor()
    pyplot.close(figure)
    pyplot.close(alone)
