"""What a table or a folder says of its images: path, attribute, object and split, with its faults.

A table is CSV or Parquet with the columns image, attribute, object and, where there is one, split;
paths are relative to the table's folder. A folder holds one folder `attribute_object` for each
composition.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, get_args

import pandas as pd

from czsl_sac.data.protocol import SplitName
from czsl_sac.space import Pair

__all__ = [
    "IMAGE_SUFFIXES",
    "SPLIT_TABLE",
    "Entry",
    "Listing",
    "Problem",
    "read_listing",
    "some",
]

SPLIT_TABLE = "split.csv"
"""Name of the table that `czsl-sac split FOLDER` writes into the folder."""

IMAGE_SUFFIXES = {
    **{".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP"},
    **{".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF"},
}
"""Suffixes of image files, in lower case, and Pillow's name of their format."""

_COLUMNS = ("image", "attribute", "object")


@dataclass(frozen=True)
class Problem:
    """One kind of fault of a data set.

    Attributes:
        title: what the cases are, such as "images are missing or damaged".
        cases: every case, as it is told.
        remedy: what to do about it.
        spoils: whether a result on this data set would be wrong or impossible to get.
    """

    title: str
    cases: Sequence[str]
    remedy: str
    spoils: bool = True

    def sentence(self, source: Path) -> str:
        """Return the problem in one line.

        Args:
            source: where it was found.
        """
        return f"{source}: {len(self.cases)} {self.title}: {some(self.cases)}. {self.remedy}"


class Entry(NamedTuple):
    """An image: path below the listing's folder, composition, and split if it has one."""

    image: str
    pair: Pair
    split: SplitName | None


@dataclass(frozen=True)
class Listing:
    """The images of a table or folder.

    Attributes:
        source: the table or folder.
        folder: what the images' paths are relative to.
        entries: images with a whole label.
        problems: faults of the table or of the folders' names.
    """

    source: Path
    folder: Path
    entries: Sequence[Entry]
    problems: Sequence[Problem] = field(default_factory=list)

    @property
    def has_splits(self) -> bool:
        """Whether every image has a split."""
        return all(entry.split is not None for entry in self.entries)

    @property
    def pairs(self) -> dict[SplitName, tuple[Pair, ...]]:
        """Compositions of the images of each split, in the order of the entries."""
        return {
            split: tuple(dict.fromkeys(e.pair for e in self.entries if e.split == split))
            for split in get_args(SplitName)
        }

    def require_sound(self) -> None:
        """Refuse a listing with faults.

        Raises:
            ValueError: the listing has a fault, or no image.
        """
        if self.problems:
            raise ValueError(self.problems[0].sentence(self.source))
        if not self.entries:
            raise ValueError(
                f"{self.source} lists no image: a folder holds folders named attribute_object with "
                f"images ({', '.join(IMAGE_SUFFIXES)}) in them, a table one row for each image."
            )


def some(items: Sequence[str], limit: int = 3) -> str:
    """Return the first few items as a sentence tells them.

    Args:
        items: what is told.
        limit: at most so many are named.

    Examples:
        >>> some(["a.jpg", "b.jpg", "c.jpg", "d.jpg"], limit=2)
        'a.jpg, b.jpg and 2 more'
    """
    left = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {left} more" if left > 0 else "")


def read_listing(source: Path, *, use_split: bool = True) -> Listing:
    """Read a table or a folder; its faults are in the result.

    Args:
        source: a `.csv` or `.parquet` file, or a folder of folders `attribute_object`.
        use_split: for a folder, take the table `split.csv` in it where there is one.

    Raises:
        FileNotFoundError: there is nothing at `source`.
        ValueError: it is no table, or a column is missing.
        ImportError: a Parquet table, and no pyarrow is installed.
    """
    source = Path(source)
    if source.is_dir():
        table = source / SPLIT_TABLE
        return _read_table(table) if use_split and table.is_file() else _read_folders(source)
    if not source.is_file():
        raise FileNotFoundError(
            f"no data set at {source}: give a folder with one folder attribute_object for each "
            "composition, or a CSV or Parquet table"
        )
    return _read_table(source)


def _read_table(path: Path) -> Listing:
    frame = _read_frame(path)
    absent = [column for column in _COLUMNS if column not in frame]
    if absent:
        raise ValueError(
            f"{path} lacks the column {' and '.join(absent)}; it has "
            f"{', '.join(map(str, frame.columns))}: name the columns image, attribute, object and, "
            "where images have one, split."
        )
    columns = [*_COLUMNS, *(["split"] if "split" in frame else [])]
    frame = frame[columns].astype(object)
    frame = frame.where(frame.notna(), "").astype(str).apply(lambda cells: cells.str.strip())
    first = 2 if path.suffix.lower() == ".csv" else 1  # the header is a line of a CSV file
    rows = pd.Series([f"row {number}" for number in range(first, first + len(frame))])
    known = ["", *get_args(SplitName)] if "split" not in frame else get_args(SplitName)
    splits = frame["split"] if "split" in frame else pd.Series("", index=frame.index)
    unlabelled = (frame[list(_COLUMNS)] == "").any(axis=1).to_numpy()
    unsplit = ~splits.isin(known).to_numpy()
    problems = [
        Problem(
            "rows lack image, attribute or object", list(rows[unlabelled]), "Fill or drop them."
        ),
        Problem(
            "rows have a split that is not train, val or test",
            [f"{r} ({s!r})" for r, s in zip(rows[unsplit], splits[unsplit], strict=True)],
            "Correct them, or drop the column and let czsl-sac split make a new one.",
        ),
    ]
    whole = frame[~(unlabelled | unsplit)]
    entries = [
        Entry(image, (attribute, obj), split or None)
        for image, attribute, obj, split in zip(
            *(whole[column] for column in _COLUMNS), splits[whole.index], strict=True
        )
    ]
    return Listing(path, path.parent, entries, _found(problems))


def _read_frame(path: Path) -> pd.DataFrame:
    kind = path.suffix.lower()
    if kind not in (".csv", ".parquet"):
        raise ValueError(f"{path} is no table: its suffix must be .csv or .parquet, got {kind!r}.")
    try:
        if kind == ".parquet":
            return pd.read_parquet(path)
        # "NA" and "null" are words like any other here; Excel starts its files with a mark.
        return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except ImportError as error:
        raise ImportError(
            f"{path} is a Parquet table, which needs pyarrow: pip install 'czsl-sac[parquet]', "
            "or save the table as CSV"
        ) from error
    except (ValueError, OSError) as error:  # pandas, its parsers and pyarrow derive theirs from it
        raise ValueError(
            f"{path} cannot be read as a table ({' '.join(str(error).split())}): save it as "
            "comma-separated text in UTF-8, or as Parquet."
        ) from error


def _read_folders(root: Path) -> Listing:
    folders = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    names = {folder: folder.name.split("_") for folder in folders}
    shapeless = [f.name for f, parts in names.items() if len(parts) == 1 or not all(parts)]
    ambiguous = [f.name for f, parts in names.items() if len(parts) > 2 and all(parts)]
    remedy = "Or describe the images in a table with the columns image, attribute and object."
    problems = [
        Problem(
            "folders are not named attribute_object",
            shapeless,
            f"Rename or remove them. {remedy}",
        ),
        Problem(
            "folders have several underscores, so that attribute and object cannot be told apart",
            ambiguous,
            "Keep one underscore, between attribute and object, and write the others as hyphens "
            f"(very-ripe_apple). {remedy}",
        ),
    ]
    entries = [
        Entry(path.relative_to(root).as_posix(), (parts[0], parts[1]), None)
        for folder, parts in names.items()
        if len(parts) == 2 and all(parts)
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "."
    ]
    return Listing(root, root, entries, _found(problems))


def _found(problems: Iterable[Problem]) -> list[Problem]:
    return [problem for problem in problems if problem.cases]
