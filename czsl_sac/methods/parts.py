"""Parts that several methods are made of, as their options describe them."""

from typing import Any, NamedTuple

from torch import Tensor

from czsl_sac.blocks.alignment import Aligner, build_aligner
from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.clip.prompts import SoftPrompts
from czsl_sac.methods.options import MethodOptions
from czsl_sac.space import CompositionSpace


class TextFeatures(NamedTuple):
    """Features of compositions `[C, D]`, attributes `[A, D]` and objects `[O, D]`."""

    composition: Tensor
    attribute: Tensor
    object: Tensor


def alignment_head(options: MethodOptions, backbone: CLIPBackbone) -> Aligner:
    """Return the alignment head that options describe.

    Args:
        options: of a method.
        backbone: whose τ and joint space it takes.
    """
    return build_aligner(
        options.alignment,
        temperature_of(options, backbone),
        reduction=options.reduction,
        token_choice=options.token_choice,
        class_weight=options.class_weight,
        dim=backbone.embed_dim,
        num_tokens=backbone.config.num_patches + 1,
    )


def temperature_of(options: MethodOptions, backbone: CLIPBackbone) -> float:
    """Return τ: the options' own, or the backbone's."""
    return backbone.temperature if options.temperature is None else options.temperature


def soft_prompts(
    options: Any,
    backbone: CLIPBackbone,
    space: CompositionSpace,
    *,
    shared_context: bool = False,
) -> SoftPrompts:
    """Return the learnable prompts that options describe.

    Args:
        options: of a method with prompts: `WordOptions`, and what is learned.
        backbone: whose words they start from.
        space: attributes and objects.
        shared_context: one context for compositions, attributes and objects.
    """
    return SoftPrompts(
        backbone.text,
        backbone.tokenizer,
        space.attributes,
        space.objects,
        template=options.template,
        dropout=options.prompt_dropout,
        train_context=options.train_context,
        train_primitives=options.train_primitives,
        shared_context=shared_context,
    )
