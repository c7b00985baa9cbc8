"""Attention of one set of tokens to another, whose keys and values can be made once."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from czsl_sac.clip.transformer import QuickGELU


def mlp(width: int, dropout: float) -> nn.Sequential:
    """Return a network for each token by itself, with dropout on its hidden layer of 4 W.

    Args:
        width: W, size of input and output.
        dropout: probability.
    """
    inner = 4 * width
    return nn.Sequential(
        nn.Linear(width, inner), QuickGELU(), nn.Dropout(dropout), nn.Linear(inner, width)
    )


class KeysValues(NamedTuple):
    """What queries attend to, `[..., H, T, W / H]` each."""

    keys: Tensor
    values: Tensor


class CrossAttention(nn.Module):
    """Multi-head attention of queries to a context, with a projection of the output.

    Keys and values are made apart from the attention, so that one context serves queries that
    come in chunks.

    Args:
        width: W, size of queries, context and output.
        num_heads: H, a divisor of W; None takes `max(1, width // 64)`.
        qkv_bias: whether the projections of queries, keys and values have a bias; that of the
            output always has.
        dropout: probability of zeroing a weight of the attention in training.

    Raises:
        ValueError: `num_heads` does not divide `width`.

    Shape:
        query `[..., n, W]`, context `[..., T, W]` → `[..., n, W]`; leading sizes broadcast.

    Examples:
        >>> attention = CrossAttention(8, num_heads=2)
        >>> context = attention.keys_values(torch.zeros(3, 5, 8))
        >>> attention(torch.zeros(4, 8), context).shape
        torch.Size([3, 4, 8])
    """

    def __init__(
        self,
        width: int,
        num_heads: int | None = None,
        *,
        qkv_bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        heads = max(1, width // 64) if num_heads is None else num_heads
        if heads < 1 or width % heads:
            raise ValueError(
                f"num_heads is {heads} but must divide width = {width}: pass num_heads explicitly."
            )
        self.num_heads = heads
        self.dropout = dropout
        self.q_proj = nn.Linear(width, width, bias=qkv_bias)
        self.k_proj = nn.Linear(width, width, bias=qkv_bias)
        self.v_proj = nn.Linear(width, width, bias=qkv_bias)
        self.out_proj = nn.Linear(width, width)

    def keys_values(self, context: Tensor) -> KeysValues:
        """Return the keys and values of a context `[..., T, W]`."""
        return KeysValues(self._heads(self.k_proj(context)), self._heads(self.v_proj(context)))

    def forward(self, query: Tensor, context: KeysValues) -> Tensor:
        """Return what queries `[..., n, W]` gather, `[..., n, W]`."""
        return self.out_proj(self.gather(self.q_proj(query), context))

    def gather(self, projected: Tensor, context: KeysValues) -> Tensor:
        """Return the values that projected queries `[..., n, W]` weigh, heads side by side."""
        queries = self._heads(projected)
        leading = torch.broadcast_shapes(queries.shape[:-2], context.keys.shape[:-2])
        gathered = F.scaled_dot_product_attention(
            queries.expand(*leading, -1, -1),
            context.keys.expand(*leading, -1, -1),
            context.values.expand(*leading, -1, -1),
            dropout_p=self.dropout if self.training else 0.0,
        )
        return gathered.transpose(-3, -2).flatten(-2)

    def weights(self, query: Tensor, context: KeysValues) -> Tensor:
        """Return how queries `[..., n, W]` weigh T tokens, mean over the heads, `[..., n, T]`."""
        queries = self._heads(self.q_proj(query)) * (query.shape[-1] / self.num_heads) ** -0.5
        return (queries @ context.keys.mT).softmax(dim=-1).mean(dim=-3)

    def _heads(self, projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}"


class CrossBlock(nn.Module):
    """x + attention(norm(x), norm(y)), then x + mlp(norm(x)).

    Args:
        width: size of the tokens of both.
        num_heads: heads of the attention; None takes `max(1, width // 64)`.
        dropout: of the attention's weights, and after both layers of the MLP, in training.

    Raises:
        ValueError: `num_heads` does not divide `width`.

    Shape:
        x `[..., n, W]`, y `[..., m, W]` → `[..., n, W]`; leading sizes broadcast.

    Examples:
        >>> CrossBlock(8)(torch.zeros(2, 5, 8), torch.zeros(3, 8)).shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, width: int, num_heads: int | None = None, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm_query = nn.LayerNorm(width)
        self.norm_context = nn.LayerNorm(width)
        self.attention = CrossAttention(width, num_heads, qkv_bias=True, dropout=dropout)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), QuickGELU(), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return x after it has looked at y."""
        context = self.attention.keys_values(self.norm_context(y))
        return self._finish(x, self.attention(self.norm_query(x), context))

    def with_weights(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return x after it has looked at y, and how it weighed y, `[..., n, m]`."""
        query, context = self.norm_query(x), self.attention.keys_values(self.norm_context(y))
        weights = self.attention.weights(query, context)
        return self._finish(x, self.attention(query, context)), weights

    def _finish(self, x: Tensor, gathered: Tensor) -> Tensor:
        x = x + gathered
        inner, activation, outer = self.mlp
        hidden = self.dropout(activation(inner(self.norm_mlp(x))))
        return x + self.dropout(outer(hidden))
