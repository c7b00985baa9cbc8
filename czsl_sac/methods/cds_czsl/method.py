"""CDS-CZSL: attributes that say more of their object are preferred."""

from functools import partial
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from czsl_sac.blocks.alignment import Aligner, Alignment, ClassTokenAligner, build_aligner
from czsl_sac.checks import check_choice, check_range
from czsl_sac.clip.adapters.adaptformer import AdaptFormer
from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.clip.prompts import SoftPrompts
from czsl_sac.functional.losses import composition_probabilities
from czsl_sac.methods.base import Predictor, primitive_indices
from czsl_sac.methods.cds_czsl.diversity import AttributeDiversity, object_diversity
from czsl_sac.methods.cds_czsl.options import CDSCZSLOptions
from czsl_sac.methods.cds_czsl.specificity import (
    AttributeDenoiser,
    Denoise,
    SpecificityLearner,
    ranking_loss,
)
from czsl_sac.methods.parts import alignment_head, soft_prompts
from czsl_sac.methods.three_branches import Branch, BranchPredictor, ThreeBranches
from czsl_sac.space import CompositionSpace

_ROWS = 16  # attributes whose specificity on all objects is computed at once


class CDSCZSL(ThreeBranches):
    """Three branches, the attribute's refined by how specific each attribute is for the object.

    A re-interpretation of Li et al., "Context-based and Diversity-driven Specificity in
    Compositional Zero-Shot Learning" (CVPR 2024), made from its abstract and introduction: its
    equations could not be read, and there is no public code. CLIP is frozen.

    Args:
        backbone: CLIP.
        space: attributes, objects and compositions; the seen ones are trained on.
        alignment: `"cls"` (Eq. 1), `"patch_max"` (Eq. 2) in all branches, or an alignment head.
        prompts: three sets of prompts; None makes them from the backbone's own words, with dropout
            of 0.3.
        branch_reduction: how many times narrower than the joint space the adapters of attribute
            and object are.
        branch_dropout: dropout inside them.
        denoiser: how the object is taken out of the attribute's view, `"gate"`, `"projection"` or
            `"none"`.
        num_clusters: k, clusters of a batch that an attribute's diversity is measured on; None
            takes the number of objects it is seen with instead.
        diversity_momentum: of the moving average over batches.
        refinement: γ, weight of log g(a, o) beside the attribute's logit.
        specificity_margin: m of the ranking loss.
        specificity_loss_weight: weight of the ranking loss.
        primitive_loss_weight: weight of the attribute's and the object's loss.

    Raises:
        ValueError: an option is unknown or out of range.

    Examples:
        >>> from czsl_sac import CompositionSpace, load_backbone
        >>> space = CompositionSpace.closed_world([("red", "cat"), ("blue", "star")])
        >>> model = CDSCZSL(load_backbone("tiny").requires_grad_(False), space)
        >>> images = torch.zeros(2, 3, 64, 64)
        >>> sorted(model(images, torch.tensor([0, 1]), stage="train"))
        ['attribute', 'composition', 'object', 'specificity', 'total']
    """

    Options = CDSCZSLOptions

    @classmethod
    def build(
        cls, options: CDSCZSLOptions, backbone: CLIPBackbone, space: CompositionSpace
    ) -> "CDSCZSL":
        """Return the method that options describe; the arguments are those of every method."""
        return cls(
            backbone,
            space,
            alignment=alignment_head(options, backbone),
            prompts=soft_prompts(options, backbone, space),
            branch_reduction=options.branch_reduction,
            branch_dropout=options.branch_dropout,
            denoiser=options.denoiser,
            num_clusters=options.clusters if options.diversity == "clusters" else None,
            diversity_momentum=options.diversity_momentum,
            refinement=options.refinement,
            specificity_margin=options.specificity_margin,
            specificity_loss_weight=options.specificity_loss_weight,
            primitive_loss_weight=options.primitive_loss_weight,
        )

    def __init__(
        self,
        backbone: CLIPBackbone,
        space: CompositionSpace,
        *,
        alignment: Alignment | Aligner = "cls",
        prompts: SoftPrompts | None = None,
        branch_reduction: int = 4,
        branch_dropout: float = 0.1,
        denoiser: Denoise = "gate",
        num_clusters: int | None = 10,
        diversity_momentum: float = 0.9,
        refinement: float = 0.5,
        specificity_margin: float = 0.1,
        specificity_loss_weight: float = 0.1,
        primitive_loss_weight: float = 1.0,
    ) -> None:
        super().__init__(backbone, space)
        check_choice("denoiser", denoiser, get_args(Denoise))
        dim = backbone.embed_dim
        check_range("branch_reduction", branch_reduction, low=1, high=dim)
        self.aligner = build_aligner(alignment, backbone.temperature)
        self.prompts = prompts or SoftPrompts(
            backbone.text, backbone.tokenizer, space.attributes, space.objects, dropout=0.3
        )
        self.adapters = nn.ModuleList(
            AdaptFormer(dim, bottleneck=dim // branch_reduction, scale=1.0, dropout=branch_dropout)
            for _ in ("attribute", "object")
        )
        self.denoiser = AttributeDenoiser(dim, denoiser)
        self.specificity = SpecificityLearner(dim)
        self.diversity = AttributeDiversity(
            len(space.attributes), num_clusters=num_clusters or 0, momentum=diversity_momentum
        )
        self.learns_diversity = num_clusters is not None
        if not self.learns_diversity:
            known = object_diversity(self.seen_pairs, len(space.attributes))
            self.diversity.diversity.copy_(known)
            self.diversity.is_known.copy_(known > 0)
        self.refinement = refinement
        self.specificity_margin = specificity_margin
        self.specificity_loss_weight = specificity_loss_weight
        self.primitive_loss_weight = primitive_loss_weight

    def views(self, tokens: Tensor) -> list[Tensor]:
        """Return what composition, attribute and object are compared with, `[B, T, D]` each."""
        if isinstance(self.aligner, ClassTokenAligner):
            tokens = tokens[:, :1]
        attribute, object_ = (tokens + adapter(tokens) for adapter in self.adapters)
        return [tokens, self.denoiser(attribute, object_), object_]

    def branches(self, encoded: Tensor) -> list[Branch]:
        """Return what makes logits of texts, the attribute's before the refinement."""
        return [partial(self.aligner, view) for view in self.views(encoded)]

    def forward(self, images: Tensor, targets: Tensor, stage: str) -> dict[str, Tensor]:
        """Return the three cross-entropies, the ranking loss, and the weighted sum.

        The attribute's logits are refined by its specificity for the true object.

        Args:
            images: `[B, 3, H, W]`, normalised.
            targets: index into `space.pairs` of each image, `[B]`; seen compositions only.
            stage: `"train"`.

        Returns:
            Scalars `composition`, `attribute`, `object`, `specificity` and `total`.

        Raises:
            ValueError: a target is unseen.
        """
        views, texts = self.views(self.encode(images)), self.text_features(self.seen_pairs)
        _, attribute, object_ = self.branch_targets(targets)
        if self.training and self.learns_diversity:
            self.diversity.update(views[2][:, 0], attribute)
        logits = [self.aligner(view, text) for view, text in zip(views, texts, strict=True)]
        log_specificity = self.specificity(texts[1], texts[2][object_])  # [A, B]
        logits[1] = logits[1] + self.refinement * log_specificity.mT
        losses = self.branch_losses(logits, targets)
        losses["specificity"] = ranking_loss(
            log_specificity.exp(),
            self.diversity.diversity,
            self.diversity.is_known,
            margin=self.specificity_margin,
        )
        losses["total"] = losses["total"] + self.specificity_loss_weight * losses["specificity"]
        return losses

    def log_specificity(self, attributes: Tensor, objects: Tensor) -> Tensor:
        """Return log g of all attributes `[A, D]` with all objects `[O, D]`, `[A, O]`."""
        return torch.cat([self.specificity(rows, objects) for rows in attributes.split(_ROWS)])

    @torch.no_grad()
    def feasibility(self, space: CompositionSpace) -> Tensor:
        """Return g(a, o), how much the attribute says of the object, for each composition, `[C]`.

        Args:
            space: the compositions, over the same attributes and objects.
        """
        pairs = primitive_indices(self, space)
        _, attributes, objects = self.text_features(self.seen_pairs)
        return self.log_specificity(attributes, objects).exp()[pairs[:, 0], pairs[:, 1]]

    def predictor(self, space: CompositionSpace, stage: str | None = None) -> Predictor:
        """Return a predictor over `space` by the composition's logit plus p(a) p(o)."""
        return _CDSPredictor(self, space)


class _CDSPredictor(BranchPredictor):
    method: CDSCZSL

    @torch.no_grad()
    def __init__(self, method: CDSCZSL, space: CompositionSpace) -> None:
        super().__init__(method, space)
        self.log_specificity = method.log_specificity(self.texts[1], self.texts[2])

    def primitives(self, branches: list[Branch]) -> tuple[Tensor, Tensor]:
        """Return p(a), refined by the specificity expected over p(o), and p(o)."""
        object_ = composition_probabilities(branches[2](self.texts[2]), 1.0)
        expected = F.linear(object_, self.log_specificity.to(object_.dtype))
        logits = branches[1](self.texts[1]) + self.method.refinement * expected
        return composition_probabilities(logits, 1.0), object_
