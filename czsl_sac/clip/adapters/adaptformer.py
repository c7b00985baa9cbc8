"""AdaptFormer: small bottlenecks beside the attention and the MLP of every block.

Chen et al., "AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition"
(NeurIPS 2022), in the form that Troika and its successors use.
"""

from collections.abc import Iterable
from math import sqrt
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from czsl_sac.checks import check_range
from czsl_sac.clip.adapters.layers import choose_layers
from czsl_sac.clip.transformer import ResidualAttentionBlock

_ModuleT = TypeVar("_ModuleT", bound=nn.Module)


class AdaptFormer(nn.Module):
    """scale · up(dropout(relu(down(x)))), zero at the start.

    Args:
        width: size of a token, W.
        bottleneck: size of the hidden layer.
        scale: factor of the output, fixed.
        dropout: probability of zeroing a hidden unit in training.

    Examples:
        >>> bool((AdaptFormer(width=8, bottleneck=4)(torch.ones(3, 5, 8)) == 0).all())
        True
    """

    def __init__(
        self, width: int, *, bottleneck: int = 64, scale: float = 0.1, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.scale = float(scale)
        self.down = nn.Linear(width, bottleneck)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(bottleneck, width)
        nn.init.kaiming_uniform_(self.down.weight, a=sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens `[B, n, W]` to tokens `[B, n, W]` of the same dtype."""
        hidden = self.dropout(F.relu(self.down(x.to(self.down.weight.dtype))))
        return (self.scale * self.up(hidden)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"scale={self.scale:g}"


def apply_adaptformer(
    module: _ModuleT,
    *,
    bottleneck: int = 64,
    scale: float = 0.1,
    dropout: float = 0.1,
    layers: Iterable[int] | None = None,
) -> _ModuleT:
    """Add two adapters to every block inside a module, in place.

    A block then computes x + attn(ln_1(x)) + adapter(x), then x + mlp(ln_2(x)) + adapter'(x). At
    the start the module computes exactly what it did. The base weights are left as they are:
    call `module.requires_grad_(False)` before, to train the adapters alone. The defaults are
    Troika's. Adapters are float32 even where the weights are of half precision.

    Args:
        module: a tower, `backbone.visual` or `backbone.text`.
        bottleneck: size of the hidden layers.
        scale: factor of the outputs.
        dropout: probability of zeroing a hidden unit in training.
        layers: which blocks, counted from 0; None for all.

    Returns:
        The same module.

    Raises:
        ValueError: an option is out of range, there is no block to adapt, or adapters are
            there already; the module is then unchanged.

    Examples:
        >>> from czsl_sac.clip.transformer import Transformer
        >>> tower = apply_adaptformer(Transformer(8, 2, 2).requires_grad_(False), bottleneck=4)
        >>> sum(p.numel() for p in tower.parameters() if p.requires_grad)
        304
    """
    check_range("bottleneck", bottleneck, low=1)
    check_range("dropout", dropout, low=0.0, below=1.0)
    found = [part for part in module.modules() if isinstance(part, ResidualAttentionBlock)]
    blocks = choose_layers(found, layers, "blocks", module)
    if any(block.attn_adapter is not None for block in blocks):
        raise ValueError("module has adapters already but must be plain: apply AdaptFormer once.")
    for block in blocks:
        attach_adaptformer(block, bottleneck=bottleneck, scale=scale, dropout=dropout)
    return module


def attach_adaptformer(
    block: ResidualAttentionBlock, *, bottleneck: int, scale: float, dropout: float
) -> None:
    """Add two adapters to a block that has none; `apply_adaptformer` does so by layers."""
    weight = block.get_parameter("ln_1.weight")
    block.attn_adapter, block.mlp_adapter = (
        AdaptFormer(len(weight), bottleneck=bottleneck, scale=scale, dropout=dropout)
        .to(weight.device, torch.promote_types(weight.dtype, torch.float32))
        .train(block.training)  # no dropout in a tower that is in evaluation mode
        for _ in range(2)
    )
