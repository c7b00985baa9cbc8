"""Cross-entropy under distributions of class texts, and labels smoothed among neighbours (PLID)."""

import torch.nn.functional as F
from torch import Tensor

from czsl_sac.functional.precision import at_least_float32


def class_spreads(samples: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    """Return the variance of vᵀ(t_y − t_j) of each image v under the classes' distributions.

    That is Σ_d v_d² (Σ_yy + Σ_jj − 2 Σ_yj)_d with the covariances of the samples, over n + 1. Only
    the rows of the true classes are formed: O(B N D + C N D) numbers, not D C².

    Args:
        samples: N unit samples of each class's text, `[C, N, D]`.
        images: v, unit, `[B, D]`.
        targets: y, `[B]`.

    Returns:
        `[B, C]`; zero for the true class.

    Examples:
        >>> import torch
        >>> samples = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
        >>> class_spreads(samples, torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
        tensor([[0.0000, 0.1667]])
    """
    centred = samples - samples.mean(dim=1, keepdim=True)
    weights = images.square()
    own = centred[targets] * weights.unsqueeze(1)  # [B, N, D]
    own_variance = (own * centred[targets]).sum(dim=(1, 2)).unsqueeze(1)
    variances = weights @ centred.square().sum(dim=1).mT
    covariances = own.flatten(1) @ centred.flatten(1).mT
    return (own_variance + variances - 2 * covariances) / (samples.shape[1] + 1)


def upper_bound_logits(logits: Tensor, spreads: Tensor, temperature: float | Tensor) -> Tensor:
    """Return l + σ/(2τ²), whose cross-entropy bounds the expected one from above.

    Args:
        logits: `[B, C]`, divided by τ already.
        spreads: σ of `class_spreads`, `[B, C]`.
        temperature: τ.

    Examples:
        >>> import torch
        >>> upper_bound_logits(torch.zeros(1, 2), torch.tensor([[0.0, 0.5]]), 0.5)
        tensor([[0., 1.]])
    """
    return logits + 0.5 * spreads / temperature**2


def partially_smoothed_loss(
    logits: Tensor, targets: Tensor, attributes: Tensor, smoothing: float
) -> Tensor:
    """Return the cross-entropy with some of the mass on compositions of the same attribute.

    The true one keeps 1 − smoothing, the others share the rest; where there are none, it is lost.

    Args:
        logits: `[B, C]`.
        targets: `[B]`.
        attributes: of each composition, `[C]`.
        smoothing: share of the mass.

    Examples:
        >>> import torch
        >>> logits, one = torch.zeros(1, 3), torch.tensor([0])
        >>> partially_smoothed_loss(logits, one, torch.tensor([0, 0, 1]), 0.1)
        tensor(1.0986)
    """
    true = F.one_hot(targets, logits.shape[1])
    others = (attributes == attributes[targets].unsqueeze(1)).long() - true
    mass = (1 - smoothing) * true + smoothing * others / others.sum(1, keepdim=True).clamp_min(1)
    return -(mass * F.log_softmax(at_least_float32(logits), dim=-1)).sum(dim=-1).mean()
