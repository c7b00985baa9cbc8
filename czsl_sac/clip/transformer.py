"""CLIP's transformer: residual attention blocks whose parameter names are OpenAI's."""

from collections import OrderedDict
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from czsl_sac.checks import check_choice
from czsl_sac.clip.adapters.low_rank import WHOLE, project

Activation = Literal["quick_gelu", "gelu"]


class QuickGELU(nn.Module):
    """OpenAI CLIP's activation, x · sigmoid(1.702 x), a cheap stand-in for GELU.

    Weights trained with one of the two give wrong features with the other.
    """

    def forward(self, x: Tensor) -> Tensor:
        # torch.compile of torch 2.11 loses the gradient of what a Function computes in place.
        if torch.compiler.is_compiling():
            return x * torch.sigmoid(1.702 * x)
        return _QuickGELU.apply(x)


class _QuickGELU(torch.autograd.Function):
    """Keeps x alone, where autograd would keep the sigmoid too: of all a block keeps, a fifth."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return (1.702 * x).sigmoid_().mul_(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        sigmoid = torch.sigmoid(1.702 * x)
        return gradient * sigmoid * (1 + 1.702 * x * (1 - sigmoid))


_ACTIVATIONS: dict[str, type[nn.Module]] = {"quick_gelu": QuickGELU, "gelu": nn.GELU}


class Linear(nn.Linear):
    """`nn.Linear` in the precision of its input, whatever precision the weight is kept in."""

    def forward(self, input: Tensor) -> Tensor:
        return project(self, "weight", input, self.bias)


class Attention(nn.Module):
    """Multi-head self-attention with the parameters of `torch.nn.MultiheadAttention`, batch first.

    The parameters are named and shaped like those of `nn.MultiheadAttention` (`in_proj_weight`
    holds query, key and value one below the other), so that state dicts go both ways. Unlike
    there, `out_proj` is called as a module and the causal mask is never built as a tensor.

    Args:
        width: size of a token, W.
        num_heads: number of heads; divides `width`.

    Raises:
        ValueError: `num_heads` does not divide `width`.

    Examples:
        >>> Attention(width=8, num_heads=2)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        if num_heads < 1 or width % num_heads:
            raise ValueError(
                f"num_heads is {num_heads} but must divide the width {width}: CLIP has width // 64 "
                "heads."
            )
        self.width = width
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, *, is_causal: bool = False) -> Tensor:
        """Attend from each of n tokens to all of them, or to itself and those before it.

        Args:
            x: tokens `[B, n, W]`.
            is_causal: whether a token sees only itself and earlier tokens.

        Returns:
            Tokens `[B, n, W]`.
        """
        query, key, value = self._heads(x)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=is_causal)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def first_weights(self, x: Tensor) -> Tensor:
        """Return how the first of tokens `[B, n, W]` (CLIP's class token) attends, mean over heads.

        Returns:
            `[B, n]`, rows summing to one.
        """
        query, key, _ = self._heads(x)
        scores = query[:, :, :1] @ key.mT * query.shape[-1] ** -0.5
        return scores.softmax(dim=-1).mean(dim=1)[:, 0]

    def project(self, x: Tensor, *, parts: slice = WHOLE) -> Tensor:
        """Return query, key and value side by side, or some of them, `[..., W · number of parts]`.

        For those who compute the attention themselves, as the text tower's shared prefixes do.

        Args:
            x: tokens `[..., W]`.
            parts: of query, key and value, such as `slice(1, 3)` for key and value.
        """
        bias = self.in_proj_bias
        return project(self, "in_proj_weight", x, bias, parts=parts, stacked=3)

    def values(self, x: Tensor) -> Tensor:
        """Return what each token would give if it attended to itself alone.

        That is the value projection, then the output projection: `[B, n, W]` of tokens
        `[B, n, W]`.
        """
        return self.out_proj(self.project(x, parts=slice(2, 3)))

    def _heads(self, x: Tensor) -> Tensor:
        """Return query, key and value of each head, `[3, B, heads, n, W / heads]`."""
        return self.project(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)

    def extra_repr(self) -> str:
        return f"width={self.width}, num_heads={self.num_heads}"


class ResidualAttentionBlock(nn.Module):
    """One pre-norm block: x + attn(ln_1(x)), then x + mlp(ln_2(x)).

    Args:
        width: size of a token, W.
        num_heads: heads of the attention.
        activation: between the two layers of the MLP.
        mlp_width: hidden size of the MLP; None for 4 W.
        dropout: probability of zeroing a hidden unit of the MLP in training.

    Raises:
        ValueError: `activation` is unknown.

    Attributes:
        attn_adapter: None, or a module beside the attention: it maps x `[B, n, W]` to
            `[B, n, W]`, token by token, which is added too; see
            `czsl_sac.clip.adapters.adaptformer`.
        mlp_adapter: likewise beside the MLP.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        activation: Activation = "quick_gelu",
        mlp_width: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_choice("activation", activation, _ACTIVATIONS)
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, num_heads)
        self.ln_2 = nn.LayerNorm(width)
        hidden: dict[str, nn.Module] = {"gelu": _ACTIVATIONS[activation]()}
        if dropout:
            hidden["drop"] = nn.Dropout(dropout)
        inner = 4 * width if mlp_width is None else mlp_width
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=Linear(width, inner), **hidden, c_proj=Linear(inner, width))
        )
        self.attn_adapter: nn.Module | None = None
        self.mlp_adapter: nn.Module | None = None

    def forward(self, x: Tensor, *, is_causal: bool = False) -> Tensor:
        """Map tokens `[B, n, W]` to tokens `[B, n, W]`."""
        return self.finish(x, self.attn(self.ln_1(x), is_causal=is_causal))

    def finish(self, x: Tensor, added: Tensor) -> Tensor:
        """Do all that follows the attention, token by token.

        For those who compute the attention themselves, as the text tower's shared prefixes do.

        Args:
            x: tokens `[B, n, W]` that the block was given.
            added: output of the attention, `[B, n, W]`.

        Returns:
            Tokens `[B, n, W]`.
        """
        x = x + (added if self.attn_adapter is None else added + self.attn_adapter(x))
        added = self.mlp(self.ln_2(x))
        return x + (added if self.mlp_adapter is None else added + self.mlp_adapter(x))


class Transformer(nn.Module):
    """A stack of `ResidualAttentionBlock`s, initialised as CLIP does for training from scratch.

    Args:
        width: size of a token, W.
        layers: number of blocks.
        num_heads: heads of each attention.
        activation: of each MLP.
        mlp_width: hidden size of each MLP; None for 4 W.

    Attributes:
        gradient_checkpointing: keep only the input of each block for the backward pass and
            compute the rest again there: less memory, about a third more time; off at first.

    Examples:
        >>> tower = Transformer(width=8, layers=2, num_heads=2)
        >>> tower(torch.zeros(3, 5, 8), is_causal=True).shape
        torch.Size([3, 5, 8])
    """

    def __init__(
        self,
        width: int,
        layers: int,
        num_heads: int,
        *,
        activation: Activation = "quick_gelu",
        mlp_width: int | None = None,
    ) -> None:
        super().__init__()
        self.width = width
        self.gradient_checkpointing = False
        self.resblocks = nn.ModuleList(
            ResidualAttentionBlock(width, num_heads, activation=activation, mlp_width=mlp_width)
            for _ in range(layers)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights as CLIP does: the residual branches shrink with the depth."""
        proj_std = self.width**-0.5 * (2 * max(len(self.resblocks), 1)) ** -0.5
        for block in self.resblocks:
            nn.init.normal_(block.get_parameter("attn.in_proj_weight"), std=self.width**-0.5)
            nn.init.normal_(block.get_parameter("attn.out_proj.weight"), std=proj_std)
            nn.init.normal_(block.get_parameter("mlp.c_fc.weight"), std=(2 * self.width) ** -0.5)
            nn.init.normal_(block.get_parameter("mlp.c_proj.weight"), std=proj_std)

    def forward(self, x: Tensor, *, is_causal: bool = False) -> Tensor:
        """Map tokens `[B, n, W]` to tokens `[B, n, W]`."""
        for block in self.resblocks:
            x = self.run_block(block, x, is_causal=is_causal)
        return x

    def run_block(self, block: nn.Module, x: Tensor, *, is_causal: bool = False) -> Tensor:
        """Run one block, with `gradient_checkpointing` where it is on.

        Autograd keeps nothing of frozen blocks before the first one that learns.

        Args:
            block: one of `resblocks`.
            x: tokens `[B, n, W]`.
            is_causal: whether a token sees only itself and earlier tokens.

        Returns:
            Tokens `[B, n, W]`.
        """
        learns = x.requires_grad or any(p.requires_grad for p in block.parameters())
        if not (self.gradient_checkpointing and torch.is_grad_enabled() and learns):
            return block(x, is_causal=is_causal)
        tokens: Tensor = checkpoint(
            block,
            x,
            is_causal=is_causal,
            use_reentrant=False,
            preserve_rng_state=has_dropout(block),  # costs time: only where needed
        )
        return tokens


def has_dropout(module: nn.Module) -> bool:
    """Tell whether a module, or a part of it, draws random numbers in training."""
    return any(isinstance(part, nn.Dropout) for part in module.modules())
