"""Prompts of compositions trained by cross-entropy: what CoOp, CSP and PCVL share."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from czsl_sac.blocks.alignment import Aligner, Alignment, build_aligner
from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.clip.prompts import SoftPrompts
from czsl_sac.functional.losses import alignment_loss
from czsl_sac.methods.base import CZSLMethod, Predictor, primitive_indices
from czsl_sac.methods.parts import alignment_head
from czsl_sac.methods.predictor import AlignmentPredictor
from czsl_sac.space import CompositionSpace


class PromptTuning(CZSLMethod):
    """Minimises the cross-entropy over the seen compositions, all in one context.

    A subclass says which words are learned. CLIP itself is frozen.

    Args:
        backbone: CLIP.
        space: attributes, objects and compositions; the seen ones are trained on.
        alignment: `"cls"` (Eq. 1, the published way), `"patch_max"` (Eq. 2), or a head.
        template: words of the context; where it is learned, words that it starts from.
        dropout: probability of zeroing an entry of the primitives' vectors in training, where
            these are learned.
    """

    trains_context: ClassVar[bool]
    """Whether the context is learned."""
    trains_primitives: ClassVar[bool]
    """Whether the vectors of attributes and objects are learned."""

    @classmethod
    def build(cls, options: Any, backbone: CLIPBackbone, space: CompositionSpace) -> "PromptTuning":
        """Return the method that options describe; the arguments are those of every method."""
        return cls(
            backbone,
            space,
            alignment=alignment_head(options, backbone),
            template=options.template,
            dropout=options.prompt_dropout if cls.trains_primitives else 0.0,
        )

    def __init__(
        self,
        backbone: CLIPBackbone,
        space: CompositionSpace,
        *,
        alignment: Alignment | Aligner = "cls",
        template: str = "a photo of",
        dropout: float = 0.3,
    ) -> None:
        super().__init__(backbone, space)
        self.prompts = SoftPrompts(
            backbone.text,
            backbone.tokenizer,
            space.attributes,
            space.objects,
            template=template,
            dropout=dropout if self.trains_primitives else 0.0,
            train_context=self.trains_context,
            train_primitives=self.trains_primitives,
            shared_context=True,
        )
        self.aligner = build_aligner(alignment, backbone.temperature)

    def forward(self, images: Tensor, targets: Tensor, stage: str) -> dict[str, Tensor]:
        """Return the cross-entropy as `"total"`; the arguments are those of every method."""
        text = self.prompts.compositions(self.seen_pairs)
        logits = self.aligner(self.encode(images), text)
        return {"total": alignment_loss(logits, self.seen_targets(targets))}

    @torch.no_grad()
    def predictor(self, space: CompositionSpace, stage: str | None = None) -> Predictor:
        """Return a predictor over `space`, with one text feature a composition."""
        text = self.prompts.compositions(primitive_indices(self, space))
        return AlignmentPredictor(self, space, text)
