"""What a data set offers to training and evaluation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol, get_args, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import Dataset

    from czsl_sac.space import CompositionSpace

SplitName = Literal["train", "val", "test"]

SPLITS: tuple[SplitName, ...] = get_args(SplitName)
"""Names of the splits, in order."""


class CZSLData(Protocol):
    """A data set for compositional zero-shot learning.

    Attributes:
        name: for printouts and checkpoints.
        space: the compositions; an item's target is an index into `space.pairs`.
    """

    @property
    def name(self) -> str:
        """Name for printouts and checkpoints."""

    @property
    def space(self) -> "CompositionSpace":
        """The compositions of all splits; those of the training split are seen."""

    def split(self, name: SplitName, *, augment: bool = False) -> "Dataset[tuple[Tensor, int]]":
        """Return the items of a split, each (image `[3, H, W]` float32, normalised; target).

        With `augment`, the images vary at random, for training.
        """

    def candidates(self, name: SplitName) -> "Tensor":
        """Return the compositions that a prediction on a split may name, `[C]` bool.

        In the closed world: those of the split and those of the training split.
        """


@runtime_checkable
class HasMasks(Protocol):
    """Items of which it is known where their object is."""

    def masks(self, indices: Sequence[int]) -> "Tensor":
        """Return where the labelled objects show in the images, `[B, H, W]` bool."""
