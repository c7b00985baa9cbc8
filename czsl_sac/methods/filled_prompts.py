"""Prompts of single primitives in a composition's form, with a word where the other one is."""

from collections.abc import Sequence

import torch
from torch import Tensor

from czsl_sac.clip.prompts import SoftPrompts
from czsl_sac.clip.text_tower import TextTower, Tokenizer

__all__ = ["FilledPrompts"]


class FilledPrompts(SoftPrompts):
    """ "a photo of red thing" and "a photo of the cat": one context, one vector a primitive.

    The words that fill in are rows of their tables, the last ones: `fillers[0]` stands for the
    attribute in an object's prompt, `fillers[1]` for the object in an attribute's.

    Args:
        tower: encodes the prompts.
        tokenizer: of the tower's vocabulary.
        attributes: A names.
        objects: O names.
        fillers: a word for the attribute, and one for the object.
        train_fillers: whether each of them is learned; `hold_fillers` puts back those that are
            not, which an optimiser's weight decay would move.
        drop_fillers: whether dropout acts on them, too.
        template: words of the context.
        dropout: probability of zeroing an entry of either table in training.
        train_context: whether the context is learned.
        train_primitives: whether the tables are learned.

    Examples:
        >>> from types import SimpleNamespace
        >>> ids = {"of": 3, "red": 4, "cat": 6, "x": 7}
        >>> words = SimpleNamespace(sot=8, eot=9, encode=lambda t: [ids[w] for w in t.split()])
        >>> tower = TextTower(16, context_length=8, vocab_size=10, width=12, layers=1, heads=2)
        >>> prompts = FilledPrompts(
        ...     tower, words, ["red"], ["cat"], fillers=("x", "x"), template="of"
        ... )
        >>> [features.shape for features in prompts.primitives()]
        [torch.Size([1, 16]), torch.Size([1, 16])]
    """

    primitive_pairs: Tensor
    start: Tensor

    def __init__(
        self,
        tower: TextTower,
        tokenizer: Tokenizer,
        attributes: Sequence[str],
        objects: Sequence[str],
        *,
        fillers: tuple[str, str],
        train_fillers: tuple[bool, bool] = (True, True),
        drop_fillers: bool = True,
        template: str = "a photo of",
        dropout: float = 0.0,
        train_context: bool = True,
        train_primitives: bool = True,
    ) -> None:
        super().__init__(
            tower,
            tokenizer,
            (*attributes, fillers[0]),
            (*objects, fillers[1]),
            template=template,
            dropout=dropout,
            train_context=train_context,
            train_primitives=train_primitives,
            shared_context=True,
        )
        self.train_fillers, self.drop_fillers = train_fillers, drop_fillers
        self.sizes = [len(attributes), len(objects)]
        rows = [[a, len(objects)] for a in range(len(attributes))]
        rows += [[len(attributes), o] for o in range(len(objects))]
        device = self.context.device
        self.register_buffer("primitive_pairs", torch.tensor(rows, device=device), persistent=False)
        start = [self.attribute_vectors[-1], self.object_vectors[-1]]
        self.register_buffer("start", torch.stack(start).detach(), persistent=False)

    def primitives(self) -> tuple[Tensor, Tensor]:
        """Encode the attributes `[A, D]` and the objects `[O, D]`, not normalised."""
        attributes, objects = self.compositions(self.primitive_pairs).split(self.sizes)
        return attributes, objects

    @torch.no_grad()
    def hold_fillers(self) -> None:
        """Put back the words that fill in, where they are not learned; after each step."""
        tables = (self.attribute_vectors, self.object_vectors)
        for table, word, learned in zip(tables, self.start, self.train_fillers, strict=True):
            if not learned:
                table[-1] = word

    def _vectors(self) -> tuple[Tensor, Tensor]:
        attributes, objects = super()._vectors()
        if self.drop_fillers:
            return attributes, objects
        return (
            torch.cat([attributes[:-1], self.attribute_vectors[-1:]]),
            torch.cat([objects[:-1], self.object_vectors[-1:]]),
        )
