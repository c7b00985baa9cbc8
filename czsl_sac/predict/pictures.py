"""What all pictures need: matplotlib, which is optional, and images as they were before CLIP."""

from importlib.util import find_spec

import torch
from torch import Tensor

from czsl_sac.clip.backbone import CLIPBackbone


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


def visible(images: Tensor, backbone: CLIPBackbone) -> Tensor:
    """Return normalised images as colours.

    Args:
        images: `[B, 3, H, W]`, normalised with the backbone's mean and deviation.
        backbone: who looked at them.

    Returns:
        `[B, H, W, 3]` in [0, 1], float32, on the CPU.
    """
    mean, std = torch.tensor(backbone.mean), torch.tensor(backbone.std)
    return (images.float().cpu().permute(0, 2, 3, 1) * std + mean).clamp(0, 1)
