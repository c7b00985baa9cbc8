"""Zero-shot CLIP: no training, prompts "a photo of {attribute} {object}" (Radford et al., 2021)."""

import torch

from czsl_sac.clip.prompts import clean_name
from czsl_sac.methods.base import CZSLMethod, Predictor, primitive_indices
from czsl_sac.methods.parts import alignment_head
from czsl_sac.methods.predictor import AlignmentPredictor
from czsl_sac.methods.zero_shot.options import ZeroShotOptions
from czsl_sac.space import CompositionSpace


class ZeroShotCLIP(CZSLMethod):
    """CLIP as it comes: full names, no ensembling, τ its own.

    Examples:
        >>> from czsl_sac import CompositionSpace, load_backbone
        >>> space = CompositionSpace.closed_world([("red", "circle"), ("blue", "star")])
        >>> model = ZeroShotCLIP(load_backbone("tiny"), space)
        >>> model.predictor(space)(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 2])
    """

    Options = ZeroShotOptions
    stages = ()

    def make_parts(self) -> None:
        """Make the alignment head."""
        self.aligner = alignment_head(self.options, self.backbone)

    @torch.no_grad()
    def predictor(self, space: CompositionSpace, stage: str | None = None) -> Predictor:
        """Return a predictor over `space`, with one text feature a composition."""
        primitive_indices(self, space)
        prompts = [
            f"{self.options.template} {clean_name(attribute)} {clean_name(obj)}"
            for attribute, obj in space.pairs
        ]
        text = self.backbone.encode_text(
            self.backbone.tokenizer(prompts).to(self.seen_pairs.device)
        )
        return AlignmentPredictor(self, space, text)
