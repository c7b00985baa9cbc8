"""Compositions, attributes and objects, each with a prompt and a view of the image.

What Troika brought and others build on: three cross-entropies, and at test the composition's
logit plus p(a) p(o).
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, ClassVar, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from czsl_sac.blocks.alignment import ClassTokenAligner
from czsl_sac.clip.prompts import SoftPrompts
from czsl_sac.functional.fusion import PathProbabilities, combine_primitives
from czsl_sac.functional.losses import alignment_loss, composition_probabilities
from czsl_sac.methods.base import CZSLMethod, Predictor, primitive_indices
from czsl_sac.methods.parts import alignment_head, soft_prompts
from czsl_sac.methods.predictor import TokenPredictor, tokens_of
from czsl_sac.space import CompositionSpace

_NAMES = ("composition", "attribute", "object")

Branch: TypeAlias = Callable[[Tensor], Tensor]
"""Makes logits `[B, K]` of unit texts `[K, D]`, for the images it was made of."""


class ThreeBranches(CZSLMethod):
    """A method with a branch for compositions, one for attributes and one for objects.

    A subclass says in `branches` what the texts are compared with. Where `encode` returns more than
    tokens, they are its `tokens`.
    """

    prompts: SoftPrompts
    shared_context: ClassVar[bool] = False
    """Whether the three prompts have one context."""
    composition_score: Literal["logit", "probability"] = "logit"
    """What of the composition a score takes: Troika's logit, or p(c)."""

    def make_parts(self) -> None:
        """Make the alignment head and the prompts."""
        self.aligner = alignment_head(self.options, self.backbone)
        self.prompts = soft_prompts(
            self.options, self.backbone, self.space, shared_context=self.shared_context
        )

    @property
    def primitive_loss_weight(self) -> float:
        """Weight of the attribute's and the object's loss."""
        return self.options.primitive_loss_weight

    def text_features(self, pairs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return unit texts of `pairs` `[C, 2]` and of all attributes and objects."""
        composition, attribute, object_ = self.prompts(pairs)
        return (
            F.normalize(composition, dim=-1),
            F.normalize(attribute, dim=-1),
            F.normalize(object_, dim=-1),
        )

    def branches(self, encoded: Any) -> list[Branch]:
        """Return what makes logits of texts, for composition, attribute and object.

        Args:
            encoded: what `encode` returned.
        """
        raise NotImplementedError

    def looked_at(self, tokens: Tensor) -> Tensor:
        """Return those of `tokens` `[B, T, D]` that the alignment looks at: all, or the first."""
        return tokens[:, :1] if isinstance(self.aligner, ClassTokenAligner) else tokens

    def aligned(self, views: Iterable[Tensor]) -> list[Branch]:
        """Return what compares texts with these views `[B, T, D]` of the images, one a branch."""
        return [partial(self.aligner, view) for view in views]

    def branch_targets(self, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the true seen composition, attribute and object of each image, `[B]` each.

        Args:
            targets: index into `space.pairs`, `[B]`.

        Raises:
            ValueError: a target is unseen.
        """
        labels = self.seen_targets(targets)
        return labels, self.seen_pairs[labels, 0], self.seen_pairs[labels, 1]

    def branch_logits(self, encoded: Any, texts: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
        """Return the logits of the three branches, `[B, C]`, `[B, A]` and `[B, O]`.

        Args:
            encoded: what `encode` returned.
            texts: what `text_features` returned.
        """
        return [branch(text) for branch, text in zip(self.branches(encoded), texts, strict=True)]

    def cross_entropies(self, logits: list[Tensor], targets: Tensor) -> dict[str, Tensor]:
        """Return the cross-entropies `composition`, `attribute` and `object` of the branches.

        Args:
            logits: what `branch_logits` returned for the seen compositions.
            targets: index into `space.pairs` of each image, `[B]`; seen compositions only.

        Raises:
            ValueError: a target is unseen.
        """
        labels = self.branch_targets(targets)
        return {
            name: alignment_loss(branch, label)
            for name, branch, label in zip(_NAMES, logits, labels, strict=True)
        }

    def branch_losses(self, logits: list[Tensor], targets: Tensor) -> dict[str, Tensor]:
        """Return the cross-entropies of the branches, and as `"total"` their weighted sum.

        Args:
            logits: as for `cross_entropies`.
            targets: likewise.

        Raises:
            ValueError: a target is unseen.
        """
        losses = self.cross_entropies(logits, targets)
        primitives = losses["attribute"] + losses["object"]
        return losses | {"total": losses["composition"] + self.primitive_loss_weight * primitives}

    def forward(self, images: Tensor, targets: Tensor, stage: str) -> dict[str, Tensor]:
        """Return the cross-entropies of the three branches and their weighted sum.

        Returns:
            Scalars `composition`, `attribute`, `object` and `total`.
        """
        texts = self.text_features(self.seen_pairs)
        return self.branch_losses(self.branch_logits(self.encode(images), texts), targets)

    def predictor(self, space: CompositionSpace, stage: str | None = None) -> Predictor:
        """Return a predictor over `space` by what `combine` makes of the branches."""
        return BranchPredictor(self, space)

    def combine(self, path: PathProbabilities, pairs: Tensor) -> Tensor:
        """Return the scores `[B, C]`: what the composition has, plus p(a) p(o).

        Args:
            path: logits or probabilities of the compositions, as `composition_score` says;
                probabilities of attributes and objects.
            pairs: attribute and object of each composition, `[C, 2]`.
        """
        return combine_primitives(path, pairs)

    def texts_as_compared(self, encoded: Any, text: Tensor) -> Tensor:
        """Return the texts as the images are compared with them, one composition an image.

        Args:
            encoded: what `encode` returned.
            text: of `text_features`, `[B, D]`.
        """
        return text


class BranchPredictor(TokenPredictor):
    """Scores by the three branches, the compositions chunk by chunk.

    Args:
        method: whose branches they are.
        space: the compositions to score.
    """

    @torch.no_grad()
    def __init__(self, method: ThreeBranches, space: CompositionSpace) -> None:
        super().__init__(space)
        self.method = method
        self.pairs = primitive_indices(method, space)
        self.texts = method.text_features(self.pairs)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Any:
        """Return what the method makes of the images."""
        return self.method.encode(images)

    @torch.no_grad()
    def score_chunks(self, encoded: Any) -> Iterator[Tensor]:
        """Yield what `combine` makes of the branches, `[B, c]`."""
        branches = self.method.branches(encoded)
        attribute, object_ = self.primitives(branches)
        compositions: Iterable[Tensor] = (
            branches[0](text) for text in self.texts[0].split(self.chunk_size)
        )
        if self.method.composition_score == "probability":  # a softmax needs them all
            whole = composition_probabilities(torch.cat(list(compositions), dim=1), 1.0)
            compositions = whole.split(self.chunk_size, dim=1)
        for composition, pairs in zip(compositions, self.pairs.split(self.chunk_size), strict=True):
            path = PathProbabilities(composition, attribute, object_)
            yield self.method.combine(path, pairs)

    def primitives(self, branches: list[Branch]) -> tuple[Tensor, Tensor]:
        """Return p(a|x) `[B, A]` and p(o|x) `[B, O]`.

        Args:
            branches: of the images.
        """
        attribute, object_ = (
            composition_probabilities(branch(text), 1.0)
            for branch, text in zip(branches[1:], self.texts[1:], strict=True)
        )
        return attribute, object_

    def probabilities(self, scores: Tensor) -> Tensor:
        """Return scores as probabilities `[B, C]`: a softmax, or p̄ divided by its sum."""
        if self.method.composition_score == "probability":
            return scores / scores.sum(dim=-1, keepdim=True)
        return super().probabilities(scores)

    @torch.no_grad()
    def compared(self, encoded: Any, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens and the texts `[B, D]` of `columns` `[B]`, as they are compared."""
        text = self.texts[0][columns]
        return tokens_of(encoded), self.method.texts_as_compared(encoded, text)

    @property
    def gap_text(self) -> Tensor:
        """The compositions' texts, `[C, D]`, before an image changes them."""
        return self.texts[0]


class MixedLogitsPredictor(BranchPredictor):
    """Scores (1 − w) l(a, o) + w (l(a) + l(o)), on logits, as HPL, RAPR and PLID do.

    Args:
        method: whose branches they are; w is their option `primitive_share`.
        space: the compositions to score.
    """

    method: "MixedBranches"

    @torch.no_grad()
    def score_chunks(self, encoded: Any) -> Iterator[Tensor]:
        """Yield the mix of the three logits, `[B, c]`."""
        branches = self.method.branches(encoded)
        attribute, object_ = (
            branch(text) for branch, text in zip(branches[1:], self.texts[1:], strict=True)
        )
        for text, pairs in zip(
            self.texts[0].split(self.chunk_size), self.pairs.split(self.chunk_size), strict=True
        ):
            primitives = attribute[:, pairs[:, 0]] + object_[:, pairs[:, 1]]
            yield torch.lerp(branches[0](text), primitives, self.method.options.primitive_share)


class MixedBranches(ThreeBranches):
    """A method of three branches whose logits are mixed, the primitives' with a share of w."""

    shared_context = True

    def predictor(self, space: CompositionSpace, stage: str | None = None) -> Predictor:
        """Return a predictor over `space` by the mix of the three logits."""
        return MixedLogitsPredictor(self, space)
