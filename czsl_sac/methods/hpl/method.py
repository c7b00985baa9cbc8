"""HPL: three prompts, of compositions, of a thing with an attribute, and of the object."""

from collections.abc import Iterator

import torch
from torch import Tensor

from czsl_sac.blocks.alignment import Aligner, Alignment, build_aligner
from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.clip.prompts import SoftPrompts
from czsl_sac.functional.losses import alignment_loss
from czsl_sac.methods.base import CZSLMethod, Predictor, primitive_indices
from czsl_sac.methods.hpl.options import HPLOptions
from czsl_sac.methods.parts import alignment_head
from czsl_sac.methods.predictor import TextPredictor
from czsl_sac.space import CompositionSpace

FILLERS = ("the", "thing")
"""What stands for the attribute in an object's prompt, and for the object in an attribute's."""


class HPL(CZSLMethod):
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
    fillers: Tensor
    primitive_pairs: Tensor

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
        the, thing = FILLERS
        self.prompts, self.primitive_prompts = (
            SoftPrompts(
                backbone.text,
                backbone.tokenizer,
                attributes,
                objects,
                template=template,
                dropout=dropout,
                train_context=train_context,
                shared_context=True,
            )
            for attributes, objects in (
                (space.attributes, space.objects),
                ((*space.attributes, the), (*space.objects, thing)),
            )
        )
        # One context for all prompts, learned or not.
        self.primitive_prompts.context = self.prompts.context
        attributes, objects = len(space.attributes), len(space.objects)
        rows = [[a, objects] for a in range(attributes)] + [[attributes, o] for o in range(objects)]
        self.register_buffer("primitive_pairs", torch.tensor(rows), persistent=False)
        self.train_fillers = train_fillers
        self.primitive_share = primitive_share
        vectors = (self.primitive_prompts.attribute_vectors, self.primitive_prompts.object_vectors)
        start = torch.stack([v[-1].detach().clone() for v in vectors])
        self.register_buffer("fillers", start, persistent=False)

    def text_features(self, pairs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return text features of `pairs` `[C, 2]`, of all attributes and of all objects."""
        primitives = self.primitive_prompts.compositions(self.primitive_pairs)
        sizes = [len(self.space.attributes), len(self.space.objects)]
        attribute, object_ = primitives.split(sizes)
        return self.prompts.compositions(pairs), attribute, object_

    def forward(self, images: Tensor, targets: Tensor, stage: str) -> dict[str, Tensor]:
        """Return the cross-entropies of the three prompts and their sum.

        Args:
            images: `[B, 3, H, W]`, normalised.
            targets: index into `space.pairs` of each image, `[B]`; seen compositions only.
            stage: `"train"`.

        Raises:
            ValueError: a target is unseen.
        """
        labels = self.seen_targets(targets)
        truth = (labels, self.seen_pairs[labels, 0], self.seen_pairs[labels, 1])
        tokens = self.encode(images)
        composition, attribute, object_ = (
            alignment_loss(self.aligner(tokens, text), label)
            for text, label in zip(self.text_features(self.seen_pairs), truth, strict=True)
        )
        return {
            "composition": composition,
            "attribute": attribute,
            "object": object_,
            "total": composition + attribute + object_,
        }

    @torch.no_grad()
    def after_step(self) -> None:
        """Put "the" and "thing" back where they are not learned."""
        if not self.train_fillers:
            self.primitive_prompts.attribute_vectors[-1] = self.fillers[0]
            self.primitive_prompts.object_vectors[-1] = self.fillers[1]

    def predictor(self, space: CompositionSpace, stage: str | None = None) -> Predictor:
        """Return a predictor over `space` by the mix of the three logits."""
        return _HPLPredictor(self, space)


class _HPLPredictor(TextPredictor):
    @torch.no_grad()
    def __init__(self, method: HPL, space: CompositionSpace) -> None:
        self.pairs = primitive_indices(method, space)
        text, *self.primitives = method.text_features(self.pairs)
        super().__init__(method, space, text)
        self.share = method.primitive_share

    @torch.no_grad()
    def score_chunks(self, encoded: Tensor) -> Iterator[Tensor]:
        """Yield (1 − α) l(a, o) + α (l(a) + l(o)), `[B, c]`."""
        attribute, object_ = (self.method.aligner(encoded, text) for text in self.primitives)
        for text, pairs in zip(
            self.text.split(self.chunk_size), self.pairs.split(self.chunk_size), strict=True
        ):
            primitives = attribute[:, pairs[:, 0]] + object_[:, pairs[:, 1]]
            yield torch.lerp(self.method.aligner(encoded, text), primitives, self.share)
