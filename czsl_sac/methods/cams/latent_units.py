"""Latent units that gather from vision layers through a gate, and the spaces they are seen in."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from czsl_sac.checks import check_range
from czsl_sac.clip.transformer import ResidualAttentionBlock
from czsl_sac.methods.cross_attention import CrossAttention, KeysValues, mlp


class GatedCrossAttention(CrossAttention):
    """Cross-attention whose gathered values g pass a gate, σ(W_z q ⊙ W_u g) ⊙ g.

    The gate stands before the projection of the output; q is the projected query.

    Args:
        width: W.
        num_heads: heads; None takes `max(1, width // 64)`.
        dropout: probability of zeroing a weight of the attention in training.

    Shape:
        query `[..., n, W]`, context `[..., T, W]` → `[..., n, W]`; leading sizes broadcast.

    Examples:
        >>> attention = GatedCrossAttention(8, num_heads=2)
        >>> attention(torch.zeros(4, 8), attention.keys_values(torch.zeros(3, 5, 8))).shape
        torch.Size([3, 4, 8])
    """

    def __init__(self, width: int, num_heads: int | None = None, *, dropout: float = 0.0) -> None:
        super().__init__(width, num_heads, dropout=dropout)
        self.query_gate = nn.Linear(width, width)
        self.value_gate = nn.Linear(width, width)

    def forward(self, query: Tensor, context: KeysValues) -> Tensor:
        """Return what queries `[..., n, W]` gather and the gate lets through, `[..., n, W]`."""
        projected = self.q_proj(query)
        gathered = self.gather(projected, context)
        gate = torch.sigmoid(self.query_gate(projected) * self.value_gate(gathered))
        return self.out_proj(gate * gathered)


class LatentUnits(nn.Module):
    """K learned units that look at one vision layer after the other, always by the same weights.

    For each layer u ← u + attention(norm(u), norm(x)), then u ← u + mlp(norm(u)); one layer norm
    for units and tokens.

    Args:
        num_units: K.
        width: W, of a vision layer's tokens.
        unit_dropout: probability of zeroing an entry of the units in training.
        dropout: probability of zeroing a weight of the attention, or a hidden unit of the MLP.

    Raises:
        ValueError: there is no unit.

    Shape:
        tokens of each layer, `[B, T, W]` each → `[B, K, W]`.

    Examples:
        >>> units = LatentUnits(num_units=3, width=8)
        >>> units([torch.zeros(2, 5, 8), torch.ones(2, 5, 8)]).shape
        torch.Size([2, 3, 8])
    """

    def __init__(
        self, num_units: int, width: int, *, unit_dropout: float = 0.5, dropout: float = 0.1
    ) -> None:
        super().__init__()
        check_range("num_units", num_units, low=1)
        self.units = nn.Parameter(torch.randn(num_units, width))
        self.unit_dropout = nn.Dropout(unit_dropout)
        self.norm = nn.LayerNorm(width)
        self.attention = GatedCrossAttention(width, dropout=dropout)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = mlp(width, dropout)

    def forward(self, layers: Iterable[Tensor]) -> Tensor:
        """Return what the units gathered from the layers, first to last, `[B, K, W]`."""
        units = self.unit_dropout(self.units)  # one draw for all images
        for tokens in layers:
            context = self.attention.keys_values(self.norm(tokens))
            units = units + self.attention(self.norm(units), context)
            units = units + self.mlp(self.norm_mlp(units))
        return units


class UnitSpaces(nn.Module):
    """What compositions, attributes and objects take of the units, one feature each.

    For each space a block of self-attention among the units, their mean, a layer norm that the
    spaces share, a projection and dropout.

    Args:
        names: of the spaces.
        width: W.
        dim: D, of the joint space.
        dropout: probability of zeroing a hidden unit of a block in training.
        feature_dropout: probability of zeroing an entry of a feature in training.

    Shape:
        `[B, K, W]` → `[B, D]` by name, not of unit norm.

    Examples:
        >>> spaces = UnitSpaces(["attribute", "object"], width=8, dim=6)
        >>> {name: feature.shape for name, feature in spaces(torch.zeros(2, 3, 8)).items()}
        {'attribute': torch.Size([2, 6]), 'object': torch.Size([2, 6])}
    """

    def __init__(
        self,
        names: Iterable[str],
        width: int,
        dim: int,
        *,
        dropout: float = 0.1,
        feature_dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.blocks, self.projections = nn.ModuleDict(), nn.ModuleDict()
        for name in names:
            heads = max(1, width // 128)
            self.blocks[name] = ResidualAttentionBlock(width, heads, dropout=dropout)
            projection = nn.Linear(width, dim, bias=False)
            nn.init.normal_(projection.weight, std=width**-0.5)
            self.projections[name] = projection
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(feature_dropout)

    def forward(self, units: Tensor) -> dict[str, Tensor]:
        """Return the features of each image, `[B, D]` by name."""
        means = {name: self.norm(block(units).mean(dim=1)) for name, block in self.blocks.items()}
        return {name: self.dropout(self.projections[name](mean)) for name, mean in means.items()}
