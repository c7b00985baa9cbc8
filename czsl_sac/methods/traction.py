"""Cross-modal traction: texts pulled towards the image they are compared with (Troika)."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from czsl_sac.checks import check_range
from czsl_sac.methods.conditioned_text import align_in_chunks, own_texts
from czsl_sac.methods.cross_attention import CrossAttention, KeysValues, mlp
from czsl_sac.methods.predictor import tokens_of
from czsl_sac.methods.three_branches import Branch, ThreeBranches


class CrossModalTraction(nn.Module):
    """t' = normalise(t + λ ⊙ layers(t, image tokens)): one text feature for every image.

    Huang et al., "Troika: Multi-Path Cross-Modal Traction for Compositional Zero-Shot Learning"
    (CVPR 2024).

    Args:
        dim: D.
        num_layers: number of layers, with `max(1, dim // 64)` heads each.
        dropout: probability, after the attention, inside and after the MLP.
        scale: start of λ, which is learned per dimension.

    Raises:
        ValueError: `num_layers` is below 1, or so many heads do not divide `dim`.

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
        dropout: float = 0.1,
        scale: float = 0.1,
    ) -> None:
        super().__init__()
        check_range("num_layers", num_layers, low=1)
        self.layers = nn.ModuleList(TractionLayer(dim, dropout) for _ in range(num_layers))
        self.scale = nn.Parameter(torch.full((dim,), scale))

    def keys_values(self, tokens: Tensor) -> list[KeysValues]:
        """Return what texts attend to in tokens `[B, T, D]`, class token included, by layer."""
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
        dropout: probability, after the attention, inside and after the MLP.

    Shape:
        text `[C, D]` or `[B, C, D]` → `[B, C, D]`.

    Examples:
        >>> layer = TractionLayer(dim=8)
        >>> layer(torch.zeros(5, 8), layer.attention.keys_values(torch.zeros(3, 4, 8))).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = CrossAttention(dim)
        self.norm = nn.LayerNorm(dim)
        self.mlp = mlp(dim, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, text: Tensor, context: KeysValues) -> Tensor:
        """Return the texts after this layer, `[B, C, D]`."""
        text = text + self.dropout(self.attention(text, context))
        return text + self.dropout(self.mlp(self.norm(text)))


class TractedBranches(ThreeBranches):
    """Three branches whose texts are pulled towards each image.

    A subclass says in `tractions` by what, and sets besides what `ThreeBranches` asks for:

    Attributes:
        disentanglers: what attributes and objects see the tokens through, on every token that the
            alignment looks at; empty: they see them as they are.
    """

    disentanglers: nn.ModuleList

    def tractions(self, encoded: Any) -> list[Callable[[Tensor], Tensor]] | None:
        """Return what makes texts `[B, K, D]` of unit texts `[K, D]`, for each branch.

        Args:
            encoded: what `encode` returned.

        Returns:
            Three functions; None where texts stay as they are.
        """
        raise NotImplementedError

    def branches(self, encoded: Any) -> list[Branch]:
        """Return what makes logits of texts before traction."""
        tokens = self.looked_at(tokens_of(encoded))
        views = [tokens] * 3
        if self.disentanglers:
            views = [tokens, *(disentangler(tokens) for disentangler in self.disentanglers)]
        tractions = self.tractions(encoded)
        if tractions is None:
            return self.aligned(views)
        return [
            partial(self._tracted_logits, view, traction)
            for view, traction in zip(views, tractions, strict=True)
        ]

    def texts_as_compared(self, encoded: Any, text: Tensor) -> Tensor:
        """Return the texts of compositions `[B, D]`, pulled each to its image."""
        tractions = self.tractions(encoded)
        return text if tractions is None else own_texts(tractions[0](text))

    def _tracted_logits(
        self, view: Tensor, traction: Callable[[Tensor], Tensor], text: Tensor
    ) -> Tensor:
        return align_in_chunks(self.aligner, view, traction, (text,), self.options.chunk_size)
