"""Cross-modal traction: texts pulled towards the image they are compared with (Troika)."""

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from czsl_sac.clip.transformer import QuickGELU
from czsl_sac.methods.cross_attention import CrossAttention, KeysValues

__all__ = ["CrossModalTraction", "TractionLayer"]


class CrossModalTraction(nn.Module):
    """t' = normalise(t + λ ⊙ layers(t, image tokens)): one text feature for every image.

    Huang et al., "Troika: Multi-Path Cross-Modal Traction for Compositional Zero-Shot Learning"
    (CVPR 2024).

    Args:
        dim: D.
        num_layers: number of layers.
        num_heads: heads of each attention; None takes `max(1, dim // 64)`.
        dropout: probability, after the attention, inside and after the MLP.
        scale: start of λ, which is learned per dimension.

    Raises:
        ValueError: `num_layers` is below 1, or `num_heads` does not divide `dim`.

    Shape:
        text `[C, D]`, tokens `[B, T, D]` → `[B, C, D]` of unit norm.

    Examples:
        >>> traction = CrossModalTraction(dim=128, num_layers=2)
        >>> context = traction.keys_values(torch.randn(3, 17, 128))
        >>> traction(torch.randn(5, 128), context).shape
        torch.Size([3, 5, 128])
    """

    def __init__(
        self,
        dim: int,
        num_layers: int = 3,
        num_heads: int | None = None,
        dropout: float = 0.1,
        scale: float = 0.1,
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers is {num_layers} but must be at least 1.")
        self.layers = nn.ModuleList(
            TractionLayer(dim, num_heads, dropout) for _ in range(num_layers)
        )
        self.scale = nn.Parameter(torch.full((dim,), scale))

    def keys_values(self, tokens: Tensor) -> list[KeysValues]:
        """Return what the texts of these images attend to, once per layer.

        Args:
            tokens: `[B, T, D]`, the class token among them.
        """
        layers = cast(Iterable[TractionLayer], self.layers)
        return [layer.attention.keys_values(tokens) for layer in layers]

    def forward(self, text: Tensor, context: list[KeysValues]) -> Tensor:
        """Return texts that know their image.

        Args:
            text: `[C, D]`, unit norm.
            context: what `keys_values` returned for B images.

        Returns:
            `[B, C, D]`, unit norm.
        """
        pulled = text
        for layer, keys_values in zip(self.layers, context, strict=True):
            pulled = layer(pulled, keys_values)
        return F.normalize(text + self.scale * pulled, dim=-1)


class TractionLayer(nn.Module):
    """q + attention(q, image), then q + mlp(norm(q)); no norm before the attention.

    Args:
        dim: D.
        num_heads: heads of the attention; None takes `max(1, dim // 64)`.
        dropout: probability, after the attention, inside and after the MLP.

    Shape:
        text `[C, D]` or `[B, C, D]` → `[B, C, D]`.

    Examples:
        >>> layer = TractionLayer(dim=8)
        >>> layer(torch.zeros(5, 8), layer.attention.keys_values(torch.zeros(3, 4, 8))).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, dim: int, num_heads: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = CrossAttention(dim, num_heads)
        self.norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 4 * dim), QuickGELU(), nn.Dropout(dropout), nn.Linear(4 * dim, dim)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, text: Tensor, context: KeysValues) -> Tensor:
        """Return the texts after this layer, `[B, C, D]`."""
        text = text + self.dropout(self.attention(text, context))
        return text + self.dropout(self.mlp(self.norm(text)))
