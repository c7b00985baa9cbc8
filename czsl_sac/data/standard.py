"""The standard layout of UT-Zappos, MIT-States, C-GQA and data sets made like them.

ROOT/images/<path of the record>
ROOT/metadata_compositional-split-natural.t7
ROOT/compositional-split-natural/{train,val,test}_pairs.txt
"""

import pickle
import warnings
from pathlib import Path
from typing import Any, get_args

import torch

from czsl_sac.data.counts import differences_from_tab7
from czsl_sac.data.image_data import ImageData, OnBadImage
from czsl_sac.data.protocol import SplitName
from czsl_sac.space import Pair

__all__ = [
    "METADATA",
    "SPLIT",
    "StandardLayout",
    "is_labelled",
    "is_standard_layout",
    "read_metadata",
    "read_pairs",
    "split_of",
]

SPLIT = "compositional-split-natural"
METADATA = f"metadata_{SPLIT}.t7"


class StandardLayout(ImageData):
    """A data set in the field's standard layout, split by each record's `set`.

    Records without attribute, object or split (`NA`), or whose pair stands in no list, are
    dropped, as the published loaders do. The counts of a data set that Tab. 7 names are checked.

    Args:
        root: folder of the data set.
        name: for printouts; `"ut-zappos"`, `"mit-states"` and `"cgqa"` are checked against Tab. 7.
        image_size: height and width after cropping; take the backbone's.
        mean: subtracted from each colour of an image in [0, 1]; take the backbone's.
        std: what each colour is divided by afterwards; take the backbone's.
        on_bad_image: `"stop"`: reading a missing or damaged image is an error. `"skip"`: every
            image is opened now, and the bad ones are left out of their split.

    Raises:
        FileNotFoundError: the folder, a pair list or the metadata is missing.
        ValueError: a file is damaged, a split has no record, or a record's pair is neither one of
            its split nor seen.

    Warns:
        UserWarning: a count differs from Tab. 7; the message says which, and by how much. It is
            no error, since corrected versions of the three data sets are in use.
    """

    def __init__(
        self,
        root: Path,
        *,
        name: str,
        image_size: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        on_bad_image: OnBadImage = "stop",
    ) -> None:
        root = Path(root)
        pairs = {
            split: tuple(dict.fromkeys(read_pairs(root / SPLIT / f"{split}_pairs.txt")))
            for split in get_args(SplitName)
        }
        known = {pair for listed in pairs.values() for pair in listed}
        records: dict[SplitName, list[tuple[str, Pair]]] = {split: [] for split in pairs}
        for record in read_metadata(root / METADATA):
            pair = (record["attr"], record["obj"])
            if is_labelled(record) and pair in known:
                records[split_of(record)].append((record["image"], pair))
        super().__init__(
            name=name,
            source=root / METADATA,
            folder=root / "images",
            pairs=pairs,
            records=records,
            image_size=image_size,
            mean=mean,
            std=std,
            on_bad_image=on_bad_image,
        )
        differing = differences_from_tab7(name, self.counts())
        if differing:
            warnings.warn(
                f"{root} is not the {name} of the paper's Tab. 7: {'; '.join(differing)}. "
                "Results are not comparable with published ones.",
                stacklevel=2,
            )


def is_standard_layout(root: Path) -> bool:
    """Return whether a folder is in the standard layout: it holds the pair lists' folder.

    Args:
        root: the folder, or anything else.
    """
    return (root / SPLIT).is_dir()


def read_pairs(path: Path) -> list[Pair]:
    """Return the pairs of a list, in its order, with repeats: one attribute and object a line.

    Args:
        path: text file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not two words, or there is none.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no pair list at {path}: data_root must be the folder that holds images/ and {SPLIT}/"
        )
    pairs = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2:
            raise ValueError(
                f"{path}, line {number} is {line!r} but must be an attribute and an object, "
                "separated by a space."
            )
        pairs.append((words[0], words[1]))
    if not pairs:
        raise ValueError(f"{path} is empty but must hold the split's pairs: fetch it again.")
    return pairs


def read_metadata(path: Path) -> list[dict[str, Any]]:
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
        raise FileNotFoundError(f"no metadata at {path}: it lists the images and their labels")
    try:
        records = torch.load(path, weights_only=True)
    except Exception as error:  # torch raises many types for a file that is none of its own
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise ValueError(
                f"{path} holds Python objects, and reading those would run code from the file: "
                "if you trust it, load it with weights_only=False once, and save it again as a "
                "list of dictionaries of strings."
            ) from error
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} cannot be read ({reason}): fetch it again.") from error
    required = ("image", "attr", "obj", "set")
    if not isinstance(records, list) or not all(
        isinstance(record, dict) and all(isinstance(record.get(key), str) for key in required)
        for record in records
    ):
        raise ValueError(
            f"{path} must hold a list of records with image, attr, obj and set, all of them text: "
            "fetch it again."
        )
    return records


def is_labelled(record: dict[str, Any]) -> bool:
    """Return whether attribute, object and split of a record are known; the field writes `NA`.

    Args:
        record: of the metadata.
    """
    return "NA" not in (record["attr"], record["obj"], record["set"])


def split_of(record: dict[str, Any]) -> SplitName:
    """Return a record's split; the published loaders take what is neither train nor val for test.

    Args:
        record: of the metadata.
    """
    name = record["set"]
    return name if name in ("train", "val") else "test"
