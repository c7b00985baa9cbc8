"""Which attributes, and which objects, fall under one concept: colours, fruit, footwear."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from czsl_sac.checks import suggestion
from czsl_sac.clip.prompts import clean_name
from czsl_sac.files import read_json
from czsl_sac.methods.logiczsl.options import BUILT_IN
from czsl_sac.space import CompositionSpace

_REMEDY = "see docs/methods.md, LogiCZSL"


@dataclass(frozen=True)
class Concepts:
    """Names sorted into groups, each name in one.

    Attributes:
        words: what each of G groups is called.
        parent: number of each name's group, `[K]` int64.
    """

    words: tuple[str, ...]
    parent: Tensor

    def to(self, device: torch.device) -> "Concepts":
        """Return the same on a device."""
        return Concepts(self.words, self.parent.to(device))


@dataclass(frozen=True)
class ConceptTree:
    """The concepts of attributes and of objects."""

    attributes: Concepts
    objects: Concepts

    @classmethod
    def read(cls, source: str, space: CompositionSpace) -> "ConceptTree":
        """Return the concepts of a space, from a file of JSON.

        The file holds `{"attributes": {"colour": ["red"]}, "objects": {"animal": ["cat"]}}`; either
        part may be missing. A name in no group is one of its own. Names that the space does
        not have are passed over, so that a file may serve several data sets.

        Args:
            source: path of the file, or the name of a tree that comes with the package.
            space: whose attributes and objects they are.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is of another format, names something twice, or names nothing that
                the space has.

        Examples:
            >>> space = CompositionSpace.closed_world([("red", "cat"), ("blue", "car")])
            >>> ConceptTree.read("scenes", space).attributes.words
            ('colour',)
        """
        path = Path(__file__).with_name(f"{source}.json") if source in BUILT_IN else Path(source)
        tree = read_json(path, _REMEDY)
        names = {"attributes": space.attributes, "objects": space.objects}
        if not isinstance(tree, dict) or tree.keys() - names.keys():
            raise ValueError(
                f"{path} holds {sorted(tree) if isinstance(tree, dict) else type(tree).__name__} "
                f"but must be a dictionary of attributes and objects: {_REMEDY}."
            )
        known = {name for part in names.values() for name in part}
        listed = {name for part in tree.values() for name in _members(part, path)}
        if not listed & known:
            hint = suggestion(next(iter(listed), ""), known) or "use that of another data set."
            raise ValueError(f"{path} names none of the {len(known)} primitives: {hint}")
        return cls(*(_sorted_into(tree.get(part, {}), own) for part, own in names.items()))


def concept_question(space: CompositionSpace) -> str:
    """Return what to ask a language model, or a person, for a file of concepts.

    The answer is the file that `--concepts` takes. Look at it before you train.

    Args:
        space: attributes and objects to sort.

    Examples:
        >>> print(concept_question(CompositionSpace.closed_world([("red", "cat")])))
        Sort the attributes below into groups ...
        attributes: red
        objects: cat
    """
    return (
        "Sort the attributes below into groups of which a thing shows at most one member at a "
        "time, such as colours or states of ripeness, and the objects below into groups of one "
        "kind, such as animals or footwear. Name each group by one or two plain words. Put each "
        "name into one group, spelled as below. Answer with JSON alone, in the form "
        '{"attributes": {"GROUP": ["NAME", ...]}, "objects": {"GROUP": ["NAME", ...]}}.\n'
        f"attributes: {', '.join(space.attributes)}\n"
        f"objects: {', '.join(space.objects)}"
    )


def _members(part: Any, path: Path) -> list[str]:
    """Return all names of a part, in a file's form and each once."""
    is_right = isinstance(part, dict) and all(
        isinstance(names, list) and all(isinstance(name, str) for name in names)
        for names in part.values()
    )
    if not is_right:
        raise ValueError(f"{path} has groups that are no lists of names: {_REMEDY}.")
    names = [name for members in part.values() for name in members]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"{path} has {twice[0]!r} twice but must have it in one group: correct it."
        )
    return names


def _sorted_into(part: Mapping[str, Sequence[str]], names: Sequence[str]) -> Concepts:
    group_of = {name: word for word, members in part.items() for name in members}
    own = [group_of.get(name, clean_name(name)) for name in names]
    words = tuple(dict.fromkeys(own))
    return Concepts(words, torch.tensor([words.index(word) for word in own]))
