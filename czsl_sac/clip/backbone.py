"""CLIP as the package sees it: images to tokens of the joint space, prompts to features."""

from collections.abc import Mapping
from math import log

import torch
from torch import Tensor, nn

from czsl_sac.clip.adapters.lora import merged_state_dict
from czsl_sac.clip.checkpoints import plain_weights
from czsl_sac.clip.checksum import weights_checksum
from czsl_sac.clip.config import ARCHIVE_CONSTANTS, CLIPConfig, infer_config
from czsl_sac.clip.text_tower import TextTower, Tokenizer
from czsl_sac.clip.unfilled import unfilled
from czsl_sac.clip.vision import VisionTower

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


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

    Examples:
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
        """Keep today's `base_checksum`, before the weights are stored in lower precision."""
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
        """Encode images as tokens.

        Args:
            images: `[B, 3, H, W]`, see `VisionTower.forward`; or tokens `[B, T, D]` of any number
                from 1 to L + 1 that this method gave before, as a feature cache keeps them, which
                are given back; or, with `visual.first_block`, states that enter that block.

        Returns:
            Tokens `[B, T, D]`, class token first; not normalised.

        Raises:
            ValueError: the shape is none of these.
        """
        if images.dim() != 3 or self.visual.first_block:
            return self.visual(images)
        most = self.config.num_patches + 1
        if not 1 <= images.shape[1] <= most or images.shape[2] != self.embed_dim:
            side = self.image_size
            raise ValueError(
                f"images has the shape {list(images.shape)} but must be [B, 3, {side}, {side}], or "
                f"tokens [B, 1 to {most}, {self.embed_dim}]: resize the images, or take tokens of "
                "this backbone."
            )
        return images

    def encode_text(self, ids: Tensor) -> Tensor:
        """Encode token ids, as the tokenizer gives them, as features `[P, D]`, not normalised.

        Args:
            ids: `[P, n]` int64, n ≤ `context_length`, each row with an end-of-text token.

        Returns:
            Features `[P, D]`.

        Raises:
            ValueError: a row has no end-of-text token.
        """
        is_end = ids == self.tokenizer.eot
        if not torch.compiler.is_compiling() and not bool(is_end.any(dim=-1).all()):
            raise ValueError(
                f"ids has row {int(is_end.any(dim=-1).int().argmin())} without the end-of-text "
                f"token {self.tokenizer.eot} but every row must have it: take ids from the "
                "tokenizer."
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
        """Build a backbone from weights in OpenAI's layout, copied and cast to float32.

        Args:
            state_dict: of any of OpenAI's vision transformers, of whatever float type, as
                `plain_weights` takes it.
            tokenizer: turns texts into ids of the text tower's vocabulary.
            name: for printouts and checkpoints.
            config: the sizes; None reads them off the weights. Heads and activation leave no
                trace in weights and are then OpenAI's, 64 channels a head and QuickGELU.
            mean: what to subtract from each colour of an image in [0, 1].
            std: what to divide it by afterwards.

        Returns:
            The backbone, in evaluation mode.

        Raises:
            ValueError: the weights are a ResNet's, or not a CLIP's.
        """
        weights = {
            _from_openai(key): value.detach().to(
                torch.float32, copy=True, memory_format=torch.contiguous_format
            )
            for key, value in plain_weights(state_dict).items()
            if key not in ARCHIVE_CONSTANTS
        }
        if config is None:
            config = infer_config(plain_weights(state_dict))
        with unfilled():
            backbone = cls(config, tokenizer, name=name, mean=mean, std=std)
        check_weights(backbone, weights)
        backbone.load_state_dict(weights, assign=True)
        return backbone.eval()

    def openai_state_dict(self) -> dict[str, Tensor]:
        """Return the weights under OpenAI's names, for `clip`'s own `load_state_dict`.

        LoRA, where there is some, is merged into them.

        Raises:
            ValueError: the backbone has AdaptFormer's adapters, which no CLIP weight can hold.
        """
        weights = merged_state_dict(self)
        if any("_adapter." in key for key in weights):
            raise ValueError(
                "backbone has adapters of apply_adaptformer, which cannot be merged, but must be "
                "without them to become a plain CLIP: save its own state_dict."
            )
        return {key.removeprefix("text."): value for key, value in weights.items()}


def check_weights(backbone: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not those of the backbone, by name or by shape.

    Raises:
        ValueError: some are missing, too many, or of another shape.
    """
    expected = backbone.state_dict()
    if expected.keys() != weights.keys():
        raise ValueError(
            f"state_dict is without {sorted(expected.keys() - weights.keys())[:3]} and has "
            f"{sorted(weights.keys() - expected.keys())[:3]} (at most three of each are shown) but "
            "must have the names of a CLIP with a vision transformer: save the whole CLIP, alone."
        )
    for key, weight in weights.items():
        if weight.shape != expected[key].shape:
            raise ValueError(
                f"state_dict has {key} of the shape {list(weight.shape)} but it must be "
                f"{list(expected[key].shape)}, as the other weights have it: save the whole CLIP."
            )


def _from_openai(key: str) -> str:
    """Rename a weight: OpenAI keeps the text tower's at the root."""
    return key if key.startswith("visual.") or key == "logit_scale" else f"text.{key}"
