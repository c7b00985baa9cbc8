"""How results and data sets are printed, and what one must know to read them."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from tabulate import tabulate

from czsl_sac.words import counted

if TYPE_CHECKING:
    from czsl_sac.data.listing import Entry
    from czsl_sac.data.protocol import SplitName
    from czsl_sac.evaluation import CZSLResult
    from czsl_sac.space import Pair
    from czsl_sac.training.config import TrainConfig

_GAP_NAMES = {
    "class_token": "class token",
    "aligned": "what the alignment compares",
    "condensed": "condensed feature",
}


def result_table(result: "CZSLResult", config: "TrainConfig", scored: str) -> str:
    """Return a heading, the one-row table of a result in percent, and notes on it.

    Args:
        result: seen-unseen metrics; its table names the protocol.
        config: configuration of the run.
        scored: what was scored: split and checkpoint.
    """
    lines = [f"{scored}, {result.world} world, in percent:", "", result.table(), ""]
    lines += [
        f"Modality gap, {_GAP_NAMES.get(name, name)}: relative "
        f"{gap['relative_modality_gap']:.4f}, L2 {gap['modality_gap_l2']:.4f}."
        for name, gap in result.modality_gap.items()
    ]
    if result.threshold is not None and result.candidates is not None:
        lines.append(
            f"Feasible at {result.threshold:.4f} or more, seen ones included: "
            f"{result.candidates:,} compositions."
        )
    elif result.world == "open":
        lines.append(f"All {result.candidates:,} compositions count as feasible.")
    lines += result.notes()
    if config.method.is_transductive:
        lines.append("The method learned from these images: a transductive result.")
    return "\n".join(lines)


def data_table(entries: "Sequence[Entry]", pairs: "Mapping[SplitName, Collection[Pair]]") -> str:
    """Return what each split of a data set holds, and the size of the whole, as a table.

    Args:
        entries: the images.
        pairs: compositions of each split; those of `"train"` are seen.
    """
    seen = set(pairs["train"])
    rows = []
    for split, own in pairs.items():
        images = [entry.pair for entry in entries if entry.split == split]
        unseen = sum(pair not in seen for pair in images)
        both = set(own)
        rows.append((split, len(both & seen), len(images) - unseen, len(both - seen), unseen))
    every = set().union(*pairs.values())
    attributes, objects = ({pair[place] for pair in every} for place in (0, 1))
    headers = ("split", "seen compositions", "their images", "unseen compositions", "their images")
    size = (
        f"{counted(len(entries), 'image')}, {counted(len(attributes), 'attribute')} × "
        f"{counted(len(objects), 'object')}, {counted(len(every), 'composition')}"
    )
    return f"{size}\n\n{tabulate(rows, headers, tablefmt='simple')}"
