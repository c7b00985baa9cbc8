"""CSP: the words of attributes and objects are learned, those around them stay."""

from czsl_sac.methods.csp.options import CSPOptions
from czsl_sac.methods.prompt_tuning import PromptTuning


class CSP(PromptTuning):
    """One learned vector per attribute and object, in a fixed prompt.

    Nayak et al., "Learning to Compose Soft Prompts for Compositional Zero-Shot Learning"
    (ICLR 2023). A vector starts at the mean embedding of its name's tokens.

    Examples:
        >>> from czsl_sac import CompositionSpace, load_backbone
        >>> space = CompositionSpace.closed_world([("red", "cat"), ("blue", "star")])
        >>> model = CSP(load_backbone("tiny").requires_grad_(False), space)
        >>> [name for name, p in model.named_parameters() if p.requires_grad]
        ['prompts.attribute_vectors', 'prompts.object_vectors']
    """

    Options = CSPOptions
