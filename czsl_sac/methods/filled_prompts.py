"""Prompts of single primitives in a composition's form, with a word where the other one is."""

from typing import Any

import torch
from torch import Tensor

from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.clip.prompts import SoftPrompts
from czsl_sac.space import CompositionSpace


class FilledPrompts(SoftPrompts):
    """ "a photo of red thing" and "a photo of the cat": one context, one vector a primitive.

    The words that fill in are rows of their tables, the last ones: `fillers[0]` stands for the
    attribute in an object's prompt, `fillers[1]` for the object in an attribute's.

    Args:
        options: of a method with prompts, as for `soft_prompts`.
        backbone: whose words they start from.
        space: A attributes and O objects.
        fillers: a word for the attribute, and one for the object.
        train_fillers: whether each of them is learned; `hold_fillers` puts back those that are
            not, which an optimiser's weight decay would move.
        drop_fillers: whether dropout acts on them, too.

    Examples:
        >>> from czsl_sac import load_backbone
        >>> from czsl_sac.methods.options import PromptOptions
        >>> space = CompositionSpace.closed_world([("red", "cat"), ("red", "star")])
        >>> clip = load_backbone("tiny")
        >>> prompts = FilledPrompts(PromptOptions(), clip, space, fillers=("the", "thing"))
        >>> [features.shape for features in prompts.primitives()]
        [torch.Size([1, 128]), torch.Size([2, 128])]
    """

    primitive_pairs: Tensor
    start: Tensor

    def __init__(
        self,
        options: Any,
        backbone: CLIPBackbone,
        space: CompositionSpace,
        *,
        fillers: tuple[str, str],
        train_fillers: tuple[bool, bool] = (True, True),
        drop_fillers: bool = True,
    ) -> None:
        attributes, objects = space.attributes, space.objects
        super().__init__(
            backbone.text,
            backbone.tokenizer,
            (*attributes, fillers[0]),
            (*objects, fillers[1]),
            template=options.template,
            dropout=options.prompt_dropout,
            train_context=options.train_context,
            train_primitives=options.train_primitives,
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
