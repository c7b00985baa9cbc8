"""Zero-shot CLIP: no training, prompts "a photo of {attribute} {object}" (Radford et al., 2021)."""

import torch
from torch import Tensor

from czsl_sac.backbones.clip import CLIPBackbone
from czsl_sac.methods.base import CZSLMethod, Predictor, primitive_indices
from czsl_sac.modules.alignment import Aligner, Alignment, build_aligner
from czsl_sac.space import CompositionSpace
from czsl_sac.text.prompts import clean_name


class ZeroShotCLIP(CZSLMethod):
    """CLIP as it comes: full names, no ensembling, τ its own.

    Args:
        backbone: CLIP.
        space: attributes, objects and compositions.
        alignment: `"cls"` (Eq. 1, the published way), `"patch_max"` (Eq. 2), or a head.
        template: words before the attribute.

    Example:
        >>> from czsl_sac import CompositionSpace, load_backbone
        >>> space = CompositionSpace.closed_world([("red", "circle"), ("blue", "star")])
        >>> model = ZeroShotCLIP(load_backbone("tiny"), space)
        >>> model.predictor(space)(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 2])
    """

    stages = ()

    def __init__(
        self,
        backbone: CLIPBackbone,
        space: CompositionSpace,
        *,
        alignment: Alignment | Aligner = "cls",
        template: str = "a photo of",
    ) -> None:
        super().__init__(backbone, space)
        self.template = template
        self.aligner = build_aligner(alignment, backbone.temperature)

    def predictor(self, space: CompositionSpace, stage: str | None = None) -> Predictor:
        """Return a predictor over `space`, with one text feature a composition."""
        primitive_indices(self, space)
        return _ZeroShotPredictor(self, space)


class _ZeroShotPredictor(Predictor):
    @torch.no_grad()
    def __init__(self, method: ZeroShotCLIP, space: CompositionSpace) -> None:
        super().__init__(space)
        self.method = method
        prompts = [
            f"{method.template} {clean_name(attribute)} {clean_name(obj)}"
            for attribute, obj in space.pairs
        ]
        ids = method.backbone.tokenizer(prompts).to(method.seen_pairs.device)
        self.text = method.backbone.encode_text(ids)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return logits `[B, C]`."""
        return self.method.aligner(self.method.backbone.encode_image(images), self.text)
