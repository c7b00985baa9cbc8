"""Optimal transport of features to prototypes, with equal shares and with a sense of neighbours."""

import torch
from torch import Tensor

from czsl_sac.checks import check_range


def sinkhorn(cost: Tensor, *, entropy: float, steps: int = 20) -> Tensor:
    """Return the coupling of n features and K prototypes of least cost, softened by entropy.

    It minimises ⟨L, cost⟩ + ε Σ L log L over couplings whose rows sum to 1 and whose columns to
    n / K, by Sinkhorn's iteration in the log domain (Cuturi, NeurIPS 2013).

    Args:
        cost: `[..., n, K]`.
        entropy: ε > 0.
        steps: iterations; the rows are exact after each, the columns in the limit.

    Returns:
        `[..., n, K]`.

    Raises:
        ValueError: an option is out of range.

    Examples:
        >>> sinkhorn(torch.tensor([[0.0, 1.0], [0.0, 0.5]]), entropy=0.1).round(decimals=2)
        tensor([[0.9200, 0.0800],
                [0.0800, 0.9200]])
    """
    check_range("entropy", entropy, above=0)
    check_range("steps", steps, low=1)
    logits = -cost / entropy
    row = torch.zeros_like(cost[..., :1])
    for _ in range(steps):  # that columns are equal suffices: the rows fix the whole
        column = -torch.logsumexp(logits + row, dim=-2, keepdim=True)
        row = -torch.logsumexp(logits + column, dim=-1, keepdim=True)
    return torch.exp(logits + row + column)


def local_aware_transport(
    probabilities: Tensor,
    neighbours: Tensor,
    *,
    coherence: float = 1.0,
    entropy: float = 0.1,
    outer_steps: int = 10,
    steps: int = 20,
) -> Tensor:
    """Return the coupling that also sends similar features to the same prototype, `[..., n, K]`.

    ClusPro's Eq. 7: it lowers ⟨L, −log Q⟩ − κ ⟨S, (L ⊙ Q) (L ⊙ Q)ᵀ⟩ + ε Σ L log L over the
    couplings of `sinkhorn`. S is positive semi-definite, so the second term is concave, and each
    step to the minimum of its linearisation (generalised conditional gradient) lowers the whole:
    no line search is needed.

    Args:
        probabilities: Q, of prototypes given features, `[..., n, K]`.
        neighbours: S, cosine similarities of the features, `[n, n]`.
        coherence: κ ≥ 0; 0 is plain transport.
        entropy: ε.
        outer_steps: linearisations.
        steps: iterations of `sinkhorn` in each.

    Raises:
        ValueError: an option is out of range.

    Examples:
        >>> near = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
        >>> local_aware_transport(torch.full((3, 3), 1 / 3), near).shape
        torch.Size([3, 3])
    """
    check_range("coherence", coherence, low=0)
    check_range("outer_steps", outer_steps, low=0)
    cost = -probabilities.log()
    coupling = sinkhorn(cost, entropy=entropy, steps=steps)
    if coherence == 0:
        return coupling
    for _ in range(outer_steps):
        pull = 2 * coherence * (neighbours @ (coupling * probabilities)) * probabilities
        coupling = sinkhorn(cost - pull, entropy=entropy, steps=steps)
    return coupling
