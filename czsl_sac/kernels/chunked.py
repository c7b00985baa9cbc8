"""`patch_max` tile by tile with library matrix products, on any device.

Forward: tiles of some images × some compositions in one buffer that is used again, the maximum
over the tokens taken while the tile is in cache. Backward: each (image, composition) touches one
token, so both gradients are weighted sums of gathered rows, which `embedding_bag` adds up
without holding the gathered rows.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, max_pool2d

# Numbers of the gathered rows that `at` holds at once: 1 MiB in float32, which stays in cache.
PAIRED = 2**18


def forward(tokens: Tensor, text: Tensor, *, with_indices: bool) -> tuple[Tensor, Tensor | None]:
    """Return the values `[B, C]` and, if asked for, the token indices `[B, C]`.

    Args:
        tokens: `[B, T, D]`.
        text: `[C, D]` or `[B, C, D]`.
        with_indices: also return the indices; without them the maximum is cheaper.
    """
    (B, T, D), C = tokens.shape, text.shape[-2]
    compute = _product_dtype(tokens)
    values = tokens.new_empty((B, C), dtype=_value_dtype(tokens))
    indices = tokens.new_empty((B, C), dtype=torch.int64) if with_indices else None
    images, columns = tile_shape(tokens, C, compute)
    buffer = tokens.new_empty(images * T * columns, dtype=compute)
    for b in range(0, B, images):
        rows = tokens[b : b + images].to(compute)
        n = rows.shape[0]
        rows = rows.reshape(n * T, D) if text.dim() == 2 else rows
        for c in range(0, C, columns):
            texts = text[..., c : c + columns, :]
            m = texts.shape[-2]
            tile = buffer[: n * T * m].view(n, T, m)
            if text.dim() == 2:
                torch.mm(rows, texts.to(compute).mT, out=tile.view(n * T, m))
            else:
                torch.bmm(rows, texts[b : b + n].to(compute).mT, out=tile)
            found = None if indices is None else indices[b : b + n, c : c + m]
            _write_maxima(tile, values[b : b + n, c : c + m], found)
    return values, indices


def at(indices: Tensor, tokens: Tensor, text: Tensor) -> Tensor:
    """Return the inner product of each text with the token named, `[B, C]`.

    Args:
        indices: tokens, `[B, C]`.
        tokens: `[B, T, D]`.
        text: `[C, D]` or `[B, C, D]`.
    """
    (B, T, D), C = tokens.shape, text.shape[-2]
    products = tokens.new_empty(B * C, dtype=_value_dtype(tokens))
    rows, texts = tokens.reshape(B * T, D), text.reshape(-1, D)
    winners = _flat_tokens(indices, T).flatten()
    step = max(1, PAIRED // max(1, D))
    for first in range(0, B * C, step):
        part = slice(first, first + step)
        pairs = torch.arange(first, min(first + step, B * C), device=tokens.device)
        paired = texts[pairs % C if text.dim() == 2 else pairs].to(products.dtype)
        products[part] = (rows[winners[part]].to(products.dtype) * paired).sum(dim=1)
    return products.view(B, C)


def grad_tokens(grad: Tensor, indices: Tensor, tokens: Tensor, text: Tensor) -> Tensor:
    """Return the gradient of the tokens: each adds up the texts it won, times their gradient.

    Args:
        grad: gradient of the values, `[B, C]`.
        indices: the winning tokens, `[B, C]`.
        tokens: `[B, T, D]`.
        text: `[C, D]` or `[B, C, D]`.
    """
    (B, T, D), C = tokens.shape, text.shape[-2]
    if indices.numel() == 0 or D == 0:
        return torch.zeros_like(tokens, memory_format=torch.contiguous_format)
    # Sorting the wins by token (stably: a fixed order of addition) makes each token's a bag.
    winners, order = torch.sort(_flat_tokens(indices, T).flatten(), stable=True)
    starts = torch.searchsorted(winners, torch.arange(B * T, device=winners.device))
    texts = order % C if text.dim() == 2 else order
    weights = grad.reshape(-1)[order]
    return _weighted_sums(texts, text, weights, starts).view(B, T, D)


def grad_text(grad: Tensor, indices: Tensor, tokens: Tensor, text: Tensor) -> Tensor:
    """Return the gradient of the text: the sum of its winning tokens, times their gradient.

    Args:
        grad: gradient of the values, `[B, C]`.
        indices: the winning tokens, `[B, C]`.
        tokens: `[B, T, D]`.
        text: `[C, D]` or `[B, C, D]`.
    """
    if indices.numel() == 0 or text.shape[-1] == 0:
        return torch.zeros_like(text, memory_format=torch.contiguous_format)
    winners = _flat_tokens(indices, tokens.shape[1])
    if text.dim() == 2:
        winners, grad = winners.mT, grad.mT
    else:
        winners, grad = winners.reshape(-1, 1), grad.reshape(-1, 1)
    return _weighted_sums(winners.contiguous(), tokens, grad.contiguous()).view(text.shape)


def tile_shape(tokens: Tensor, C: int, compute: torch.dtype) -> tuple[int, int]:
    """Return how many images and how many of C compositions a tile of similarities holds.

    On a CPU 512 columns, wider with more threads, by as many rows as the L2 caches of two threads
    hold, within the 1024 to 2048 that were measured (docs/kernels.md). Where there are fewer texts
    more rows, up to 4096. Elsewhere 32 MiB, about what the L2 cache of a data-centre GPU holds.
    """
    B, T, _ = tokens.shape
    if tokens.device.type == "cpu":
        widest = min(512 * max(1, torch.get_num_threads() // 2), 4096)
        rows = min(max(_capabilities().get("l2_cache_size", 0) // 1024, 1024), 2048)
        columns = max(1, min(widest, C))
        images = round(min(rows * max(1, 512 // columns), 4096) / T)
    else:
        images = 2**15 // T
        rows = max(1, min(images, B)) * T
        columns = max(1, min(max(512, 2**25 // (rows * compute.itemsize) // 128 * 128), C))
    return max(1, min(images, B)), columns


def _write_maxima(tile: Tensor, values: Tensor, indices: Tensor | None) -> None:
    """Write the maximum over the tokens of a tile `[b, T, c]`, and the first token that has it.

    Args:
        tile: the similarities.
        values: `[b, c]`, written to, of the tile's dtype or wider.
        indices: `[b, c]`, written to if given; on CUDA with the strides of `values`.
    """
    direct = values.dtype == tile.dtype
    if indices is None:
        values.copy_(torch.amax(tile, dim=1, out=values if direct else None))
        return
    # Pooling takes a third of the time of `torch.max`, which is not vectorised, but shares out
    # images alone among the threads.
    if tile.device.type == "cpu" and 3 * len(tile) >= torch.get_num_threads():
        best, winner = _pooled(tile)
    else:
        best, winner = torch.max(tile, dim=1, out=(values, indices) if direct else None)
    values.copy_(best)
    indices.copy_(winner)


def _pooled(tile: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maximum over the tokens of a tile `[b, T, c]`, and the first token that has it."""
    # images one pixel wide and T high, with these strides "channels last"
    images = tile.unsqueeze(2).permute(0, 3, 1, 2)
    best, winner = max_pool2d(images, (tile.shape[1], 1), return_indices=True)
    if best.isnan().any():  # where there are several, pooling names the last
        return torch.max(tile, dim=1)
    return best.flatten(1), winner.flatten(1)


def _value_dtype(tokens: Tensor) -> torch.dtype:
    return torch.float64 if tokens.dtype == torch.float64 else torch.float32


def _product_dtype(tokens: Tensor) -> torch.dtype:
    """Return the dtype of the tile's matrix product.

    A CPU without matrix units for a half precision type is several times faster, and more
    exact, in float32.
    """
    if tokens.device.type != "cpu" or tokens.dtype not in (torch.bfloat16, torch.float16):
        return tokens.dtype
    unit = "amx_bf16" if tokens.dtype == torch.bfloat16 else "amx_fp16"
    return tokens.dtype if _capabilities().get(unit, False) else torch.float32


def _capabilities() -> dict[str, Any]:
    """Return what PyTorch knows of this CPU: nothing where it is too old to ask."""
    return getattr(torch.cpu, "get_capabilities", dict)()


def _flat_tokens(indices: Tensor, T: int) -> Tensor:
    """Return token numbers `b·T + l` within the batch, `[B, C]`."""
    first = torch.arange(indices.shape[0], device=indices.device) * T
    return indices + first.unsqueeze(1)


def _weighted_sums(
    ids: Tensor, source: Tensor, weights: Tensor, starts: Tensor | None = None
) -> Tensor:
    """Return one weighted sum of rows of `source` per bag, in the dtype of `source`.

    Half precision goes through float32: the weights are loss gradients, which float16 would
    flush to zero.
    """
    rows = source.reshape(-1, source.shape[-1])
    wide = rows.to(weights.dtype)
    sums = embedding_bag(ids, wide, starts, mode="sum", per_sample_weights=weights)
    return sums.to(source.dtype)
