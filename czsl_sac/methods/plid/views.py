"""Further views of an image: random crops, mirrored, mixed by AugMix (PLID)."""

import torch
from torch import Tensor

from czsl_sac.clip.backbone import CLIPBackbone


def augmented_views(images: Tensor, backbone: CLIPBackbone, count: int) -> Tensor:
    """Return random views of images: a resized crop, mirrored or not, and AugMix of severity 1.

    Draws from torch's generator.

    Args:
        images: `[B, 3, H, W]`, normalised for the backbone.
        backbone: who normalised them.
        count: V, views of each.

    Returns:
        `[B, V, 3, H, W]`, normalised.
    """
    from torchvision import transforms  # takes seconds, which other methods do without

    change = transforms.Compose(
        [
            transforms.RandomResizedCrop(images.shape[-1], antialias=True),
            transforms.RandomHorizontalFlip(),
            transforms.AugMix(severity=1, mixture_width=3, chain_depth=-1, alpha=1.0),
        ]
    )
    mean, std = (images.new_tensor(each)[:, None, None] for each in (backbone.mean, backbone.std))
    bytes_ = ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    views = torch.stack([torch.stack([change(image) for _ in range(count)]) for image in bytes_])
    return (views.to(images.dtype) / 255 - mean) / std


def repeatable_views(images: Tensor, backbone: CLIPBackbone, count: int, seed: int) -> Tensor:
    """Return views that depend on nothing but the image: every one is changed in the same ways.

    Args:
        images: as for `augmented_views`.
        backbone: likewise.
        count: likewise.
        seed: decides the ways.
    """
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        views = []
        for image in images.split(1):
            torch.manual_seed(seed)
            views.append(augmented_views(image, backbone, count))
    return torch.cat(views)
