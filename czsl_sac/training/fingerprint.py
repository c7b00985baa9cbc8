"""Fingerprints of a data set's splits: whether they are still what a run was trained on."""

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from czsl_sac.data import CZSLData, SplitName


def split_fingerprints(data: CZSLData) -> dict[str, str]:
    """Return a checksum of each split: which images it has and what they are labelled as."""
    return {name: data.split(name).identity() for name in get_args(SplitName)}  # type: ignore[attr-defined]


def check_splits(data: CZSLData, expected: Mapping[str, str], run_dir: Path) -> None:
    """Refuse splits that have changed since a run was trained on them.

    Raises:
        ValueError: a split has other images or labels, or another order.
    """
    found = split_fingerprints(data)
    different = [name for name in found if found[name] != expected.get(name)]
    if different:
        raise ValueError(
            f"the {' and '.join(different)} split of {data.name} has changed but must be the one "
            f"that the run in {run_dir} was trained with, or training images could be scored as "
            "test: put the split back, or train again."
        )
