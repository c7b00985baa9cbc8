"""A table of images: CSV or Parquet with the columns image, attribute, object and perhaps split."""

import io
from pathlib import Path

import pandas as pd

from czsl_sac.data.listing import Entry, Listing, Problem
from czsl_sac.data.protocol import SPLITS
from czsl_sac.data.sources.paths import locate, outside
from czsl_sac.data.sources.text import read_text, unknown_split
from czsl_sac.words import visible

_COLUMNS = ("image", "attribute", "object")
_SEPARATORS = (",", ";", "\t", "|")


def read_table(path: Path) -> Listing:
    """Return the images of a CSV or Parquet table; paths are relative to its folder.

    Raises:
        ValueError: it is no table, or a column is missing.
        ImportError: a Parquet table, and no pyarrow is installed.
    """
    frame = _read_frame(path)
    absent = [column for column in _COLUMNS if column not in frame]
    if absent:
        raise ValueError(
            f"{visible(path)} lacks the column {' and '.join(absent)}; it has "
            f"{', '.join(map(visible, frame.columns))}: name the columns image, attribute, object "
            "and, where images have one, split."
        )
    columns = [*_COLUMNS, *(["split"] if "split" in frame else [])]
    frame = frame[columns].astype(object)
    frame = frame.where(frame.notna(), "").astype(str)
    written = frame["image"]
    frame = frame.apply(lambda cells: cells.str.strip())
    first = 2 if path.suffix.lower() == ".csv" else 1  # the header is a line of a CSV file
    rows = pd.Series([f"row {number}" for number in range(first, first + len(frame))])
    known = ["", *SPLITS] if "split" not in frame else SPLITS
    splits = frame["split"] if "split" in frame else pd.Series("", index=frame.index)
    unlabelled = (frame[list(_COLUMNS)] == "").any(axis=1).to_numpy()
    unsplit = ~splits.isin(known).to_numpy()
    whole = frame[~(unlabelled | unsplit)]
    entries = [
        Entry(locate(path.parent, image), (attribute, obj), split or None)
        for image, attribute, obj, split in zip(
            written[whole.index],
            *(whole["attribute"], whole["object"], splits[whole.index]),
            strict=True,
        )
    ]
    problems = [
        Problem(
            "rows without image, attribute or object", list(rows[unlabelled]), "Fill or drop them."
        ),
        Problem(
            "rows with a split that is not train, val or test",
            [
                f"{row} ({unknown_split(split)})"
                for row, split in zip(rows[unsplit], splits[unsplit], strict=True)
            ],
            "Correct them, or drop the column and let czsl-sac split make a new one.",
        ),
        Problem(
            "images outside the table's folder",
            outside(entry.image for entry in entries),
            "They are read all the same; see that they are meant.",
            spoils=False,
        ),
    ]
    return Listing(path, path.parent, entries, [problem for problem in problems if problem.cases])


def _read_frame(path: Path) -> pd.DataFrame:
    kind = path.suffix.lower()
    if kind not in (".csv", ".parquet"):
        raise ValueError(
            f"{visible(path)} is no table: its suffix is {kind!r} but must be .csv or .parquet."
        )
    try:
        frame = pd.read_parquet(path) if kind == ".parquet" else _read_csv(read_text(path))
    except ImportError as error:
        raise ImportError(
            f"{visible(path)} is a Parquet table, which needs pyarrow: "
            "pip install 'czsl-sac[parquet]', or save the table as CSV"
        ) from error
    except (ValueError, OSError) as error:  # pandas, its parsers and pyarrow derive theirs from it
        raise ValueError(
            f"{visible(path)} cannot be read as a table ({' '.join(str(error).split())}): save it "
            "as comma-separated text in UTF-8, or as Parquet."
        ) from error
    frame.columns = [str(column).strip() for column in frame.columns]
    twice = [name for name in _COLUMNS if list(frame.columns).count(name) > 1]
    if twice:
        raise ValueError(f"{visible(path)} has the column {twice[0]} twice: keep one of them.")
    return frame


def _read_csv(text: str) -> pd.DataFrame:
    header = next((line for line in text.splitlines() if line.strip()), "")
    # "NA" and "null" are words like any other here. The header is read as a row, since pandas
    # renames a column that comes twice and shifts rows that are longer.
    rows = pd.read_csv(
        io.StringIO(text),
        sep=max(_SEPARATORS, key=header.count),
        header=None,
        dtype=str,
        keep_default_na=False,
    )
    return rows[1:].reset_index(drop=True).set_axis(rows.iloc[0].tolist(), axis=1)
