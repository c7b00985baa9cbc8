"""Visual adaptive condensation (VAC): all tokens condensed into one feature (Sec. 4.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from czsl_sac.blocks.token_scores import heads_of
from czsl_sac.checks import check_range
from czsl_sac.deprecation import keyword_options


class VisualCondenser(nn.Module):
    """Condense an image's tokens into one unit feature v_q by a learnable query.

    K blocks, each a multi-head cross-attention of the query over all tokens and a
    feed-forward network, both residual with layer norm before them. Sec. 4.2 of the paper.

    With a single query the projections of keys and values need not be applied to the
    tokens: ⟨q, W_k x⟩ = ⟨W_kᵀ q, x⟩, and Σ_t a_t W_v x_t = W_v Σ_t a_t x_t. So a block costs
    O(T·D·H + D²) an image instead of O(T·D²), with the same result to rounding.

    Args:
        dim: D, size of the tokens.
        num_blocks: K.
        num_heads: H, a divisor of `dim`; None takes `max(1, dim // 64)`.
        mlp_ratio: hidden size of the feed-forward network over D.
        dropout: probability, on the outputs of attention and of the feed-forward network.

    Raises:
        ValueError: a size is not positive, or `num_heads` does not divide `dim`.

    Shape:
        tokens `[B, T, D]` → v_q `[B, D]` of unit norm (, attention `[B, T]`).

    Examples:
        >>> condenser = VisualCondenser(dim=128, num_blocks=2)
        >>> feature, attention = condenser(torch.randn(4, 65, 128), return_attention=True)
        >>> feature.shape, attention.shape, bool(torch.allclose(feature.norm(dim=1), torch.ones(4)))
        (torch.Size([4, 128]), torch.Size([4, 65]), True)
    """

    @keyword_options
    def __init__(
        self,
        dim: int,
        *,
        num_blocks: int = 3,
        num_heads: int | None = None,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_range("dim", dim, low=1)
        check_range("num_blocks", num_blocks, low=1)
        heads = heads_of(dim, num_heads)
        self.dim = dim
        self.num_heads = heads
        self.query = nn.Parameter(torch.randn(dim) * dim**-0.5)
        self.norm_tokens = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(
            CondenserBlock(dim, heads, mlp_ratio, dropout) for _ in range(num_blocks)
        )
        self.norm_out = nn.LayerNorm(dim)

    @keyword_options
    def forward(
        self, tokens: Tensor, *, return_attention: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return v_q, and on request where the last block looked.

        Args:
            tokens: `[B, T, D]`, the class token first.
            return_attention: also return the attention of the last block, mean over heads.

        Returns:
            v_q `[B, D]`, unit norm; with `return_attention` also `[B, T]`, rows summing
            to one.

        Raises:
            ValueError: tokens is not `[B, T, D]` with D = `dim` and T ≥ 1.
        """
        if tokens.dim() != 3 or tokens.shape[1] == 0 or tokens.shape[2] != self.dim:
            raise ValueError(
                f"tokens has shape {list(tokens.shape)} but must be [B, T, {self.dim}] with T ≥ 1: "
                "pass all tokens of the vision tower in the joint space."
            )
        normed = self.norm_tokens(tokens)
        feature = self.query.expand(tokens.shape[0], -1)
        for block in self.blocks:
            feature, attention = block(feature, normed)
        feature = F.normalize(self.norm_out(feature), dim=-1)
        return (feature, attention.mean(dim=1)) if return_attention else feature

    def extra_repr(self) -> str:
        return f"dim={self.dim}, num_blocks={len(self.blocks)}, num_heads={self.num_heads}"


class CondenserBlock(nn.Module):
    """One block of the condenser: cross-attention of the query, then a feed-forward network.

    Args:
        dim: D.
        num_heads: H, a divisor of D.
        mlp_ratio: hidden size of the feed-forward network over D.
        dropout: probability, on both outputs.

    Shape:
        feature `[B, D]`, normed tokens `[B, T, D]` → feature `[B, D]`, attention
        `[B, H, T]`.

    Examples:
        >>> block = CondenserBlock(dim=8, num_heads=2, mlp_ratio=4.0, dropout=0.0)
        >>> feature, attention = block(torch.zeros(3, 8), torch.ones(3, 5, 8))
        >>> attention.shape
        torch.Size([3, 2, 5])
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_query = nn.LayerNorm(dim)
        self.query_proj = nn.Linear(dim, dim)
        # A key bias adds the same amount to the score of every token: softmax drops it.
        self.key_proj = nn.Linear(dim, dim, bias=False)
        self.value_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.norm_mlp = nn.LayerNorm(dim)
        hidden = int(dim * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, feature: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the refined feature `[B, D]` and the attention `[B, H, T]`."""
        batch, dim = feature.shape
        head_dim = dim // self.num_heads
        query = self.query_proj(self.norm_query(feature)).view(batch, self.num_heads, head_dim)
        key_weight = self.key_proj.weight.view(self.num_heads, head_dim, dim)
        absorbed = torch.einsum("bhd,hde->bhe", query, key_weight) * head_dim**-0.5
        attention = F.softmax(absorbed @ tokens.mT, dim=-1)
        value_weight = self.value_proj.weight.view(self.num_heads, head_dim, dim)
        gathered = torch.einsum("bhe,hde->bhd", attention.to(tokens.dtype) @ tokens, value_weight)
        gathered = gathered.reshape(batch, dim) + self.value_proj.bias
        feature = feature + self.dropout(self.out_proj(gathered))
        feature = feature + self.dropout(self.mlp(self.norm_mlp(feature)))
        return feature, attention
