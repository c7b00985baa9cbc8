"""PCVL: the words of attributes and objects are learned, and those around them."""

from czsl_sac.blocks.alignment import Aligner, Alignment
from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.methods.parts import alignment_head
from czsl_sac.methods.pcvl.options import PCVLOptions
from czsl_sac.methods.prompt_tuning import PromptTuning
from czsl_sac.space import CompositionSpace


class PCVL(PromptTuning):
    """CSP's vectors of attributes and objects in CoOp's context, both learned.

    Xu et al., "Prompting Large Pre-trained Vision-Language Models For Compositional Concept
    Learning" (arXiv 2211.05077). No public code is known; the construction follows the paper's
    abstract and introduction, which this class therefore re-interprets: the context starts at the
    template and is shared by all compositions, dropout acts on the vectors alone. CLIP itself is
    frozen.

    Args:
        backbone: CLIP.
        space: attributes, objects and compositions; the seen ones are trained on.
        alignment: `"cls"` (Eq. 1, the published way), `"patch_max"` (Eq. 2), or a head.
        template: words that the context starts from.
        dropout: probability of zeroing an entry of the vectors in training.

    Examples:
        >>> from czsl_sac import CompositionSpace, load_backbone
        >>> space = CompositionSpace.closed_world([("red", "cat"), ("blue", "star")])
        >>> model = PCVL(load_backbone("tiny").requires_grad_(False), space)
        >>> [name for name, p in model.named_parameters() if p.requires_grad]
        ['prompts.context', 'prompts.attribute_vectors', 'prompts.object_vectors']
    """

    Options = PCVLOptions

    @classmethod
    def build(cls, options: PCVLOptions, backbone: CLIPBackbone, space: CompositionSpace) -> "PCVL":
        """Return the method that options describe; the arguments are those of every method."""
        return cls(
            backbone,
            space,
            alignment=alignment_head(options, backbone),
            template=options.template,
            dropout=options.prompt_dropout,
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
        super().__init__(
            backbone,
            space,
            alignment=alignment,
            template=template,
            dropout=dropout,
            train_context=True,
            train_primitives=True,
        )
