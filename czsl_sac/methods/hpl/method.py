"""HPL: three prompts, of compositions, of a thing with an attribute, and of the object."""

from functools import partial

from torch import Tensor

from czsl_sac.blocks.alignment import Aligner, Alignment, build_aligner
from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.clip.prompts import SoftPrompts
from czsl_sac.methods.filled_prompts import FilledPrompts
from czsl_sac.methods.hpl.options import HPLOptions
from czsl_sac.methods.parts import alignment_head
from czsl_sac.methods.three_branches import Branch, MixedBranches
from czsl_sac.space import CompositionSpace

FILLERS = ("the", "thing")
"""What stands for the attribute in an object's prompt, and for the object in an attribute's."""


class HPL(MixedBranches):
    """Hierarchical prompts: "a photo of red cat", "a photo of red thing", "a photo of the cat".

    Wang et al., "Hierarchical Prompt Learning for Compositional Zero-Shot Recognition"
    (IJCAI 2023). Compositions have one table of learned vectors, the primitives' prompts another,
    which also holds "the" and "thing". CLIP itself is frozen, and all three prompts meet the same
    tokens. The losses' weights are 1, which the published files leave open; the published image
    networks, off by default there, are left out.

    Args:
        backbone: CLIP.
        space: attributes, objects and compositions; the seen ones are trained on.
        alignment: `"cls"` (Eq. 1, as published), `"patch_max"` (Eq. 2), or an alignment head.
        template: words of the prompts' context.
        dropout: probability of zeroing an entry of either table in training.
        train_context: whether the context, one for all prompts, is learned.
        train_fillers: whether "the" and "thing" are learned.
        primitive_share: α in (1 − α) l(a, o) + α (l(a) + l(o)), on logits.

    Examples:
        >>> from czsl_sac import CompositionSpace, load_backbone
        >>> space = CompositionSpace.closed_world([("red", "cat"), ("blue", "star")])
        >>> model = HPL(load_backbone("tiny").requires_grad_(False), space)
        >>> images = torch.zeros(2, 3, 64, 64)
        >>> sorted(model(images, torch.tensor([0, 1]), stage="train"))
        ['attribute', 'composition', 'object', 'total']
    """

    Options = HPLOptions

    @classmethod
    def build(cls, options: HPLOptions, backbone: CLIPBackbone, space: CompositionSpace) -> "HPL":
        """Return the method that options describe; the arguments are those of every method."""
        return cls(
            backbone,
            space,
            alignment=alignment_head(options, backbone),
            template=options.template,
            dropout=options.prompt_dropout,
            train_context=options.train_context,
            train_fillers=options.train_fillers,
            primitive_share=options.primitive_share,
        )

    def __init__(
        self,
        backbone: CLIPBackbone,
        space: CompositionSpace,
        *,
        alignment: Alignment | Aligner = "cls",
        template: str = "a photo of",
        dropout: float = 0.3,
        train_context: bool = False,
        train_fillers: bool = True,
        primitive_share: float = 0.5,
    ) -> None:
        super().__init__(backbone, space)
        self.aligner = build_aligner(alignment, backbone.temperature)
        self.prompts = SoftPrompts(
            backbone.text,
            backbone.tokenizer,
            space.attributes,
            space.objects,
            template=template,
            dropout=dropout,
            train_context=train_context,
            shared_context=True,
        )
        self.primitive_prompts = FilledPrompts(
            backbone.text,
            backbone.tokenizer,
            space.attributes,
            space.objects,
            fillers=FILLERS,
            train_fillers=(train_fillers, train_fillers),
            template=template,
            dropout=dropout,
            train_context=train_context,
        )
        # One context for all prompts, learned or not.
        self.primitive_prompts.context = self.prompts.context
        self.primitive_loss_weight = 1.0
        self.primitive_share = primitive_share

    def text_features(self, pairs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return text features of `pairs` `[C, 2]`, of all attributes and of all objects."""
        return self.prompts.compositions(pairs), *self.primitive_prompts.primitives()

    def branches(self, encoded: Tensor) -> list[Branch]:
        """Return what makes logits: the three prompts meet the same tokens."""
        return [partial(self.aligner, encoded)] * 3

    def after_step(self) -> None:
        """Put "the" and "thing" back where they are not learned."""
        self.primitive_prompts.hold_fillers()
