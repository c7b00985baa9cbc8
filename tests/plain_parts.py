"""What the tests of the methods share: a random CLIP, spaces, and CLIP's parts written plainly.

The plain parts take one vector or one prompt at a time, so that the methods' descriptions can be
written out as loops.
"""

import math

import torch
from torch import Tensor, nn

from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.clip.config import CLIPConfig
from czsl_sac.clip.sources.tiny import WordTokenizer
from czsl_sac.methods.cross_attention import CrossAttention
from czsl_sac.space import CompositionSpace

SPACES = {
    "usual": CompositionSpace.closed_world(
        train=[("wet", "cat"), ("red", "cat"), ("red", "car"), ("old", "tree")],
        test=[("old", "cat"), ("wet", "car")],
    ),
    "one composition": CompositionSpace.closed_world(train=[("wet", "cat")]),
    "one attribute": CompositionSpace.closed_world(
        train=[("wet", "cat"), ("wet", "tree")], test=[("wet", "car")]
    ),
}


def random_backbone(*, dim: int = 12, side: int = 2, widths: tuple[int, int] = (8, 6)):
    """A frozen float64 CLIP of random weights, `side`² patches, in evaluation mode."""
    tokenizer = WordTokenizer(buckets=20, context_length=9)
    config = CLIPConfig(
        embed_dim=dim,
        image_size=4 * side,
        patch_size=4,
        vision_width=widths[0],
        vision_layers=2,
        vision_heads=2,
        context_length=9,
        vocab_size=tokenizer.vocab_size,
        text_width=widths[1],
        text_layers=2,
        text_heads=2,
    )
    backbone = CLIPBackbone(config, tokenizer).double()
    nn.init.constant_(backbone.logit_scale, math.log(5.0))
    return backbone.requires_grad_(False).eval()


def randomize(module: nn.Module) -> None:
    """Gives every trained parameter and every BatchNorm statistic a random value."""
    for parameter in module.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.5)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d):
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 2.0)


def without_dropout(module: nn.Module) -> None:
    """Sets every dropout inside to zero, so that training mode is deterministic."""
    for part in module.modules():
        if isinstance(getattr(part, "dropout", None), float):
            part.dropout = 0.0
        if isinstance(part, nn.Dropout):
            part.p = 0.0


def batch(backbone: CLIPBackbone, space: CompositionSpace, size: int) -> tuple[Tensor, Tensor]:
    """Random images and random seen targets."""
    side = backbone.image_size
    seen = space.seen_mask.nonzero().flatten()
    images = torch.randn(size, 3, side, side, dtype=torch.float64)
    return images, seen[torch.randint(len(seen), (size,))]


def unit(vector: Tensor) -> Tensor:
    return vector / math.sqrt(float((vector * vector).sum()))


def layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Of one vector."""
    centred = x - x.sum() / len(x)
    variance = (centred * centred).sum() / len(x)
    return centred / (variance + norm.eps).sqrt() * norm.weight + norm.bias


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Of one vector."""
    out = torch.stack([(row * x).sum() for row in layer.weight])
    return out if layer.bias is None else out + layer.bias


def mlp(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Linear, QuickGELU, linear, of one vector; dropout off."""
    first, last = (layer for layer in layers if isinstance(layer, nn.Linear))
    hidden = linear(first, x)
    return linear(last, hidden / (1 + torch.exp(-1.702 * hidden)))


def attend(attention: CrossAttention, query: Tensor, context: list[Tensor]) -> Tensor:
    """One query vector attends to a list of vectors, head by head."""
    q = linear(attention.q_proj, query)
    keys = [linear(attention.k_proj, y) for y in context]
    values = [linear(attention.v_proj, y) for y in context]
    return linear(attention.out_proj, weigh_heads(q, keys, values, attention.num_heads))


def block(part: nn.Module, tokens: list[Tensor]) -> list[Tensor]:
    """CLIP's residual attention block without a mask, token by token."""
    normed = [layer_norm(part.ln_1, x) for x in tokens]
    width = len(tokens[0])
    projected = [part.attn.in_proj_weight @ y + part.attn.in_proj_bias for y in normed]
    keys = [p[width : 2 * width] for p in projected]
    values = [p[2 * width :] for p in projected]
    out = []
    for x, p in zip(tokens, projected, strict=True):
        gathered = weigh_heads(p[:width], keys, values, part.attn.num_heads)
        x = x + linear(part.attn.out_proj, gathered)
        out.append(x + mlp(part.mlp, layer_norm(part.ln_2, x)))
    return out


def cross_entropy(logits: Tensor, target: int) -> Tensor:
    """Of one image, in nats."""
    return torch.log(torch.exp(logits).sum()) - logits[target]


def weigh_heads(query: Tensor, keys: list[Tensor], values: list[Tensor], heads: int) -> Tensor:
    """What one projected query gathers of projected values, head by head."""
    size = len(query) // heads
    parts = []
    for h in range(heads):
        s = slice(h * size, (h + 1) * size)
        scores = [float(query[s] @ key[s]) / math.sqrt(size) for key in keys]
        total = sum(math.exp(score) for score in scores)
        parts.append(sum(math.exp(e) / total * v[s] for e, v in zip(scores, values, strict=True)))
    return torch.cat(parts)
