"""Images of one's own: the table a path points at, or folders `attribute_object`."""

from pathlib import Path

from czsl_sac.data.listing import IMAGE_SUFFIXES, Entry, Listing, Problem
from czsl_sac.data.sources.paths import is_system_file
from czsl_sac.data.sources.standard import is_standard_layout
from czsl_sac.words import visible

SPLIT_TABLE = "split.csv"
"""Name of the table that `czsl-sac split FOLDER` writes into the folder."""


def read_listing(source: Path, *, use_split: bool = True) -> Listing:
    """Read a table or a folder of one's own images; its faults are in the result.

    Args:
        source: a `.csv` or `.parquet` file, or a folder of folders `attribute_object`.
        use_split: for a folder, take the table `split.csv` in it where there is one.

    Raises:
        FileNotFoundError: there is nothing at `source`.
        ValueError: it is no table, a column is missing, or it is in the standard layout.
        ImportError: a Parquet table, and no pyarrow is installed.
    """
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(
            f"no data set at {visible(source)}: the path does not exist; give a folder with one "
            "folder attribute_object for each composition, or a CSV or Parquet table"
        )
    if is_standard_layout(source):
        raise ValueError(
            f"{visible(source)} is in the standard layout, which has a split of its own: train on "
            "it with --dataset files, and look at it with czsl-sac check-data."
        )
    if source.is_dir():
        if not (use_split and (source / SPLIT_TABLE).is_file()):
            return _read_folders(source)
        source /= SPLIT_TABLE
    from czsl_sac.data.sources.table import read_table  # pandas, which folders do without

    return read_table(source)


def _read_folders(root: Path) -> Listing:
    """Return the images of folders that are named `attribute_object`."""
    folders = sorted(
        path for path in root.iterdir() if path.is_dir() and not is_system_file(Path(path.name))
    )
    names = {folder: folder.name.split("_") for folder in folders}
    shapeless = [f.name for f, parts in names.items() if len(parts) == 1 or not all(parts)]
    ambiguous = [f.name for f, parts in names.items() if len(parts) > 2 and all(parts)]
    remedy = "Or describe the images in a table with the columns image, attribute and object."
    problems = [
        Problem(
            "folders not named attribute_object",
            shapeless,
            f"Rename or remove them. {remedy}",
        ),
        Problem(
            "folders with several underscores, so that attribute and object cannot be told apart",
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
        if path.suffix.lower() in IMAGE_SUFFIXES and not is_system_file(Path(path.name))
    ]
    return Listing(root, root, entries, [problem for problem in problems if problem.cases])
