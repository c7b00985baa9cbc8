"""Prompts of compositions trained by cross-entropy: what CoOp and CSP share."""

import torch
from torch import Tensor

from czsl_sac.backbones.clip import CLIPBackbone
from czsl_sac.functional.losses import alignment_loss
from czsl_sac.methods.base import CZSLMethod, Predictor, primitive_indices
from czsl_sac.modules.alignment import Aligner, Alignment, build_aligner
from czsl_sac.space import CompositionSpace
from czsl_sac.text.prompts import SoftPrompts


class PromptTuning(CZSLMethod):
    """Minimises the cross-entropy over the seen compositions in the prompts given.

    Args:
        backbone: CLIP.
        space: attributes, objects and compositions; the seen ones are trained on.
        prompts: what of them requires a gradient is trained.
        alignment: `"cls"` (Eq. 1), `"patch_max"` (Eq. 2), or a head.
    """

    def __init__(
        self,
        backbone: CLIPBackbone,
        space: CompositionSpace,
        prompts: SoftPrompts,
        *,
        alignment: Alignment | Aligner = "cls",
    ) -> None:
        super().__init__(backbone, space)
        self.prompts = prompts
        self.aligner = build_aligner(alignment, backbone.temperature)

    def forward(self, images: Tensor, targets: Tensor, stage: str) -> dict[str, Tensor]:
        """Return the cross-entropy as `"total"`; the arguments are those of every method."""
        text = self.prompts.compositions(self.seen_pairs)
        logits = self.aligner(self.backbone.encode_image(images), text)
        return {"total": alignment_loss(logits, self.seen_targets(targets))}

    def predictor(self, space: CompositionSpace, stage: str | None = None) -> Predictor:
        """Return a predictor over `space`, with one text feature a composition."""
        return _PromptPredictor(self, space)


class _PromptPredictor(Predictor):
    @torch.no_grad()
    def __init__(self, method: PromptTuning, space: CompositionSpace) -> None:
        super().__init__(space)
        self.method = method
        self.text = method.prompts.compositions(primitive_indices(method, space))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return logits `[B, C]`."""
        return self.method.aligner(self.method.backbone.encode_image(images), self.text)
