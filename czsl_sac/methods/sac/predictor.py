"""SAC's prediction: alignment, condenser and memory bank, fused (Eq. 12, 13)."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from czsl_sac.blocks.memory_bank import EntropyMemoryBank
from czsl_sac.functional.fusion import PathProbabilities, combine_primitives, fuse_predictions
from czsl_sac.functional.losses import composition_probabilities
from czsl_sac.methods.base import primitive_indices
from czsl_sac.methods.predictor import TokenPredictor
from czsl_sac.space import CompositionSpace

if TYPE_CHECKING:
    from czsl_sac.methods.sac.method import SAC


class EncodedImages(NamedTuple):
    """What SAC sees of B images.

    Attributes:
        tokens: `[B, T, D]`, the class token first.
        condensed: v_q of the condenser, `[B, D]`, or None without it.
        attention: of its last block, mean over heads, `[B, T]`, or None without it.
    """

    tokens: Tensor
    condensed: Tensor | None
    attention: Tensor | None = None


class SACPredictor(TokenPredictor):
    """SAC's inference (Eq. 12, 13; lines 17 to 21 of Alg. 1) over one stream of images.

    With a dynamic bank every batch is first predicted, then taken in: the scores depend on the
    order of the stream, and the result is transductive.

    A softmax over the compositions needs all their logits, so a batch holds one `[B, C]` for each
    of its paths; what else there is of that size comes in chunks of compositions.

    Args:
        method: a trained SAC.
        space: the compositions to score.
        stage: see `SAC.predictor`.

    Attributes:
        bank: the memory bank of this stream, or None.
    """

    @torch.no_grad()
    def __init__(self, method: "SAC", space: CompositionSpace, stage: str | None = None) -> None:
        super().__init__(space)
        self.method = method
        self.condenser = None if stage == "align" else method.condenser
        self.pairs = primitive_indices(method, space)
        self.text = method.text_features(self.pairs)
        self.bank: EntropyMemoryBank | None = None
        if method.options.bank != "off" and stage is None:
            self.bank = method.new_bank(self.text.composition)
            self._adopt_training_images()

    @torch.no_grad()
    def encode(self, images: Tensor) -> EncodedImages:
        """Return tokens and condensed features of images `[B, 3, H, W]`."""
        tokens = self.method.encode(images)
        if self.condenser is None:
            return EncodedImages(tokens, None)
        return EncodedImages(tokens, *self.condenser(tokens, return_attention=True))

    @torch.no_grad()
    def score_chunks(self, encoded: EncodedImages) -> Iterator[Tensor]:
        """Yield p̂(c|x) `[B, c]`; a dynamic bank has been updated before the first."""
        sa, vac, bank = self.path_probabilities(encoded)
        for start in range(0, len(self.pairs), self.chunk_size):
            columns = slice(start, start + self.chunk_size)
            pairs = self.pairs[columns]
            if vac is None:
                yield combine_primitives(_columns(sa, columns), pairs)
                continue
            yield fuse_predictions(
                _columns(sa, columns),
                _columns(vac, columns),
                None if bank is None else bank[:, columns],
                pairs=pairs,
                beta=self.method.options.beta,
                gamma=self.method.options.gamma,
                partial=True,
            )

    @torch.no_grad()
    def path_probabilities(
        self, encoded: EncodedImages
    ) -> tuple[PathProbabilities, PathProbabilities | None, Tensor | None]:
        """Return the predictions that Eq. 12 fuses, then update a dynamic bank.

        Args:
            encoded: what `encode` returned.

        Returns:
            Probabilities of sparse alignment, of the condenser or None, and p_mb `[B, C]` of the
            bank or None.
        """
        method, feature = self.method, encoded.condensed
        sa = self._probabilities(partial(method.aligner, encoded.tokens))
        if feature is None:
            return sa, None, None
        vac = self._probabilities(partial(method.condensed_logits, feature))
        if self.bank is None:
            return sa, vac, None
        bank = composition_probabilities(self.bank(feature), 1.0)
        if method.options.bank == "dynamic":
            self.bank.update(self.gather(feature), self.gather(vac.composition))
        return sa, vac, bank

    def probabilities(self, scores: Tensor) -> Tensor:
        """Return p̂ `[B, C]` divided by its sum: p̄ adds up to more than one (Eq. 13)."""
        return scores / scores.sum(dim=-1, keepdim=True)

    def compared(self, encoded: EncodedImages, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens `[B, T, D]` and the text features `[B, D]` of `columns` `[B]`."""
        return encoded.tokens, self.text.composition[columns]

    @torch.no_grad()
    def attention(self, encoded: EncodedImages) -> Tensor | None:
        """Return where the condenser's last block looks, mean over heads, `[B, T]`."""
        return encoded.attention

    def restart(self) -> None:
        """Let the bank hold training images alone again."""
        if self.bank is not None:
            self.bank.reset()
            self._adopt_training_images()

    @property
    def gap_text(self) -> Tensor:
        """t_c `[C, D]`."""
        return self.text.composition

    def gap_features(self, encoded: EncodedImages, targets: Tensor) -> dict[str, Tensor]:
        """Return the class token, what the head compares with t_c, and v_q."""
        features = super().gap_features(encoded, targets)
        if encoded.condensed is not None:
            features["condensed"] = encoded.condensed
        return features

    def _probabilities(self, logits: Callable[[Tensor], Tensor]) -> PathProbabilities:
        return PathProbabilities(
            *(
                composition_probabilities(_in_chunks(logits, text, self.chunk_size), 1.0)
                for text in self.text
            )
        )

    def _adopt_training_images(self) -> None:
        if self.bank is None or self.method.memory is None:
            return
        columns = {pair: column for column, pair in enumerate(self.space.pairs)}
        adopted = [columns.get(pair, -1) for pair in self.method.space.seen]
        self.bank.adopt_(self.method.memory, torch.tensor(adopted))


def _in_chunks(logits: Callable[[Tensor], Tensor], text: Tensor, size: int) -> Tensor:
    """Return logits `[B, C]`, made of `size` texts at a time."""
    parts = text.split(size)
    first = logits(parts[0])
    if len(parts) == 1:
        return first
    whole = first.new_empty(first.shape[0], len(text))
    whole[:, : len(parts[0])] = first
    for part, columns in zip(parts[1:], whole.split(size, dim=1)[1:], strict=True):
        columns.copy_(logits(part))
    return whole


def _columns(path: PathProbabilities, columns: slice) -> PathProbabilities:
    return path._replace(composition=path.composition[:, columns])
