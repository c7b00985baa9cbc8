"""Visual adaptive condensation: the cross-attention of one query over all tokens (Sec. 4.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def condense_tokens(
    query: Tensor, keys: Tensor, values: Tensor, num_heads: int
) -> tuple[Tensor, Tensor]:
    """Return what one query per image gathers from all tokens (v_q of Eq. 5), and where it looked.

    Multi-head attention of a single query, written plainly on projected keys and values.

    Args:
        query: projected query, `[B, D]`.
        keys: projected tokens, `[B, T, D]`.
        values: projected tokens, `[B, T, D]`.
        num_heads: H, a divisor of D.

    Returns:
        The gathered values `[B, D]` (heads side by side) and the attention `[B, H, T]`.

    Raises:
        ValueError: D is no multiple of `num_heads`.

    Examples:
        >>> tokens = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> gathered, attention = condense_tokens(torch.zeros(1, 2), tokens, tokens, num_heads=1)
        >>> gathered, attention
        (tensor([[0.5000, 0.5000]]), tensor([[[0.5000, 0.5000]]]))
    """
    batch, num_tokens, dim = keys.shape
    if dim % num_heads:
        raise ValueError(f"num_heads is {num_heads} but must divide D = {dim}: give a divisor.")
    head_dim = dim // num_heads
    split = (batch, num_tokens, num_heads, head_dim)
    scores = torch.einsum("bhd,bthd->bht", query.view(batch, num_heads, head_dim), keys.view(split))
    attention = F.softmax(scores * head_dim**-0.5, dim=-1)
    gathered = torch.einsum("bht,bthd->bhd", attention, values.view(split))
    return gathered.reshape(batch, dim), attention
