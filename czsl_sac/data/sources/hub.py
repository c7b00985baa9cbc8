"""A Hugging Face data set: local or on their hub, with columns for image, attribute and object."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from czsl_sac.checks import suggestion
from czsl_sac.data.listing import Entry, Listing, Problem
from czsl_sac.data.protocol import SPLITS, SplitName
from czsl_sac.data.sources.text import unknown_split
from czsl_sac.data.stores import StoredImage
from czsl_sac.words import some, visible

if TYPE_CHECKING:
    from datasets import Dataset

    from czsl_sac.space import Pair

HUB_PREFIX = "hf:"
"""What the name of such a data set begins with."""

_VALIDATION = {"validation": "val", "valid": "val", "dev": "val"}
"""What validation is called elsewhere."""


@dataclass(frozen=True)
class HubSource:
    """Which data set, and which of its columns.

    Attributes:
        name: `hf:` and a local folder, or a name on the hub, `hf:USER/NAME` or
            `hf:USER/NAME:CONFIGURATION`.
        attribute_column: text or class labels.
        object_column: likewise.
        image_column: images; None takes the only column of images.
        split_column: train, val or test of each row; None takes the data set's own splits, if it
            has several.
        table: CSV or Parquet table of `czsl-sac split`, whose split counts instead; None: none.

    Examples:
        >>> HubSource("hf:data/fruit", "state", "fruit").image_column is None
        True
    """

    name: str
    attribute_column: str
    object_column: str
    image_column: str | None = None
    split_column: str | None = None
    table: Path | None = None


class HubImages:
    """The images of a Hugging Face data set, named SPLIT/ROW; its parts do not decode them."""

    def __init__(self, parts: "Mapping[str, Dataset]", column: str, source: str) -> None:
        self.parts, self.column, self.source = parts, column, source

    def image(self, name: str) -> StoredImage | Path:
        """Return an image, named SPLIT/ROW, as it is stored."""
        split, _, row = name.rpartition("/")
        cell = self.parts[split][int(row)][self.column] or {}
        if cell.get("bytes") is None and cell.get("path"):
            return Path(cell["path"])
        return StoredImage(f"{self.source} {name}", cell.get("bytes") or b"")

    def fingerprint(self) -> str:
        """Return the library's own fingerprints of the splits."""
        return " ".join(f"{split} {part._fingerprint}" for split, part in self.parts.items())


def read_hub(source: HubSource, *, use_split: bool = True) -> Listing:
    """Return the images of a Hugging Face data set; nothing of it is decoded or copied.

    Args:
        source: which data set and columns.
        use_split: take the split of the table, the column or the data set; without, images have
            none.

    Raises:
        ImportError: the library `datasets` is not installed.
        ValueError: the data set cannot be loaded, a column is missing or of another kind, or the
            table is not of this data set.
    """
    parts = _loaded(source.name)
    image = _image_column(parts, source)
    from datasets import Image

    stored = {split: part.cast_column(image, Image(decode=False)) for split, part in parts.items()}
    written: dict[str, str] = {}
    pairs: dict[str, Pair] = {}
    for split, part in stored.items():
        names = [f"{split}/{row}" for row in range(len(part))]
        attributes = _texts(part, "attribute_column", source.attribute_column, source.name)
        objects = _texts(part, "object_column", source.object_column, source.name)
        pairs |= zip(names, zip(attributes, objects, strict=True), strict=True)
        if source.split_column is not None:
            own = _texts(part, "split_column", source.split_column, source.name)
            written |= zip(names, own, strict=True)
        elif len(stored) > 1:
            written |= dict.fromkeys(names, split)
    splits = {name: _VALIDATION.get(own.lower(), own) for name, own in written.items()}
    if not use_split:
        splits = {}
    elif source.table is not None:
        splits = _table_splits(source.table, pairs, source.name)
        pairs = {name: pairs[name] for name in splits}
    unlabelled = [name for name, pair in pairs.items() if not all(pair)]
    unknown = [name for name in splits if splits[name] not in SPLITS]
    dropped = {*unlabelled, *unknown}
    entries = [
        Entry(name, pair, cast("SplitName | None", splits.get(name)))
        for name, pair in pairs.items()
        if name not in dropped
    ]
    problems = [
        Problem("rows without attribute or object", unlabelled, "Fill them, or leave them out."),
        Problem(
            "rows with a split that is not train, val, validation or test",
            [f"{name} ({unknown_split(written[name])})" for name in unknown],
            "Name the splits so, or let czsl-sac split make a new one.",
        ),
    ]
    folder = HubImages(stored, image, source.name)
    return Listing(Path(source.name), folder, entries, [p for p in problems if p.cases])


def _loaded(name: str) -> "dict[str, Dataset]":
    """Load a data set as it lies in a folder, in the cache or on the hub; one entry a split."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"{visible(name)} is a Hugging Face data set, which needs their library: "
            "pip install 'czsl-sac[datasets]'"
        ) from error
    place = name.removeprefix(HUB_PREFIX)
    folder = Path(place)
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            found = datasets.load_from_disk(place)
        elif folder.is_dir():
            found = datasets.load_dataset(place)
        else:
            hub_name, _, configuration = place.partition(":")
            found = datasets.load_dataset(hub_name, configuration or None)
    except Exception as error:  # the libraries below raise many types of their own
        reason = " ".join(str(error).split()).rstrip(".:") or type(error).__name__
        raise ValueError(
            f"{visible(name)} cannot be loaded ({reason}): name a local folder, or a data set of "
            "the Hugging Face hub, which must be reached once to fill the cache."
        ) from error
    return {**found} if isinstance(found, dict) else {"all": found}


def _image_column(parts: "Mapping[str, Dataset]", source: HubSource) -> str:
    """Return the name of the column of images: the one asked for, or the only one."""
    from datasets import Image

    features = next(iter(parts.values())).features
    found = [column for column, feature in features.items() if isinstance(feature, Image)]
    if source.image_column in found:
        return str(source.image_column)
    if source.image_column is None and len(found) == 1:
        return found[0]
    choice = f"name {some(found, 9)}." if found else "it has none, so take another data set."
    raise ValueError(
        f"image_column is {source.image_column!r} but must be a column of images of "
        f"{visible(source.name)}: {choice}"
    )


def _texts(part: "Dataset", option: str, column: str, name: str) -> list[str]:
    """Return a column as text, class labels by their name; empty where a cell is."""
    from datasets import ClassLabel

    if column not in part.features:
        near = suggestion(column, part.features) or "choose one of them."
        raise ValueError(
            f"{option} is {column!r} but must be one of {visible(name)}'s columns "
            f"{some([*part.features], 9)}: {near}"
        )
    feature, cells = part.features[column], part[column][:]
    if isinstance(feature, ClassLabel):
        return ["" if cell is None or cell < 0 else feature.int2str(cell) for cell in cells]
    kind = getattr(feature, "dtype", type(feature).__name__)
    if kind not in ("string", "large_string"):
        raise ValueError(
            f"{option} is {column!r}, which {visible(name)} has as {kind}, but must be "
            "text or class labels: name a column of these, or cast it."
        )
    return [(cell or "").strip() for cell in cells]


def _table_splits(table: Path, pairs: "Mapping[str, Pair]", name: str) -> dict[str, str]:
    """Return the split of each image that a table of `czsl-sac split` lists."""
    from czsl_sac.data.sources.table import read_table  # pandas

    listing = read_table(table)
    listing.require_sound()
    if not listing.has_splits:
        raise ValueError(
            f"{visible(table)} does not say which images are for training, validation and test: "
            "let czsl-sac split write it."
        )
    foreign = [e.image for e in listing.entries if pairs.get(e.image) != e.pair]
    if foreign:
        raise ValueError(
            f"{visible(table)} lists images that {visible(name)} lacks or labels otherwise "
            f"({len(foreign)}): {some(foreign)}. Let czsl-sac split make a table of this version "
            "of the data set."
        )
    return {entry.image: str(entry.split) for entry in listing.entries}
