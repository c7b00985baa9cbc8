"""Prompts of compositions trained by cross-entropy: what CoOp, CSP and PCVL share."""

import torch
from torch import Tensor

from czsl_sac.functional.losses import alignment_loss
from czsl_sac.methods.base import CZSLMethod, Predictor, primitive_indices
from czsl_sac.methods.parts import alignment_head, soft_prompts
from czsl_sac.methods.predictor import AlignmentPredictor
from czsl_sac.space import CompositionSpace


class PromptTuning(CZSLMethod):
    """Minimises the cross-entropy over the seen compositions, all in one context.

    The options say which words are learned. CLIP itself is frozen.
    """

    def make_parts(self) -> None:
        """Make one set of prompts, and the alignment head."""
        self.prompts = soft_prompts(self.options, self.backbone, self.space, shared_context=True)
        self.aligner = alignment_head(self.options, self.backbone)

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
