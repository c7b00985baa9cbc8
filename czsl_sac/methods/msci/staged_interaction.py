"""Texts that meet what the first vision layers see, then what the last do."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from czsl_sac.checks import check_range
from czsl_sac.methods.cross_attention import KeysValues
from czsl_sac.methods.traction import TractionLayer


class LayerAggregator(nn.Module):
    """Join the tokens of several vision layers: dropout(relu(norm(linear(side by side)))).

    A single layer is passed on as it is.

    Args:
        num_layers: how many.
        dim: D.
        dropout: probability of zeroing an entry in training.

    Shape:
        `[B, T, D]` each → `[B, T, D]`.

    Examples:
        >>> LayerAggregator(2, dim=8)([torch.zeros(3, 5, 8), torch.ones(3, 5, 8)]).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, num_layers: int, dim: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.join: nn.Module = nn.Identity()
        if num_layers > 1:
            self.join = nn.Sequential(
                nn.Linear(num_layers * dim, dim),
                nn.LayerNorm(dim),
                nn.ReLU(),
                nn.Dropout(dropout),
            )

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        """Return the joined tokens, `[B, T, D]`."""
        joined: Tensor = self.join(torch.cat(list(layers), dim=-1))
        return joined


class StageContext(NamedTuple):
    """What texts attend to, one entry a layer of cross-attention.

    Attributes:
        low: in the first stage.
        high: in the second.
    """

    low: list[KeysValues]
    high: list[KeysValues]


class StagedInteraction(nn.Module):
    """t' = normalise(t + λ₁ ⊙ low + λ₂ ⊙ high): one text feature for every image.

    `low` is the text after it has attended to the low-level tokens, `high` is that after it has
    attended to the high-level ones, too. The layers are those of Troika's traction.

    Args:
        dim: D.
        num_layers: layers of cross-attention in each stage.
        dropout: probability, after the attention, inside and after the MLP.
        scale: start of λ₁ and λ₂, which are learned per dimension.

    Raises:
        ValueError: `num_layers` is below 1.

    Shape:
        text `[C, D]`, tokens `[B, T, D]` of both levels → `[B, C, D]` of unit norm.

    Examples:
        >>> stages = StagedInteraction(dim=8)
        >>> context = stages.keys_values(torch.randn(3, 5, 8), torch.randn(3, 5, 8))
        >>> stages(torch.randn(4, 8), context).shape
        torch.Size([3, 4, 8])
    """

    def __init__(
        self, dim: int, num_layers: int = 1, *, dropout: float = 0.1, scale: float = 0.1
    ) -> None:
        super().__init__()
        check_range("num_layers", num_layers, low=1)
        self.low_norm, self.high_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.low_layers, self.high_layers = (
            nn.ModuleList(TractionLayer(dim, dropout=dropout) for _ in range(num_layers))
            for _ in range(2)
        )
        self.low_scale, self.high_scale = (nn.Parameter(torch.full((dim,), scale)) for _ in "12")

    def keys_values(self, low: Tensor, high: Tensor) -> StageContext:
        """Return what the texts of these images attend to.

        Args:
            low: low-level tokens, `[B, T, D]`.
            high: high-level tokens, `[B, T, D]`.
        """
        low, high = self.low_norm(low), self.high_norm(high)
        low_layers = cast(Iterable[TractionLayer], self.low_layers)
        high_layers = cast(Iterable[TractionLayer], self.high_layers)
        return StageContext(
            [layer.attention.keys_values(low) for layer in low_layers],
            [layer.attention.keys_values(high) for layer in high_layers],
        )

    def forward(self, text: Tensor, context: StageContext) -> Tensor:
        """Return texts that know their image, `[B, C, D]`, unit norm.

        Args:
            text: `[C, D]`, unit norm.
            context: what `keys_values` returned for B images.
        """
        low = text
        for layer, keys_values in zip(self.low_layers, context.low, strict=True):
            low = layer(low, keys_values)
        high = low
        for layer, keys_values in zip(self.high_layers, context.high, strict=True):
            high = layer(high, keys_values)
        return F.normalize(text + self.low_scale * low + self.high_scale * high, dim=-1)
