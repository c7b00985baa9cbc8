"""Tokenizers of every kind of CLIP behind one interface: word pieces in, padded ids out."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class PaddedTokenizer:
    """Texts to rows of ids: start, word pieces, end, zeros.

    What stands behind the end-of-text token is never read, so the zeros serve every CLIP,
    whatever its own padding is.

    Args:
        encode: gives the ids of a text without start and end.
        sot: id of the start-of-text token.
        eot: id of the end-of-text token.
        context_length: ids of a row, start and end included.

    Examples:
        >>> letters = PaddedTokenizer(lambda text: [ord(c) for c in text], 1, 2, context_length=5)
        >>> letters(["ab", ""])
        tensor([[ 1, 97, 98,  2,  0],
                [ 1,  2,  0,  0,  0]])
    """

    def __init__(
        self, encode: Callable[[str], list[int]], sot: int, eot: int, context_length: int
    ) -> None:
        self.encode = encode
        self.sot = sot
        self.eot = eot
        self.context_length = context_length

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return the ids of P texts.

        Returns:
            Ids `[P, context_length]` int64.

        Raises:
            TypeError: `texts` is a single string.
            ValueError: a text is too long.
        """
        if isinstance(texts, str):
            raise TypeError(f"texts is the string {texts!r} but must be several: give a list.")
        ids = torch.zeros(len(texts), self.context_length, dtype=torch.int64)
        for row, text in zip(ids, texts, strict=True):
            tokens = [self.sot, *self.encode(text), self.eot]
            if len(tokens) > self.context_length:
                raise ValueError(
                    f"texts has one of {len(tokens)} tokens, start and end included, but each must "
                    f"have at most {self.context_length}: shorten {text!r}."
                )
            row[: len(tokens)] = torch.tensor(tokens)
        return ids
