"""Concept shift: an image's attribute, or object, taken from another image of the batch."""

from typing import NamedTuple

import torch
from torch import Tensor


class Donors(NamedTuple):
    """Which images of the batch give attribute and object, `[B]` each; most give their own."""

    attribute: Tensor
    object: Tensor


def draw_donors(pairs: Tensor, is_seen: Tensor, probability: float) -> Donors:
    """Choose donors so that every new composition is a seen one.

    An image is shifted with the given probability, in its attribute or in its object, one as often
    as the other. The donor of an attribute is drawn from the images of another attribute that is
    seen with the object; that of an object likewise. An image without a donor stays as it is.

    Args:
        pairs: attribute and object of each image, `[B, 2]`.
        is_seen: which attribute is seen with which object, `[A, O]` bool.
        probability: of a shift.

    Examples:
        >>> pairs = torch.tensor([[0, 0], [1, 0]])
        >>> draw_donors(pairs, torch.tensor([[True], [True]]), 0.0).attribute
        tensor([0, 1])
    """
    attribute, object_ = pairs.T
    shifts_attribute = is_seen[attribute[None], object_[:, None]] & _differ(attribute)
    shifts_object = is_seen[attribute[:, None], object_[None]] & _differ(object_)
    chance = torch.rand(len(pairs), device=pairs.device)
    return Donors(
        _drawn(shifts_attribute, chance < probability / 2),
        _drawn(shifts_object, chance > 1 - probability / 2),
    )


def _differ(labels: Tensor) -> Tensor:
    return labels[:, None] != labels[None]


def _drawn(allowed: Tensor, is_shifted: Tensor) -> Tensor:
    """Return one allowed column of each shifted row that has some, else the row's own number."""
    own = torch.eye(len(allowed), dtype=torch.bool, device=allowed.device)
    shifts = (is_shifted & allowed.any(1)).unsqueeze(1)
    return torch.where(shifts, allowed, own).float().multinomial(1).squeeze(1)
