"""CoOp: the words of attributes and objects stay, those around them are learned."""

from czsl_sac.blocks.alignment import Aligner, Alignment
from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.methods.coop.options import CoOpOptions
from czsl_sac.methods.parts import alignment_head
from czsl_sac.methods.prompt_tuning import PromptTuning
from czsl_sac.space import CompositionSpace


class CoOp(PromptTuning):
    """One learned context for all compositions; attributes and objects are CLIP's own words.

    Zhou et al., "Learning to Prompt for Vision-Language Models" (IJCV 2022), in the form in which
    the CSP paper compares with it: the context starts at the words of the template, a name of
    several tokens is their mean. CLIP itself is frozen.

    Args:
        backbone: CLIP.
        space: attributes, objects and compositions; the seen ones are trained on.
        alignment: `"cls"` (Eq. 1, the published way), `"patch_max"` (Eq. 2), or a head.
        template: words that the context starts from, any number.

    Examples:
        >>> from czsl_sac import CompositionSpace, load_backbone
        >>> space = CompositionSpace.closed_world([("red", "cat"), ("blue", "star")])
        >>> model = CoOp(load_backbone("tiny").requires_grad_(False), space)
        >>> [name for name, p in model.named_parameters() if p.requires_grad]
        ['prompts.context']
    """

    Options = CoOpOptions

    @classmethod
    def build(cls, options: CoOpOptions, backbone: CLIPBackbone, space: CompositionSpace) -> "CoOp":
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
        super().__init__(
            backbone,
            space,
            alignment=alignment,
            template=template,
            train_context=True,
            train_primitives=False,
        )
