"""What scores images at test: against all compositions at once, or chunk by chunk."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from czsl_sac.blocks.alignment import Aligner, ClassTokenAligner
from czsl_sac.functional.losses import composition_probabilities
from czsl_sac.space import CompositionSpace

if TYPE_CHECKING:
    from czsl_sac.methods.base import CZSLMethod


class Predictor:
    """Scores images against the compositions of one space, with text features made once.

    A predictor belongs to one pass over a stream of images: it may hold state that the stream
    changes, as the dynamically updated memory bank does. `restart` begins another one.

    A subclass implements `__call__`, and where it can, what evaluation asks for besides: scores in
    chunks (see `ChunkedPredictor`) and the features that the modality gap is measured on.

    Args:
        space: the compositions to score, C of them.

    Attributes:
        gather: makes the rows of all processes from those of this one, in the order of the stream;
            a predictor whose state depends on the stream passes what it takes in through it.
    """

    gather: Callable[[Tensor], Tensor]

    def __init__(self, space: CompositionSpace) -> None:
        self.space = space
        self.gather = _these_rows

    def __call__(self, images: Tensor) -> Tensor:
        """Return scores `[B, C]` (the higher the better) of images `[B, 3, H, W]`."""
        raise NotImplementedError

    def encode(self, images: Tensor) -> Any:
        """Return what `score_chunks` and `gap_features` need of the images, made once for both.

        Args:
            images: `[B, 3, H, W]`, normalised.
        """
        return images

    def score_chunks(self, encoded: Any) -> Iterator[Tensor]:
        """Yield the scores of a batch in chunks of neighbouring compositions, C in all.

        Take all of them: what the stream changes may change after the last.

        Args:
            encoded: what `encode` returned.

        Yields:
            `[B, c]` each. By default the whole, `[B, C]`, at once.
        """
        yield self(encoded)

    def probabilities(self, scores: Tensor) -> Tensor:
        """Return scores as probabilities over the compositions of this predictor.

        By default scores are logits, divided by the method's τ already: their softmax.

        Args:
            scores: what a call returned, `[B, C]`.

        Returns:
            `[B, C]` float32 (float64 for float64 scores), rows summing to one, in the scores'
            order.
        """
        return composition_probabilities(scores, 1.0)

    def compared(self, encoded: Any, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the alignment compares for one composition an image, to be looked at.

        Where the method has branches, it is that of the compositions.

        Args:
            encoded: what `encode` returned.
            columns: of `space.pairs`, one an image, `[B]`.

        Returns:
            Tokens `[B, T, D]`, the class token first, and texts `[B, D]`; neither need be of unit
            norm.
        """
        raise NotImplementedError(f"{type(self).__name__} shows nothing of what it compares")

    @property
    def says_what_it_compares(self) -> bool:
        """Whether `compared` is implemented."""
        return type(self).compared is not Predictor.compared

    def attention(self, encoded: Any) -> Tensor | None:
        """Return where a condenser looks, `[B, T]`; None where there is no condenser.

        Args:
            encoded: what `encode` returned.
        """
        return None

    def restart(self) -> None:
        """Forget what the stream changed: the images to come are the first of another one."""

    @property
    def gap_text(self) -> Tensor | None:
        """Text features `[C, D]` that the modality gap is measured on; None: it is not."""
        return None

    def gap_features(self, encoded: Any, targets: Tensor) -> dict[str, Tensor]:
        """Return the image features that the modality gap is measured on.

        Args:
            encoded: what `encode` returned.
            targets: column of each image's composition, `[B]`.

        Returns:
            `[B, D]` by name: "class_token"; "aligned", what the alignment head compares with the
            text of the image's own composition; "condensed", v_q of the condenser. Of these,
            those that the method compares with texts, and the class token for comparison.
        """
        return {}


class ChunkedPredictor(Predictor):
    """A predictor that implements `encode` and `score_chunks`, from which the rest follows.

    Attributes:
        chunk_size: compositions whose scores are made at once. By default the closed world is one
            chunk, and C-GQA's open world of 278,362 compositions 17 of them.
    """

    chunk_size: int = 2**14

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return scores `[B, C]` (the higher the better) of images `[B, 3, H, W]`."""
        chunks = list(self.score_chunks(self.encode(images)))
        return chunks[0] if len(chunks) == 1 else torch.cat(chunks, dim=1)


class TokenPredictor(ChunkedPredictor):
    """A predictor of a `method` whose alignment head compares tokens with the texts `gap_text`."""

    method: Any

    def gap_features(self, encoded: Any, targets: Tensor) -> dict[str, Tensor]:
        """Return the class token, and what the head compares with the text."""
        text: Any = self.gap_text
        return token_features(self.method.aligner, tokens_of(encoded), text[targets])


class TextPredictor(TokenPredictor):
    """A predictor whose compositions have one text feature each, whatever the image.

    A subclass implements `score_chunks`.

    Args:
        method: whose tokens and alignment head it takes.
        space: the compositions to score.
        text: `[C, D]`.
    """

    def __init__(self, method: "CZSLMethod", space: CompositionSpace, text: Tensor) -> None:
        super().__init__(space)
        self.method, self.text = method, text

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Return the tokens `[B, T, D]`."""
        tokens: Tensor = self.method.encode(images)
        return tokens

    def compared(self, encoded: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens `[B, T, D]` and the text features `[B, D]` of `columns` `[B]`."""
        return encoded, self.text[columns]

    @property
    def gap_text(self) -> Tensor:
        """The texts, `[C, D]`."""
        return self.text


class AlignmentPredictor(TextPredictor):
    """One text feature a composition, one alignment head: zero-shot CLIP, CoOp and CSP."""

    @torch.no_grad()
    def score_chunks(self, encoded: Tensor) -> Iterator[Tensor]:
        """Yield logits `[B, c]` of tokens `[B, T, D]`."""
        for text in self.text.split(self.chunk_size):
            yield self.method.aligner(encoded, text)


@torch.no_grad()
def token_features(aligner: Aligner, tokens: Tensor, text: Tensor) -> dict[str, Tensor]:
    """Return the class token, and what an alignment head compares with the image's own text.

    Args:
        aligner: the alignment head.
        tokens: `[B, T, D]`, the class token first.
        text: text feature of each image's composition, `[B, D]`.

    Returns:
        `"class_token"` and, where it is another, `"aligned"`, `[B, D]` each.

    Examples:
        >>> from czsl_sac import PatchMaxAligner
        >>> tokens, text = torch.eye(3)[None, :2], torch.tensor([[0.0, 0.8, 0.6]])
        >>> features = token_features(PatchMaxAligner(), tokens, text)
        >>> {name: feature.tolist() for name, feature in features.items()}
        {'class_token': [[1.0, 0.0, 0.0]], 'aligned': [[0.0, 1.0, 0.0]]}
    """
    features = {"class_token": F.normalize(tokens[:, 0], dim=-1)}
    if not isinstance(aligner, ClassTokenAligner):
        features["aligned"] = aligner.compared_feature(tokens, text)
    return features


def tokens_of(encoded: Any) -> Tensor:
    """Return the tokens `[B, T, D]` of what a method made of images: that itself, or a field."""
    tokens: Tensor = encoded if isinstance(encoded, Tensor) else encoded.tokens
    return tokens


def _these_rows(rows: Tensor) -> Tensor:
    return rows
