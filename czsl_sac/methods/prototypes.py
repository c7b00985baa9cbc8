"""Prototypes of attributes or objects: clusters of features that follow the training."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from czsl_sac.checks import check_choice, check_range
from czsl_sac.functional.precision import at_least_float32, without_autocast
from czsl_sac.functional.transport import local_aware_transport

Assignment = Literal["local_aware", "transport", "nearest"]


class PrimitivePrototypes(nn.Module):
    """K unit vectors for each attribute, or each object, which no gradient moves.

    They are moving averages of the features assigned to them (Qu et al., "Learning
    Clustering-based Prototypes for Compositional Zero-Shot Learning", ICLR 2025). They start at
    random directions.

    Args:
        count: N attributes or objects.
        num_prototypes: K.
        dim: D.
        momentum: μ, the share that stays of a prototype when features are absorbed.
        assignment: how features find their prototype: `"local_aware"` transport, `"transport"`
            with equal shares alone, or `"nearest"` by cosine.
        coherence: κ of the local-aware transport.
        entropy: ε of either transport.

    Raises:
        ValueError: an option is unknown or out of range.

    Examples:
        >>> prototypes = PrimitivePrototypes(count=3, num_prototypes=2, dim=8)
        >>> features, labels = torch.randn(4, 8), torch.tensor([0, 2, 2, 0])
        >>> prototypes.absorb(features, labels, prototypes.assign(features, labels))
        >>> prototypes.vectors.shape
        torch.Size([3, 2, 8])
    """

    vectors: Tensor

    def __init__(
        self,
        count: int,
        num_prototypes: int,
        dim: int,
        *,
        momentum: float = 0.99,
        assignment: Assignment = "local_aware",
        coherence: float = 1.0,
        entropy: float = 0.1,
    ) -> None:
        super().__init__()
        check_range("num_prototypes", num_prototypes, low=1)
        check_range("momentum", momentum, low=0, below=1)
        check_choice("assignment", assignment, get_args(Assignment))
        check_range("coherence", coherence, low=0)
        check_range("entropy", entropy, above=0)
        self.momentum = momentum
        self.assignment = assignment
        self.coherence = coherence
        self.entropy = entropy
        start = F.normalize(torch.randn(count, num_prototypes, dim), dim=-1)
        self.register_buffer("vectors", start)

    @torch.no_grad()
    def assign(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return which of its primitive's prototypes each feature belongs to.

        With transport the whole batch is shared out equally among the prototypes of a primitive,
        and the rows of that primitive's own features are read: its own features alone would often
        be one, which equal shares say nothing of.

        Args:
            features: `[B, D]`, of any norm.
            labels: primitive of each, `[B]`.

        Returns:
            `[B]` int64, in 0 to K − 1.
        """
        with without_autocast(features):
            features = F.normalize(at_least_float32(features), dim=-1)
            similarities = features @ self.vectors[labels].mT  # of image i's primitive: [i]
            own = torch.arange(len(labels), device=labels.device)
            if self.assignment == "nearest":
                return similarities[own, own].argmax(dim=-1)
            coupling = local_aware_transport(
                similarities.softmax(dim=-1),
                features @ features.mT,
                coherence=self.coherence if self.assignment == "local_aware" else 0.0,
                entropy=self.entropy,
            )
            return coupling[own, own].argmax(dim=-1)

    @torch.no_grad()
    def absorb(self, features: Tensor, labels: Tensor, assigned: Tensor) -> None:
        """Move the prototypes towards the mean direction of the features assigned to them.

        Args:
            features: `[B, D]`, of any norm.
            labels: primitive of each, `[B]`.
            assigned: what `assign` returned.
        """
        count, num_prototypes, _ = self.vectors.shape
        with without_autocast(features):
            features = F.normalize(at_least_float32(features), dim=-1).to(self.vectors.dtype)
            members = F.one_hot(labels * num_prototypes + assigned, count * num_prototypes)
            means = F.normalize(members.mT.to(features.dtype) @ features, dim=-1)
            moved = self.momentum * self.vectors + (1 - self.momentum) * means.view_as(self.vectors)
            used = (members.sum(dim=0) > 0).view(count, num_prototypes, 1)
            self.vectors.copy_(torch.where(used, F.normalize(moved, dim=-1), self.vectors))

    def extra_repr(self) -> str:
        count, num_prototypes, _ = self.vectors.shape
        return (
            f"count={count}, num_prototypes={num_prototypes}, momentum={self.momentum}, "
            f"assignment={self.assignment!r}"
        )
