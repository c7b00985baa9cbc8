"""CAMS: units that gather from the last vision layers, and a space of its own for each concept."""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from czsl_sac.checks import check_range
from czsl_sac.functional.alignment import feature_similarity
from czsl_sac.functional.losses import alignment_loss
from czsl_sac.functional.precision import at_least_float32
from czsl_sac.methods.cams.latent_units import LatentUnits, UnitSpaces
from czsl_sac.methods.cams.options import CAMSOptions
from czsl_sac.methods.three_branches import Branch, ThreeBranches


class CAMSFeatures(NamedTuple):
    """What CAMS makes of images.

    Attributes:
        tokens: in the joint space, `[B, T, D]`, the class token first: the global branch.
        composition: of the units, in the space of compositions, `[B, D]`.
        attribute: likewise of attributes.
        object: likewise of objects.
    """

    tokens: Tensor
    composition: Tensor
    attribute: Tensor
    object: Tensor


class CAMS(ThreeBranches):
    """Gated cross-attention and multi-space disentanglement.

    Yang et al., "CAMS: Towards Compositional Zero-Shot Learning via Gated Cross-Attention and
    Multi-Space Disentanglement" (arXiv 2511.16378, 2025). Latent units gather from the tokens of
    the last vision layers; what they hold is seen in three spaces, of compositions, attributes and
    objects, each compared with its own prompts. Beside them stands the global branch, CLIP's own
    comparison of the image with the compositions. Adapters are in the same last layers:
    `apply_adaptformer(backbone.visual, layers=...)`.

    `alignment="patch_max"` changes the global branch, where the class token meets texts; the
    units' features are one vector an image and stay as they are.

    Raises:
        ValueError: the tower has fewer layers than the options ask for.

    Examples:
        >>> from czsl_sac import CompositionSpace, load_backbone
        >>> space = CompositionSpace.closed_world([("red", "cat"), ("blue", "star")])
        >>> model = CAMS(load_backbone("tiny").requires_grad_(False), space)
        >>> images = torch.zeros(2, 3, 64, 64)
        >>> sorted(model(images, torch.tensor([0, 1]), stage="train"))
        ['attribute', 'composition', 'global', 'object', 'total']
    """

    Options = CAMSOptions
    options: CAMSOptions

    def make_parts(self) -> None:
        """Make prompts, units and the three spaces."""
        super().make_parts()
        options, config = self.options, self.backbone.config
        width, layers = config.vision_width, config.vision_layers
        usual = max(1, layers // 3)
        count = usual if options.extraction_layers is None else options.extraction_layers
        check_range("extraction_layers", count, low=1, high=layers)
        self.extraction_layers = range(layers - count, layers)
        self.units = LatentUnits(
            options.latent_units,
            width,
            unit_dropout=options.unit_dropout,
            dropout=options.attention_dropout,
        )
        self.spaces = UnitSpaces(
            CAMSFeatures._fields[1:],
            width,
            self.backbone.embed_dim,
            dropout=options.attention_dropout,
            feature_dropout=options.unit_dropout,
        )
        # 1/τ and not τ is learned: a step of Adam moves 100 by little and 0.01 by much.
        scale = 1.0 / torch.as_tensor(self.aligner.temperature, dtype=torch.float32)
        self.scale = nn.Parameter(scale, requires_grad=options.train_temperature)

    def encode(self, images: Tensor) -> CAMSFeatures:
        """Return the tokens, and what the three spaces take of the units."""
        layers = self.backbone.visual.layer_states(images, self.extraction_layers)
        tokens = self.backbone.visual.project(layers[-1])
        return CAMSFeatures(tokens, **self.spaces(self.units(layers)))

    def branches(self, encoded: CAMSFeatures) -> list[Branch]:
        """Return what makes logits of texts; the composition's are those of both its branches."""
        return [
            partial(self._mixed_logits, encoded),
            partial(self._unit_logits, encoded.attribute),
            partial(self._unit_logits, encoded.object),
        ]

    def forward(self, images: Tensor, targets: Tensor, stage: str) -> dict[str, Tensor]:
        """Return the cross-entropies of the units' three spaces and of the global branch.

        Returns:
            Scalars `composition`, `attribute`, `object`, `global` and `total`.
        """
        text, *primitives = self.text_features(self.seen_pairs)
        encoded = self.encode(images)
        _, *branches = self.branches(encoded)
        logits = [branch(t) for branch, t in zip(branches, primitives, strict=True)]
        losses = self.branch_losses(
            [self._unit_logits(encoded.composition, text), *logits], targets
        )
        of_image = alignment_loss(self._global_logits(encoded, text), self.seen_targets(targets))
        return {**losses, "global": of_image, "total": losses["total"] + of_image}

    def _mixed_logits(self, encoded: CAMSFeatures, text: Tensor) -> Tensor:
        units = self._unit_logits(encoded.composition, text)
        return torch.lerp(units, self._global_logits(encoded, text), self.options.global_share)

    def _global_logits(self, encoded: CAMSFeatures, text: Tensor) -> Tensor:
        return at_least_float32(self.aligner.similarity(encoded.tokens, text)) * self.scale

    def _unit_logits(self, feature: Tensor, text: Tensor) -> Tensor:
        similarities = feature_similarity(F.normalize(feature, dim=-1), text)
        return at_least_float32(similarities) * self.scale
