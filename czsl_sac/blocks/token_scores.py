"""Learned scores of the tokens, for the reductions of Tab. 5 that weigh them."""

import torch
from torch import Tensor, nn

from czsl_sac.checks import check_range


class PositionScores(nn.Module):
    """Learnable score of each position, the same for all images, before the softmax.

    Args:
        num_tokens: T.

    Raises:
        ValueError: T is below 1.

    Shape:
        tokens `[B, T, D]` → `[B, T, 1]`.

    Examples:
        >>> PositionScores(5)(torch.ones(3, 5, 8)).shape
        torch.Size([3, 5, 1])
    """

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        check_range("num_tokens", num_tokens, low=1)
        self.scores = nn.Parameter(torch.zeros(num_tokens))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return scores `[B, T, 1]` of tokens `[B, T, D]`.

        Raises:
            ValueError: T is another one.
        """
        if tokens.shape[1] != len(self.scores):
            raise ValueError(
                f"tokens has {tokens.shape[1]} positions to reduce but must have "
                f"{len(self.scores)}: give num_tokens=T for images of this size."
            )
        return self.scores.unsqueeze(-1).expand(tokens.shape[0], -1, -1)


class AttentionScores(nn.Module):
    """Scores of a learnable query for each token, one per head, before the softmax.

    Args:
        dim: D.
        num_heads: heads, a divisor of D; None takes `max(1, dim // 64)`.

    Raises:
        ValueError: `num_heads` does not divide `dim`.

    Shape:
        tokens `[B, T, D]` → `[B, T, heads]`.

    Examples:
        >>> AttentionScores(dim=8, num_heads=2)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 2])
    """

    def __init__(self, dim: int, *, num_heads: int | None = None) -> None:
        super().__init__()
        heads = heads_of(dim, num_heads)
        self.query = nn.Parameter(torch.randn(heads, dim // heads))
        self.key_proj = nn.Linear(dim, dim, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return scores `[B, T, heads]` of tokens `[B, T, D]`."""
        heads, head_dim = self.query.shape
        keys = self.key_proj(tokens).unflatten(-1, (heads, head_dim))
        return (keys * self.query).sum(dim=-1) * head_dim**-0.5


def heads_of(dim: int, num_heads: int | None) -> int:
    """Return the number of attention heads of size-D vectors, by default one per 64 dimensions.

    Raises:
        ValueError: `num_heads` does not divide `dim`.

    Examples:
        >>> heads_of(768, None)
        12
    """
    heads = max(1, dim // 64) if num_heads is None else num_heads
    if heads < 1 or dim % heads:
        raise ValueError(f"num_heads is {heads} but must divide dim = {dim}: give a divisor.")
    return heads
