"""PCVL: the words of attributes and objects are learned, and those around them."""

from czsl_sac.methods.pcvl.options import PCVLOptions
from czsl_sac.methods.prompt_tuning import PromptTuning


class PCVL(PromptTuning):
    """CSP's vectors of attributes and objects in CoOp's context, both learned.

    Xu et al., "Prompting Large Pre-trained Vision-Language Models For Compositional Concept
    Learning" (arXiv 2211.05077). No public code is known; the construction follows the paper's
    abstract and introduction, which this class therefore re-interprets: the context starts at the
    template and is shared by all compositions, dropout acts on the vectors alone.

    Examples:
        >>> from czsl_sac import CompositionSpace, load_backbone
        >>> space = CompositionSpace.closed_world([("red", "cat"), ("blue", "star")])
        >>> model = PCVL(load_backbone("tiny").requires_grad_(False), space)
        >>> [name for name, p in model.named_parameters() if p.requires_grad]
        ['prompts.context', 'prompts.attribute_vectors', 'prompts.object_vectors']
    """

    Options = PCVLOptions
