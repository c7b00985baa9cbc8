"""The reader that fits what a path points at."""

from pathlib import Path

from czsl_sac.data.listing import Listing
from czsl_sac.data.sources.folders import read_folders
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
            return read_folders(source)
        source /= SPLIT_TABLE
    from czsl_sac.data.sources.table import read_table  # pandas, which folders do without

    return read_table(source)
