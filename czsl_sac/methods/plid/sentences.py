"""The sentences about compositions that PLID reads, asked of a language model."""

import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from czsl_sac.checks import check_range
from czsl_sac.clip.prompts import clean_name
from czsl_sac.methods.descriptions import read_descriptions
from czsl_sac.methods.language_models import LanguageModel
from czsl_sac.methods.plid.options import PLIDOptions
from czsl_sac.methods.questionnaire import Key, Questionnaire
from czsl_sac.space import CompositionSpace

KEYWORDS = """\
Keywords: sliced, potato, picture
Output: The picture shows potatoes cut into thin slices and laid out on a board.
###
Keywords: red, apple, photo
Output: A shiny red apple lies in the middle of the photo.
###
Keywords: leather, shoes, image
Output: In the image stands a pair of polished leather shoes.
###
Keywords: broken, car, photo
Output: The photo was taken of a car with broken windows at the side of a road.
###
Keywords: {attribute}, {object}, {picture}
Output:"""
"""Four examples of a sentence made of keywords, and the keywords of the fifth. Their form and their
keywords are those of the published prompt; the sentences are ours."""

REQUEST = """\
Describe what a photo of {attribute} {object} looks like. Write {count} different sentences, each \
independent of the others and shorter than 20 words. Answer with the sentences alone, one a line."""
"""For a model that follows instructions; what the published request asks for, in our words."""

_PICTURES = ("photo", "image", "picture")
_SHORTEST = 5
_ROUNDS = 10
_BULLET = re.compile(r"^\s*(?:[-*•–]|\d+[.):])\s*")


class Sentences(Questionnaire):
    """N sentences about each composition, `{"attribute": {"object": ["sentence", ...]}}`.

    A model that goes on with a text is given four examples and the keywords attribute, object and,
    drawn at random, photo, image or picture; one that follows instructions is asked for a list.
    Sentences are in lower case and each there once. After ten rounds a composition has what came.

    Args:
        space: the compositions.
        count: N; None takes 64.
        prompt: words in place of the two prompts, with `{attribute}`, `{object}`, `{picture}` or
            `{count}`.

    Raises:
        ValueError: N is less than 1, or the prompt names neither attribute nor object.
    """

    option = "descriptions"
    places = ("{attribute}", "{object}")

    def __init__(
        self, space: CompositionSpace, *, count: int | None = None, prompt: str | None = None
    ) -> None:
        check_range("count", count, low=1)
        super().__init__(space, count=count or PLIDOptions.num_sentences, prompt=prompt)

    def questions(self) -> list[Key]:
        """Return the compositions, each name as CLIP reads it."""
        return list(dict.fromkeys((clean_name(a), clean_name(o)) for a, o in self.space.pairs))

    def ask(self, key: Key, model: LanguageModel, seed: int) -> list[str]:
        """Return the sentences about a composition, N if the model gives so many.

        Args:
            key: attribute and object.
            model: who is asked.
            seed: with the names it decides every draw, so that the order of questions does not.
        """
        wanted = self.count or 0
        picture = _PICTURES[_number(seed, *key) % len(_PICTURES)]
        found: dict[str, None] = {}
        for turn in range(_ROUNDS):
            missing = wanted - len(found)
            draw = _number(seed, *key, str(turn))
            if model.follows_instructions:
                request = self._filled(REQUEST, key, picture, missing)
                tokens = 64 * missing + 64
                answers = model.generate(request, count=1, seed=draw, max_tokens=tokens)
                lines = [line for answer in answers for line in answer.splitlines()]
            else:
                text = self._filled(KEYWORDS, key, picture, missing)
                answers = model.generate(text, count=missing, seed=draw, max_tokens=32)
                lines = [answer.strip().partition("\n")[0] for answer in answers]
            found |= dict.fromkeys(sentence for line in lines if (sentence := _tidy(line)))
            if len(found) >= wanted:
                break
        return list(found)[:wanted]

    def answered(self, path: Path) -> dict[Key, Any]:
        """Return the sentences of a file by composition.

        Raises:
            ValueError: it holds something else.
        """
        found: dict[Key, Any] = {}
        found.update(read_descriptions(path).items())
        return found

    def content(self, answers: Mapping[Key, Any]) -> dict[str, dict[str, list[str]]]:
        """Return the sentences by attribute and object; compositions without any are left out."""
        found: dict[str, dict[str, list[str]]] = {}
        for (attribute, obj), sentences in answers.items():
            if sentences:
                found.setdefault(attribute, {})[obj] = sentences
        return found

    def remarks(self, answers: Mapping[Key, Any]) -> list[str]:
        """Return a sentence on the compositions that have fewer than N sentences."""
        few = [" ".join(key) for key, found in answers.items() if len(found) < (self.count or 0)]
        if not few:
            return []
        return [
            f"{len(few)} of {len(answers)} compositions have fewer than {self.count} sentences, "
            f"{few[0]!r} among them: PLID repeats what it has, and takes templates where it has "
            "none."
        ]

    def _filled(self, own: str, key: Key, picture: str, count: int) -> str:
        """A prompt with its places filled."""
        values = {"attribute": key[0], "object": key[1], "picture": picture, "count": str(count)}
        pattern = "|".join(f"{{{name}}}" for name in values)
        return re.sub(pattern, lambda place: values[place[0][1:-1]], self.prompt or own)


def _tidy(line: str) -> str:
    """A sentence in lower case, without bullet, next example and repeated last word; or nothing."""
    words = _BULLET.sub("", line).partition("###")[0].lower().split()
    while len(words) > 1 and words[-1].strip(".") == words[-2].strip("."):
        words.pop()
    sentence = " ".join(words).strip('"')
    is_whole = sentence.isprintable() and "\ufffd" not in sentence and not sentence.endswith(":")
    return sentence if is_whole and len(sentence) >= _SHORTEST else ""


def _number(*parts: object) -> int:
    """A number below 2**31 that the parts decide."""
    digest = sha256("\n".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
