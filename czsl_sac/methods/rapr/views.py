"""Views of an image: what an adapter makes of the vision tower's last states (RAPR)."""

from typing import Literal, get_args

from torch import Tensor, nn

from czsl_sac.checks import check_choice
from czsl_sac.clip.transformer import ResidualAttentionBlock
from czsl_sac.clip.vision import VisionTower
from czsl_sac.methods.cross_attention import mlp

ViewAdapter = Literal["mlp", "attention"]


class View(nn.Module):
    """r · project(x) + (1 − r) · project(adapter(x)), with the frozen projection of the tower.

    Args:
        width: of the states.
        adapter: `"mlp"`: x + MLP(norm(x)), token by token; `"attention"`: one more block of the
            tower's kind.
        dropout: in the MLP.
        residual: r.

    Examples:
        >>> import torch
        >>> from czsl_sac.clip.config import CLIPConfig
        >>> tower = VisionTower(CLIPConfig(16, 32, 8, 24, 2, 2, 8, 20, 12, 2, 2))
        >>> view, states = View(24, "mlp", dropout=0.3, residual=0.8), torch.zeros(3, 5, 24)
        >>> view(tower, states, tower.project(states)).shape
        torch.Size([3, 5, 16])
    """

    def __init__(
        self, width: int, adapter: ViewAdapter, *, dropout: float, residual: float
    ) -> None:
        super().__init__()
        check_choice("adapter", adapter, get_args(ViewAdapter))
        self.residual = residual
        self.adapter: nn.Module
        if adapter == "attention":
            self.adapter = ResidualAttentionBlock(width, max(1, width // 64), dropout=dropout)
        else:
            self.adapter = ResidualMLP(width, dropout)

    def forward(self, tower: VisionTower, states: Tensor, tokens: Tensor) -> Tensor:
        """Return the view, `[B, T, D]`.

        Args:
            tower: whose projection it takes.
            states: the tower's last, `[B, T, W]`.
            tokens: the same, projected, `[B, T, D]`.
        """
        return self.residual * tokens + (1 - self.residual) * tower.project(self.adapter(states))


class ResidualMLP(nn.Module):
    """x + MLP(norm(x)), one token like the other.

    Args:
        width: W; the hidden layer has 4 W.
        dropout: between the two layers.

    Examples:
        >>> import torch
        >>> ResidualMLP(8, dropout=0.3)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = mlp(width, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return x and what the MLP adds."""
        return x + self.mlp(self.norm(x))
