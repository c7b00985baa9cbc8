"""Names of attributes and objects, and what CLIP reads of them."""

import html
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import ftfy

from czsl_sac.words import some, visible

if TYPE_CHECKING:
    from czsl_sac.space import Pair


def read_as(name: str) -> str:
    r"""Return a name as CLIP's tokenizers read it in a prompt, without invisible characters.

    The prompt has it in lower case with full stops as spaces; the tokenizers repair its Unicode
    (NFC, straight quotes, no ligatures) and take all white space as one space.

    Examples:
        >>> read_as("Faux.Fur"), read_as(" cafe\u0301"), read_as("ri\u200bpe")
        ('faux fur', 'café', 'ripe')
    """
    repaired = html.unescape(html.unescape(ftfy.fix_text(name)))
    spaced = " ".join(repaired.replace(".", " ").split())
    return "".join(c for c in spaced if c.isprintable()).lower()


def read_alike(pairs: Iterable["Pair"]) -> list[str]:
    """Return which attributes, objects and compositions end in the same prompt as another.

    Returns:
        A text for each prompt that several names share, every invisible character shown.

    Examples:
        >>> read_alike([("Faux.Fur", "boot"), ("faux fur", "shoe")])
        ["attributes 'Faux.Fur' = 'faux fur'"]
    """
    names: dict[str, dict[tuple[str, ...], str]] = {
        "attributes": {},
        "objects": {},
        "compositions": {},
    }
    for pair in dict.fromkeys(pairs):
        for kind, name in zip(("attributes", "objects"), pair, strict=True):
            names[kind].setdefault((name,), read_as(name))
        read = (names["attributes"][pair[:1]], names["objects"][pair[1:]])
        # Compositions whose attributes or objects clash have been told already.
        names["compositions"].setdefault(read, " ".join(read))
    return [
        f"{kind} {' = '.join(repr(' + '.join(name)) for name in sorted(group))}"
        for kind, own in names.items()
        for group in _shared(own)
    ]


def refuse_read_alike(pairs: Iterable["Pair"], source: Path) -> None:
    """Refuse compositions whose names end in the same prompt: no method could tell them apart.

    Raises:
        ValueError: two names are read alike.
    """
    alike = read_alike(pairs)
    if alike:
        raise ValueError(
            f"{visible(source)} has names that are read as the same words ({len(alike)}): "
            f"{some(alike)}. CLIP would get one text for different classes: write each name in "
            "one way."
        )


def _shared(read: dict[tuple[str, ...], str]) -> list[list[tuple[str, ...]]]:
    groups: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for name, text in read.items():
        groups[text].append(name)
    return [group for group in groups.values() if len(group) > 1]
