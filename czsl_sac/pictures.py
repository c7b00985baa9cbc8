"""What all pictures need: matplotlib, which is optional, and images as they were before CLIP."""

from importlib.util import find_spec

import torch
from torch import Tensor


def require_matplotlib(wanted: str) -> None:
    """Refuse to go on without matplotlib.

    Args:
        wanted: what is to be drawn, in the plural.

    Raises:
        ImportError: matplotlib is not installed; the message says how to get it.
    """
    if find_spec("matplotlib") is None:
        raise ImportError(
            f"{wanted} are drawn with matplotlib, which is not installed: "
            'pip install "czsl-sac[viz]"'
        )


def colours(
    images: Tensor, *, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Tensor:
    """Return normalised images as colours.

    Args:
        images: `[B, 3, H, W]`, normalised.
        mean: of each colour, as it was subtracted.
        std: of each colour, as it divided.

    Returns:
        `[B, H, W, 3]` in [0, 1], float32, on the CPU.

    Examples:
        >>> black = torch.full((1, 3, 2, 2), -2.0)
        >>> colours(black, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)).unique()
        tensor([0.])
    """
    shown = images.float().cpu().permute(0, 2, 3, 1) * torch.tensor(std) + torch.tensor(mean)
    return shown.clamp(0, 1)
