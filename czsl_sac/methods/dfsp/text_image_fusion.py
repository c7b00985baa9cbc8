"""Fusion of a prompt's tokens and an image's tokens before the joint space (DFSP).

Lu et al., "Decomposed Soft Prompt Guided Fusion Enhancing for Compositional Zero-Shot Learning"
(CVPR 2023). All of it works on states: what the last block of a tower leaves, before its final
norm and projection.
"""

from typing import Literal, get_args

from torch import Tensor, nn

from czsl_sac.checks import check_choice
from czsl_sac.clip.transformer import ResidualAttentionBlock
from czsl_sac.methods.cross_attention import CrossBlock

Fusion = Literal["txt2img", "img2txt"]


class TextImageFusion(nn.Module):
    """Lets the image's tokens attend to the primitives' prompts, or the other way round.

    `"txt2img"`: linear maps turn the n·P prompt tokens of the P primitives into T tokens of the
    image's width, to which the image's tokens attend. `"img2txt"`: linear maps turn the image's T
    tokens into n tokens for each primitive, to which the primitive's n tokens attend; the prompt
    of a composition is then the product of its two primitives' prompts, mapped once more. Both
    sides end in blocks of self-attention, on the prompts over the tokens of one prompt.

    Args:
        image_width: size of an image token.
        text_width: size of a prompt token, W.
        num_tokens: T, tokens of an image.
        prompt_length: n, tokens of a prompt.
        num_primitives: P, attributes and objects together.
        fusion: which side attends to the other.
        num_layers: blocks of self-attention on either side.
        dropout: probability, on the mapped tokens and in the MLPs of these blocks.

    Raises:
        ValueError: `fusion` is unknown.

    Examples:
        >>> fusion = TextImageFusion(16, 8, 5, prompt_length=3, num_primitives=4)
        >>> primitives = torch.randn(4, 3, 8)
        >>> fusion.image(torch.randn(2, 5, 16), primitives).shape
        torch.Size([2, 5, 16])
        >>> fusion.prompts(torch.randn(6, 3, 8)).shape
        torch.Size([6, 3, 8])
    """

    def __init__(
        self,
        image_width: int,
        text_width: int,
        num_tokens: int,
        *,
        prompt_length: int,
        num_primitives: int,
        fusion: Fusion = "txt2img",
        num_layers: int = 1,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        check_choice("fusion", fusion, get_args(Fusion))
        self.fusion = fusion
        prompt_tokens = prompt_length * num_primitives
        self.dropout = nn.Dropout(dropout)
        if fusion == "txt2img":
            self.map_width = nn.Linear(text_width, image_width)
            self.map_tokens = nn.Linear(prompt_tokens, num_tokens)
            self.cross = CrossBlock(image_width)
        else:
            self.map_width = nn.Linear(image_width, text_width)
            self.map_tokens = nn.Linear(num_tokens, prompt_tokens)
            self.cross = CrossBlock(text_width)
            self.composition = nn.Linear(text_width, text_width)
        self.image_blocks = _blocks(image_width, num_layers, dropout)
        self.text_blocks = _blocks(text_width, num_layers, dropout)

    def image(self, states: Tensor, primitives: Tensor) -> Tensor:
        """Return an image's fused states, `[B, T, image_width]`.

        Args:
            states: `[B, T, image_width]`.
            primitives: prompts of attributes and objects, `[P, n, W]`; read by `"txt2img"` alone.
        """
        if self.fusion == "txt2img":
            tokens = self.map_width(primitives).transpose(0, 1).flatten(0, 1)  # [n·P, width]
            mapped = self.dropout(self.map_tokens(tokens.mT).mT)
            states = self.cross(states, mapped)
        return self.image_blocks(states)

    def prompts(self, states: Tensor) -> Tensor:
        """Return fused states `[C, n, W]` of prompts `[C, n, W]`: `"txt2img"`, image or not."""
        return self.text_blocks(states)

    def primitives(self, states: Tensor, primitives: Tensor) -> Tensor:
        """Return the primitives' prompts as each image makes them: `"img2txt"`, `[B, P, n, W]`.

        Args:
            states: `[B, T, image_width]`.
            primitives: prompts of attributes and objects, `[P, n, W]`.
        """
        count, length, _ = primitives.shape
        tokens = self.map_tokens(self.map_width(states).mT).mT  # [B, n·P, W]
        mapped = self.dropout(tokens.unflatten(1, (length, count)).transpose(1, 2))
        fused = self.cross(primitives, mapped)
        return self.text_blocks(fused.flatten(0, 1)).unflatten(0, fused.shape[:2])

    def compose(self, attributes: Tensor, objects: Tensor) -> Tensor:
        """Return states `[..., W]` of compositions from those of their primitives: `"img2txt"`."""
        return self.composition(attributes * objects)


def _blocks(width: int, num_layers: int, dropout: float) -> nn.Sequential:
    heads = max(1, width // 64)
    return nn.Sequential(
        *(ResidualAttentionBlock(width, heads, dropout=dropout) for _ in range(num_layers))
    )
