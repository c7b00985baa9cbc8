"""`czsl-sac split`: a natural split of one's own images, written as a table."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from czsl_sac.checks import check_range
from czsl_sac.cli.options import HubColumns, parse_options, source_of
from czsl_sac.words import visible


@dataclass(frozen=True)
class SplitOptions:
    """Split your own images for training, validation and test.

    Some compositions become unseen, each attribute and object stays seen, and near-duplicates
    stay on one side. The images do not move: the split is a table of their paths.
    """

    data: tyro.conf.Positional[Path]
    """Folder of folders attribute_object with images, CSV or Parquet table with the columns image,
    attribute and object, or hf:NAME, a Hugging Face data set."""
    columns: Annotated[HubColumns, tyro.conf.arg(name="")] = field(default_factory=HubColumns)
    output: Path | None = None
    """CSV table to write; None means split.csv in the folder, or beside the table, or for hf:NAME
    here."""
    seed: int = 0
    """Seed that decides the split."""
    unseen_val: float = 0.15
    """Compositions that only validation has, as a share of all."""
    unseen_test: float = 0.2
    """Compositions that only test has, as a share of all."""
    seen_val: float = 0.1
    """Images of each seen composition that go to validation, as a share."""
    seen_test: float = 0.15
    """Images of each seen composition that go to test, as a share."""
    near_duplicates: int | None = 8
    """Differing bits of the 64-bit difference hash up to which images that look alike stay on one
    side; None: do not compare images."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """A missing or damaged image: stop with its path, or leave it out."""
    overwrite: bool = False
    """Replace the table if it is there."""

    def __post_init__(self) -> None:
        check_range("seed", self.seed, low=0)
        check_range("near_duplicates", self.near_duplicates, low=0, high=64)


def run(arguments: list[str]) -> int:
    """Run the command with its options."""
    options = parse_options(SplitOptions, "split", arguments)

    from czsl_sac.cli.tables import data_table
    from czsl_sac.data.sources.hub import HubSource, read_hub
    from czsl_sac.data.sources.read import SPLIT_TABLE, read_listing
    from czsl_sac.data.splitting.listing import split_listing, write_split
    from czsl_sac.data.splitting.natural import SplitShares

    source = source_of(options.data, options.columns)
    hub = isinstance(source, HubSource)
    folder = Path() if hub else options.data if options.data.is_dir() else options.data.parent
    output = options.output or folder / SPLIT_TABLE
    told = visible(output)
    if output.suffix.lower() != ".csv":
        raise ValueError(f"output is {told} but must end in .csv: name a table.")
    if isinstance(source, HubSource):
        listing = read_hub(source, use_split=False)
    else:
        listing = read_listing(source, use_split=False)
    if output.exists() and not options.overwrite:
        raise FileExistsError(
            f"{told} is already there: pass --overwrite to replace it, or another --output"
        )
    made = split_listing(
        listing,
        SplitShares(options.unseen_val, options.unseen_test, options.seen_val, options.seen_test),
        seed=options.seed,
        max_distance=options.near_duplicates,
        on_bad_image=options.on_bad_image,
    )
    write_split(made, output)
    print(f"{data_table(made.listing.entries, made.listing.pairs)}\n")
    for line in made.remarks():
        print(line)
    dataset = "files"
    if isinstance(source, HubSource):
        columns = {f.name: getattr(options.columns, f.name) for f in fields(options.columns)}
        dataset = visible(source.name) + "".join(
            f" --{name.replace('_', '-')} {visible(column)}"
            for name, column in columns.items()
            if column is not None and name != "split_column"  # the table says it
        )
    print(
        f"Wrote {told}. To train on it: "
        f"czsl-sac train --preset fruit-ripeness --dataset {dataset} --data-root {told}"
    )
    return 0
