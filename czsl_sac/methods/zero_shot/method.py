"""Zero-shot CLIP: no training, prompts "a photo of {attribute} {object}" (Radford et al., 2021)."""

import torch

from czsl_sac.blocks.alignment import Aligner, Alignment, build_aligner
from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.clip.prompts import clean_name
from czsl_sac.methods.base import CZSLMethod, Predictor, primitive_indices
from czsl_sac.methods.parts import alignment_head
from czsl_sac.methods.predictor import AlignmentPredictor
from czsl_sac.methods.zero_shot.options import ZeroShotOptions
from czsl_sac.space import CompositionSpace


class ZeroShotCLIP(CZSLMethod):
    """CLIP as it comes: full names, no ensembling, τ its own.

    Args:
        backbone: CLIP.
        space: attributes, objects and compositions.
        alignment: `"cls"` (Eq. 1, the published way), `"patch_max"` (Eq. 2), or a head.
        template: words before the attribute.

    Examples:
        >>> from czsl_sac import CompositionSpace, load_backbone
        >>> space = CompositionSpace.closed_world([("red", "circle"), ("blue", "star")])
        >>> model = ZeroShotCLIP(load_backbone("tiny"), space)
        >>> model.predictor(space)(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 2])
    """

    Options = ZeroShotOptions
    stages = ()

    @classmethod
    def build(
        cls, options: ZeroShotOptions, backbone: CLIPBackbone, space: CompositionSpace
    ) -> "ZeroShotCLIP":
        """Return the method that options describe; the arguments are those of every method."""
        return cls(
            backbone,
            space,
            alignment=alignment_head(options, backbone),
            template=options.template,
        )

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

    @torch.no_grad()
    def predictor(self, space: CompositionSpace, stage: str | None = None) -> Predictor:
        """Return a predictor over `space`, with one text feature a composition."""
        primitive_indices(self, space)
        prompts = [
            f"{self.template} {clean_name(attribute)} {clean_name(obj)}"
            for attribute, obj in space.pairs
        ]
        text = self.backbone.encode_text(
            self.backbone.tokenizer(prompts).to(self.seen_pairs.device)
        )
        return AlignmentPredictor(self, space, text)
