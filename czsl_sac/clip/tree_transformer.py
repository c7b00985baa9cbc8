"""CLIP's causal blocks on a tree of prompts: every shared prefix runs once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from czsl_sac.clip.prefix_tree import Paths, PrefixTree
from czsl_sac.clip.transformer import ResidualAttentionBlock
from czsl_sac.functional.precision import at_least_float32


def run_blocks(blocks: Sequence[ResidualAttentionBlock], tree: PrefixTree, x: Tensor) -> Tensor:
    """Run blocks on a tree and return the states at the ends of its prompts.

    The states are those that the blocks would give each prompt alone, to rounding. The first
    block normalises and projects each distinct input once, and the last gives the other tokens'
    keys and values alone, for only the ends are read.

    Args:
        blocks: one or more.
        tree: of P prompts.
        x: inputs `[U, W]`, one for each pair of symbol and position of the tree.

    Returns:
        States `[P, W]`.
    """
    for layer, block in enumerate(blocks):
        attention, query = block.attn, None
        normed = block.ln_1(x)
        if layer + 1 < len(blocks):
            paths = tree.paths
            projected = attention.project(normed)
        else:
            paths = tree.end_paths
            wanted = paths.queries if layer else tree.inputs[paths.queries]
            query = attention.project(normed.index_select(0, wanted), parts=slice(0, 1))
            projected = attention.project(normed, parts=slice(1, 3))
            x = x.index_select(0, wanted)
        if layer == 0:
            projected = projected.index_select(0, tree.inputs)
            if query is None:
                x = x.index_select(0, tree.inputs)
        attended = tree_attention(projected, paths, attention.num_heads, query)
        # A batch of one sequence: the modules of a block may expect [B, n, W].
        x = block.finish(x.unsqueeze(0), attention.out_proj(attended.unsqueeze(0))).squeeze(0)
    return x.index_select(0, tree.ends)


def tree_attention(
    projected: Tensor, paths: Paths, num_heads: int, query: Tensor | None = None
) -> Tensor:
    """Attend from tokens of a tree to the root, their ancestors and themselves.

    Keys and values of the root meet all queries in one product; those of other ancestors are
    looked up one distance at a time, so that nothing of size `[queries, tokens, W]` is made. The
    backward pass keeps the projections and the attention weights alone.

    Args:
        projected: query, key and value `[N, 3 W]` of all tokens, or key and value `[N, 2 W]`.
        paths: whom the queries attend to; all N tokens where `query` is None.
        num_heads: number of heads, a divisor of W.
        query: `[Q, W]` of the tokens `paths.queries`; None takes it out of `projected`.

    Returns:
        `[Q, W]`, in the dtype of `projected`. Computed in float32 at least.

    Examples:
        >>> from czsl_sac.clip.prefix_tree import sort_prompts
        >>> tree = sort_prompts(torch.tensor([[5, 1, 7], [5, 2, 7]])).tree(0, 2)
        >>> tree_attention(torch.zeros(tree.num_tokens, 24), tree.paths, 2).shape
        torch.Size([5, 8])
    """
    attended: Tensor = _TreeAttention.apply(projected, query, paths, num_heads)
    return attended


class _TreeAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, query: Tensor | None, paths: Paths, num_heads: int
    ) -> Tensor:
        q, k, v = _split(projected, query, num_heads)
        root, scale = paths.root, q.shape[-1] ** -0.5
        weights = q.new_full((*q.shape[:2], root + len(paths.steps)), float("-inf"))
        weights[..., :root] = (_by_head(q) @ _by_head(k[:root]).mT).transpose(0, 1)
        weights[: len(paths.hidden), :, :root].masked_fill_(
            paths.hidden.unsqueeze(1), float("-inf")
        )
        for column, (first, at) in enumerate(paths.steps, root):
            weights[first:, :, column] = (q[first:] * _rows(k, at)).sum(-1)
        weights = weights.mul_(scale).softmax(-1)
        attended = (_by_head(weights[..., :root]) @ _by_head(v[:root])).transpose(0, 1)
        attended = attended.contiguous()
        for column, (first, at) in enumerate(paths.steps, root):
            attended[first:].addcmul_(weights[first:, :, column, None], _rows(v, at))
        ctx.save_for_backward(projected, query, weights)
        ctx.paths, ctx.num_heads = paths, num_heads
        return attended.flatten(1).to(projected.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        projected, query, weights = ctx.saved_tensors
        paths, num_heads = ctx.paths, ctx.num_heads
        root = paths.root
        q, k, v = _split(projected, query, num_heads)
        g = at_least_float32(gradient).unflatten(1, (num_heads, -1))
        d_projected = torch.zeros_like(projected, dtype=q.dtype)
        d_query = None if query is None else torch.zeros_like(query, dtype=q.dtype)
        dq, dk, dv = _split(d_projected, d_query, num_heads)

        d_weights = torch.zeros_like(weights)
        d_weights[..., :root] = (_by_head(g) @ _by_head(v[:root]).mT).transpose(0, 1)
        dv[:root] = (_by_head(weights[..., :root]).mT @ _by_head(g)).transpose(0, 1)
        for column, (first, at) in enumerate(paths.steps, root):
            d_weights[first:, :, column] = (g[first:] * _rows(v, at)).sum(-1)
            _add_rows(dv, at, weights[first:, :, column, None] * g[first:])

        mean = (weights * d_weights).sum(-1, keepdim=True)
        d_logits = d_weights.sub_(mean).mul_(weights).mul_(q.shape[-1] ** -0.5)
        dq[:] = (_by_head(d_logits[..., :root]) @ _by_head(k[:root])).transpose(0, 1)
        dk[:root] = (_by_head(d_logits[..., :root]).mT @ _by_head(q)).transpose(0, 1)
        for column, (first, at) in enumerate(paths.steps, root):
            d_logit = d_logits[first:, :, column, None]
            dq[first:].addcmul_(d_logit, _rows(k, at))
            _add_rows(dk, at, d_logit * q[first:])
        d_projected = d_projected.to(projected.dtype)
        return d_projected, None if d_query is None else d_query.to(projected.dtype), None, None


def _split(projected: Tensor, query: Tensor | None, num_heads: int) -> tuple[Tensor, ...]:
    """Return query, key and value `[tokens, heads, channels of a head]`, views where possible."""
    parts = 3 if query is None else 2
    split = at_least_float32(projected).unflatten(1, (parts, num_heads, -1)).unbind(1)
    if query is None:
        return split
    return at_least_float32(query).unflatten(1, (num_heads, -1)), *split


def _by_head(x: Tensor) -> Tensor:
    return x.transpose(0, 1)


def _rows(x: Tensor, at: Tensor | slice) -> Tensor:
    return x[at] if isinstance(at, slice) else x.index_select(0, at)


def _add_rows(total: Tensor, at: Tensor | slice, rows: Tensor) -> None:
    """Add rows in place; an index may come more than once."""
    if isinstance(at, slice):
        total[at] += rows
    else:
        total.index_add_(0, at, rows)
