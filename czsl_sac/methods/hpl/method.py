"""HPL: three prompts, of compositions, of a thing with an attribute, and of the object."""

from functools import partial

from torch import Tensor

from czsl_sac.methods.filled_prompts import FilledPrompts
from czsl_sac.methods.hpl.options import HPLOptions
from czsl_sac.methods.three_branches import Branch, MixedBranches

FILLERS = ("the", "thing")
"""What stands for the attribute in an object's prompt, and for the object in an attribute's."""


class HPL(MixedBranches):
    """Hierarchical prompts: "a photo of red cat", "a photo of red thing", "a photo of the cat".

    Wang et al., "Hierarchical Prompt Learning for Compositional Zero-Shot Recognition"
    (IJCAI 2023). Compositions have one table of learned vectors, the primitives' prompts another,
    which also holds "the" and "thing". CLIP itself is frozen, and all three prompts meet the same
    tokens. The losses' weights are 1, which the published files leave open; the published image
    networks, off by default there, are left out.

    Examples:
        >>> from czsl_sac import CompositionSpace, load_backbone
        >>> space = CompositionSpace.closed_world([("red", "cat"), ("blue", "star")])
        >>> model = HPL(load_backbone("tiny").requires_grad_(False), space)
        >>> images = torch.zeros(2, 3, 64, 64)
        >>> sorted(model(images, torch.tensor([0, 1]), stage="train"))
        ['attribute', 'composition', 'object', 'total']
    """

    Options = HPLOptions
    options: HPLOptions
    primitive_loss_weight = 1.0

    def make_parts(self) -> None:
        """Make the compositions' prompts and the primitives', all in one context."""
        super().make_parts()
        learn = self.options.train_fillers
        self.primitive_prompts = FilledPrompts(
            self.options, self.backbone, self.space, fillers=FILLERS, train_fillers=(learn, learn)
        )
        # One context for all prompts, learned or not.
        self.primitive_prompts.context = self.prompts.context

    def text_features(self, pairs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return text features of `pairs` `[C, 2]`, of all attributes and of all objects."""
        return self.prompts.compositions(pairs), *self.primitive_prompts.primitives()

    def branches(self, encoded: Tensor) -> list[Branch]:
        """Return what makes logits: the three prompts meet the same tokens."""
        return [partial(self.aligner, encoded)] * 3

    def after_step(self) -> None:
        """Put "the" and "thing" back where they are not learned."""
        self.primitive_prompts.hold_fillers()
