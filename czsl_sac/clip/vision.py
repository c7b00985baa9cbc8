"""CLIP's vision tower: images in, all tokens of the joint space out."""

from math import gcd

import torch
from torch import Tensor, nn

from czsl_sac.clip.config import CLIPConfig
from czsl_sac.clip.transformer import Transformer

__all__ = ["VisionTower"]


class ConvStem(nn.Sequential):
    """3×3 convolutions of stride 2, from an image [B, 3, H, W] to [B, width, H/2ⁿ, W/2ⁿ].

    Between them group norm, which unlike batch norm has no state that a frozen tower in training
    mode would change. The last convolution has none, for the tower's `ln_pre` follows it.
    """

    def __init__(self, width: int, patch_size: int) -> None:
        halvings = patch_size.bit_length() - 1
        channels = [3, *(max(width >> (halvings - 1 - i), 8) for i in range(halvings - 1)), width]
        layers: list[nn.Module] = []
        for i in range(halvings):
            layers.append(nn.Conv2d(channels[i], channels[i + 1], 3, stride=2, padding=1))
            if i + 1 < halvings:
                layers += [nn.GroupNorm(gcd(8, channels[i + 1]), channels[i + 1]), nn.GELU()]
        super().__init__(*layers)


class VisionTower(nn.Module):
    """CLIP's vision transformer, giving all its tokens in the joint space.

    The parameters carry OpenAI's names. `ln_post` and `proj`, which OpenAI's CLIP applies to the
    class token, are applied to every token: that is where patches become comparable with text
    (paper, Sec. 3, Visual Representations). The class token comes first.

    Args:
        config: sizes; the fields of the text tower are not read.

    >>> config = CLIPConfig(16, 32, 8, 24, 2, 2, 8, 20, 12, 2, 2)
    >>> VisionTower(config)(torch.zeros(3, 3, 32, 32)).shape
    torch.Size([3, 17, 16])
    """

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        width = config.vision_width
        self.image_size = config.image_size
        self.conv1: nn.Module  # OpenAI's name for the patch embedding
        if config.stem == "conv":
            self.conv1 = ConvStem(width, config.patch_size)
        else:
            size = config.patch_size
            self.conv1 = nn.Conv2d(3, width, kernel_size=size, stride=size, bias=False)
        scale = width**-0.5
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(config.num_patches + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(
            width,
            config.vision_layers,
            config.vision_heads,
            activation=config.activation,
            mlp_width=config.vision_mlp_width,
        )
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, config.embed_dim))

    def forward(self, images: Tensor) -> Tensor:
        """Encodes images.

        Args:
            images: [B, 3, image_size, image_size], normalised with the backbone's mean and std;
                cast to the tower's dtype.

        Returns:
            Tokens [B, T, D], class token first; not normalised.

        Raises:
            ValueError: if the images are not of that shape.
        """
        return self.project(self.states(images))

    def states(self, images: Tensor) -> Tensor:
        """Gives the tokens as the last block leaves them, which `project` maps to the joint space.

        For methods that work on them, as DFSP does.

        Args:
            images: as for `forward`.

        Returns:
            States [B, T, vision_width], class token first, before `ln_post`.

        Raises:
            ValueError: if the images are not of that shape.
        """
        expected = (3, self.image_size, self.image_size)
        if images.dim() != 4 or images.shape[1:] != expected:
            raise ValueError(
                f"images must have shape [B, 3, {self.image_size}, {self.image_size}], got "
                f"{list(images.shape)}: resize and crop them to the backbone's image_size"
            )
        patches = self.conv1(images.to(self.proj.dtype)).flatten(2).transpose(1, 2)
        class_token = self.class_embedding.expand(patches.shape[0], 1, -1)
        tokens = torch.cat([class_token, patches], dim=1) + self.positional_embedding
        return self.transformer(self.ln_pre(tokens))

    def project(self, states: Tensor) -> Tensor:
        """Maps states [..., vision_width] to the joint space, [..., D]: `ln_post`, then `proj`."""
        return self.ln_post(states) @ self.proj
