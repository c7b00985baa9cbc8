"""Where a method looks in an image (the paper's Fig. 5 and 12), as numbers.

The similarity of each token to the composition's text with the one that sparse alignment takes
(Eq. 2), the attention of the condenser (Sec. 4.2), and the attention of the class token in CLIP's
last layer, which is all that methods on the class token have.
"""

import warnings
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from czsl_sac.blocks.alignment import ClassTokenAligner
from czsl_sac.clip.vision import VisionTower
from czsl_sac.methods.base import CZSLMethod, Predictor


class Looks(NamedTuple):
    """Where a method looked in B images, for one composition each; of T tokens, class token first.

    Attributes:
        similarity: cosine of each token with the composition's text, before the reduction,
            `[B, T]`; None where the class token alone is compared, or the method does not say.
        winner: token that sparse alignment takes, `[B]`; None for other reductions and methods.
        condenser: attention of the condenser's last block, `[B, T]`; None without a condenser.
        class_token: attention of the class token in the vision tower's last layer, `[B, T]`.
    """

    similarity: Tensor | None
    winner: Tensor | None
    condenser: Tensor | None
    class_token: Tensor


@torch.no_grad()
def look_at(method: CZSLMethod, predictor: Predictor, images: Tensor, columns: Tensor) -> Looks:
    """Return where a method looks for one composition in each image; no state changes.

    Args:
        method: in evaluation mode.
        predictor: the method's.
        images: `[B, 3, H, W]`, normalised.
        columns: the compositions, of `predictor.space`, `[B]`.

    Returns:
        Maps in float32, on the CPU.

    Warns:
        UserWarning: tokens are compared, but the predictor does not say which.
    """
    columns, encoded = columns.to(images.device), predictor.encode(images)
    similarity = winner = None
    if _compares_tokens(method, predictor):
        tokens, text = predictor.compared(encoded, columns)
        units = (F.normalize(each, dim=-1) for each in (tokens, text))
        similarity = torch.einsum("btd,bd->bt", *units)
        winner = method.aligner.winners(tokens, text)
    attention = (predictor.attention(encoded), class_attention(method.backbone.visual, images))
    maps = (None if m is None else m.float().cpu() for m in (similarity, *attention))
    similarity, condenser, class_token = maps
    assert class_token is not None
    return Looks(similarity, None if winner is None else winner.cpu(), condenser, class_token)


def _compares_tokens(method: CZSLMethod, predictor: Predictor) -> bool:
    """Whether there is a similarity of each token to look at."""
    if isinstance(getattr(method, "aligner", None), ClassTokenAligner):
        return False
    if not predictor.says_what_it_compares:
        warnings.warn(
            f"{type(predictor).__name__} does not say what it compares (Predictor.compared): "
            "maps of its similarities are left out.",
            stacklevel=3,
        )
    return predictor.says_what_it_compares


def class_attention(visual: VisionTower, images: Tensor) -> Tensor:
    """Return the attention of the class token in the last layer, mean over heads.

    Args:
        visual: the vision tower.
        images: `[B, 3, H, W]`, normalised.

    Returns:
        `[B, T]`, rows summing to one.

    Examples:
        >>> from czsl_sac import load_backbone
        >>> visual = load_backbone("tiny").visual
        >>> class_attention(visual, torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 65])
    """
    attention = visual.transformer.resblocks[-1].get_submodule("attn")
    weights: list[Tensor] = []
    handle = attention.register_forward_pre_hook(
        lambda module, inputs: weights.append(module.first_weights(inputs[0]))
    )
    try:
        visual.states(images)
    finally:
        handle.remove()
    return weights[0]
