"""CDS-CZSL: attributes that say more of their object are preferred."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from czsl_sac.checks import check_range
from czsl_sac.clip.adapters.adaptformer import AdaptFormer
from czsl_sac.functional.losses import composition_probabilities
from czsl_sac.methods.base import Predictor, primitive_indices
from czsl_sac.methods.cds_czsl.diversity import AttributeDiversity, object_diversity
from czsl_sac.methods.cds_czsl.options import CDSCZSLOptions
from czsl_sac.methods.cds_czsl.specificity import (
    AttributeDenoiser,
    SpecificityLearner,
    ranking_loss,
)
from czsl_sac.methods.three_branches import Branch, BranchPredictor, ThreeBranches
from czsl_sac.space import CompositionSpace

_ROWS = 16  # attributes whose specificity on all objects is computed at once


class CDSCZSL(ThreeBranches):
    """Three branches, the attribute's refined by how specific each attribute is for the object.

    A re-interpretation of Li et al., "Context-based and Diversity-driven Specificity in
    Compositional Zero-Shot Learning" (CVPR 2024), made from its abstract and introduction: its
    equations could not be read, and there is no public code. CLIP is frozen.

    Examples:
        >>> from czsl_sac import CompositionSpace, load_backbone
        >>> space = CompositionSpace.closed_world([("red", "cat"), ("blue", "star")])
        >>> model = CDSCZSL(load_backbone("tiny").requires_grad_(False), space)
        >>> images = torch.zeros(2, 3, 64, 64)
        >>> sorted(model(images, torch.tensor([0, 1]), stage="train"))
        ['attribute', 'composition', 'object', 'specificity', 'total']
    """

    Options = CDSCZSLOptions
    options: CDSCZSLOptions

    def make_parts(self) -> None:
        """Make prompts, the adapters of attribute and object, and what says how they relate."""
        super().make_parts()
        options, dim, count = self.options, self.backbone.embed_dim, len(self.space.attributes)
        check_range("branch_reduction", options.branch_reduction, low=1, high=dim)
        bottleneck, dropout = dim // options.branch_reduction, options.branch_dropout
        self.adapters = nn.ModuleList(
            AdaptFormer(dim, bottleneck=bottleneck, scale=1.0, dropout=dropout)
            for _ in ("attribute", "object")
        )
        self.denoiser = AttributeDenoiser(dim, options.denoiser)
        self.specificity = SpecificityLearner(dim)
        self.learns_diversity = options.diversity == "clusters"
        self.diversity = AttributeDiversity(
            count,
            num_clusters=options.clusters if self.learns_diversity else 0,
            momentum=options.diversity_momentum,
        )
        if not self.learns_diversity:
            known = object_diversity(self.seen_pairs, count)
            self.diversity.diversity.copy_(known)
            self.diversity.is_known.copy_(known > 0)

    def views(self, tokens: Tensor) -> list[Tensor]:
        """Return what composition, attribute and object are compared with, `[B, T, D]` each."""
        tokens = self.looked_at(tokens)
        attribute, object_ = (tokens + adapter(tokens) for adapter in self.adapters)
        return [tokens, self.denoiser(attribute, object_), object_]

    def branches(self, encoded: Tensor) -> list[Branch]:
        """Return what makes logits of texts, the attribute's before the refinement."""
        return self.aligned(self.views(encoded))

    def forward(self, images: Tensor, targets: Tensor, stage: str) -> dict[str, Tensor]:
        """Return the three cross-entropies, the ranking loss, and the weighted sum.

        The attribute's logits are refined by its specificity for the true object.

        Returns:
            Scalars `composition`, `attribute`, `object`, `specificity` and `total`.
        """
        views, texts = self.views(self.encode(images)), self.text_features(self.seen_pairs)
        _, attribute, object_ = self.branch_targets(targets)
        if self.training and self.learns_diversity:
            self.diversity.update(views[2][:, 0], attribute)
        logits = [self.aligner(view, text) for view, text in zip(views, texts, strict=True)]
        log_specificity = self.specificity(texts[1], texts[2][object_])  # [A, B]
        logits[1] = logits[1] + self.options.refinement * log_specificity.mT
        losses = self.branch_losses(logits, targets)
        losses["specificity"] = ranking_loss(
            log_specificity.exp(),
            self.diversity.diversity,
            self.diversity.is_known,
            margin=self.options.specificity_margin,
        )
        ranked = self.options.specificity_loss_weight * losses["specificity"]
        return losses | {"total": losses["total"] + ranked}

    def log_specificity(self, attributes: Tensor, objects: Tensor) -> Tensor:
        """Return log g of all attributes `[A, D]` with all objects `[O, D]`, `[A, O]`."""
        return torch.cat([self.specificity(rows, objects) for rows in attributes.split(_ROWS)])

    @torch.no_grad()
    def feasibility(self, space: CompositionSpace) -> Tensor:
        """Return g(a, o), how much the attribute says of the object, of each composition, `[C]`."""
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
        logits = branches[1](self.texts[1]) + self.method.options.refinement * expected
        return composition_probabilities(logits, 1.0), object_
