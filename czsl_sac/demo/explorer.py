"""What the page asks: an image's predictions, what a bias names, where the method looked."""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from czsl_sac.checks import check_choice
from czsl_sac.data.reading import opened
from czsl_sac.predict.candidates import KEYWORDS, candidate_space, parse_pair
from czsl_sac.predict.decision import Decision, decide
from czsl_sac.predict.heatmaps import draw_batch
from czsl_sac.predict.predictions import Prediction, marginals, predict_files, top_predictions
from czsl_sac.predict.run_predictor import ReadyToPredict, RunPredictor
from czsl_sac.space import CompositionSpace

_NAMED = 10
"""Likeliest compositions of an image that are named."""


@dataclass(frozen=True)
class Answer:
    """What a method says of one image.

    Attributes:
        candidates: the choice of candidates, a key of `Explorer.choices`.
        space: the candidates, C of them.
        image: `[1, 3, H, W]`, normalised, on the method's device.
        scores: as an evaluator takes them, `[C]`.
        probabilities: as `czsl-sac predict` has them, `[C]`.
        top: the likeliest compositions, as `czsl-sac predict` names them.
        notes: what is to be known of the file, a sentence each.
    """

    candidates: str
    space: CompositionSpace
    image: Tensor
    scores: Tensor
    probabilities: Tensor
    top: Prediction
    notes: tuple[str, ...]

    def decide(self, bias: float) -> Decision:
        """Return what is named under a bias for unseen compositions."""
        return decide(self.scores, self.space.seen_mask, bias)

    def table(self, rows: int, columns: int) -> "Table":
        """Return the probabilities as a table of the likeliest attributes and objects.

        Args:
            rows: at most so many attributes.
            columns: at most so many objects.
        """
        attributes, objects = (sums[0] for sums in marginals(self.probabilities[None], self.space))
        down, across = _greatest(attributes, rows), _greatest(objects, columns)
        pairs = self.space.pair_indices
        shown = torch.isin(pairs[:, 0], torch.tensor(down))
        shown &= torch.isin(pairs[:, 1], torch.tensor(across))
        at = {tuple(pairs[column].tolist()): column for column in shown.nonzero()[:, 0].tolist()}
        return Table(
            [(self.space.attributes[index], float(attributes[index])) for index in down],
            [(self.space.objects[index], float(objects[index])) for index in across],
            [[at.get((a, o)) for o in across] for a in down],
        )


class Table(NamedTuple):
    """Probabilities of attribute × object, the likeliest of both first.

    Attributes:
        attributes: names of the rows, with their probabilities.
        objects: names of the columns, with their probabilities.
        cells: column of each composition in `Answer.probabilities`; None where it is no candidate.
    """

    attributes: list[tuple[str, float]]
    objects: list[tuple[str, float]]
    cells: list[list[int | None]]


class Explorer:
    """Answers about single images, by a run or by CLIP as it comes.

    Args:
        ready: with the options that prediction needs; see `on_new_images` of a method's options.
        candidates: what may be named at first, see `candidate_space`.

    Attributes:
        choices: the candidates to choose from, by what `candidates` calls them; those that would
            repeat others are left out.
        start: the choice to begin with.

    Raises:
        ValueError: `candidates` is unknown, or its file names an unknown composition.
    """

    def __init__(self, ready: ReadyToPredict, *, candidates: str = "all") -> None:
        self._ready = ready
        self.choices: dict[str, CompositionSpace] = {}
        self.start = candidates
        for name in dict.fromkeys((*KEYWORDS, candidates)):
            space = candidate_space(ready.method.space, name)
            same = [n for n, s in self.choices.items() if set(s.pairs) == set(space.pairs)]
            if not same:
                self.choices[name] = space
            elif name == candidates:
                self.start = same[0]
        self._predictors: dict[str, RunPredictor] = {}

    @property
    def has_unseen(self) -> bool:
        """Whether a bias can change anything."""
        return any(not bool(space.seen_mask.all()) for space in self.choices.values())

    def ask(self, path: Path, candidates: str) -> Answer:
        """Return what the method says of an image file.

        Args:
            path: of any format that Pillow reads; of an animated one the first picture counts.
            candidates: a key of `choices`.

        Raises:
            ValueError: the file is no image that can be read, or there is no such choice.
        """
        check_choice("candidates", candidates, self.choices)
        predictor = self._predictor(candidates)
        (batch,) = predict_files(
            predictor.method,
            predictor.predictor,
            [path],
            predictor.session,
            batch_size=1,
            show_progress=False,
        )
        if batch.unreadable:
            # The file lies where the page put it, which says nothing to who gave it.
            problem = batch.unreadable[0].replace(f"{path.parent}{os.sep}", "") + "."
            raise ValueError(problem)
        (prediction,) = top_predictions(batch, predictor.space, _NAMED)
        return Answer(
            candidates,
            predictor.space,
            batch.images,
            batch.scores[0],
            batch.probabilities[0],
            prediction,
            _notes(path),
        )

    def column(self, answer: Answer, composition: str) -> int:
        """Return the column of a composition that is written out.

        Args:
            answer: whose candidates it is one of.
            composition: attribute, white space, object.

        Raises:
            ValueError: it is no candidate.
        """
        attribute, obj = parse_pair(composition, answer.space, "composition")
        try:
            return answer.space.index(attribute, obj)
        except ValueError:
            raise ValueError(
                f"composition is {composition!r} but must be one of the {len(answer.space)} "
                "candidates: choose others that hold it."
            ) from None

    def heatmap(self, answer: Answer, column: int) -> bytes:
        """Return where the method looked for a composition, as a PNG file."""
        predictor = self._predictor(answer.candidates)
        with predictor.session.autocast():
            (figure,) = draw_batch(
                predictor.method,
                predictor.predictor,
                answer.image,
                answer.probabilities[None],
                torch.tensor([column]),
            )
        stream = io.BytesIO()
        figure.savefig(stream, format="png")
        return stream.getvalue()

    def _predictor(self, candidates: str) -> RunPredictor:
        """The predictor over some candidates, whose texts are encoded once."""
        if candidates not in self._predictors:
            self._predictors[candidates] = RunPredictor(self._ready, candidates=candidates)
        return self._predictors[candidates]


def _greatest(values: Tensor, k: int) -> list[int]:
    """The indices of the k greatest, the first of equals first."""
    return values.sort(descending=True, stable=True).indices[:k].tolist()


def _notes(path: Path) -> tuple[str, ...]:
    """What is to be known of an image that can be read, a sentence each."""
    with opened(path) as image:
        notes = []
        if getattr(image, "n_frames", 1) > 1:
            notes.append("The file holds several pictures: the first is looked at.")
        if _lets_through(image):
            notes.append("The image is transparent in parts, where the colours below it are seen.")
        return tuple(notes)


def _lets_through(image: Image.Image) -> bool:
    """Whether a pixel is not opaque."""
    if image.mode not in ("LA", "PA", "RGBA") and "transparency" not in image.info:
        return False
    alpha = image.convert("RGBA").getchannel("A")
    return any(alpha.histogram()[:255])
