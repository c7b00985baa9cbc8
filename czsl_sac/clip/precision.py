"""Frozen weights kept in half precision; what is trained stays in float32."""

from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.clip.transformer import Attention, Linear

_BackboneT = TypeVar("_BackboneT", bound=CLIPBackbone)


def store_frozen(backbone: _BackboneT, dtype: torch.dtype) -> _BackboneT:
    """Keep the frozen matrices of both towers' blocks, and the token table, in half precision.

    These are all but a few million numbers of a CLIP. Activations, norms, LoRA and adapters stay
    in float32: a matrix is cast where it multiplies, and again in the backward pass, so that what
    changes is the rounding of the weights, once, and the memory that they take. OpenAI published
    their weights in float16, so that for these "float16" changes nothing at all. Under autocast
    the products have autocast's precision, with or without this.

    Call it after `requires_grad_(False)` and before `apply_lora`.

    Args:
        backbone: changed in place; a parameter that requires a gradient stays as it is.
        dtype: `torch.float16` or `torch.bfloat16`.

    Returns:
        The same backbone.

    Raises:
        ValueError: the dtype is another one, a weight does not fit into it, or there is LoRA
            already.

    Examples:
        >>> from czsl_sac.clip.sources.tiny import tiny_clip
        >>> backbone = store_frozen(tiny_clip().requires_grad_(False), torch.bfloat16)
        >>> backbone.visual.transformer.resblocks[0].attn.in_proj_weight.dtype
        torch.bfloat16
        >>> backbone.encode_image(torch.zeros(1, 3, 64, 64)).dtype
        torch.float32
    """
    if dtype not in (torch.float16, torch.bfloat16):
        raise ValueError(
            f"dtype is {dtype} but must be torch.float16 or torch.bfloat16: take one of them."
        )
    if any(parametrize.is_parametrized(part) for part in backbone.modules()):
        raise ValueError(
            "backbone has LoRA already but must be plain: call store_frozen before apply_lora."
        )
    frozen = [weight for weight in _matrices(backbone) if not weight.requires_grad]
    for weight in frozen:
        if not bool(weight.to(dtype).isfinite().all()):
            raise ValueError(
                f"dtype is {dtype} but must hold a weight as large as "
                f"{float(weight.abs().max()):g}: take torch.bfloat16."
            )
    backbone.remember_base()  # adapters name the base by its weights before they are rounded
    for weight in frozen:
        weight.data = weight.data.to(dtype)
    return backbone


def _matrices(backbone: nn.Module) -> list[nn.Parameter]:
    found = []
    for part in backbone.modules():
        if isinstance(part, Attention):
            found.append(part.in_proj_weight)
        elif isinstance(part, Linear | nn.Embedding):
            found.append(part.get_parameter("weight"))
    return found
