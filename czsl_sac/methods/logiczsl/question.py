"""The concepts above attributes and objects that LogiCZSL reads, asked of a language model."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from czsl_sac.methods.language_models import LanguageModel
from czsl_sac.methods.logiczsl.concepts import ConceptTree, concept_question
from czsl_sac.methods.questionnaire import Key, Questionnaire
from czsl_sac.space import CompositionSpace

_KEY = ("concepts",)
_ROUNDS = 3
_MOST_TOKENS = 16384


class ConceptQuestion(Questionnaire):
    """One question: `concept_question`, whose answer is a file of concepts.

    Names that the data set lacks are dropped, and what stands in two groups stays in the first.

    Args:
        space: attributes and objects to sort.
        count: the question has one answer: None.
        prompt: words in place of `concept_question`, with `{attributes}` or `{objects}`.

    Raises:
        ValueError: a count is given, or the prompt names neither attributes nor objects.
    """

    option = "concepts"
    places = ("{attributes}", "{objects}")

    def __init__(
        self, space: CompositionSpace, *, count: int | None = None, prompt: str | None = None
    ) -> None:
        if count is not None:
            raise ValueError(
                f"count is {count} but must be left out: LogiCZSL asks one question, which has one "
                "answer."
            )
        super().__init__(space, prompt=prompt)

    def questions(self) -> list[Key]:
        """Return the one question."""
        return [_KEY]

    def ask(self, key: Key, model: LanguageModel, seed: int) -> dict[str, dict[str, list[str]]]:
        """Return the groups of attributes and of objects.

        Args:
            key: the one question.
            model: who is asked; it must follow instructions.
            seed: of the first try; each later one has the next.

        Raises:
            ValueError: none of three answers is JSON of groups of the names.
        """
        for turn in range(_ROUNDS):
            (answer,) = model.generate(
                self._question(), count=1, seed=seed + turn, max_tokens=_MOST_TOKENS
            )
            groups = self._groups(answer)
            if any(groups.values()):
                return groups
        raise ValueError(
            f"model is {model.name!r}, whose answers are no JSON of groups of the names, but must "
            "be one that follows instructions: take a larger one, or write the file yourself (see "
            "docs/methods.md, LogiCZSL)."
        )

    def answered(self, path: Path) -> dict[Key, Any]:
        """Return the groups of a file.

        Raises:
            ValueError: it holds something else, or concepts of other names.
        """
        ConceptTree.read(str(path), self.space)
        return {_KEY: json.loads(path.read_text("utf-8"))}

    def content(self, answers: Mapping[Key, Any]) -> Any:
        """Return the groups of attributes and of objects."""
        return answers[_KEY]

    def remarks(self, answers: Mapping[Key, Any]) -> list[str]:
        """Return a sentence on the names that are in no group."""
        names = {*self.space.attributes, *self.space.objects}
        sorted_ = {name for part in answers[_KEY].values() for own in part.values() for name in own}
        left = sorted(names - sorted_)
        if not left:
            return []
        return [
            f"{len(left)} of {len(names)} names are in no group, {left[0]!r} among them: each is a "
            "group of its own."
        ]

    def _question(self) -> str:
        if self.prompt is None:
            return concept_question(self.space)
        attributes, objects = ", ".join(self.space.attributes), ", ".join(self.space.objects)
        return self.prompt.replace("{attributes}", attributes).replace("{objects}", objects)

    def _groups(self, answer: str) -> dict[str, dict[str, list[str]]]:
        """The groups of an answer, with what stands around its JSON left out."""
        found = re.search(r"\{.*\}", answer, re.DOTALL)
        try:
            tree = json.loads(found[0]) if found else {}
        except ValueError:
            tree = {}
        own = {"attributes": self.space.attributes, "objects": self.space.objects}
        return {part: _known(tree.get(part), names) for part, names in own.items()}


def _known(part: Any, names: tuple[str, ...]) -> dict[str, list[str]]:
    """The groups of known names, each name once."""
    left, groups = set(names), {}
    for word, members in part.items() if isinstance(part, dict) else ():
        given = [name for name in members if isinstance(name, str)] if members else []
        own = [name for name in dict.fromkeys(given) if name in left]
        left -= set(own)
        if own:
            groups[word] = own
    return groups
