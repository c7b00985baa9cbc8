"""VisProd with prompts: attribute and object recognised each by itself, p(a) p(o).

Misra et al., "From Red Wine to Red Tomato" (CVPR 2017), on CLIP. The whole method is this file.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from czsl_sac import CZSLMethod
from czsl_sac.functional.losses import alignment_loss
from czsl_sac.methods.base import ChunkedPredictor, primitive_indices
from czsl_sac.methods.options import PromptOptions
from czsl_sac.methods.parts import alignment_head, soft_prompts


@dataclass(frozen=True)
class VisProdOptions(PromptOptions):
    """Attribute and object recognised each by itself."""

    name: ClassVar[str] = "visprod"
    label: ClassVar[str] = "VisProd"
    implementation: ClassVar[str] = "visprod:VisProd"
    citation: ClassVar[str] = "Misra et al., CVPR 2017"
    settings: ClassVar[dict[str, dict[str, Any]]] = {
        "scenes": {"train_backbone": "none", "lr": 4e-3},
    }


class VisProd(CZSLMethod):
    """Minimises the cross-entropies of attribute and object, scores log p(a) + log p(o)."""

    Options = VisProdOptions

    def make_parts(self):
        self.aligner = alignment_head(self.options, self.backbone)
        self.prompts = soft_prompts(self.options, self.backbone, self.space)

    def texts(self):
        return self.prompts.attributes(), self.prompts.objects()  # [A, D], [O, D]

    def forward(self, images, targets, stage):
        tokens, truth = self.encode(images), self.seen_pairs[self.seen_targets(targets)]
        attribute, object_ = (
            alignment_loss(self.aligner(tokens, text), label)
            for text, label in zip(self.texts(), truth.unbind(1), strict=True)
        )
        return {"attribute": attribute, "object": object_, "total": attribute + object_}

    def predictor(self, space, stage=None):
        return VisProdPredictor(self, space)


class VisProdPredictor(ChunkedPredictor):
    """Text features once, then images."""

    @torch.no_grad()
    def __init__(self, method, space):
        super().__init__(space)
        self.method, self.texts = method, method.texts()
        self.pairs = primitive_indices(method, space)

    @torch.no_grad()
    def encode(self, images):
        return self.method.encode(images)

    @torch.no_grad()
    def score_chunks(self, encoded):
        attribute, object_ = (
            self.method.aligner(encoded, text).log_softmax(-1) for text in self.texts
        )
        for pairs in self.pairs.split(self.chunk_size):
            yield attribute[:, pairs[:, 0]] + object_[:, pairs[:, 1]]

    def compared(self, encoded, columns):  # for heat maps: what a composition's text is
        pairs = self.pairs[columns]
        text = (F.normalize(t[p], dim=-1) for t, p in zip(self.texts, pairs.unbind(1), strict=True))
        return encoded, sum(text)
