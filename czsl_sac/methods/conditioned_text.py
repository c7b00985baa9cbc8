"""Alignment with texts that depend on the image, `[B, C, D]`, without holding all of them."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from czsl_sac.blocks.alignment import Aligner
from czsl_sac.checks import check_range


def align_in_chunks(
    aligner: Aligner,
    tokens: Tensor,
    condition: Callable[..., Tensor],
    compositions: tuple[Tensor, ...],
    chunk_size: int,
) -> Tensor:
    """Return the logits `[B, C]` of texts that are made for each image, chunk by chunk.

    For the 278,362 compositions of open-world C-GQA such texts take 855 MB an image (D = 768,
    float32), and their similarities to 256 patches 285 MB more. Here `chunk_size` of them are
    held at once; where gradients are on and there is more than one chunk, each is dropped and
    made again in the backward pass.

    Args:
        aligner: the alignment head.
        tokens: `[B, T, D]`.
        condition: makes the texts `[B, c, D]` of c compositions from the slices of `compositions`.
        compositions: tensors with one row per composition, C of them.
        chunk_size: compositions at a time.

    Raises:
        ValueError: `chunk_size` is below 1.

    Examples:
        >>> from czsl_sac.blocks import ClassTokenAligner
        >>> tokens, text = torch.randn(2, 5, 8), torch.randn(7, 8)
        >>> def shifted(text):
        ...     return text + tokens.mean(1, keepdim=True)
        >>> align_in_chunks(ClassTokenAligner(), tokens, shifted, (text,), chunk_size=3).shape
        torch.Size([2, 7])
    """
    check_range("chunk_size", chunk_size, low=1)

    def logits(*chunk: Tensor) -> Tensor:
        return aligner(tokens, condition(*chunk))

    if len(compositions[0]) <= chunk_size:
        return logits(*compositions)
    chunks = zip(*(t.split(chunk_size) for t in compositions), strict=True)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(logits, *c, use_reentrant=False) for c in chunks], dim=1)
    return torch.cat([logits(*chunk) for chunk in chunks], dim=1)


def own_texts(texts: Tensor) -> Tensor:
    """Return of texts made for every image the one that each image asked for.

    Args:
        texts: `[B, B, D]`, the i-th text of a row being the i-th image's.

    Returns:
        `[B, D]`, text i as image i sees it.

    Examples:
        >>> own_texts(torch.arange(8).view(2, 2, 2))
        tensor([[0, 1],
                [6, 7]])
    """
    return texts.diagonal(dim1=0, dim2=1).mT
