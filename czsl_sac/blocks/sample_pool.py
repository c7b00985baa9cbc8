"""The samples that a memory bank keeps: one pool for all compositions, without empty slots."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from czsl_sac.functional.precision import without_autocast

# Rows that are gathered at once to compute inner products.
_MAX_ROWS = 2**14

_ROWS = ("features", "classes", "entropies", "arrivals")


class PoolView(NamedTuple):
    """What a prediction reads of a pool of S samples.

    Attributes:
        features: `[S, D]` in the first S rows; the rest is room for more.
        classes: `[S]` int64.
        gram: inner products of a row with the rows of its class, `[≥ S, N]`.
        groups: classes of similar size together, for each size that occurs `[K, width]` int64:
            the rows of K classes, in the order of the columns of `gram`, then -1.
    """

    features: Tensor
    classes: Tensor
    gram: Tensor
    groups: list[Tensor]


class SamplePool(nn.Module):
    """Keep, of each class, the N samples that are lowest by (entropy, arrival).

    This is the rule of Eq. 9, which replaces the sample of the highest entropy by a strictly
    lower one, for whole batches at a time. Everything is in buffers of as many rows as there
    are samples; their order is of no meaning. `.to(dtype)` converts the features, never the
    entropies, which order the samples.

    Args:
        like: tensor whose dtype and device the features take, `[..., D]`.
        capacity: N, the samples kept per class.

    Examples:
        >>> pool = SamplePool(torch.empty(2), capacity=1)
        >>> first = torch.tensor([0])
        >>> pool.offer(torch.tensor([[1.0, 0.0]]), first, torch.tensor([0.5]), arrivals=first)
        >>> pool.offer(torch.tensor([[0.0, 1.0]]), first, torch.tensor([0.4]), arrivals=first + 1)
        >>> pool.rows, pool.entropies
        (tensor([[0., 1.]]), tensor([0.4000]))
    """

    features: Tensor  # [≥ S, D]: room for more behind the S rows in use
    classes: Tensor  # [S] int64
    entropies: Tensor  # [S] float32
    arrivals: Tensor  # [S] int64: position in the stream, -1 for a row that is no sample
    gram: Tensor  # [≥ S, N]
    # Aliases, as torch.compile takes the shape of a buffer, but not of a plain attribute, as fixed
    # for ever and would compile anew after every update.
    view: PoolView

    def __init__(self, like: Tensor, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        # Classes are grouped by the least of these that holds them: 1, 3, 9, ..., N. Closer steps
        # save little padding and cost more kernels.
        widths = [1]
        while widths[-1] < capacity:
            widths.append(min(3 * widths[-1], capacity))
        self.widths = tuple(widths)
        for name in _ROWS:
            self.register_buffer(name, None)
        self.register_buffer("gram", None, persistent=False)
        self._allocate(0, like)
        self._index()

    @property
    def rows(self) -> Tensor:
        """Features of the S rows in use, `[S, D]`."""
        return self.features[: self.classes.shape[0]]

    def reset(self) -> None:
        """Drop all samples."""
        self._allocate(0, self.features)
        self._index()

    def offer(self, features: Tensor, classes: Tensor, entropies: Tensor, arrivals: Tensor) -> None:
        """Take in the samples that belong to the N lowest of their class, and drop who leaves.

        Args:
            features: `[M, D]`.
            classes: `[M]` int64.
            entropies: `[M]` float32, without NaN.
            arrivals: `[M]` int64, increasing and above those of all samples so far.
        """
        rivals = torch.isin(self.classes, classes).nonzero().squeeze(1)
        rivals = rivals[self.arrivals[rivals].argsort()]
        all_classes = torch.cat([self.classes[rivals], classes])
        all_entropies = torch.cat([self.entropies[rivals], entropies])
        order = all_entropies.argsort(stable=True)
        order = order[all_classes[order].argsort(stable=True)]  # by class, entropy, arrival
        sizes = torch.unique_consecutive(all_classes[order], return_counts=True)[1]
        first = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
        kept = torch.empty_like(all_classes, dtype=torch.bool)
        kept[order] = torch.arange(len(order), device=order.device) - first < self.capacity
        # Every row given up is given up for a new sample, so the pool never has a hole.
        freed = rivals[~kept[: len(rivals)]]
        chosen = kept[len(rivals) :].nonzero().squeeze(1)
        if len(chosen) == 0:
            return
        replacing, further = chosen[: len(freed)], chosen[len(freed) :]
        self.features[freed] = features[replacing].to(self.features.dtype)
        self.classes[freed] = classes[replacing]
        self.entropies[freed] = entropies[replacing]
        self.arrivals[freed] = arrivals[replacing]
        self._append(features[further], classes[further], entropies[further], arrivals[further])
        self._index(classes[chosen])

    def count_stored(self, classes: Tensor, entropies: Tensor) -> int:
        """Return how many of these samples would be stored if they were offered one by one.

        Args:
            classes: `[M]` int64, in the order of arrival.
            entropies: `[M]` float32.
        """
        rivals = torch.isin(self.classes, classes)
        all_classes = torch.cat([self.classes[rivals], classes])
        all_entropies = torch.cat([self.entropies[rivals], entropies])
        positions = torch.arange(len(all_classes), device=classes.device)
        stored = 0
        # Stored if fewer than N of its class before it are at most as uncertain.
        for part in positions[len(positions) - len(classes) :].unsqueeze(1).split(1024):
            ahead = positions < part
            ahead &= all_classes == all_classes[part]
            ahead &= all_entropies <= all_entropies[part]
            stored += int((ahead.sum(dim=1) < self.capacity).sum())
        return stored

    def _append(
        self, features: Tensor, classes: Tensor, entropies: Tensor, arrivals: Tensor
    ) -> None:
        start, end = len(self.classes), len(self.classes) + len(classes)
        if end > len(self.features):
            rows = max(end, 2 * len(self.features))
            for name in ("features", "gram"):
                old = getattr(self, name)
                new = old.new_zeros(rows, old.shape[1])
                new[:start] = old[:start]
                setattr(self, name, new)
        self.features[start:end] = features.to(self.features.dtype)
        self.classes = torch.cat([self.classes, classes])
        self.entropies = torch.cat([self.entropies, entropies])
        self.arrivals = torch.cat([self.arrivals, arrivals])

    def _index(self, changed: Tensor | None = None) -> None:
        """Group the classes by size; renew the inner products of those changed (or all)."""
        if len(self.classes) == 0:
            self.view = PoolView(self.features, self.classes, self.gram, [])
            return
        _check_device(self.classes)
        order = self.classes.argsort(stable=True)
        present, sizes = torch.unique_consecutive(self.classes[order], return_counts=True)
        firsts = sizes.cumsum(0) - sizes
        groups, narrower = [], 0
        for width in self.widths:
            here = (sizes > narrower) & (sizes <= width)
            steps = torch.arange(width, device=order.device)
            positions = (firsts[here].unsqueeze(1) + steps).clamp_max(len(order) - 1)
            group = order[positions].masked_fill(steps >= sizes[here].unsqueeze(1), -1)
            # One class alone joins the next wider group: torch.compile takes a size of 1 as fixed.
            if len(group) == 0 or (len(group) == 1 and width < self.capacity):
                continue
            narrower = width
            groups.append(group)
            stale = group if changed is None else group[torch.isin(present[here], changed)]
            self._renew_gram(stale)
        self.view = PoolView(self.features, self.classes, self.gram, groups)

    def _renew_gram(self, group: Tensor) -> None:
        for rows in group.split(_MAX_ROWS // group.shape[1] + 1):
            taken = rows >= 0
            slots = self.features[rows.clamp_min(0)].to(self.gram.dtype)
            with without_autocast(slots):
                products = slots @ slots.mT
            self.gram[rows[taken], : rows.shape[1]] = products[taken]

    def _allocate(self, samples: int, like: Tensor) -> None:
        """Replace the pool by one of this many samples, to be filled in."""
        self.features = like.new_zeros(samples, like.shape[-1])
        self.gram = like.new_zeros(
            samples, self.capacity, dtype=torch.promote_types(like.dtype, torch.float32)
        )
        self.classes = torch.zeros(samples, dtype=torch.int64, device=like.device)
        self.entropies = torch.zeros(samples, dtype=torch.float32, device=like.device)
        self.arrivals = torch.zeros_like(self.classes)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        bits, dtype = self.entropies.view(torch.int32), self.features.dtype
        moved = fn(bits)
        _check_device(moved)
        super()._apply(fn, recurse)
        self.entropies = moved.view(torch.float32)  # never rounded
        if self.features.dtype != dtype:
            exact = torch.promote_types(self.features.dtype, torch.float32)
            self.gram = self.gram.new_zeros(self.gram.shape, dtype=exact)
        self._index()
        return self

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}features"] = self.rows.clone()  # without the spare rows

    @torch.inference_mode(False)
    @torch.no_grad()
    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        saved = [state_dict[f"{prefix}{name}"] for name in _ROWS if f"{prefix}{name}" in state_dict]
        sizes = {len(values) for values in saved}
        if len(sizes) == 1:  # a pool of another size is no mismatch
            self._allocate(sizes.pop(), self.features)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._index()


def _check_device(rows: Tensor) -> None:
    """Refuse samples without numbers.

    Raises:
        ValueError: there are rows, and their device is `"meta"`.
    """
    if rows.is_meta and len(rows):
        raise ValueError(
            f"the device of {len(rows)} stored samples is meta but must be a real one, as their "
            "classes decide the shapes of a prediction: call reset() on the bank first."
        )
