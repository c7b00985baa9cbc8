"""CSP: the words of attributes and objects are learned, those around them stay."""

from czsl_sac.blocks.alignment import Aligner, Alignment
from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.methods.csp.options import CSPOptions
from czsl_sac.methods.parts import alignment_head
from czsl_sac.methods.prompt_tuning import PromptTuning
from czsl_sac.space import CompositionSpace


class CSP(PromptTuning):
    """One learned vector per attribute and object, in a fixed prompt.

    Nayak et al., "Learning to Compose Soft Prompts for Compositional Zero-Shot Learning"
    (ICLR 2023). A vector starts at the mean embedding of its name's tokens. CLIP itself is
    frozen.

    Args:
        backbone: CLIP.
        space: attributes, objects and compositions; the seen ones are trained on.
        alignment: `"cls"` (Eq. 1, the published way), `"patch_max"` (Eq. 2), or a head.
        template: words of the prompt, fixed.
        dropout: probability of zeroing an entry of the vectors in training.

    Examples:
        >>> from czsl_sac import CompositionSpace, load_backbone
        >>> space = CompositionSpace.closed_world([("red", "cat"), ("blue", "star")])
        >>> model = CSP(load_backbone("tiny").requires_grad_(False), space)
        >>> [name for name, p in model.named_parameters() if p.requires_grad]
        ['prompts.attribute_vectors', 'prompts.object_vectors']
    """

    Options = CSPOptions

    @classmethod
    def build(cls, options: CSPOptions, backbone: CLIPBackbone, space: CompositionSpace) -> "CSP":
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
            train_context=False,
            train_primitives=True,
        )
