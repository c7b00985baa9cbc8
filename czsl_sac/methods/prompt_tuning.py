"""Prompts of compositions trained by cross-entropy: what CoOp and CSP share."""

import torch
from torch import Tensor

from czsl_sac.blocks.alignment import Aligner, Alignment, build_aligner
from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.clip.prompts import SoftPrompts
from czsl_sac.functional.losses import alignment_loss
from czsl_sac.methods.base import CZSLMethod, Predictor, primitive_indices
from czsl_sac.methods.predictor import AlignmentPredictor
from czsl_sac.space import CompositionSpace


class PromptTuning(CZSLMethod):
    """Minimises the cross-entropy over the seen compositions, all in one context.

    Args:
        backbone: CLIP.
        space: attributes, objects and compositions; the seen ones are trained on.
        alignment: `"cls"` (Eq. 1), `"patch_max"` (Eq. 2), or a head.
        template: words of the context.
        dropout: probability of zeroing an entry of the primitives' vectors in training.
        train_context: whether the context is learned.
        train_primitives: whether the vectors of attributes and objects are learned.
    """

    def __init__(
        self,
        backbone: CLIPBackbone,
        space: CompositionSpace,
        *,
        alignment: Alignment | Aligner,
        template: str,
        dropout: float = 0.0,
        train_context: bool,
        train_primitives: bool,
    ) -> None:
        super().__init__(backbone, space)
        self.prompts = SoftPrompts(
            backbone.text,
            backbone.tokenizer,
            space.attributes,
            space.objects,
            template=template,
            dropout=dropout,
            train_context=train_context,
            train_primitives=train_primitives,
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
