"""RAPR: primitives are recognised with the help of training images that have them."""

from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from czsl_sac.methods.filled_prompts import FilledPrompts
from czsl_sac.methods.rapr.losses import debias_loss, retrieval_loss
from czsl_sac.methods.rapr.options import RAPROptions
from czsl_sac.methods.rapr.views import View
from czsl_sac.methods.retrieval import FeatureDatabase, Retrieved
from czsl_sac.methods.three_branches import Branch, MixedBranches

FILLERS = ("x", "object")
"""What stands for the attribute in an object's prompt, fixed, and for the object in an
attribute's, learned."""


class EncodedViews(NamedTuple):
    """What RAPR sees of B images.

    Attributes:
        tokens: the composition's view, `[B, T, D]`.
        attribute: the attribute's view, enriched, `[B, T, D]`.
        object: the object's view, enriched, `[B, T, D]`.
        found: what the attribute's and the object's view retrieved.
    """

    tokens: Tensor
    attribute: Tensor
    object: Tensor
    found: list[Retrieved]


class RAPR(MixedBranches):
    """Retrieval-augmented primitive representations.

    Jing et al., "Retrieval-Augmented Primitive Representations for Compositional Zero-Shot
    Learning" (AAAI 2024). Three adapters after the vision tower make a view of the image for the
    composition, the attribute and the object. Two databases hold such views of training images
    for each attribute and each object; the class token's view retrieves the most similar, and
    their weighted mean is mixed in. Compositions have one context and table of words, the
    primitives' prompts another ("a photo of red object", "a photo of x cat"). LoRA in the last
    layers of the vision tower belongs to the backbone.

    The databases are filled anew at the start of each epoch (`refresh`) and saved with the weights.
    An empty one adds nothing.

    Examples:
        >>> from czsl_sac import CompositionSpace, load_backbone
        >>> space = CompositionSpace.closed_world([("red", "cat"), ("blue", "star")])
        >>> model = RAPR(load_backbone("tiny").requires_grad_(False), space)
        >>> images, targets = torch.zeros(2, 3, 64, 64), torch.tensor([0, 1])
        >>> model.prepare([(images, targets)])
        >>> model.refresh([(images, targets)])
        >>> sorted(model(images, targets, stage="train"))
        ['attribute', 'composition', 'debias', 'object', 'retrieval', 'total']
    """

    Options = RAPROptions
    options: RAPROptions

    def make_parts(self) -> None:
        """Make both kinds of prompts, the views and the databases."""
        super().make_parts()
        options, backbone, space = self.options, self.backbone, self.space
        self.primitive_prompts = FilledPrompts(
            options,
            backbone,
            space,
            fillers=FILLERS,
            train_fillers=(False, True),
            drop_fillers=False,
        )
        width, dropout = backbone.config.vision_width, options.view_dropout
        self.views = nn.ModuleList(
            View(width, options.view_adapter, dropout=dropout, residual=residual)
            for residual in (
                options.composition_residual,
                options.attribute_residual,
                options.object_residual,
            )
        )
        size, dim = options.database_size, backbone.embed_dim
        self.databases = nn.ModuleList(
            FeatureDatabase(len(names), size, dim) for names in (space.attributes, space.objects)
        )

    def text_features(self, pairs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return unit texts of `pairs` `[C, 2]`, of all attributes and of all objects."""
        composition, attribute, object_ = (
            F.normalize(text, dim=-1)
            for text in (self.prompts.compositions(pairs), *self.primitive_prompts.primitives())
        )
        return composition, attribute, object_

    def look(self, images: Tensor) -> list[Tensor]:
        """Return the three views before retrieval, `[B, T, D]`; T is 1 for the class token's head.

        Args:
            images: `[B, 3, H, W]`, normalised.
        """
        tower = self.backbone.visual
        states = tower.states(images)
        if self.options.view_adapter == "mlp":  # from here on no token looks at another
            states = self.looked_at(states)
        tokens = tower.project(states)
        return [self.looked_at(view(tower, states, tokens)) for view in self.views]

    def encode(self, images: Tensor) -> EncodedViews:
        """Return the three views of images `[B, 3, H, W]`, two of them enriched."""
        return self.look_and_retrieve(images, self.options.retrieval_size)

    def look_and_retrieve(self, images: Tensor, count: int) -> EncodedViews:
        """Return the three views, and what two of them were enriched by and more.

        Args:
            images: `[B, 3, H, W]`, normalised.
            count: training images to retrieve, as many as enrich a view at least.
        """
        composition, *primitives = self.look(images)
        found = [
            database(view[:, 0], count)
            for database, view in zip(self._databases(), primitives, strict=True)
        ]
        attribute, object_ = (
            self.enrich(view, retrieved) for view, retrieved in zip(primitives, found, strict=True)
        )
        return EncodedViews(composition, attribute, object_, found)

    def enrich(self, view: Tensor, found: Retrieved) -> Tensor:
        """Return (1 − ρ) e + ρ Σ softmax(sharpness · cos) f, of all tokens or the class token's.

        Args:
            view: e, `[B, T, D]`.
            found: what its class token retrieved, f.
        """
        options = self.options
        found = found.first(options.retrieval_size)
        share = options.retrieval_weight * found.similarities[:, 0].isfinite().to(view.dtype)
        mean = found.mean(options.retrieval_sharpness).to(view.dtype)
        enriched = torch.lerp(view, mean.unsqueeze(1), share[:, None, None])
        if options.retrieval_tokens == "all":
            return enriched
        return torch.cat([enriched[:, :1], view[:, 1:]], dim=1)

    def branches(self, encoded: EncodedViews) -> list[Branch]:
        """Return what makes logits of texts, of each view."""
        return self.aligned([encoded.tokens, encoded.attribute, encoded.object])

    def forward(self, images: Tensor, targets: Tensor, stage: str) -> dict[str, Tensor]:
        """Return the losses of a batch.

        Returns:
            The cross-entropies `composition`, `attribute` and `object`, the losses `debias` and
            `retrieval`, and `total`.
        """
        options, share = self.options, self.options.primitive_share
        count = max(options.retrieval_size, options.retrieval_loss_size)
        encoded = self.look_and_retrieve(images, count)
        texts = self.text_features(self.seen_pairs)
        losses = self.cross_entropies(self.branch_logits(encoded, texts), targets)
        _, attribute, object_ = self.branch_targets(targets)
        in_object = debias_loss(self.aligner(encoded.object, texts[1]), attribute)
        in_attribute = debias_loss(self.aligner(encoded.attribute, texts[2]), object_)
        losses["debias"] = in_object + (in_object if options.legacy_debias else in_attribute)
        losses["retrieval"] = sum(
            (
                retrieval_loss(view[:, 0], found.first(options.retrieval_loss_size), label)
                for view, found, label in zip(
                    (encoded.attribute, encoded.object),
                    encoded.found,
                    (attribute, object_),
                    strict=True,
                )
            ),
            start=losses["debias"].new_zeros(()),
        )
        losses["total"] = (
            (1 - share) * losses["composition"]
            + share * (losses["attribute"] + losses["object"])
            + options.debias_weight * losses["debias"]
            + options.retrieval_loss_weight * losses["retrieval"]
        )
        return losses

    def prepare(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Choose the images of the databases, spread over the compositions of each primitive."""
        targets = torch.cat([targets.cpu() for _, targets in batches])
        pairs = self.space.pair_indices[targets]
        for database, primitives in zip(self._databases(), pairs.unbind(1), strict=True):
            database.choose(primitives, targets)

    @torch.no_grad()
    def refresh(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Store what the chosen images look like now."""
        chosen = torch.cat([database.images.flatten() for database in self._databases()])
        start = 0
        for images, _ in batches:
            numbers = torch.arange(start, start + len(images), device=chosen.device)
            wanted = torch.isin(numbers, chosen)
            start += len(images)
            if bool(wanted.any()):
                _, *views = self.look(images[wanted.to(images.device)])
                for database, view in zip(self._databases(), views, strict=True):
                    database.store(numbers[wanted], view[:, 0])

    def after_step(self) -> None:
        """Put back the word "x", which is not learned."""
        self.primitive_prompts.hold_fillers()

    def _databases(self) -> Iterable[FeatureDatabase]:
        return cast(Iterable[FeatureDatabase], self.databases)
