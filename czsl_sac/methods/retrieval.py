"""A database of training images' features by primitive, and what a query retrieves from it."""

from math import ceil
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def balanced_quotas(counts: list[int], most: int, *, ratio: float = 1.5) -> list[int]:
    """Return how many of each kind to take so that none crowds out the others.

    From the rarest kind to the most frequent one, each gets its share of what is left, at most
    what there is of it and at most `ratio` times what the kind before got.

    Args:
        counts: how many there are of each kind.
        most: how many to take in all.
        ratio: how much more a kind may get than the next rarer one.

    Examples:
        >>> balanced_quotas([100, 2, 7], most=12)
        [5, 2, 3]
    """
    quotas, before = [0] * len(counts), 0
    for left, kind in zip(
        range(len(counts), 0, -1), sorted(range(len(counts)), key=counts.__getitem__), strict=True
    ):
        quota = min(counts[kind], ceil(most / left))
        if left < len(counts):
            quota = min(quota, ceil(ratio * before))
        quotas[kind] = before = quota
        most -= quota
    return quotas


class Retrieved(NamedTuple):
    """What B queries found, the most similar first.

    Attributes:
        features: `[B, n, D]`, as they were stored.
        similarities: cosines, `[B, n]`; −inf where there was nothing more to find.
        labels: which primitive each feature is of, `[B, n]` int64.
    """

    features: Tensor
    similarities: Tensor
    labels: Tensor

    def first(self, count: int) -> "Retrieved":
        """Return the most similar of them."""
        return Retrieved(*(part[:, :count] for part in self))

    def mean(self, sharpness: float) -> Tensor:
        """Return Σ softmax(sharpness · cos) f, `[B, D]`; zero where nothing was found.

        Args:
            sharpness: what multiplies the cosines.
        """
        weights = torch.softmax(sharpness * self.similarities, dim=-1).nan_to_num(0.0)
        return (weights.unsqueeze(1) @ self.features).squeeze(1)


class FeatureDatabase(nn.Module):
    """Features of up to K training images of each of G primitives, found by their cosine.

    Which images those are is chosen once, what they look like is stored anew as the model learns.
    Both are buffers, of a size that the options decide, so that they are saved with the weights.

    Args:
        primitives: G.
        size: K, images a primitive.
        dim: D.

    Examples:
        >>> database = FeatureDatabase(primitives=2, size=2, dim=2)
        >>> database.choose(torch.tensor([0, 1]), compositions=torch.tensor([0, 1]))
        >>> database.store(torch.tensor([0, 1]), torch.eye(2))
        >>> found = database(torch.tensor([[0.6, 0.8]]), count=1)
        >>> found.labels.tolist(), found.similarities.tolist()
        ([[1]], [[0.800000011920929]])
    """

    images: Tensor  # [G, K] int64: position in the training split, -1 where there is none
    features: Tensor  # [G, K, D]

    def __init__(self, primitives: int, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("images", torch.full((primitives, size), -1))
        self.register_buffer("features", torch.zeros(primitives, size, dim))

    def choose(self, primitives: Tensor, compositions: Tensor) -> None:
        """Choose the images, spread over the compositions of each primitive.

        The choice is random, but the same for the same labels.

        Args:
            primitives: of each training image, `[N]` int64.
            compositions: likewise.
        """
        generator = torch.Generator().manual_seed(0)
        primitives, compositions = primitives.cpu(), compositions.cpu()
        self.images.fill_(-1)
        for primitive, row in enumerate(self.images):
            own = (primitives == primitive).nonzero().squeeze(1)
            kinds, counts = compositions[own].unique(return_counts=True)
            quotas = balanced_quotas(counts.tolist(), len(row))
            start = 0
            for kind, quota in zip(kinds, quotas, strict=True):
                candidates = own[compositions[own] == kind]
                drawn = torch.randperm(len(candidates), generator=generator)[:quota]
                row[start : start + quota] = candidates[drawn]
                start += quota

    def store(self, images: Tensor, features: Tensor) -> None:
        """Store what images look like now, as far as they are chosen.

        Args:
            images: their positions in the training split, `[M]`.
            features: `[M, D]`, not normalised.
        """
        group, slot, source = (self.images.unsqueeze(-1) == images).nonzero(as_tuple=True)
        self.features[group, slot] = features[source].to(self.features.dtype)

    def forward(self, queries: Tensor, count: int) -> Retrieved:
        """Return the most similar features; without a gradient, as they are constants.

        Args:
            queries: `[B, D]`, of any length.
            count: n; fewer are returned where the database is smaller.
        """
        with torch.no_grad():
            rows = self.features.flatten(0, 1)
            cosines = F.normalize(queries.to(rows.dtype), dim=-1) @ F.normalize(rows, dim=-1).mT
            cosines = cosines.masked_fill(self.images.flatten() < 0, -torch.inf)
            similarities, found = cosines.topk(min(count, len(rows)), dim=-1)
            return Retrieved(rows[found], similarities, found // self.images.shape[1])
