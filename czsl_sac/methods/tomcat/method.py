"""TOMCAT: prompts and adapters trained as usual, prototypes that go on learning at test."""

import torch

from czsl_sac.methods.base import Predictor, primitive_indices
from czsl_sac.methods.predictor import AlignmentPredictor
from czsl_sac.methods.prompt_tuning import PromptTuning
from czsl_sac.methods.tomcat.options import TOMCATOptions
from czsl_sac.methods.tomcat.predictor import TOMCATPredictor
from czsl_sac.space import CompositionSpace


class TOMCAT(PromptTuning):
    """Test-time comprehensive knowledge accumulation on a simple base model.

    Yan and Feng, "TOMCAT: Test-time Comprehensive Knowledge Accumulation for Compositional
    Zero-Shot Learning" (NeurIPS 2025). Training is that of the base model (Eq. 1): one prompt for
    compositions, whose context and words are learned, adapters in the vision tower
    (`apply_adaptformer(backbone.visual)`), one cross-entropy. What is new happens at test, in
    `TOMCATPredictor`; epochs are chosen by the base model.

    Examples:
        >>> from czsl_sac import CompositionSpace, load_backbone
        >>> space = CompositionSpace.closed_world([("red", "cat"), ("blue", "star")])
        >>> model = TOMCAT(load_backbone("tiny").requires_grad_(False), space).eval()
        >>> model.predictor(space)(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 2])
    """

    Options = TOMCATOptions
    options: TOMCATOptions

    @torch.no_grad()
    def predictor(self, space: CompositionSpace, stage: str | None = None) -> Predictor:
        """Return a predictor over `space`: in training the base model's, else TOMCAT's."""
        text = self.prompts.compositions(primitive_indices(self, space))
        if stage is not None or not self.options.learn_at_test:
            return AlignmentPredictor(self, space, text)
        return TOMCATPredictor(self, space, text, self.options)
