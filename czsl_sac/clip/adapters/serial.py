"""Serial adapters: bottlenecks behind the attention and the MLP of a block.

Houlsby et al., "Parameter-Efficient Transfer Learning for NLP" (ICML 2019), without its norms, in
the form that CAILA uses. Several sets of them share one tower: a set is attached for a pass, by
`with_blocks`, and the tower itself stays as it is.
"""

from collections.abc import Iterable
from copy import copy
from typing import TypeVar

from torch import Tensor, nn

from czsl_sac.checks import check_range
from czsl_sac.clip.text_tower import TextTower
from czsl_sac.clip.transformer import Activation, QuickGELU, ResidualAttentionBlock
from czsl_sac.clip.vision import VisionTower

_TowerT = TypeVar("_TowerT", VisionTower, TextTower)


class SerialAdapter(nn.Module):
    """h + up(act(down(h))), with both maps random and their biases zero at the start.

    Args:
        width: size of a token, W.
        reduction: W / `reduction` is the size of the hidden layer.
        activation: between the maps.

    Raises:
        ValueError: `reduction` is not in 1 to `width`.

    Examples:
        >>> import torch
        >>> SerialAdapter(8)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(
        self, width: int, *, reduction: int = 4, activation: Activation = "quick_gelu"
    ) -> None:
        super().__init__()
        check_range("reduction", reduction, low=1, high=width)
        self.down = nn.Linear(width, width // reduction)
        self.activation = QuickGELU() if activation == "quick_gelu" else nn.GELU()
        self.up = nn.Linear(width // reduction, width)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.bias)

    def forward(self, h: Tensor) -> Tensor:
        """Map what a block's attention or MLP gives, `[..., W]`, to `[..., W]`."""
        return h + self.up(self.hidden(h))

    def hidden(self, h: Tensor) -> Tensor:
        """Return the hidden layer, `[..., W / reduction]`."""
        return self.activation(self.down(h))


class AdapterPair(nn.Module):
    """The two serial adapters of a block.

    Args:
        width: size of a token, W.
        reduction: as for `SerialAdapter`.
        activation: likewise.
    """

    def __init__(
        self, width: int, *, reduction: int = 4, activation: Activation = "quick_gelu"
    ) -> None:
        super().__init__()
        self.attention, self.mlp = (
            SerialAdapter(width, reduction=reduction, activation=activation) for _ in range(2)
        )


class SerialBlock(ResidualAttentionBlock):
    """A block with modules behind its attention and its MLP, which shares the block's weights.

    It computes x + A(attn(ln_1(x))), then x + A'(mlp(ln_2(x))). Adapters beside the attention and
    the MLP, which AdaptFormer adds, stay.

    Args:
        block: whose norms, attention and MLP run.
        attention: A, which maps `[..., W]` to `[..., W]`, token by token.
        mlp: A'.

    Examples:
        >>> import torch
        >>> block, x = ResidualAttentionBlock(8, 2), torch.randn(3, 5, 8)
        >>> same = SerialBlock(block, nn.Identity(), nn.Identity())
        >>> torch.equal(block(x), same(x))
        True
    """

    def __init__(self, block: ResidualAttentionBlock, attention: nn.Module, mlp: nn.Module) -> None:
        nn.Module.__init__(self)
        self.ln_1, self.attn, self.ln_2 = block.ln_1, block.attn, block.ln_2
        self.mlp = nn.Sequential(block.mlp, mlp)
        self.attn_adapter, self.mlp_adapter = block.attn_adapter, block.mlp_adapter
        self.after_attention = attention

    def finish(self, x: Tensor, added: Tensor) -> Tensor:
        """Do all that follows the attention; the arguments are those of every block."""
        return super().finish(x, self.after_attention(added))


def with_blocks(tower: _TowerT, blocks: Iterable[nn.Module]) -> _TowerT:
    """Return a tower that runs other blocks and shares everything else with the one given.

    It is a view: made in no time, for a pass, and not to be kept in a module of its own.

    Args:
        tower: stays as it is.
        blocks: in its blocks' stead.

    Examples:
        >>> tower = TextTower(16, context_length=8, vocab_size=20, width=12, layers=2, heads=2)
        >>> first = with_blocks(tower, tower.transformer.resblocks[:1])
        >>> len(first.transformer.resblocks), len(tower.transformer.resblocks)
        (1, 2)
        >>> first.text_projection is tower.text_projection
        True
    """
    transformer, view = copy(tower.transformer), copy(tower)
    transformer._modules = {**transformer._modules, "resblocks": nn.ModuleList(blocks)}
    view._modules = {**view._modules, "transformer": transformer}
    return view
