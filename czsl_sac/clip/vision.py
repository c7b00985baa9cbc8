"""CLIP's vision tower: images in, all tokens of the joint space out."""

from collections.abc import Iterable, Sequence
from math import gcd
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from czsl_sac.checks import check_choice, check_range
from czsl_sac.clip.adapters.layers import choose_layers
from czsl_sac.clip.config import CLIPConfig
from czsl_sac.clip.transformer import ResidualAttentionBlock, Transformer

PatchFeatures = Literal["last", "value"]


class ConvStem(nn.Sequential):
    """3×3 convolutions of stride 2, from `[B, 3, H, W]` to `[B, width, H / 2ⁿ, W / 2ⁿ]`.

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

    What becomes of the patches is free to change at any time:

    - `patch_features="value"` takes, for a patch, the last block's value features instead of what
      its attention mixes: out_proj(W_v ln_1(x) + b_v), without residual and MLP, then `ln_post`
      and `proj` as ever. It needs no training and keeps a patch to its own place, which is how
      MaskCLIP (Zhou et al., "Extract Free Dense Labels from CLIP", ECCV 2022) makes them comparable
      with text. The class token stays what it is.
    - `patch_drop` leaves out that share of each image's patches at the input, drawn anew from
      torch's generator for every image: after the position embedding, before the blocks, so that
      less is gathered in the class token. That is the paper's pilot (Fig. 1b, Fig. 2, Tab. 1);
      FLIP (Li et al., CVPR 2023) pretrains so. The class token is kept, and so is the order.

    Where frozen blocks have run already, as a feature cache has them do, `forward` and
    `layer_states` take states `[B, T, vision_width]` in the place of images and go on with block
    number `first_block`, which is set as an attribute; 0, its default, takes images alone.

    Args:
        config: sizes; the fields of the text tower are not read.
        patch_features: `"last"`, the tokens as the last block leaves them, or `"value"`.
        patch_drop: share of patches left out, in [0, 1).
        patch_drop_eval: whether they are left out in evaluation mode too.

    Raises:
        ValueError: `patch_features` or `patch_drop` is none of these.

    Examples:
        >>> config = CLIPConfig(16, 32, 8, 24, 2, 2, 8, 20, 12, 2, 2)
        >>> VisionTower(config)(torch.zeros(3, 3, 32, 32)).shape
        torch.Size([3, 17, 16])
        >>> VisionTower(config, patch_drop=0.75).train()(torch.zeros(3, 3, 32, 32)).shape
        torch.Size([3, 5, 16])
    """

    def __init__(
        self,
        config: CLIPConfig,
        *,
        patch_features: PatchFeatures = "last",
        patch_drop: float = 0.0,
        patch_drop_eval: bool = False,
    ) -> None:
        super().__init__()
        width = config.vision_width
        self.num_patches = config.num_patches
        self.patch_features = patch_features
        self.patch_drop = patch_drop
        self.patch_drop_eval = patch_drop_eval
        self.image_size = config.image_size
        self.first_block = 0
        self.conv1: nn.Module  # OpenAI's name for the patch embedding
        if config.stem == "conv":
            self.conv1 = ConvStem(width, config.patch_size)
        else:
            size = config.patch_size
            self.conv1 = nn.Conv2d(3, width, kernel_size=size, stride=size, bias=False)
        scale = width**-0.5
        self.class_embedding = _drawn(width, std=scale)
        self.positional_embedding = _drawn(config.num_patches + 1, width, std=scale)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(
            width,
            config.vision_layers,
            config.vision_heads,
            activation=config.activation,
            mlp_width=config.vision_mlp_width,
        )
        self.ln_post = nn.LayerNorm(width)
        self.proj = _drawn(width, config.embed_dim, std=scale)

    @property
    def patch_features(self) -> PatchFeatures:
        """Which features the patches have, `"last"` or `"value"`."""
        return self._patch_features

    @patch_features.setter
    def patch_features(self, value: PatchFeatures) -> None:
        check_choice("patch_features", value, get_args(PatchFeatures))
        self._patch_features: PatchFeatures = value

    @property
    def patch_drop(self) -> float:
        """Share of the patches left out at the input."""
        return self._patch_drop

    @patch_drop.setter
    def patch_drop(self, value: float) -> None:
        check_range("patch_drop", value, low=0.0, below=1.0)
        self._patch_drop = value
        # A whole number: a share that changes would become a symbol of torch.compile.
        self._kept_patches = self.num_patches - min(
            round(value * self.num_patches), self.num_patches - 1
        )

    def forward(self, images: Tensor) -> Tensor:
        """Encode images.

        Args:
            images: `[B, 3, image_size, image_size]`, normalised with the backbone's mean and std;
                cast to the tower's dtype. With `first_block`, or states that enter that block.

        Returns:
            Tokens `[B, T, D]`, class token first; not normalised. T is L + 1, or less where
            patches are left out.

        Raises:
            ValueError: the images are not of that shape.
        """
        return self.project(self.states(images))

    def states(self, images: Tensor) -> Tensor:
        """Return the tokens that `project` maps to the joint space.

        For methods that work on them, as DFSP does.

        Args:
            images: as for `forward`.

        Returns:
            States `[B, T, vision_width]`, class token first, before `ln_post`.

        Raises:
            ValueError: the images are not of that shape.
        """
        return self.layer_states(images, [len(self.transformer.resblocks) - 1])[0]

    def layer_states(self, images: Tensor, layers: Iterable[int]) -> list[Tensor]:
        """Return the tokens that some blocks give, in one pass.

        For methods that read several layers. `project` maps the last block's to the joint space.

        Args:
            images: as for `forward`.
            layers: numbers of the blocks, counted from 0.

        Returns:
            States `[B, T, vision_width]` after each of these blocks, first to last; class token
            first. With `patch_features="value"` the last block's patches are their value features.

        Raises:
            ValueError: the images are not of that shape, or there is no such block.

        Examples:
            >>> tower = VisionTower(CLIPConfig(16, 32, 8, 24, 2, 2, 8, 20, 12, 2, 2))
            >>> first, last = tower.layer_states(torch.zeros(3, 3, 32, 32), layers=[0, 1])
            >>> first[:, 0].shape, tower.project(last).shape
            (torch.Size([3, 24]), torch.Size([3, 17, 16]))
        """
        blocks = cast("Sequence[ResidualAttentionBlock]", self.transformer.resblocks)
        wanted = choose_layers(range(len(blocks)), layers, "blocks", self)
        first = self.first_block if images.dim() == 3 else 0
        if wanted[0] < first:
            raise ValueError(
                f"layers is {wanted} but must be {first} or more: the states given are those that "
                f"enter block {first}; give images."
            )
        x, states = images if first else self.embed(images), []
        for number in range(first, wanted[-1] + 1):
            block, before = blocks[number], x
            x = self.transformer.run_block(block, x)
            if self.patch_features == "value" and number + 1 == len(blocks):
                values = block.attn.values(block.ln_1(before[:, 1:]))
                x = torch.cat([x[:, :1], values.to(x.dtype)], dim=1)
            if number in wanted:
                states.append(x)
        return states

    def embed(self, images: Tensor) -> Tensor:
        """Return what enters the first block, `[B, T, vision_width]`.

        Args:
            images: as for `forward`.

        Raises:
            ValueError: the images are not of that shape.
        """
        size = self.image_size
        if images.dim() != 4 or images.shape[1:] != (3, size, size):
            raise ValueError(
                f"images has the shape {list(images.shape)} but must be [B, 3, {size}, {size}]: "
                "resize and crop them to the backbone's image_size."
            )
        patches = self.conv1(images.to(self.proj.dtype)).flatten(2).transpose(1, 2)
        patches = patches + self.positional_embedding[1:]
        if self.training or self.patch_drop_eval:
            patches = _keep_patches(patches, self._kept_patches)
        class_token = (self.class_embedding + self.positional_embedding[0]).expand(
            patches.shape[0], 1, -1
        )
        return self.ln_pre(torch.cat([class_token, patches], dim=1))

    def project(self, states: Tensor) -> Tensor:
        """Map states `[..., vision_width]` to the joint space, `[..., D]`: `ln_post`, `proj`."""
        return self.ln_post(states) @ self.proj


def _keep_patches(patches: Tensor, kept: int) -> Tensor:
    """Keep a random choice of the patches `[B, L, W]` of each image, in their order."""
    if kept == patches.shape[1]:
        return patches
    places = torch.rand(patches.shape[:2], device=patches.device).topk(kept, dim=1).indices
    return patches.take_along_dim(places.sort(dim=1).values.unsqueeze(-1), dim=1)


def _drawn(*shape: int, std: float) -> nn.Parameter:
    """Return a parameter drawn from a normal distribution."""
    return nn.Parameter(nn.init.normal_(torch.empty(shape), std=std))
