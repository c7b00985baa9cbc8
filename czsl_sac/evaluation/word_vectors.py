"""Word vectors of attribute and object names, read from a text file such as GloVe's."""

import re
from collections.abc import Mapping, Sequence
from os import PathLike

import torch
from torch import Tensor

_SEPARATORS = re.compile(r"[_\s.\-]+")


def read_word_vectors(
    path: str | PathLike[str],
    names: Sequence[str],
    *,
    aliases: Mapping[str, str] | None = None,
) -> Tensor:
    """Read the vectors of names; only these are kept, so that a file of any size will do.

    A name is lower-cased and replaced by its alias, if it has one. If the file has the whole of it,
    that vector counts; else it is split at underscores, points, hyphens and blanks, and its
    words' vectors are averaged ("Faux.Fur": the mean of "faux" and "fur"). The published scores
    split at underscores alone and rewrite other names by hand ("faux.fur" to "fake_fur"): give
    such rewritings as `aliases`.

    Args:
        path: text file, a word and its numbers on each line, separated by blanks; a first line of
            two counts (word2vec's) is passed over.
        names: the K names, for example `space.attributes`.
        aliases: what to look up instead of a name; keys and values in lower case.

    Returns:
        `[K, E]` float32.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: words are missing (all are named), or a line cannot be read.

    Examples:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp(), "vectors.txt")
        >>> _ = file.write_text("faux 1 0\\nfur 0 1\\nnubuck 2 2\\ngrainy 4 0\\n")
        >>> read_word_vectors(file, ["Faux.Fur", "nubuck"])
        tensor([[0.5000, 0.5000],
                [2.0000, 2.0000]])
        >>> read_word_vectors(file, ["Nubuck"], aliases={"nubuck": "grainy"})
        tensor([[4., 0.]])
    """
    aliases = aliases or {}
    wanted = [aliases.get(name.lower(), name.lower()) for name in names]
    words = [[word for word in _SEPARATORS.split(name) if word] for name in wanted]
    vectors = _read(path, {*wanted, *(word for parts in words for word in parts)})
    rows, missing = [], []
    for name, whole, parts in zip(names, wanted, words, strict=True):
        known = [vectors[word] for word in parts if word in vectors]
        if whole in vectors:
            rows.append(vectors[whole])
        elif parts and len(known) == len(parts):
            rows.append(torch.stack(known).mean(0))
        else:
            lacking = [word for word in parts if word not in vectors]
            missing.append(f"{', '.join(lacking)} (of {name!r})")
    if missing:
        raise ValueError(
            f"{path} lacks the words {'; '.join(missing)} but must hold all: give aliases for "
            "these names, or use text features instead."
        )
    if not rows:
        raise ValueError("names is empty but must hold one at least: give some.")
    return torch.stack(rows)


def _read(path: str | PathLike[str], wanted: set[str]) -> dict[str, Tensor]:
    vectors: dict[str, Tensor] = {}
    size = None
    with open(path, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            word, *numbers = line.rstrip().split(" ")
            if word not in wanted or (number == 1 and len(numbers) == 1):
                continue
            try:
                vector = torch.tensor([float(value) for value in numbers])
            except ValueError:
                raise ValueError(
                    f"{path}, line {number}: {word!r} is followed by something else but must be by "
                    "numbers alone: mend the line."
                ) from None
            size = len(vector) if size is None else size
            if len(vector) != size or not size:
                raise ValueError(
                    f"{path}, line {number}: {word!r} has {len(vector)} numbers but must have "
                    f"{size or 'some'} as the first word read: the file is damaged, get it anew."
                )
            vectors[word] = vector
    return vectors
