"""What an image's tokens answer to: accuracy by kind of token, who wins, pointing, the gap."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from czsl_sac.evaluation.evaluator import CZSLEvaluator
from czsl_sac.evaluation.modality_gap import ModalityGap
from czsl_sac.evaluation.pointing import Pointing, PointingResult
from czsl_sac.kernels import patch_max
from czsl_sac.space import CompositionSpace

TokenKind = Literal["class_token", "tokens", "patches"]
"""Which tokens meet the texts: the class token alone, the best of all, the best patch."""


@dataclass(frozen=True)
class TokenAnswers:
    """How well each kind of token answers to text, and why.

    Attributes:
        auc: AUC by kind of token, fractions in [0, 1].
        patch_wins: share of the images in which the best of all tokens for the true composition
            is a patch: near 0, an alignment of the maximum is the class token's.
        modality_gap: relative modality gap of `"class_token"` and of `"patches"`, the best patch.
        pointing: whether the best patch for the true composition lies on the object; None where
            no masks were given.
        images: number of images.
    """

    auc: dict[TokenKind, float]
    patch_wins: float
    modality_gap: dict[TokenKind, float]
    pointing: PointingResult | None
    images: int


class TokenMeter:
    """Gathers what the tokens of images answer to, zero-shot or after training.

    Args:
        text: a feature of each composition, `[C, D]`, on the tokens' device; normalised inside.
        space: the compositions.
        candidates: compositions that may be predicted, as for `CZSLEvaluator`.

    Raises:
        ValueError: the texts are not one a composition.

    Examples:
        >>> space = CompositionSpace.closed_world(
        ...     train=[("ripe", "apple"), ("old", "pear")], test=[("old", "apple")])
        >>> meter = TokenMeter(torch.eye(3), space)
        >>> tokens = torch.eye(3)[torch.tensor([[2, 0], [1, 1], [1, 2]])]   # class token, a patch
        >>> meter.update(tokens, torch.tensor([0, 1, 2]))
        >>> answers = meter.compute()
        >>> answers.auc["patches"], answers.patch_wins
        (1.0, 0.66...)
    """

    def __init__(
        self,
        text: Tensor,
        space: CompositionSpace,
        *,
        candidates: Tensor | Sequence[tuple[str, str]] | None = None,
    ) -> None:
        if text.dim() != 2 or len(text) != len(space):
            raise ValueError(
                f"text has shape {list(text.shape)} but must be [{len(space)}, D]: give one "
                "feature a composition, in the order of space.pairs."
            )
        self.text = F.normalize(text.detach(), dim=-1)
        self._evaluators = {
            kind: CZSLEvaluator(space, candidates=candidates) for kind in get_args(TokenKind)
        }
        self._gaps: dict[TokenKind, ModalityGap] = {
            "class_token": ModalityGap(self.text),
            "patches": ModalityGap(self.text),
        }
        self._pointing: Pointing | None = None
        self._wins = self._images = 0

    @torch.no_grad()
    def update(self, tokens: Tensor, targets: Tensor, masks: Tensor | None = None) -> None:
        """Take a batch of images.

        Args:
            tokens: `[B, T, D]`, the class token first; normalised inside.
            targets: column of each image's composition, `[B]` integer.
            masks: where each image's object shows, `[B, H, W]` bool; None: not known.

        Raises:
            ValueError: there is no patch, or a shape does not fit.
        """
        if tokens.dim() != 3 or tokens.shape[1] < 2:
            raise ValueError(
                f"tokens has shape {list(tokens.shape)} but must be [B, T, D] with T at least 2: "
                "give the class token and the patches."
            )
        tokens = F.normalize(tokens, dim=-1).to(self.text.dtype)
        class_token = tokens[:, 0] @ self.text.T
        patches, best = patch_max(tokens[:, 1:], self.text)
        scores = {
            "class_token": class_token,
            "tokens": torch.maximum(class_token, patches),
            "patches": patches,
        }
        for kind, evaluator in self._evaluators.items():
            evaluator.update(scores[kind], targets)
        rows = torch.arange(len(tokens), device=tokens.device)
        columns = targets.to(tokens.device)
        self._wins += int((patches > class_token)[rows, columns].sum())
        self._images += len(tokens)
        winner = best[rows, columns]
        self._gaps["class_token"].update(tokens[:, 0], columns)
        self._gaps["patches"].update(tokens[rows, 1 + winner], columns)
        if masks is not None:
            self._pointing = self._pointing or Pointing()
            self._pointing.update(winner, masks, patches=tokens.shape[1] - 1)

    def compute(self) -> TokenAnswers:
        """Return what all images so far say.

        Raises:
            ValueError: there is no image of a seen, or of an unseen composition.
        """
        return TokenAnswers(
            {kind: evaluator.compute().auc for kind, evaluator in self._evaluators.items()},
            self._wins / max(self._images, 1),
            {kind: gap.relative() for kind, gap in self._gaps.items()},
            self._pointing.compute() if self._pointing else None,
            self._images,
        )
