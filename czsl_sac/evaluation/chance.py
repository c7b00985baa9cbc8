"""What random scores reach on a split, and when a split is too small to say much."""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from czsl_sac.checks import check_choice, check_range
from czsl_sac.evaluation.curve import PROTOCOLS, Protocol, legacy_step

FEWEST_COMPOSITIONS = 3
"""Unseen compositions below which U, HM and AUC say little."""
FEWEST_IMAGES = 50
"""Images of a kind, seen or unseen, below which its accuracy says little."""


@dataclass(frozen=True)
class Chance:
    """Expected figures of random scores, every one a fraction in [0, 1].

    Attributes:
        seen: S.
        unseen: U.
        hm: HM.
        auc: AUC.
        protocol: "exact" or "legacy".

    Examples:
        >>> print(Chance(seen=0.1, unseen=1 / 3, hm=0.087, auc=1 / 60, protocol="exact"))
        S 10.00  U 33.33  HM 8.70  AUC 1.67  (%, chance, exact protocol)
    """

    seen: float
    unseen: float
    hm: float
    auc: float
    protocol: Protocol

    def named(self) -> dict[str, float]:
        """Return the figures by their names in tables."""
        return {"S": self.seen, "U": self.unseen, "HM": self.hm, "AUC": self.auc}

    def to_dict(self) -> dict[str, float | str]:
        """Return the figures as plain JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        line = "  ".join(f"{name} {100 * value:.2f}" for name, value in self.named().items())
        return f"{line}  (%, chance, {self.protocol} protocol)"


def chance_row(
    *,
    seen_candidates: int,
    unseen_candidates: int,
    seen_images: int,
    unseen_images: int,
    protocol: Protocol = "exact",
    draws: int = 1000,
    seed: int = 0,
) -> Chance:
    """Return what a split gives on average for scores drawn at random, each like all others.

    With K_s seen and K_u unseen candidates the best seen one is right in 1/K_s of the images of
    seen compositions, whatever the bias. So S = 1/K_s, U = 1/K_u and AUC = 1/(2 K_s K_u) for any
    number of images (exact protocol). HM is the best of many points of a noisy curve, above its
    limit for many images, 2/(√K_s + √K_u)²: it is simulated. So is all but U under the legacy
    protocol, whose biases are taken from the scores.

    Args:
        seen_candidates: K_s, seen compositions that may be predicted.
        unseen_candidates: K_u, likewise unseen ones.
        seen_images: images of seen compositions.
        unseen_images: images of unseen compositions.
        protocol: "exact" or "legacy".
        draws: simulated splits; the error of HM falls with their square root.
        seed: of the simulation.

    Raises:
        ValueError: a count is below 1 or the protocol unknown.

    Examples:
        >>> print(chance_row(
        ...     seen_candidates=10, unseen_candidates=3, seen_images=341, unseen_images=373))
        S 10.00  U 33.33  HM 8.66  AUC 1.67  (%, chance, exact protocol)
    """
    counts = {
        "seen_candidates": seen_candidates,
        "unseen_candidates": unseen_candidates,
        "seen_images": seen_images,
        "unseen_images": unseen_images,
        "draws": draws,
    }
    for name, count in counts.items():
        check_range(name, count, low=1)
    check_choice("protocol", protocol, PROTOCOLS)
    seen, unseen = 1 / seen_candidates, 1 / unseen_candidates
    rng = np.random.default_rng(seed)
    figures = np.zeros((draws, 3))
    for row in figures:
        right = rng.binomial((seen_images, unseen_images), (seen, unseen))
        flips = rng.permutation(np.repeat([False, True], right))
        of_seen, of_unseen = counts_right(flips, protocol)
        s, u = of_seen / seen_images, of_unseen / unseen_images
        with np.errstate(divide="ignore"):
            harmonic = 2 / (1 / s + 1 / u)
        row[:] = s.max(), harmonic.max(), (np.diff(u) * (s[1:] + s[:-1]) / 2).sum()
    mean_seen, hm, auc = figures.mean(0).tolist()
    if protocol == "exact":
        return Chance(seen, unseen, hm, seen * unseen / 2, protocol)
    return Chance(mean_seen, unseen, hm, auc, protocol)


def counts_right(
    flips: NDArray[np.bool_], protocol: Protocol
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how many images of both kinds are right along a rising bias, `[points]` each.

    Only the images that are right among the candidates of their own kind move the curve, one step
    each; random scores put them in random order.

    Args:
        flips: `[n]`, whether the step wins an image of an unseen composition (or loses a seen one).
        protocol: "exact" or "legacy".

    Examples:
        >>> counts_right(np.array([True, False]), "exact")
        (array([1., 1., 0.]), array([0., 1., 1.]))
    """
    won = np.append(0.0, flips.cumsum())
    kept = np.append(0.0, (~flips).cumsum())
    kept = kept[-1] - kept
    if protocol == "exact":
        return kept, won
    points = flips.nonzero()[0]  # just before an unseen one is won
    points = np.append(points[:: legacy_step(len(points))], len(flips))
    return kept[points], won[points]


def small_sample_warnings(
    *, unseen_compositions: int, seen_images: int, unseen_images: int
) -> list[str]:
    """Return a sentence for each figure that means little because the split is small.

    Args:
        unseen_compositions: unseen compositions with images in the split.
        seen_images: images of seen compositions in the split.
        unseen_images: images of unseen compositions in the split.

    Examples:
        >>> for sentence in small_sample_warnings(
        ...     unseen_compositions=1, seen_images=400, unseen_images=20
        ... ):
        ...     print(sentence)
        1 unseen composition has images, so U, HM and AUC say little: test at least 3.
        20 images are of unseen compositions: one moves U by 5.0 points, so test at least 50.
    """
    sentences = []
    if unseen_compositions < FEWEST_COMPOSITIONS:
        have = "composition has" if unseen_compositions == 1 else "compositions have"
        sentences.append(
            f"{unseen_compositions} unseen {have} images, so U, HM and AUC say little: test at "
            f"least {FEWEST_COMPOSITIONS}."
        )
    for kind, figure, images in (("seen", "S", seen_images), ("unseen", "U", unseen_images)):
        if images < FEWEST_IMAGES:
            are = "image is" if images == 1 else "images are"
            step = f"one moves {figure} by {100 / images:.1f} points, so " if images else ""
            sentences.append(
                f"{images} {are} of {kind} compositions: {step}test at least {FEWEST_IMAGES}."
            )
    return sentences
