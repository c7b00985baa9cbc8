"""RAPR's losses beside the cross-entropies: no bias of one view, and a space to retrieve in."""

import torch.nn.functional as F
from torch import Tensor

from czsl_sac.functional.losses import composition_probabilities
from czsl_sac.methods.retrieval import Retrieved


def debias_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean probability of what a view should not tell, to be minimised.

    Args:
        logits: of a view of objects against the texts of attributes, or the other way round,
            `[B, K]`.
        targets: what the image shows of them, `[B]`.

    Examples:
        >>> import torch
        >>> debias_loss(torch.zeros(1, 4), torch.tensor([2]))
        tensor(0.2500)
    """
    probabilities = composition_probabilities(logits, 1.0)
    return probabilities.gather(1, targets.unsqueeze(1)).mean()


def retrieval_loss(features: Tensor, found: Retrieved, targets: Tensor) -> Tensor:
    """Return how badly cosines tell retrieved images of the same primitive from others.

    The binary cross-entropy of sigmoid(cos), its mean over the pairs alike plus its mean over the
    pairs that differ; a kind without pairs counts for nothing.

    Args:
        features: enriched views, `[B, D]`.
        found: what they retrieved.
        targets: primitive of each image, `[B]`.

    Examples:
        >>> import torch
        >>> found = Retrieved(torch.ones(1, 1, 2), torch.ones(1, 1), torch.tensor([[3]]))
        >>> retrieval_loss(torch.ones(1, 2), found, torch.tensor([3]))
        tensor(0.3133)
    """
    cosines = F.cosine_similarity(features.unsqueeze(1), found.features, dim=-1)
    alike = found.labels == targets.unsqueeze(1)
    there = found.similarities.isfinite()
    losses = F.binary_cross_entropy_with_logits(cosines, alike.to(cosines.dtype), reduction="none")
    kinds = (there & alike, there & ~alike)
    means = [(losses * kind).sum() / kind.sum().clamp_min(1) for kind in kinds]
    return means[0] + means[1]
