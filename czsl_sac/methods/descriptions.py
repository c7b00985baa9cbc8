"""Sentences about compositions, from a file or from templates, and what CLIP makes of them."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from czsl_sac.clip.prompts import clean_name
from czsl_sac.clip.text_tower import Tokenizer
from czsl_sac.files import read_json
from czsl_sac.space import CompositionSpace, Pair

if TYPE_CHECKING:
    from czsl_sac.clip.backbone import CLIPBackbone

_FORM = 'make it as docs/methods.md shows: {"attribute": {"object": ["sentence", ...]}}'
_PICTURES = ("photo", "picture", "image", "view")
_WAYS = ("a {picture} of {name}", "{name} in a {picture}", "one {picture} of some {name}")
_MOST_WORDS, _MOST_LETTERS = 20, 30


def template_sentences(pair: Pair) -> list[str]:
    """Return sentences that say no more than the names: a stand-in for a language model's.

    Args:
        pair: attribute and object.

    Examples:
        >>> template_sentences(("ripe", "apple"))[:2]
        ['a photo of ripe apple', 'ripe apple in a photo']
    """
    name = " ".join(map(clean_name, pair))
    return [way.format(name=name, picture=picture) for picture in _PICTURES for way in _WAYS]


def read_descriptions(path: str | os.PathLike[str]) -> dict[Pair, list[str]]:
    """Read a file of sentences, JSON of the form {"attribute": {"object": ["sentence", ...]}}.

    Args:
        path: the file.

    Returns:
        Sentences by composition; names as `clean_name` writes them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON, or of another form.
    """
    found, path = read_json(Path(path), _FORM), Path(path)
    sentences: dict[Pair, list[str]] = {}
    objects = found.values() if isinstance(found, dict) else [None]
    if not all(isinstance(value, dict) for value in objects):
        raise ValueError(f"{path} holds other JSON but must hold sentences: {_FORM}.")
    for attribute, by_object in found.items():
        for name, texts in by_object.items():
            if not (isinstance(texts, list) and texts and all(isinstance(t, str) for t in texts)):
                raise ValueError(
                    f"{path} has for {attribute!r} {name!r} no list of sentences but must: {_FORM}."
                )
            sentences[clean_name(attribute), clean_name(name)] = texts
    return sentences


def fitting(sentence: str, tokenizer: Tokenizer, most: int) -> str:
    """Return a sentence's first words, as many as the text tower takes; "" if they are none.

    At most 20 words, of at most 30 letters, in lower case.

    Args:
        sentence: of whatever length.
        tokenizer: of the tower.
        most: ids that a text may have, start and end included.
    """
    words = [word[:_MOST_LETTERS] for word in sentence.lower().split()[:_MOST_WORDS]]
    while words and len(tokenizer.encode(" ".join(words))) + 2 > most:
        words.pop()
    text = " ".join(words)
    return text if 2 * sum(c.isalpha() or c.isspace() for c in text) > len(text) else ""


class Descriptions:
    """Features of N sentences a composition, by the frozen text tower.

    Those of one space's compositions, the method's own, are kept once they are made; those of
    others, as in the open world, are made each time.

    Args:
        backbone: CLIP; its text tower must not learn.
        space: whose compositions are kept.
        count: N; a composition with fewer sentences repeats them, one with more has the first.
        sentences: by composition; one that is not there, or None, gets `template_sentences`.

    Examples:
        >>> from czsl_sac.clip.sources.tiny import tiny_clip
        >>> space = CompositionSpace.closed_world([("red", "cat"), ("blue", "star")])
        >>> describe = Descriptions(tiny_clip(), space, count=3)
        >>> describe(space.pair_indices).shape
        torch.Size([2, 3, 128])
    """

    def __init__(
        self,
        backbone: "CLIPBackbone",
        space: CompositionSpace,
        count: int,
        sentences: Mapping[Pair, Sequence[str]] | None = None,
    ) -> None:
        self._backbone, self._space, self._count = backbone, space, count
        self._sentences = sentences or {}
        self._position = {pair: i for i, pair in enumerate(map(tuple, space.pair_indices.tolist()))}
        self._kept: Tensor | None = None
        self._has = torch.zeros(len(space), dtype=torch.bool)

    @torch.inference_mode(False)  # what is kept must outlive the caller's inference mode
    @torch.no_grad()
    def __call__(self, pairs: Tensor) -> Tensor:
        """Return the features `[C, N, D]`, not normalised, of `pairs` `[C, 2]`."""
        rows = [(attribute, object_) for attribute, object_ in pairs.tolist()]
        if any(row not in self._position for row in rows):
            return self._encode(rows)
        positions = torch.tensor([self._position[row] for row in rows])
        new = positions[~self._has[positions]].unique()
        if self._kept is None or len(new):
            known = list(self._position)
            made = self._encode([known[position] for position in new.tolist()])
            if self._kept is None:
                self._kept = made.new_zeros(len(self._space), *made.shape[1:])
            self._kept[new.to(made.device)] = made
            self._has[new] = True
        kept: Tensor = self._kept
        return kept[positions.to(kept.device)]

    def texts(self, row: tuple[int, int]) -> list[str]:
        """Return the N sentences of a composition as they are encoded.

        Args:
            row: its attribute's and its object's index.
        """
        pair = (self._space.attributes[row[0]], self._space.objects[row[1]])
        tokenizer, most = self._backbone.tokenizer, self._backbone.config.context_length
        given = self._sentences.get((clean_name(pair[0]), clean_name(pair[1])), [])
        fit = [fitting(sentence, tokenizer, most) for sentence in given]
        plain = [fitting(sentence, tokenizer, most) for sentence in template_sentences(pair)]
        found = [sentence or plain[0] for sentence in fit] or plain
        return [found[n % len(found)] for n in range(self._count)]

    def _encode(self, rows: list[tuple[int, int]]) -> Tensor:
        texts = [text for row in rows for text in self.texts(row)]
        device = self._backbone.logit_scale.device
        features = self._backbone.encode_text(self._backbone.tokenizer(texts).to(device))
        return features.unflatten(0, (len(rows), self._count))
