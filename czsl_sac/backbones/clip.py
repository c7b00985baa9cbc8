"""CLIP as the package sees it: images to tokens of the joint space, prompts to features."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd, log
from typing import Literal

import torch
from torch import Tensor, nn

from czsl_sac.backbones.checksum import weights_checksum
from czsl_sac.backbones.lora import merged_state_dict
from czsl_sac.modules.transformer import Activation, Transformer
from czsl_sac.text.tower import TextTower, Tokenizer

__all__ = [
    "OPENAI_MEAN",
    "OPENAI_STD",
    "CLIPBackbone",
    "CLIPConfig",
    "VisionTower",
    "infer_config",
]

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class CLIPConfig:
    """The sizes of a CLIP with a vision transformer; plain values, fit for JSON.

    Attributes:
        embed_dim: size of the joint space, D.
        image_size: side of the square images in pixels.
        patch_size: side of a patch in pixels; L = (image_size / patch_size)².
        vision_width: size of a vision token.
        vision_layers: number of vision blocks.
        vision_heads: heads of each vision block.
        context_length: largest number of tokens of a text.
        vocab_size: number of token ids.
        text_width: size of a text token, W.
        text_layers: number of text blocks.
        text_heads: heads of each text block.
        activation: "quick_gelu" (OpenAI's weights) or "gelu".
        stem: how pixels become patch tokens: "patch", one convolution as large as a patch (the
            vision transformer's), or "conv", small strided convolutions, which learn far faster
            from few images.
        vision_mlp_width: hidden size of the MLP of a vision block; None for 4 × vision_width.

    Raises:
        ValueError: if the sizes do not fit together.
    """

    embed_dim: int
    image_size: int
    patch_size: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    context_length: int
    vocab_size: int
    text_width: int
    text_layers: int
    text_heads: int
    activation: Activation = "quick_gelu"
    stem: Literal["patch", "conv"] = "patch"
    vision_mlp_width: int | None = None

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size must be a multiple of patch_size, got {self.image_size} and "
                f"{self.patch_size}"
            )
        if self.stem not in ("patch", "conv"):
            raise ValueError(f"stem must be 'patch' or 'conv', got {self.stem!r}")
        if self.stem == "conv" and (self.patch_size < 2 or self.patch_size.bit_count() != 1):
            raise ValueError(
                "patch_size must be a power of two with stem='conv', which halves the image at "
                f"each convolution, got {self.patch_size}"
            )

    @property
    def num_patches(self) -> int:
        """Patch tokens of an image, L."""
        return (self.image_size // self.patch_size) ** 2


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


class CLIPBackbone(nn.Module):
    """CLIP's two towers behind the interface that every method here uses.

    To freeze it, `backbone.requires_grad_(False)` suffices: nothing in it has other state.

    Args:
        config: sizes of both towers.
        tokenizer: turns texts into ids of the text tower's vocabulary.
        name: for printouts and checkpoints.
        mean: what to subtract from each colour of an image in [0, 1].
        std: what to divide it by afterwards.

    Attributes:
        visual: images to tokens, a `VisionTower`.
        text: prompts to features, a `TextTower`.
        logit_scale: logarithm of 1/τ, a scalar parameter.

    >>> from types import SimpleNamespace
    >>> words = SimpleNamespace(sot=18, eot=19)
    >>> backbone = CLIPBackbone(CLIPConfig(16, 32, 8, 24, 2, 2, 8, 20, 12, 2, 2), words)
    >>> backbone.encode_image(torch.zeros(3, 3, 32, 32)).shape
    torch.Size([3, 17, 16])
    >>> backbone.encode_text(torch.tensor([[18, 3, 4, 19, 0]])).shape
    torch.Size([1, 16])
    >>> round(backbone.temperature, 3)
    0.07
    """

    def __init__(
        self,
        config: CLIPConfig,
        tokenizer: Tokenizer,
        *,
        name: str = "clip",
        mean: tuple[float, float, float] = OPENAI_MEAN,
        std: tuple[float, float, float] = OPENAI_STD,
    ) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.name = name
        self.mean = mean
        self.std = std
        self.visual = VisionTower(config)
        self.text = TextTower(
            config.embed_dim,
            context_length=config.context_length,
            vocab_size=config.vocab_size,
            width=config.text_width,
            layers=config.text_layers,
            heads=config.text_heads,
            activation=config.activation,
        )
        self.logit_scale = nn.Parameter(torch.tensor(log(1 / 0.07)))
        self._base_checksum: str | None = None

    @property
    def base_checksum(self) -> str:
        """SHA-256 of all weights but those of LoRA and adapters, as hexadecimal digits.

        Adapter files and feature caches name the weights that they belong to by it. It is
        computed from the weights as they are, unless `remember_base` was called.
        """
        return self._base_checksum or weights_checksum(self)

    def remember_base(self) -> None:
        """Keeps today's `base_checksum`, before the weights are stored in lower precision."""
        self._base_checksum = self.base_checksum

    @property
    def embed_dim(self) -> int:
        """Size of the joint space, D."""
        return self.config.embed_dim

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self.config.image_size

    @property
    def temperature(self) -> float:
        """CLIP's own τ, 1 / exp(logit_scale); 0.01 in OpenAI's weights."""
        return float(self.logit_scale.detach().neg().exp())

    def encode_image(self, images: Tensor) -> Tensor:
        """Encodes images as tokens.

        Args:
            images: [B, 3, H, W], see `VisionTower.forward`; or tokens [B, T, D] or [B, 1, D] that
                this method gave before, as a feature cache keeps them, which are given back.

        Returns:
            Tokens [B, T, D], class token first; not normalised.

        Raises:
            ValueError: if the shape is none of these.
        """
        if images.dim() != 3:
            return self.visual(images)
        lengths = (1, self.config.num_patches + 1)
        if images.shape[1] not in lengths or images.shape[2] != self.embed_dim:
            raise ValueError(
                f"images has the shape {list(images.shape)}, which is neither images "
                f"[B, 3, {self.image_size}, {self.image_size}] nor tokens "
                f"[B, {lengths[1]}, {self.embed_dim}]"
            )
        return images

    def encode_text(self, ids: Tensor) -> Tensor:
        """Encodes token ids, as the tokenizer gives them, as features [P, D], not normalised.

        Args:
            ids: [P, n] int64, n ≤ `context_length`, each row with an end-of-text token.

        Returns:
            Features [P, D].

        Raises:
            ValueError: if a row has no end-of-text token.
        """
        is_end = ids == self.tokenizer.eot
        if not torch.compiler.is_compiling() and not bool(is_end.any(dim=-1).all()):
            raise ValueError(
                f"ids must hold the end-of-text token {self.tokenizer.eot} in every row, missing "
                f"in row {int(is_end.any(dim=-1).int().argmin())}: take ids from the tokenizer"
            )
        return self.text(ids, is_end.int().argmax(dim=-1))

    @classmethod
    def from_openai_state_dict(
        cls,
        state_dict: Mapping[str, Tensor],
        tokenizer: Tokenizer,
        *,
        name: str = "clip",
        config: CLIPConfig | None = None,
        mean: tuple[float, float, float] = OPENAI_MEAN,
        std: tuple[float, float, float] = OPENAI_STD,
    ) -> "CLIPBackbone":
        """Builds a backbone from weights in OpenAI's layout, copied and cast to float32.

        Args:
            state_dict: of any of OpenAI's vision transformers, of whatever float type.
            tokenizer: turns texts into ids of the text tower's vocabulary.
            name: for printouts and checkpoints.
            config: the sizes. By default read off the weights; heads and activation leave no
                trace in weights and are taken to be OpenAI's, 64 channels a head and QuickGELU.
            mean: what to subtract from each colour of an image in [0, 1].
            std: what to divide it by afterwards.

        Returns:
            The backbone, in evaluation mode.

        Raises:
            ValueError: if the weights are a ResNet's, or not a CLIP's.
        """
        weights = {
            _from_openai(key): value.detach().to(
                torch.float32, copy=True, memory_format=torch.contiguous_format
            )
            for key, value in state_dict.items()
            if key not in _ARCHIVE_CONSTANTS
        }
        if config is None:
            config = infer_config(state_dict)
        with torch.device("meta"):  # the random draw would take longer than the loading
            backbone = cls(config, tokenizer, name=name, mean=mean, std=std)
        expected = backbone.state_dict().keys()
        if expected != weights.keys():
            raise ValueError(
                "state_dict does not hold the weights of a CLIP with a vision transformer: "
                f"missing {sorted(expected - weights.keys())[:3]}, unexpected "
                f"{sorted(weights.keys() - expected)[:3]} (at most three of each are shown)"
            )
        backbone.load_state_dict(weights, assign=True)
        return backbone.eval()

    def openai_state_dict(self) -> dict[str, Tensor]:
        """Gives the weights under OpenAI's names, for `clip`'s own `load_state_dict`.

        LoRA, where there is some, is merged into them.

        Raises:
            ValueError: if the backbone has AdaptFormer's adapters, which no CLIP weight can hold.
        """
        weights = merged_state_dict(self)
        if any("_adapter." in key for key in weights):
            raise ValueError(
                "the backbone has adapters (apply_adaptformer), which cannot be merged into the "
                "weights of a plain CLIP: save its own state_dict instead"
            )
        return {key.removeprefix("text."): value for key, value in weights.items()}


# Numbers that OpenAI's archives keep beside the weights.
_ARCHIVE_CONSTANTS = frozenset({"input_resolution", "context_length", "vocab_size"})


def _from_openai(key: str) -> str:
    """Renames a weight: OpenAI keeps the text tower's at the root."""
    return key if key.startswith("visual.") or key == "logit_scale" else f"text.{key}"


def infer_config(state_dict: Mapping[str, Tensor]) -> CLIPConfig:
    """Reads the sizes of an OpenAI CLIP off its weights.

    Args:
        state_dict: in OpenAI's layout, of a vision transformer.

    Returns:
        The sizes, with 64 channels a head and QuickGELU, which leave no trace in weights.

    Raises:
        ValueError: if the weights are a ResNet's, or not a CLIP's.
    """
    if "visual.layer1.0.conv1.weight" in state_dict:
        raise ValueError(
            "state_dict holds a ResNet CLIP, whose features are not tokens of the joint space: "
            "take a vision transformer, e.g. ViT-L/14"
        )
    try:
        patches = state_dict["visual.conv1.weight"].shape
        positions = state_dict["visual.positional_embedding"].shape[0] - 1
        embed_dim = state_dict["visual.proj"].shape[1]
        context_length = state_dict["positional_embedding"].shape[0]
        vocab_size, text_width = state_dict["token_embedding.weight"].shape
        inner = state_dict["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
    except KeyError as error:
        raise ValueError(
            f"state_dict does not hold the weights of an OpenAI CLIP: {error} is missing"
        ) from error
    return CLIPConfig(
        embed_dim=embed_dim,
        image_size=patches[-1] * round(positions**0.5),
        patch_size=patches[-1],
        vision_width=patches[0],
        vision_layers=_count_blocks(state_dict, "visual.transformer.resblocks."),
        vision_heads=patches[0] // 64,
        vision_mlp_width=None if inner == 4 * patches[0] else inner,
        context_length=context_length,
        vocab_size=vocab_size,
        text_width=text_width,
        text_layers=_count_blocks(state_dict, "transformer.resblocks."),
        text_heads=text_width // 64,
    )


def _count_blocks(state_dict: Mapping[str, Tensor], prefix: str) -> int:
    keys = (key.removeprefix(prefix) for key in state_dict if key.startswith(prefix))
    return len({key.split(".")[0] for key in keys})
