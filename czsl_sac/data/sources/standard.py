"""The standard layout of UT-Zappos, MIT-States, C-GQA and data sets made like them.

ROOT/images/<path of the record>
ROOT/metadata_compositional-split-natural.t7
ROOT/compositional-split-natural/{train,val,test}_pairs.txt
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from czsl_sac.data.listing import Entry, Listing, Problem
from czsl_sac.data.protocol import SPLITS, SplitName
from czsl_sac.data.sources.paths import locate, outside
from czsl_sac.data.sources.text import read_text, unknown_split
from czsl_sac.words import visible

if TYPE_CHECKING:
    from czsl_sac.space import Pair

PAIR_LISTS = "compositional-split-natural"
METADATA = f"metadata_{PAIR_LISTS}.t7"

_KEYS = ("image", "attr", "obj", "set")
_UNLABELLED = "NA"

_Content = TypeVar("_Content")


def is_standard_layout(root: Path) -> bool:
    """Return whether a folder is in the standard layout: it holds the pair lists' folder."""
    return (root / PAIR_LISTS).is_dir()


def read_standard_layout(root: Path) -> tuple[Listing, list[Exception]]:
    """Return the images of a folder in the standard layout, by each record's `set`.

    Records without attribute, object or split (`NA`), or whose pair stands in no list, are
    dropped, as the published loaders do.

    Returns:
        The images, as far as they can be read; and an error for each file that cannot.
    """
    errors: list[Exception] = []

    def attempt(read: "Callable[[Path], list[_Content]]", path: Path) -> "list[_Content]":
        try:
            return read(path)
        except (OSError, ValueError) as error:
            errors.append(error)
            return []

    lists = {
        split: attempt(read_pairs, root / PAIR_LISTS / f"{split}_pairs.txt") for split in SPLITS
    }
    known = {pair for listed in lists.values() for pair in listed}
    entries, listless, unlabelled, unknown = [], [], [], []
    for record in attempt(read_records, root / METADATA):
        image, split, pair = record["image"], record["set"], (record["attr"], record["obj"])
        if _UNLABELLED in (*pair, split):
            unlabelled.append(image)
        elif split not in SPLITS:
            unknown.append(f"{image} ({unknown_split(split)})")
        elif pair not in known:
            listless.append(f"{image} ({' '.join(pair)})")
        else:
            entries.append(Entry(locate(root / "images", image), pair, cast(SplitName, split)))
    problems = [
        Problem(
            "images with a set that is not train, val or test",
            unknown,
            "Correct their records; the published loaders would test on them.",
        ),
        Problem(
            "images outside the data set's folder images/",
            outside(entry.image for entry in entries),
            "Move them there, and write their paths without `..` or a leading slash.",
        ),
        Problem(
            "images of a composition in no pair list",
            listless,
            "They are left out, as the published loaders do; add the pair to a list to use them.",
            spoils=False,
        ),
        Problem(
            "images without attribute, object or split (NA)",
            unlabelled,
            "They are left out, as the published loaders do.",
            spoils=False,
        ),
    ]
    found = [problem for problem in problems if problem.cases]
    return Listing(root / METADATA, root / "images", entries, found, lists), errors


def read_pairs(path: Path) -> "list[Pair]":
    """Return the pairs of a list, in its order, with repeats: one attribute and object a line.

    A space parts the two or, in the lists of VAW-CZSL, whose names hold spaces, a plus sign.

    Args:
        path: text file; if most of its lines have one plus sign, these part the names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not two words, or there is none.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no pair list at {visible(path)}: data_root must be the folder that holds images/ and "
            f"{PAIR_LISTS}/"
        )
    pairs = []
    lines = read_text(path).splitlines()
    plus = 2 * sum(line.count("+") == 1 for line in lines) > len(lines)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        words = [word.strip() for word in line.split("+" if plus else None)]
        if len(words) != 2 or not all(words):
            raise ValueError(
                f"{visible(path)}, line {number} is {line!r} but must be an attribute and an "
                f"object, separated by {'a plus sign' if plus else 'a space'}."
            )
        pairs.append((words[0], words[1]))
    if not pairs:
        raise ValueError(
            f"{visible(path)} is empty but must hold the split's pairs: fetch it again."
        )
    return pairs


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the records of the metadata; runs no code from the file.

    Args:
        path: a list of dictionaries that `torch.save` wrote, in its old format or the new one.

    Returns:
        Dictionaries with at least `image`, `attr`, `obj` and `set`, all strings.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no metadata at {visible(path)}: it lists the images and their labels"
        )
    import torch  # two seconds that only this file needs

    try:
        records = torch.load(path, weights_only=True)
    except Exception as error:  # torch raises many types for a file that is none of its own
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise ValueError(
                f"{visible(path)} holds Python objects, and reading those would run code from the "
                "file: if you trust it, load it with weights_only=False once, and save it again as "
                "a list of dictionaries of strings."
            ) from error
        raise ValueError(
            f"{visible(path)} is damaged, or no file of torch.save: fetch it again."
        ) from error
    if not isinstance(records, list):
        raise ValueError(
            f"{visible(path)} holds {_told(records)} but must hold a list of records: "
            "fetch it again."
        )
    for number, record in enumerate(records):
        fault = _fault(record)
        if fault:
            raise ValueError(
                f"{visible(path)}, record {number} (counted from 0) {fault}: fetch the file again, "
                "or save it with image, attr, obj and set of every record as text."
            )
    return records


def _fault(record: object) -> str:
    """Tell what is wrong with a record of the metadata, if anything."""
    if not isinstance(record, dict):
        return f"is {_told(record)} but must be a dictionary"
    for key in _KEYS:
        if key not in record:
            return f"has no {key}"
        if not isinstance(record[key], str):
            return f"has {_told(record[key])} as {key}, which must be text"
        if not record[key].strip():
            return f"has an empty {key}"
    return ""


def _told(value: object) -> str:
    return f"{str(value)[:40]!r} ({type(value).__name__})"
