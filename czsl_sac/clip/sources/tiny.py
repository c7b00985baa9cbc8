"""The built-in tiny CLIP: 1.2 million parameters that know the generated scenes.

It was pretrained by `benchmarks/pretrain_tiny_clip.py` on captions of generated scenes, which
name the large object only and never an unseen composition of split seed 0. It lets every method
run in minutes on a CPU, and behaves in code like any other CLIP.
"""

import os
import re
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from zlib import crc32

from czsl_sac.clip.backbone import CLIPBackbone, check_weights
from czsl_sac.clip.config import CLIPConfig
from czsl_sac.clip.tokenizer import PaddedTokenizer
from czsl_sac.clip.unfilled import unfilled
from czsl_sac.files import load_tensors

TINY_WEIGHTS = Path(__file__).with_name("tiny_clip.safetensors")

BUILT_IN = {
    "tiny": TINY_WEIGHTS,
    "tiny-patches": TINY_WEIGHTS.with_name("tiny_patches.safetensors"),
}
"""The two that come with the package: pretrained on the class token alone, and on the best patch
too, so that patches answer to text (docs/laboratory.md)."""

_WORDS = (
    *("a", "an", "drawing", "image", "of", "photo", "picture", "the"),
    *("blue", "dotted", "gray", "green", "hollow", "orange"),
    *("pink", "plaid", "purple", "red", "striped", "yellow"),
    *("boat", "car", "cat", "cup", "fish", "flower"),
    *("heart", "house", "moon", "star", "tree", "umbrella"),
)


class WordTokenizer(PaddedTokenizer):
    """One id a word: 0 is padding, then the known words, hash buckets, start and end of text.

    Words are runs of letters and digits, in lower case; what stands between them (spaces, dots,
    hyphens, underscores) only separates. A word that is not known gets the id of the bucket
    `crc32(word in UTF-8) % buckets`, the same on every machine. The tiny CLIP never saw the
    buckets in pretraining: their embeddings mean nothing until they are trained.

    Args:
        words: the known words, lower case; their ids are 1, 2, ... in this order.
        buckets: number of ids shared by all other words.
        context_length: ids of a text, start and end included.

    Attributes:
        sot: id of the start-of-text token.
        eot: id of the end-of-text token, the largest of all.
        vocab_size: number of ids.

    Examples:
        >>> tokenizer = WordTokenizer(("red", "car"), buckets=10, context_length=6)
        >>> tokenizer(["Red car", "shiny_car"]).tolist()
        [[13, 1, 2, 14, 0, 0], [13, 11, 2, 14, 0, 0]]
    """

    def __init__(
        self, words: Sequence[str] = _WORDS, *, buckets: int = 256, context_length: int = 16
    ) -> None:
        self._ids = {word: number for number, word in enumerate(words, start=1)}
        self._buckets = buckets
        sot = 1 + len(words) + buckets
        super().__init__(self._encode, sot, sot + 1, context_length)
        self.vocab_size = self.eot + 1

    def _encode(self, text: str) -> list[int]:
        return [self._id(word) for word in re.findall(r"[^\W_]+", text.lower())]

    def _id(self, word: str) -> int:
        known = self._ids.get(word)
        bucket = 1 + len(self._ids) + crc32(word.encode()) % self._buckets
        return bucket if known is None else known


def tiny_clip(
    weights: str | os.PathLike[str] | None = TINY_WEIGHTS, *, name: str = "tiny"
) -> CLIPBackbone:
    """Build the tiny CLIP: 64×64 images to 1 + 8·8 tokens of 128 dimensions.

    Args:
        weights: a safetensors file; None for random weights, drawn from torch's generator.
        name: for printouts and records.

    Returns:
        The backbone, in float32 and evaluation mode.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or not the tiny CLIP's.

    Examples:
        >>> backbone = tiny_clip()
        >>> backbone.encode_image(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 65, 128])
        >>> backbone.encode_text(backbone.tokenizer(["a photo of red car"])).shape
        torch.Size([1, 128])
    """
    tokenizer = WordTokenizer()
    config = CLIPConfig(
        embed_dim=128,
        image_size=64,
        patch_size=8,
        vision_width=128,
        vision_layers=4,
        vision_heads=4,
        context_length=tokenizer.context_length,
        vocab_size=tokenizer.vocab_size,
        text_width=96,
        text_layers=2,
        text_heads=4,
        activation="gelu",
        stem="conv",
    )
    with nullcontext() if weights is None else unfilled():
        backbone = CLIPBackbone(
            config, tokenizer, name=name, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
        )
    if weights is not None:
        state = {name: tensor.float() for name, tensor in load_tensors(Path(weights)).items()}
        try:
            check_weights(backbone, state)
        except ValueError as error:
            raise ValueError(f"{weights}: {error}") from error
        backbone.load_state_dict(state, assign=True)
    return backbone.eval()
