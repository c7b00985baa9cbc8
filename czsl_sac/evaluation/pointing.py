"""Pointing accuracy: whether the patch that answers a text lies on the object it names."""

from dataclasses import dataclass
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from czsl_sac.checks import check_range

MIN_COVERAGE = 0.25
"""A patch lies on an object that covers more than this share of it."""


@dataclass(frozen=True)
class PointingResult:
    """Pointing accuracy beside its chance, both fractions in [0, 1].

    Attributes:
        accuracy: share of texts whose best patch lies on the object.
        chance: the same for a patch drawn at random: mean share of the patches on the object.
        samples: texts that were counted, each with an image and an object.
        left_out: texts whose object lies on no patch, because it is covered or too small.

    Examples:
        >>> print(PointingResult(accuracy=0.75, chance=0.15, samples=400))
        pointing 75.0 % (chance 15.0 %) of 400
    """

    accuracy: float
    chance: float
    samples: int
    left_out: int = 0

    @property
    def standard_error(self) -> float:
        """Standard error of the accuracy, as if all samples were independent."""
        return sqrt(self.accuracy * (1 - self.accuracy) / self.samples)

    def __str__(self) -> str:
        return (
            f"pointing {100 * self.accuracy:.1f} % (chance {100 * self.chance:.1f} %) "
            f"of {self.samples}"
        )


class Pointing:
    """Gathers how often the patch of the highest similarity lies on the object that a text names.

    This is the pointing game (Zhang et al., IJCV 2018) with a patch for a point. It asks *why* a
    sparse alignment is right: an image may be recognised by a patch that carries the whole image.

    Args:
        min_coverage: a patch lies on the object where the object covers more than this share of
            it, from 0 to below 1.

    Raises:
        ValueError: `min_coverage` is out of its range.

    Examples:
        >>> masks = torch.zeros(2, 4, 4, dtype=torch.bool)
        >>> masks[:, :2, :2] = True                       # the object is at the top left
        >>> similarity = torch.tensor([[0.9, 0.1, 0.2, 0.3], [0.1, 0.2, 0.3, 0.9]])
        >>> pointing = Pointing()
        >>> pointing.update(similarity.argmax(1), masks, patches=4)
        >>> result = pointing.compute()
        >>> result.accuracy, result.chance, result.samples
        (0.5, 0.25, 2)
    """

    def __init__(self, *, min_coverage: float = MIN_COVERAGE) -> None:
        check_range("min_coverage", min_coverage, low=0, below=1)
        self.min_coverage = min_coverage
        self.reset()

    def reset(self) -> None:
        """Forget all samples."""
        self._sums = torch.zeros(4, dtype=torch.float64)

    def update(self, best: Tensor, masks: Tensor, *, patches: int) -> None:
        """Take a batch of texts, each with the image that holds its object.

        Args:
            best: number of the patch with the highest similarity to the text, from 0, row by row
                and without the class token, `[N]` integer.
            masks: where the object shows in the image that the model saw, `[N, H, W]` bool.
            patches: patches of an image, L; they form a square.

        Raises:
            TypeError: `best` is not integer or `masks` not bool.
            ValueError: the shapes do not fit, or a number is outside the patches.
        """
        if best.is_floating_point() or best.dtype == torch.bool:
            raise TypeError(f"best is {best.dtype} but must be integer: take argmax over patches.")
        best = best.detach().cpu().long()
        if best.shape != masks.shape[:1]:
            raise ValueError(
                f"best has shape {list(best.shape)} but must be [{len(masks)}]: give one patch a "
                "mask."
            )
        if bool(((best < 0) | (best >= patches)).any()):
            raise ValueError(
                f"best holds a number outside 0 … {patches - 1}: count patches from 0, without "
                "the class token."
            )
        on_object = patch_coverage(masks, patches) > self.min_coverage
        share = on_object.double().mean(1)
        counted = share > 0
        hit = on_object.gather(1, best[:, None])[:, 0]
        self._sums += torch.stack(
            [hit.sum(), share[counted].sum(), counted.sum(), (~counted).sum()]
        ).double()

    def compute(self) -> PointingResult:
        """Return accuracy and chance of all samples so far.

        Raises:
            ValueError: there is no sample.
        """
        hits, share, samples, left_out = self._sums.tolist()
        if not samples:
            raise ValueError("no sample to evaluate: call update() with objects that show first.")
        return PointingResult(hits / samples, share / samples, int(samples), int(left_out))

    def state(self) -> Tensor:
        """Return the sums over samples, `[4]` float64, to be added up over processes."""
        return self._sums.clone()

    def load_state(self, state: Tensor) -> None:
        """Replace the sums by those that `state` returned, `[4]`, possibly added up."""
        self._sums = state.detach().cpu().double()


def patch_coverage(masks: Tensor, patches: int) -> Tensor:
    """Return how much of each patch a mask covers.

    Args:
        masks: `[N, H, W]` bool.
        patches: patches of an image, L; they form a square.

    Returns:
        `[N, L]` float32 in [0, 1], row by row, on the CPU.

    Raises:
        TypeError: `masks` is not bool.
        ValueError: `masks` has another shape, or L is no square number.

    Examples:
        >>> mask = torch.zeros(1, 4, 4, dtype=torch.bool)
        >>> mask[0, 0, :3] = True
        >>> patch_coverage(mask, 4).tolist()
        [[0.5, 0.25, 0.0, 0.0]]
    """
    if masks.dtype != torch.bool:
        raise TypeError(f"masks is {masks.dtype} but must be bool: compare with a threshold.")
    side = round(sqrt(patches))
    if masks.dim() != 3 or side * side != patches or side < 1:
        raise ValueError(
            f"masks has shape {list(masks.shape)} for {patches} patches but must be [N, H, W] for "
            "a square number: give one mask a text, and leave the class token out of the count."
        )
    return F.adaptive_avg_pool2d(masks.detach().cpu().float()[:, None], side).flatten(1)
