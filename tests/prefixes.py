"""What the tests of shared prefixes share: a tower, prompts, and the plain way."""

import torch
from torch import Tensor

from czsl_sac.clip.text_tower import TextTower

WIDTH = 8


def make_tower(dtype=torch.float64, width=WIDTH, layers=3, heads=2, **options) -> TextTower:
    torch.manual_seed(0)
    tower = TextTower(
        16,
        context_length=12,
        vocab_size=20,
        width=width,
        layers=layers,
        heads=heads,
        **options,
    )
    with torch.no_grad():
        for parameter in tower.parameters():  # biases and norms too, far from their start
            parameter.add_(0.2 * torch.randn_like(parameter))
    return tower.to(dtype)


def compositions(
    attributes: int, objects: int, pairs: list[tuple[int, int]] | None = None, context: int = 3
) -> Tensor:
    """Symbols of [SOT, context, attribute, object, EOT] as `SoftPrompts` numbers them."""
    chosen = torch.tensor(pairs) if pairs else torch.cartesian_prod(
        torch.arange(attributes), torch.arange(objects)
    )  # fmt: skip
    before = torch.arange(context + 1).expand(len(chosen), -1)
    middle = chosen + torch.tensor([context + 1, context + 1 + attributes])
    last = torch.full((len(chosen), 1), context + 1 + attributes + objects)
    return torch.cat([before, middle, last], dim=1)


def plain(tower: TextTower, table: Tensor, symbols: Tensor, lengths: Tensor | None = None):
    """Every prompt in full, in a single chunk, whose activations are kept."""
    lengths = torch.full((len(symbols),), symbols.shape[1]) if lengths is None else lengths
    chunk_size, tower.chunk_size = tower.chunk_size, max(len(symbols), 1)
    try:
        return tower.encode_embeddings(table[symbols], lengths - 1)
    finally:
        tower.chunk_size = chunk_size


def gradients(features: Tensor, inputs: list[Tensor]) -> list[Tensor | None]:
    torch.manual_seed(1)
    cotangent = torch.randn(features.shape, dtype=torch.float64).to(features.dtype)
    return list(torch.autograd.grad(features, inputs, cotangent, allow_unused=True))
