"""Several processes that encode the same prompts and share them out among themselves."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this one is.

    A text tower whose `processes` are several encodes a part of each call's prompts, and takes the
    features of the others from them. All processes then have to make the same calls in the same
    order, with the same weights; they talk over PyTorch's default group.

    Attributes:
        rank: of this process, from 0.
        count: of all.

    Examples:
        >>> [Processes(rank, 4).part(10) for rank in range(4)]
        [range(0, 2), range(2, 5), range(5, 7), range(7, 10)]
    """

    rank: int = 0
    count: int = 1

    def enough_for(self, total: int) -> "Processes":
        """Return these processes, or one that works for itself if each has no item to do.

        A process without an item would have no gradient where the others have one, and for so
        few items it is not worth talking.

        Examples:
            >>> Processes(1, 4).enough_for(3)
            Processes(rank=0, count=1)
        """
        return self if total >= self.count else Processes()

    def part(self, total: int) -> range:
        """Return which of `total` items this process does."""
        return range(self.rank * total // self.count, (self.rank + 1) * total // self.count)

    def join(self, own: Tensor, rows: Tensor, total: int) -> Tensor:
        """Return the rows of all processes, `[total, ...]`, with their gradients.

        Args:
            own: rows of this process, `[R, ...]`.
            rows: where each of them goes, `[R]` int64; no two processes have the same.
            total: rows of all processes.
        """
        if self.count == 1:
            return own.index_select(0, rows.argsort())
        return self.sum(own.new_zeros(total, *own.shape[1:]).index_copy(0, rows, own))

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes, with its gradient.

        Args:
            values: of the same shape in all of them; without a gradient they are written over.
        """
        if self.count == 1:
            return values
        if torch.is_grad_enabled() and values.requires_grad:
            summed: Tensor = _Sum.apply(values)
            return summed
        dist.all_reduce(values)
        return values

    def of_first(self, values: Tensor) -> Tensor:
        """Return the values of the first process, without a gradient.

        Args:
            values: of the same shape in all of them; they are written over.
        """
        if self.count > 1:
            dist.broadcast(values, 0)
        return values


class _Sum(torch.autograd.Function):
    """A sum over processes, whose gradient is summed likewise.

    Every process q has a loss L_q, of images of its own, that depends on the features F of all.
    Whoever made a row of F is thus owed Σ_q ∂L_q/∂F there, and takes it on through its own part of
    the tower. So what the processes find for a weight θ adds up to Σ_q ∂L_q/∂θ, and the mean that
    DistributedDataParallel takes over them is the gradient of the mean loss: what one process
    finds that has all the images. What is not shared out, as images are, is in this mean as ever.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        summed = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)
