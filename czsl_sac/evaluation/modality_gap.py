"""The modality gap between image and text features: RMG and L2M, from sums alone."""

from collections.abc import Mapping

import torch
from torch import Tensor

from czsl_sac.deprecation import warn_renamed

_ROWS = 2**14
"""Rows that are converted to float64 at a time: a copy of all may be larger than the model."""


class ModalityGap:
    """Gather what the modality gap needs from batches of image features.

    With unit vectors x_i (N images), y_j (M texts), m(i) the text of image i, and
    d(a, b) = (1 - cos(a, b)) / 2:

        RMG = D_match / (D_match + (D_image + D_text) / 2),   in [0, 1]
        D_match = mean over i of d(x_i, y_m(i))
        D_image = mean over i ≠ j of d(x_i, x_j);   D_text = mean over i ≠ j of d(y_i, y_j)
        L2M = ‖mean of x - mean of y‖,   in [0, 2]

    (RMG: Schrodi et al., ICLR 2025; L2M: Liang et al., NeurIPS 2022.) The mean cosine of all pairs
    of unit vectors is (‖Σx‖² - N) / (N(N - 1)), so Σx, Σy and Σ cos(x_i, y_m(i)) are enough: no
    N×N matrix. The sums are float64. Unlike the authors' code, which puts 0.001 for a D_match of
    0, perfectly matched features give an RMG of 0.

    Args:
        text_features: `[M, D]`, the unique texts, for CZSL one of each composition; repeating a
            text for each of its images would give another number. L2-normalised inside.

    Raises:
        ValueError: fewer than two texts, or a zero or non-finite vector.

    Examples:
        >>> gap = ModalityGap(torch.eye(2))
        >>> gap.update(torch.tensor([[3.0, 4.0], [4.0, 3.0]]), torch.tensor([1, 0]))
        >>> round(gap.relative(), 4), round(gap.l2(), 4)
        (0.2778, 0.2828)
    """

    def __init__(self, text_features: Tensor) -> None:
        self._text = text_features.detach()
        self._text_sum = _unit_sum(self._text, "text_features")
        if len(self._text) < 2:
            raise ValueError(
                f"text_features has {len(self._text)} rows but must have two at least: the spread "
                "of texts needs them."
            )
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._image_sum = torch.zeros_like(self._text_sum)
        self._match_sum = torch.zeros((), dtype=torch.float64)
        self._images = torch.zeros((), dtype=torch.int64)

    def update(self, image_features: Tensor, match: Tensor) -> None:
        """Take a batch of images.

        Args:
            image_features: `[B, D]`; L2-normalised inside.
            match: `[B]` integer, row of `text_features` that belongs to each image.

        Raises:
            TypeError: `match` is not integer.
            ValueError: shapes that do not fit, a row outside the texts, a zero or non-finite
                vector.
        """
        image = unit_rows(image_features, "image_features")
        if image.shape[1] != self._text.shape[1]:
            raise ValueError(
                f"image_features has D = {image.shape[1]} but must have {self._text.shape[1]} as "
                "text_features: give features of the joint space."
            )
        if match.is_floating_point() or match.dtype == torch.bool:
            raise TypeError(
                f"match is {match.dtype} but must be integers: give rows of text_features."
            )
        match = match.detach().cpu().long()
        if match.shape != (len(image),):
            raise ValueError(
                f"match has shape {list(match.shape)} but must be [{len(image)}]: give one text an "
                "image."
            )
        if bool(((match < 0) | (match >= len(self._text))).any()):
            raise ValueError(
                f"match holds a row outside 0 … {len(self._text) - 1} but must not: give rows of "
                "text_features."
            )
        self._image_sum += image.sum(0)
        text = unit_rows(self._text[match.to(self._text.device)], "text_features")
        self._match_sum += (image * text).sum()
        self._images += len(image)

    def relative(self) -> float:
        """Return the relative modality gap, RMG.

        Raises:
            ValueError: fewer than two images, or all features are one and the same point.
        """
        if self._images < 2:
            raise ValueError(
                f"the gap has seen {int(self._images)} images but must see two at least: the "
                "spread of images needs them."
            )
        match = _distance(self._match_sum / self._images)
        spread = (
            _spread(self._image_sum, int(self._images)) + _spread(self._text_sum, len(self._text))
        ) / 2
        if match + spread == 0:
            raise ValueError(
                "image_features and text_features are one and the same point but must differ: the "
                "gap is undefined."
            )
        return float(match / (match + spread))

    def l2(self) -> float:
        """Return the distance of the two means, L2M.

        Raises:
            ValueError: there is no image.
        """
        if self._images < 1:
            raise ValueError("the gap has seen 0 images but must see one: update() it first.")
        return float((self._image_sum / self._images - self._text_sum / len(self._text)).norm())

    def state(self) -> dict[str, Tensor]:
        """Return the sums over images, for `merge_state`."""
        return {"image": self._image_sum, "match": self._match_sum, "images": self._images}

    def merge_state(self, incoming: "ModalityGap | Mapping[str, Tensor]") -> None:
        """Add the images of another gap over the same texts, or the sums that `state` returned."""
        state = incoming if isinstance(incoming, Mapping) else incoming.state()
        self._image_sum = self._image_sum + state["image"].cpu().double()
        self._match_sum = self._match_sum + state["match"].cpu().double()
        self._images = self._images + state["images"].cpu().long()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Call `reset` and `merge_state`, which do this now."""
        warn_renamed("ModalityGap.load_state", "reset and merge_state")
        self.reset()
        self.merge_state(state)


def relative_modality_gap(image_features: Tensor, text_features: Tensor, match: Tensor) -> float:
    """Compute the relative modality gap, RMG in [0, 1]; for the formula see `ModalityGap`.

    Args:
        image_features: `[N, D]`, N ≥ 2.
        text_features: `[M, D]`, the unique texts, M ≥ 2.
        match: `[N]` integer, row of `text_features` that belongs to each image.

    Raises:
        TypeError: `match` is not integer.
        ValueError: shapes that do not fit, a zero or non-finite vector, N or M below 2.

    Examples:
        >>> two = torch.eye(2)
        >>> relative_modality_gap(two, two, torch.tensor([0, 1]))
        0.0
        >>> relative_modality_gap(two, two, torch.tensor([1, 0]))
        0.5
    """
    gap = ModalityGap(text_features)
    gap.update(image_features, match)
    return gap.relative()


def modality_gap_l2(image_features: Tensor, text_features: Tensor) -> float:
    """Compute the distance of the mean unit image and text features, L2M in [0, 2].

    Args:
        image_features: `[N, D]`.
        text_features: `[M, D]`, the unique texts.

    Raises:
        ValueError: shapes that do not fit, no row, a zero or non-finite vector.

    Examples:
        >>> modality_gap_l2(torch.tensor([[2.0, 0.0]]), torch.tensor([[-1.0, 0.0]]))
        2.0
    """
    image = _unit_sum(image_features, "image_features")
    text = _unit_sum(text_features, "text_features")
    if len(image) != len(text) or not len(image_features) or not len(text_features):
        raise ValueError(
            f"image_features has shape {list(image_features.shape)} and text_features "
            f"{list(text_features.shape)} but both must have a row and the same D: give features "
            "of the joint space."
        )
    return float((image / len(image_features) - text / len(text_features)).norm())


def _unit_sum(features: Tensor, argument: str) -> Tensor:
    """Return the sum of all unit rows, `[D]`, some rows at a time."""
    first, *others = features.split(_ROWS)
    total = unit_rows(first, argument).sum(0)
    for number, rows in enumerate(others, start=1):
        total += unit_rows(rows, argument, number * _ROWS).sum(0)
    return total


def unit_rows(features: Tensor, argument: str, start: int = 0) -> Tensor:
    """Return `[N, D]` rows of length 1 in float64 on the CPU; `start` counts rows before these."""
    if features.ndim != 2 or not features.is_floating_point():
        raise ValueError(
            f"{argument} is {features.dtype} of shape {list(features.shape)} but must be floating "
            "point [N, D]: give one row a feature."
        )
    features = features.detach().cpu().double()
    norms = features.norm(dim=1)
    wrong = ~((norms > 0) & norms.isfinite())
    if bool(wrong.any()):
        row = start + int(wrong.nonzero()[0])
        raise ValueError(
            f"{argument} row {row} is zero or not finite but must have a direction: look at what "
            "made it."
        )
    return features / norms[:, None]


def _distance(cosine: Tensor) -> Tensor:
    return ((1 - cosine) / 2).clamp(min=0)  # rounding may leave -1e-17


def _spread(total: Tensor, count: int) -> Tensor:
    """Return the mean distance of all pairs of `count` unit vectors that add up to `total`."""
    return _distance((total @ total - count) / (count * (count - 1)))
