"""TOMCAT: prompts and adapters trained as usual, prototypes that go on learning at test."""

import torch

from czsl_sac.blocks.alignment import Aligner, Alignment
from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.methods.base import Predictor, primitive_indices
from czsl_sac.methods.parts import alignment_head
from czsl_sac.methods.predictor import AlignmentPredictor
from czsl_sac.methods.prompt_tuning import PromptTuning
from czsl_sac.methods.tomcat.options import TOMCATOptions
from czsl_sac.methods.tomcat.predictor import MIT_STATES, PrototypeLearning, TOMCATPredictor
from czsl_sac.space import CompositionSpace


class TOMCAT(PromptTuning):
    """Test-time comprehensive knowledge accumulation on a simple base model.

    Yan and Feng, "TOMCAT: Test-time Comprehensive Knowledge Accumulation for Compositional
    Zero-Shot Learning" (NeurIPS 2025). Training is that of the base model (Eq. 1): one prompt for
    compositions, whose context and words are learned, adapters in the vision tower
    (`apply_adaptformer(backbone.visual)`), one cross-entropy. What is new happens at test, in
    `TOMCATPredictor`; epochs are chosen by the base model.

    Args:
        backbone: CLIP with adapters, all else frozen.
        space: attributes, objects and compositions; the seen ones are trained on.
        alignment: `"cls"` (as published), `"patch_max"` (Eq. 2 of SAC), or an alignment head.
        template: words that the context starts from.
        dropout: probability of zeroing an entry of the primitives' vectors in training.
        learning: how prototypes learn at test; None: the base model predicts.

    Examples:
        >>> from czsl_sac import CompositionSpace, load_backbone
        >>> space = CompositionSpace.closed_world([("red", "cat"), ("blue", "star")])
        >>> model = TOMCAT(load_backbone("tiny").requires_grad_(False), space).eval()
        >>> model.predictor(space)(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 2])
    """

    Options = TOMCATOptions
    trains_context, trains_primitives = True, True

    @classmethod
    def build(
        cls, options: TOMCATOptions, backbone: CLIPBackbone, space: CompositionSpace
    ) -> "TOMCAT":
        """Return the method that options describe; the arguments are those of every method."""
        learning = PrototypeLearning(
            queue_size=options.queue_size,
            queue_feature=options.queue_feature,
            alpha=options.alpha,
            beta=options.beta,
            theta=options.theta,
            collaboration_weight=options.collaboration_weight,
            lr=options.test_lr,
            weight_decay=options.test_weight_decay,
            eps=options.test_eps,
        )
        return cls(
            backbone,
            space,
            alignment=alignment_head(options, backbone),
            template=options.template,
            dropout=options.prompt_dropout,
            learning=learning if options.learn_at_test else None,
        )

    def __init__(
        self,
        backbone: CLIPBackbone,
        space: CompositionSpace,
        *,
        alignment: Alignment | Aligner = "cls",
        template: str = "a photo of",
        dropout: float = 0.3,
        learning: PrototypeLearning | None = MIT_STATES,
    ) -> None:
        super().__init__(backbone, space, alignment=alignment, template=template, dropout=dropout)
        self.learning = learning

    @torch.no_grad()
    def predictor(self, space: CompositionSpace, stage: str | None = None) -> Predictor:
        """Return a predictor over `space`: in training the base model's, else TOMCAT's.

        Args:
            space: the compositions to score.
            stage: during training, `"train"`.
        """
        text = self.prompts.compositions(primitive_indices(self, space))
        if stage is not None or self.learning is None:
            return AlignmentPredictor(self, space, text)
        return TOMCATPredictor(self, space, text, self.learning)
