"""The published augmentation for a whole batch on its device: mirror, tilt and turn at once."""

from math import pi

import torch
import torch.nn.functional as F
from torch import Tensor

MIRRORED, TILTED = 0.5, 0.5  # probabilities
TILT = 0.5  # how far corners move, by half a side
TURN = 5.0  # degrees


def distort(images: Tensor) -> Tensor:
    """Return images `[B, 3, S, S]` mirrored, tilted and turned at random, each in its own way.

    With the probabilities and ranges of torchvision's `RandomHorizontalFlip`, `RandomPerspective`
    and `RandomRotation(5)`, one after the other; what lies outside the image is 0. The three are
    one map of the plane, sampled once (bilinear), where the published loaders sample twice. Random
    numbers are drawn on the CPU from torch's generator: the same on every device.

    Examples:
        >>> distort(torch.ones(2, 3, 32, 32)).shape
        torch.Size([2, 3, 32, 32])
    """
    B, side = images.shape[0], images.shape[-1]
    mirrored = torch.rand(B) < MIRRORED
    tilted = torch.rand(B) < TILTED
    corners = torch.randint(0, int(TILT * (side // 2)) + 1, (B, 4, 2))
    corners[~tilted] = 0
    angles = (2 * torch.rand(B) - 1) * TURN
    return sample(images, plane_maps(side, mirrored, corners, angles))


def plane_maps(side: int, mirrored: Tensor, corners: Tensor, angles: Tensor) -> Tensor:
    """Return the map from each place of a distorted image to its place before, `[B, 3, 3]`.

    Places are in pixels, `(x, y, 1)`, the middle of the first pixel being (0.5, 0.5).

    Args:
        side: of the square images, S.
        mirrored: whether an image is mirrored first, `[B]` bool.
        corners: how far its corners then move inwards, `(x, y)` of top left, top right, bottom
            right and bottom left, in pixels: `[B, 4, 2]`.
        angles: by how much it is turned at last, counter-clockwise in degrees: `[B]`.
    """
    B = len(mirrored)
    mirror = torch.eye(3, dtype=torch.float64).repeat(B, 1, 1)
    mirror[mirrored, 0, 0], mirror[mirrored, 0, 2] = -1.0, float(side)
    # Rotation about the middle: from a place afterwards to that before.
    cos, sin = (f(angles.double() * (pi / 180)) for f in (torch.cos, torch.sin))
    turn = torch.zeros(B, 3, 3, dtype=torch.float64)
    turn[:, 0, 0], turn[:, 0, 1], turn[:, 1, 0], turn[:, 1, 1] = cos, -sin, sin, cos
    middle = torch.full((2,), side / 2, dtype=torch.float64)
    turn[:, :2, 2] = middle - turn[:, :2, :2] @ middle
    turn[:, 2, 2] = 1.0
    return mirror @ _tilts(side, corners) @ turn


def _tilts(side: int, corners: Tensor) -> Tensor:
    """Return the projective maps that take moved corners to the image's, `[B, 3, 3]`."""
    far = side - 1
    before = torch.tensor([[0, 0], [far, 0], [far, far], [0, far]], dtype=torch.float64)
    inwards = torch.tensor([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    after = before + corners * inwards
    B = len(corners)
    ones, zeros = torch.ones(B, 4, 1), torch.zeros(B, 4, 3)
    rows = torch.cat([after, ones], -1)
    # For each corner and coordinate: (a x + b y + c) - before (g x + h y) = before.
    system = torch.stack(
        [
            torch.cat([*parts, -before[:, i, None] * after], -1)
            for i, parts in enumerate(((rows, zeros), (zeros, rows)))
        ],
        2,
    ).reshape(B, 8, 8)
    solved = torch.linalg.solve(system, before.reshape(8).expand(B, 8))
    return torch.cat([solved, ones[:, 0]], -1).view(B, 3, 3)


def sample(images: Tensor, maps: Tensor) -> Tensor:
    """Return images whose places show what lay where the maps lead, 0 outside.

    Args:
        images: `[B, 3, S, S]`, float.
        maps: `[B, 3, 3]`, in pixels as `plane_maps` gives them.
    """
    side = images.shape[-1]
    middles = torch.arange(side, device=images.device, dtype=images.dtype) + 0.5
    y, x = torch.meshgrid(middles, middles, indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)], -1).view(-1, 3)
    led = places @ maps.to(images).mT
    grid = led[..., :2] / led[..., 2:] * (2 / side) - 1
    return F.grid_sample(images, grid.view(-1, side, side, 2), align_corners=False)
