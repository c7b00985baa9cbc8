"""Which compositions the generated scenes' splits hold, and which may stand beside which."""

import torch
from torch import Tensor

from czsl_sac.data.scenes.drawing import ATTRIBUTES, Uniforms, scene_keys
from czsl_sac.data.scenes.shapes import OUTLINES
from czsl_sac.space import CompositionSpace

OBJECTS: tuple[str, ...] = tuple(OUTLINES)
"""The scenes' objects, in the order in which `draw_scenes` counts them."""

Pair = tuple[str, str]


def split_pairs(split_seed: int) -> dict[str, tuple[Pair, ...]]:
    """Return the compositions of the three splits, each sorted.

    Args:
        split_seed: chooses which compositions are unseen.
    """
    # In a Latin square every symbol stands once in each row and column. Of its 12 symbols, over
    # rows (attributes) and columns (objects) in random order, 8 are seen, 2 are unseen of
    # validation and 2 of test; 2 seen ones each join the latter two.
    uniforms = Uniforms(scene_keys(split_seed, 0, torch.zeros(1, dtype=torch.int64)), purpose=2)
    n = len(ATTRIBUTES)
    rows, columns, symbols = (uniforms(n)[0].argsort().tolist() for _ in range(3))
    by_symbol: list[list[Pair]] = [[] for _ in range(n)]
    for i, attribute in enumerate(ATTRIBUTES):
        for j, obj in enumerate(OBJECTS):
            by_symbol[symbols[(rows[i] + columns[j]) % n]].append((attribute, obj))

    def pairs(*chosen: int) -> tuple[Pair, ...]:
        return tuple(sorted(pair for symbol in chosen for pair in by_symbol[symbol]))

    return {"train": pairs(*range(8)), "val": pairs(0, 1, 8, 9), "test": pairs(2, 3, 10, 11)}


def distractor_table(space: CompositionSpace) -> Tensor:
    """Return which compositions may stand small beside each labelled one.

    Returns:
        `[C, n]` int64; row c holds the seen pairs that share neither primitive with pair c, then
        -1 up to the width.
    """
    primitives = space.pair_indices
    differ = (primitives[:, None] != primitives[None]).all(-1) & space.seen_mask
    width = int(differ.sum(1).max())
    table = torch.full((len(space), width), -1)
    for c, row in enumerate(differ):
        allowed = row.nonzero().flatten()
        table[c, : len(allowed)] = allowed
    return table
