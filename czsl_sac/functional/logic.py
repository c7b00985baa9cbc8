"""Fuzzy logic on predicted probabilities: how far rules about classes are broken.

A truth is a number in [0, 1]. "And" is the product, "not x" is 1 − x, "x implies y" is
Reichenbach's 1 − x + x y. What must hold of all classes is aggregated by the p-mean of how far it
is broken, the p-mean-error of Badreddine et al., "Logic Tensor Networks" (Artificial Intelligence,
2022).
"""

import torch
from torch import Tensor

from czsl_sac.checks import check_range
from czsl_sac.functional.precision import at_least_float32

_TINY = 1e-12  # keeps the gradient of the root finite where nothing is broken


def broken_implication(premise: Tensor, conclusion: Tensor) -> Tensor:
    """Return x (1 − y), by how much "x implies y" falls short of the truth.

    Args:
        premise: x, truths of any shape.
        conclusion: y, truths of a shape that broadcasts with it.

    Examples:
        >>> broken_implication(torch.tensor([1.0, 0.5]), torch.tensor([0.25, 1.0]))
        tensor([0.7500, 0.0000])
    """
    return premise * (1 - conclusion)


def broken_for_all(broken: Tensor, *, exponent: float = 2.0) -> Tensor:
    """Return (mean of brokenᵖ)^(1/p) over the rules, then the mean over the images.

    Args:
        broken: by how much each of K rules is broken for each image, `[B, K]`, in [0, 1].
        exponent: p; the larger, the more the worst rule counts.

    Returns:
        Scalar in [0, 1], float32 at least.

    Raises:
        ValueError: p is not positive.

    Examples:
        >>> broken_for_all(torch.tensor([[0.6, 0.8]]))
        tensor(0.7071)
    """
    check_range("exponent", exponent, above=0)
    powers = at_least_float32(broken).pow(exponent).mean(dim=-1)
    return (powers + _TINY).pow(1 / exponent).mean()


def broken_exclusion(
    truths: Tensor, group: Tensor, num_groups: int, *, exponent: float = 2.0
) -> Tensor:
    """Return how far "no two of a group at once" is broken: xᵢ xⱼ for each pair, for all pairs.

    The pairs are never made: the sum of (xᵢ xⱼ)ᵖ over those of a group is half of the squared sum
    of xᵖ less the sum of x²ᵖ.

    Args:
        truths: `[B, K]`.
        group: number of each class's group, `[K]` int64, in 0..G - 1.
        num_groups: G.
        exponent: p, as in `broken_for_all`.

    Returns:
        Scalar, float32 at least; zero where no group has two classes.

    Raises:
        ValueError: p is not positive.

    Examples:
        >>> broken_exclusion(torch.tensor([[0.5, 0.4, 0.1]]), torch.tensor([0, 0, 1]), 2)
        tensor(0.2000)
    """
    check_range("exponent", exponent, above=0)
    sizes = group_sum(torch.ones_like(truths[:1]), group, num_groups)
    pairs = (sizes * (sizes - 1)).sum() / 2
    powers = at_least_float32(truths).pow(exponent)
    squared_sums = group_sum(powers, group, num_groups).square().sum(dim=1)
    broken = ((squared_sums - powers.square().sum(dim=1)) / 2).clamp(min=0)
    return (broken / pairs.clamp(min=1) + _TINY).pow(1 / exponent).mean() * (pairs > 0)


def group_sum(truths: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """Return the sum of the truths of each group, `[B, G]`.

    Args:
        truths: `[B, K]`.
        group: number of each class's group, `[K]` int64, in 0..G - 1.
        num_groups: G.

    Examples:
        >>> group_sum(torch.tensor([[0.5, 0.4, 0.1]]), torch.tensor([0, 0, 1]), 2)
        tensor([[0.9000, 0.1000]])
    """
    # Not a product with a matrix of members, which autocast would round.
    start = truths.new_zeros(len(truths), num_groups)
    return start.index_add(1, group, truths)


def group_maximum(truths: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """Return the truth of "one of the group", the largest of its classes', `[B, G]`.

    Args:
        truths: `[B, K]`.
        group: as for `group_sum`.
        num_groups: G.

    Examples:
        >>> group_maximum(torch.tensor([[0.5, 0.4, 0.1]]), torch.tensor([0, 0, 1]), 2)
        tensor([[0.5000, 0.1000]])
    """
    start = truths.new_zeros(len(truths), num_groups)
    return start.scatter_reduce(1, group.expand_as(truths), truths, "amax")
