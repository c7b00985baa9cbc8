"""Diversity of an attribute: over how many kinds of object its images are spread."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from czsl_sac.functional.precision import at_least_float32

_STEPS = 10


@torch.no_grad()
def cluster_batch(features: Tensor, num_clusters: int) -> Tensor:
    """Return the cluster of each image by k-means on the sphere, `[B]` int64.

    The centres start at images drawn at random; ten steps follow. A cluster that loses all its
    images keeps its centre.

    Args:
        features: `[B, D]`.
        num_clusters: k; with fewer images, as many as there are.

    Examples:
        >>> cluster_batch(torch.eye(3), 5).sort().values
        tensor([0, 1, 2])
    """
    units = F.normalize(at_least_float32(features), dim=-1)
    start = torch.randperm(len(units), device=units.device)[:num_clusters]
    centres = units[start]
    nearest = (units @ centres.mT).argmax(dim=1)
    for _ in range(_STEPS):
        sums = torch.zeros_like(centres).index_add(0, nearest, units)
        has_images = (nearest.unsqueeze(1) == torch.arange(len(centres), device=units.device)).any(
            0
        )
        centres = torch.where(has_images.unsqueeze(1), F.normalize(sums, dim=-1), centres)
        nearest = (units @ centres.mT).argmax(dim=1)
    return nearest


def cluster_diversity(
    clusters: Tensor, attributes: Tensor, *, num_clusters: int, num_attributes: int
) -> tuple[Tensor, Tensor]:
    """Return how evenly each attribute's images lie in the clusters, and which attributes can tell.

    The diversity is the entropy over the clusters, divided by the largest that an attribute of n
    images can have, log min(n, k): 0 for one cluster, 1 for as many as possible. One image cannot
    tell.

    Args:
        clusters: cluster of each image, `[B]`.
        attributes: attribute of each image, `[B]`.
        num_clusters: k.
        num_attributes: A.

    Returns:
        `[A]` in [0, 1], and `[A]` bool.

    Examples:
        >>> clusters, attributes = torch.tensor([0, 1, 2, 2]), torch.tensor([0, 0, 1, 1])
        >>> cluster_diversity(clusters, attributes, num_clusters=3, num_attributes=3)
        (tensor([1., 0., 0.]), tensor([ True,  True, False]))
    """
    one = torch.ones(len(clusters), device=clusters.device)
    cells = torch.zeros(num_attributes * num_clusters, device=clusters.device)
    counts = cells.index_add(0, attributes * num_clusters + clusters, one)
    counts = counts.view(num_attributes, num_clusters)
    images = counts.sum(dim=1)
    entropy = torch.special.entr(counts / images.clamp(min=1).unsqueeze(1)).sum(dim=1)
    largest = images.clamp(min=2, max=max(num_clusters, 2)).log()
    return entropy / largest, images >= 2


def object_diversity(pairs: Tensor, num_attributes: int) -> Tensor:
    """Return with how many objects each attribute is seen, divided by the largest number, `[A]`.

    Args:
        pairs: attribute and object of each seen composition, `[C, 2]`, each once.
        num_attributes: A.

    Examples:
        >>> object_diversity(torch.tensor([[0, 0], [0, 1], [1, 0]]), 2)
        tensor([1.0000, 0.5000])
    """
    counts = pairs[:, 0].bincount(minlength=num_attributes).float()
    return counts / counts.max()


class AttributeDiversity(nn.Module):
    """Diversity of each attribute as a moving average over the batches.

    Args:
        num_attributes: A.
        num_clusters: k, of a batch.
        momentum: share of what was known before.

    Attributes:
        diversity: `[A]`, in [0, 1].
        is_known: which attributes had two images in a batch, `[A]` bool.
    """

    diversity: Tensor
    is_known: Tensor

    def __init__(self, num_attributes: int, *, num_clusters: int, momentum: float) -> None:
        super().__init__()
        self.num_clusters, self.momentum = num_clusters, momentum
        self.register_buffer("diversity", torch.zeros(num_attributes))
        self.register_buffer("is_known", torch.zeros(num_attributes, dtype=torch.bool))

    @torch.no_grad()
    def update(self, features: Tensor, attributes: Tensor) -> None:
        """Take in a batch.

        Args:
            features: of the images' objects, `[B, D]`.
            attributes: of the images, `[B]`.
        """
        found, tells = cluster_diversity(
            cluster_batch(features, self.num_clusters),
            attributes,
            num_clusters=self.num_clusters,
            num_attributes=len(self.diversity),
        )
        found = found.to(self.diversity.dtype)
        average = torch.lerp(found, self.diversity, self.momentum)
        average = torch.where(self.is_known, average, found)  # the first batch is all of it
        self.diversity.copy_(torch.where(tells, average, self.diversity))
        self.is_known |= tells
