"""The sizes of a CLIP, and how to read them off its weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from czsl_sac.checks import check_choice
from czsl_sac.clip.transformer import Activation

ARCHIVE_CONSTANTS = frozenset({"input_resolution", "context_length", "vocab_size"})
"""Numbers that OpenAI's archives keep beside the weights."""


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
        ValueError: the sizes do not fit together.
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
                f"image_size is {self.image_size} but must be a multiple of patch_size "
                f"{self.patch_size}: change one of them."
            )
        check_choice("stem", self.stem, ("patch", "conv"))
        if self.stem == "conv" and (self.patch_size < 2 or self.patch_size.bit_count() != 1):
            raise ValueError(
                f"patch_size is {self.patch_size} but must be a power of two with stem='conv', "
                "which halves the image at each convolution: take 4, 8 or 16."
            )

    @property
    def num_patches(self) -> int:
        """Patch tokens of an image, L."""
        return (self.image_size // self.patch_size) ** 2


def infer_config(state_dict: Mapping[str, Tensor]) -> CLIPConfig:
    """Read the sizes of an OpenAI CLIP off its weights.

    Args:
        state_dict: in OpenAI's layout, of a vision transformer.

    Returns:
        The sizes, with 64 channels a head and QuickGELU, which leave no trace in weights.

    Raises:
        ValueError: the weights are a ResNet's, or not a CLIP's.
    """
    if "visual.layer1.0.conv1.weight" in state_dict:
        raise ValueError(
            "state_dict is a ResNet CLIP's, whose features are not tokens of the joint space, but "
            "must be a vision transformer's: take e.g. ViT-L/14."
        )
    if any(key.startswith("vision_model.") for key in state_dict):
        raise ValueError(
            "state_dict has the names of transformers' CLIPModel but must have OpenAI's: save it "
            "by save_pretrained(FOLDER) and load transformers:FOLDER."
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
            f"state_dict is without {error} but must be that of an OpenAI CLIP with a vision "
            "transformer: save model.state_dict() of the whole CLIP."
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
