"""Pretraining policies: what a caption speaks of, and which tokens it is contrasted with."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Captions = Literal["salient", "any", "all"]
RISING = 0.6  # of the steps: how long a curriculum takes
UNMASKED = 0.9  # of the steps: from here on no patch is dropped, as FLIP ends


@dataclass(frozen=True)
class Policy:
    """How a CLIP is pretrained on captions of generated scenes.

    A caption names a composition, its attribute alone, or its object alone. Of which visible
    thing: the large one ("salient", as today's), one drawn at random ("any", as captions of the
    web), or every one, each a caption of its own ("all").

    Attributes:
        class_captions: what the class token is contrasted with (CLIP).
        patch_captions: what the best patch is contrasted with beside it: the token-wise maximum
            of FILIP (Yao et al., ICLR 2022) with one token for the text; None: nothing.
        clutter: largest clutter of the scenes at the first step and from 60 % of the steps on.
        drop: share of the patches dropped at the input, as in FLIP (Li et al., CVPR 2023), until
            90 % of the steps.
    """

    class_captions: Captions = "salient"
    patch_captions: Captions | None = None
    clutter: tuple[float, float] = (0.4, 0.4)
    drop: float = 0.0

    def max_clutter(self, progress: float) -> float:
        """Return the largest clutter of a scene.

        Args:
            progress: share of the steps that are done.
        """
        start, end = self.clutter
        return start + (end - start) * rise(progress)

    def drop_rate(self, progress: float) -> float:
        """Return the share of patches to drop.

        Args:
            progress: share of the steps that are done.
        """
        return self.drop if progress < UNMASKED else 0.0

    def describe(self) -> dict[str, str]:
        """Return the policy as text by field, for the metadata of weights."""
        return {name: str(value) for name, value in asdict(self).items()}


def rise(progress: float) -> float:
    """Return how far a curriculum has come, from 0 to 1.

    Args:
        progress: share of the steps that are done.
    """
    return min(1.0, progress / RISING)


BUSY: dict[str, Any] = {"clutter": (0.4, 0.8)}

POLICIES: dict[str, Policy] = {
    "salient": Policy(),
    "salient-busy": Policy(**BUSY),
    "any": Policy("any", **BUSY),
    "all": Policy("all", **BUSY),
    "drop": Policy(**BUSY, drop=0.5),
    "salient+patches": Policy("salient", "salient", **BUSY),
    "salient+all-patches": Policy("salient", "all", **BUSY),
    "all+all-patches": Policy("all", "all", **BUSY),
    "salient+all-patches+drop": Policy("salient", "all", **BUSY, drop=0.5),
}
"""The policies that are compared; the first made the weights that ship today."""
