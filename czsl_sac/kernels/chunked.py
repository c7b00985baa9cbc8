"""`patch_max` tile by tile with library matrix products, on any device.

Forward: tiles of some images × some compositions in one buffer that is used again, the maximum
over the tokens taken while the tile is in cache. Backward: each (image, composition) touches one
token, so both gradients are weighted sums of gathered rows, which `embedding_bag` adds up
without holding the gathered rows.
"""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

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
    images, columns = tile_shape(tokens, compute)
    images, columns = max(1, min(images, B)), max(1, min(columns, C))
    buffer = tokens.new_empty(images * T * columns, dtype=compute)
    best = tokens.new_empty((images, columns), dtype=compute)
    where = tokens.new_empty((images, columns), dtype=torch.int64)
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
            target = values[b : b + n, c : c + m]
            direct = target.dtype == compute
            out = target if direct else best[:n, :m]
            if indices is None:
                torch.amax(tile, dim=1, out=out)
            else:
                found = indices[b : b + n, c : c + m]
                # on CUDA both results must have the same strides
                winner = found if direct else where[:n, :m]
                torch.max(tile, dim=1, out=(out, winner))
                if not direct:
                    found.copy_(winner)
            if not direct:
                target.copy_(out)
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


def tile_shape(tokens: Tensor, compute: torch.dtype) -> tuple[int, int]:
    """Return how many images and how many compositions a tile of similarities holds.

    On a CPU about 1024 rows by 512 columns, which stays in cache and keeps the matrix product
    at its full rate on two threads (docs/kernels.md), wider with more threads. Elsewhere 32 MiB,
    about what the L2 cache of a data-centre GPU holds.
    """
    T = tokens.shape[1]
    if tokens.device.type == "cpu":
        return max(1, 1024 // T), min(512 * max(1, torch.get_num_threads() // 2), 4096)
    images = max(1, 2**15 // T)
    rows = min(images, max(1, tokens.shape[0])) * T
    return images, max(512, 2**25 // (rows * compute.itemsize) // 128 * 128)


def _value_dtype(tokens: Tensor) -> torch.dtype:
    return torch.float64 if tokens.dtype == torch.float64 else torch.float32


def _product_dtype(tokens: Tensor) -> torch.dtype:
    """Return the dtype of the tile's matrix product.

    A CPU without matrix units for a half precision type is several times faster, and more
    exact, in float32.
    """
    if tokens.device.type != "cpu" or tokens.dtype not in (torch.bfloat16, torch.float16):
        return tokens.dtype
    # torch.cpu.get_capabilities is not in every supported torch
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    unit = "amx_bf16" if tokens.dtype == torch.bfloat16 else "amx_fp16"
    return tokens.dtype if capabilities.get(unit, False) else torch.float32


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
