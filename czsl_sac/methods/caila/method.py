"""CAILA: adapters that know whether they look for an attribute, an object, or both."""

from collections.abc import Iterator
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from czsl_sac.clip.adapters.serial import with_blocks
from czsl_sac.clip.prefix_tree import FixedPrompts
from czsl_sac.functional.losses import alignment_loss, base_loss
from czsl_sac.methods.base import CZSLMethod, Predictor, primitive_indices
from czsl_sac.methods.caila.concept_adapters import AdapterSet, ConceptAdapters
from czsl_sac.methods.caila.concept_shift import draw_donors
from czsl_sac.methods.caila.hard_prompts import HardPrompts
from czsl_sac.methods.caila.options import CAILAOptions
from czsl_sac.methods.parts import TextFeatures, alignment_head
from czsl_sac.methods.predictor import TextPredictor
from czsl_sac.space import CompositionSpace


class CAILA(CZSLMethod):
    """Concept-aware adapters in every layer of both towers, mixed in the upper half of the vision.

    Zheng et al., "CAILA: Concept-Aware Intra-Layer Adapters for Compositional Zero-Shot Learning"
    (WACV 2024). An image runs three times: with the attribute's adapters, with the object's, and
    the states of both as one sequence from `fusion_layer` on, with the mixture of all adapters. A
    text runs with the adapters of its kind; a composition's feature is the mean of its own, its
    attribute's and its object's. The composition alone is scored at test. Attention and MLPs of
    CLIP stay frozen; its layer norms and projections are set to learn here, as the options say.

    With `alignment="patch_max"` the composition's tokens are the means of the two streams' tokens
    at each position, which for the class token is the published feature. Dropout on an image's
    feature is drawn once for all of its tokens; the logit is scaled by the norm that it leaves to
    the class token, so that for that token it is dropout after the normalisation, as published.

    Examples:
        >>> from czsl_sac import CompositionSpace, load_backbone
        >>> space = CompositionSpace.closed_world([("red", "cat"), ("blue", "star")])
        >>> model = CAILA(load_backbone("tiny").requires_grad_(False), space)
        >>> images = torch.zeros(2, 3, 64, 64)
        >>> sorted(model(images, torch.tensor([0, 1]), stage="train"))
        ['attribute', 'composition', 'object', 'total']
    """

    Options = CAILAOptions
    options: CAILAOptions
    seen_index: Tensor

    def make_parts(self) -> None:
        """Make prompts, adapters and scales, and set what of CLIP itself learns."""
        options, backbone, space = self.options, self.backbone, self.space
        self.aligner = alignment_head(options, backbone)
        self.prompts = HardPrompts(
            backbone, space, template=options.template, train_words=options.train_words
        )
        activation, transformer = backbone.config.activation, backbone.text.transformer
        self.vision = ConceptAdapters(
            backbone.visual,
            activation=activation,
            fusion_layer=options.fusion_layer,
            reduction=options.concept_reduction,
        )
        layers, width = len(transformer.resblocks), transformer.width
        self.text_composition, self.text_attribute, self.text_object = (
            AdapterSet(layers, width, options.concept_reduction, activation) for _ in range(3)
        )
        scale = log(options.primitive_scale)
        self.log_scales = nn.Parameter(torch.tensor([0.0, scale, scale]))
        index = torch.full((len(space.attributes), len(space.objects)), -1)
        index[self.seen_pairs[:, 0], self.seen_pairs[:, 1]] = torch.arange(len(self.seen_pairs))
        self.register_buffer("seen_index", index, persistent=False)
        self._attribute_prompts = self.prompts.attributes()
        self._object_prompts = self.prompts.objects()
        self._seen_prompts = self.prompts.compositions(self.seen_pairs)
        if options.train_norms:
            for part in backbone.modules():
                if isinstance(part, nn.LayerNorm):
                    part.requires_grad_(True)
        if options.train_projections:
            backbone.visual.proj.requires_grad_(True)
            backbone.text.text_projection.requires_grad_(True)

    def encode(self, images: Tensor) -> Tensor:
        """Return the composition's tokens `[B, T, D]`, the class token first."""
        inner = (self.vision.inner(images, concept) for concept in ("attribute", "object"))
        return self.backbone.visual.project(self.vision.mix(*inner))

    def text_features(self, compositions: FixedPrompts, pairs: Tensor) -> TextFeatures:
        """Return features of compositions, of all attributes and of all objects.

        Args:
            compositions: their prompts.
            pairs: attribute and object of each, `[C, 2]`.
        """
        tower, table = self.backbone.text, self.prompts.table(self.backbone.text)
        composition, attribute, object_ = (
            with_blocks(tower, adapters.attached(tower.transformer)).encode_shared(table, prompts)
            for adapters, prompts in (
                (self.text_composition, compositions),
                (self.text_attribute, self._attribute_prompts),
                (self.text_object, self._object_prompts),
            )
        )
        mean = (composition + attribute[pairs[:, 0]] + object_[pairs[:, 1]]) / 3
        return TextFeatures(mean, attribute, object_)

    def forward(self, images: Tensor, targets: Tensor, stage: str) -> dict[str, Tensor]:
        """Return the cross-entropies of composition, attribute and object, and their sum."""
        pairs = self.seen_pairs[self.seen_targets(targets)]
        shift = self.options.concept_shift if self.training else 0.0
        donors = draw_donors(pairs, self.seen_index >= 0, shift)
        pairs = torch.stack([pairs[donors.attribute, 0], pairs[donors.object, 1]], dim=1)
        attribute = self.vision.stream(images, "attribute").of(donors.attribute)
        object_ = self.vision.stream(images, "object").of(donors.object)
        project = self.backbone.visual.project
        tokens = project(self.vision.mix(attribute.inner, object_.inner))
        texts = self.text_features(self._seen_prompts, self.seen_pairs)
        scales = self.log_scales.exp()
        of_composition = alignment_loss(
            scales[0] * self._logits_with_dropout(tokens, texts.composition),
            self.seen_index[pairs[:, 0], pairs[:, 1]],
        )
        of_attribute, of_object = (
            alignment_loss(scale * self.aligner(project(stream.last), text), label)
            for scale, stream, text, label in zip(
                scales[1:], (attribute, object_), texts[1:], pairs.T, strict=True
            )
        )
        return {
            "composition": of_composition,
            "attribute": of_attribute,
            "object": of_object,
            "total": base_loss(of_composition, of_attribute, of_object),
        }

    def predictor(self, space: CompositionSpace, stage: str | None = None) -> Predictor:
        """Return a predictor over `space` by the composition's logits."""
        return _CAILAPredictor(self, space)

    def _logits_with_dropout(self, tokens: Tensor, text: Tensor) -> Tensor:
        mask = F.dropout(torch.ones_like(tokens[:, :1]), self.options.image_dropout, self.training)
        kept = F.normalize(tokens, dim=-1) * mask
        return self.aligner(kept, text) * kept[:, 0].norm(dim=-1, keepdim=True)


class _CAILAPredictor(TextPredictor):
    method: CAILA

    @torch.no_grad()
    def __init__(self, method: CAILA, space: CompositionSpace) -> None:
        pairs = primitive_indices(method, space)
        text = method.text_features(method.prompts.compositions(pairs), pairs).composition
        super().__init__(method, space, text)

    @torch.no_grad()
    def score_chunks(self, encoded: Tensor) -> Iterator[Tensor]:
        """Yield logits `[B, c]` of tokens `[B, T, D]`."""
        for text in self.text.split(self.chunk_size):
            yield self.method.log_scales[0].exp() * self.method.aligner(encoded, text)
