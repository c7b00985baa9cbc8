"""Troika: three prompts, three views of an image, and texts pulled towards it."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from czsl_sac.methods.disentangler import Disentangler
from czsl_sac.methods.traction import CrossModalTraction, TractedBranches
from czsl_sac.methods.troika.options import TroikaOptions


class Troika(TractedBranches):
    """Compositions, attributes and objects each with a prompt and a view of the image.

    Huang et al., "Troika: Multi-Path Cross-Modal Traction for Compositional Zero-Shot Learning"
    (CVPR 2024). The composition is compared with the image's tokens, the attribute and the object
    with what a disentangler makes of them; the texts are pulled towards the image beforehand. The
    adapters of the vision tower are added to the backbone: `apply_adaptformer(backbone.visual)`.

    `alignment="patch_max"` is the paper's "SA in Troika" (Tab. 6): in all three branches the
    class token's inner product gives way to the maximum over tokens. It adds no parameter. The
    disentanglers run on every token that the alignment looks at: on the class token alone as
    published, and on all tokens of the batch, `[B·T, D]` to their BatchNorm, with patch_max.

    Examples:
        >>> from czsl_sac import CompositionSpace, load_backbone
        >>> from czsl_sac.clip.adapters.adaptformer import apply_adaptformer
        >>> space = CompositionSpace.closed_world(
        ...     train=[("red", "cat"), ("blue", "star")], test=[("red", "star")]
        ... )
        >>> backbone = load_backbone("tiny").requires_grad_(False)
        >>> _ = apply_adaptformer(backbone.visual)
        >>> model = Troika(backbone, space, alignment="patch_max")
        >>> images = torch.zeros(2, 3, 64, 64)
        >>> sorted(model(images, torch.tensor([0, 1]), stage="train"))
        ['attribute', 'composition', 'object', 'total']
        >>> model.eval().predictor(space)(images).shape
        torch.Size([2, 3])
    """

    Options = TroikaOptions
    options: TroikaOptions
    epochs_started: Tensor

    def make_parts(self) -> None:
        """Make prompts, and disentanglers and traction as far as the options want them."""
        super().make_parts()
        options, dim = self.options, self.backbone.embed_dim
        self.disentanglers = nn.ModuleList()
        if options.disentangle == "per_patch":
            self.disentanglers.extend(Disentangler(dim) for _ in ("attribute", "object"))
        self.patch_norm: nn.LayerNorm | None = None
        self.traction: CrossModalTraction | None = None
        if options.text_side == "tracted":
            self.patch_norm = nn.LayerNorm(dim)
            self.traction = CrossModalTraction(
                dim, options.traction_layers, dropout=options.traction_dropout
            )
        self.register_buffer("epochs_started", torch.zeros((), dtype=torch.int64))

    def tractions(self, encoded: Tensor) -> list[Callable[[Tensor], Tensor]] | None:
        """Return the traction towards the tokens `[B, T, D]`, for each branch."""
        if self.traction is None or self.patch_norm is None:
            return None
        normed = self.patch_norm(encoded)
        tractions = [partial(self.traction, context=self.traction.keys_values(normed))] * 3
        if self.options.legacy_patch_norm:
            for branch in (1, 2):
                normed = self.patch_norm(normed)
                context = self.traction.keys_values(normed)
                tractions[branch] = partial(self.traction, context=context)
        return list(tractions)

    def train_stage(self, stage: str) -> None:
        """Set training mode; with `legacy_eval_mode` for the first epoch alone."""
        self.train(not (self.options.legacy_eval_mode and bool(self.epochs_started > 0)))
        self.epochs_started += 1
