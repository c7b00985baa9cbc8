"""CoOp: the words of attributes and objects stay, those around them are learned."""

from czsl_sac.methods.coop.options import CoOpOptions
from czsl_sac.methods.prompt_tuning import PromptTuning


class CoOp(PromptTuning):
    """One learned context for all compositions; attributes and objects are CLIP's own words.

    Zhou et al., "Learning to Prompt for Vision-Language Models" (IJCV 2022), in the form in which
    the CSP paper compares with it: the context starts at the words of the template, a name of
    several tokens is their mean.

    Examples:
        >>> from czsl_sac import CompositionSpace, load_backbone
        >>> space = CompositionSpace.closed_world([("red", "cat"), ("blue", "star")])
        >>> model = CoOp(load_backbone("tiny").requires_grad_(False), space)
        >>> [name for name, p in model.named_parameters() if p.requires_grad]
        ['prompts.context']
    """

    Options = CoOpOptions
