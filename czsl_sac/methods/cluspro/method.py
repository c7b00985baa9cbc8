"""ClusPro: prototypes clustered within each attribute and object shape their feature spaces."""

from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from czsl_sac.functional.independence import hsic
from czsl_sac.functional.losses import alignment_loss
from czsl_sac.methods.cluspro.options import ClusProOptions
from czsl_sac.methods.disentangler import Disentangler
from czsl_sac.methods.prototypes import PrimitivePrototypes
from czsl_sac.methods.three_branches import Branch, ThreeBranches


class PrimitiveView(NamedTuple):
    """An image's tokens as attributes, or objects, see them.

    Attributes:
        clustered: unit f, in which prototypes live, `[B, T, D]`.
        compared: what meets texts and is contrasted, `[B, T, D]`.
    """

    clustered: Tensor
    compared: Tensor


class ClusPro(ThreeBranches):
    """Clustering-based prototypes in a method of three branches.

    Qu et al., "Learning Clustering-based Prototypes for Compositional Zero-Shot Learning" (ICLR
    2025). Adapters see an image's feature as attribute and as object. Each attribute and object has
    K prototypes, to which the features of its images are assigned; a contrast over all prototypes
    (Eq. 10) and the independence of attributes and objects (Eq. 11) are added to the three
    cross-entropies. At test the prototypes are not used. The adapters of the vision tower are added
    to the backbone: `apply_adaptformer(backbone.visual)`.

    With `alignment="patch_max"` the adapters run on every token and the best one meets each text;
    one token an image is clustered, see `clustered`.

    Examples:
        >>> from czsl_sac import CompositionSpace, load_backbone
        >>> space = CompositionSpace.closed_world([("red", "cat"), ("blue", "star")])
        >>> model = ClusPro(load_backbone("tiny").requires_grad_(False), space)
        >>> images = torch.zeros(2, 3, 64, 64)
        >>> sorted(model(images, torch.tensor([0, 1]), stage="train"))
        ['attribute', 'composition', 'contrast', 'decorrelation', 'object', 'total']
    """

    Options = ClusProOptions
    options: ClusProOptions

    def make_parts(self) -> None:
        """Make prompts, the adapters of attribute and object, and the prototypes."""
        super().make_parts()
        options, dim = self.options, self.backbone.embed_dim
        self.adapters = nn.ModuleList(Disentangler(dim) for _ in ("attribute", "object"))
        self.second_adapters = nn.ModuleList()
        if options.second_adapter:
            self.second_adapters.extend(Disentangler(dim) for _ in ("attribute", "object"))
        self.prototypes = nn.ModuleList(
            PrimitivePrototypes(
                len(names),
                options.prototypes,
                dim,
                momentum=options.momentum,
                assignment=options.assignment,
                coherence=options.coherence,
                entropy=options.transport_entropy,
            )
            for names in (self.space.attributes, self.space.objects)
        )
        self.composition_score = options.composition_score
        self._to_absorb: list[tuple[Tensor, Tensor, Tensor]] = []

    def primitive_views(self, tokens: Tensor) -> list[PrimitiveView]:
        """Return what attributes and objects see of tokens `[B, T, D]`."""
        tokens = self.looked_at(tokens)
        clustered = [F.normalize(adapter(tokens), dim=-1) for adapter in self.adapters]
        if not self.second_adapters:
            return [PrimitiveView(view, view) for view in clustered]
        return [
            PrimitiveView(view, adapter(view))
            for view, adapter in zip(clustered, self.second_adapters, strict=True)
        ]

    def branches(self, encoded: Tensor) -> list[Branch]:
        """Return what makes logits of texts."""
        views = [view.compared for view in self.primitive_views(encoded)]
        return self.aligned([encoded, *views])

    def forward(self, images: Tensor, targets: Tensor, stage: str) -> dict[str, Tensor]:
        """Return the cross-entropies of the branches, contrast and decorrelation.

        In training mode the features of this batch move the prototypes in `after_step`.

        Returns:
            Scalars `composition`, `attribute`, `object`, `contrast`, `decorrelation` and `total`.
        """
        texts = self.text_features(self.seen_pairs)
        tokens = self.encode(images)
        views = self.primitive_views(tokens)
        compared = [tokens, *(view.compared for view in views)]
        logits = [self.aligner(view, text) for view, text in zip(compared, texts, strict=True)]
        losses = self.branch_losses(logits, targets)
        labels = self.branch_targets(targets)[1:]
        own_texts = [text[label] for text, label in zip(texts[1:], labels, strict=True)]
        contrast, decorrelation = self._prototype_losses(views, labels, own_texts)
        options = self.options
        added = options.contrast_weight * contrast + options.decorrelation_weight * decorrelation
        return {
            **losses,
            "contrast": contrast,
            "decorrelation": decorrelation,
            "total": losses["total"] + added,
        }

    def after_step(self) -> None:
        """Move the prototypes towards the features of the step's images (Eq. 9)."""
        for prototypes, batch in zip(self._prototypes(), self._to_absorb, strict=False):
            prototypes.absorb(*batch)
        self._to_absorb = []

    def _prototype_losses(
        self, views: list[PrimitiveView], labels: tuple[Tensor, ...], own_texts: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the contrast (Eq. 10) and the decorrelation (Eq. 11)."""
        features, positives, batches = [], [], []
        candidates = F.normalize(self._compared_prototypes(), dim=-1)
        first = 0  # candidate of this primitive
        for prototypes, view, label, text in zip(
            self._prototypes(), views, labels, own_texts, strict=True
        ):
            clustered, compared = self._of_image(view, text)
            assigned = prototypes.assign(clustered, label)
            batches.append((clustered.detach(), label, assigned))
            features.append(F.normalize(compared, dim=-1))
            count, each, _ = prototypes.vectors.shape
            positives.append(first + label * each + assigned)
            first += count * each
        if self.training:
            self._to_absorb = batches
        contrast = sum(
            alignment_loss(f @ candidates.mT, p, temperature=self.options.contrast_temperature)
            for f, p in zip(features, positives, strict=True)
        )
        (attribute, object_), (of_attribute, of_object) = features, positives
        decorrelation = hsic(attribute, candidates[of_object]) + hsic(
            object_, candidates[of_attribute]
        )
        return torch.as_tensor(contrast), decorrelation

    def _compared_prototypes(self) -> Tensor:
        """Return all prototypes, attributes' first, in the space that meets texts, `[P, D]`.

        They are no images: BatchNorm takes its running statistics, and there is no dropout.
        """
        vectors = [prototypes.vectors.flatten(0, 1) for prototypes in self._prototypes()]
        if self.second_adapters:
            adapters = cast(Iterable[Disentangler], self.second_adapters)
            vectors = [
                adapter.by_running_statistics(rows)
                for adapter, rows in zip(adapters, vectors, strict=True)
            ]
        return torch.cat(vectors)

    def _of_image(self, view: PrimitiveView, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return the token of each image that is clustered, in both spaces, `[B, D]` each."""
        winners = None
        if self.options.clustered == "winner":
            winners = self.aligner.winners(view.compared, text)
        if winners is None:
            return view.clustered[:, 0], view.compared[:, 0]
        images = torch.arange(len(winners), device=winners.device)
        return view.clustered[images, winners], view.compared[images, winners]

    def _prototypes(self) -> list[PrimitivePrototypes]:
        """Return those of attributes and those of objects."""
        return list(cast(Iterable[PrimitivePrototypes], self.prototypes))
