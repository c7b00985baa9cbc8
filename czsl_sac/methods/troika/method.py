"""Troika: three prompts, three views of an image, and texts pulled towards it."""

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from czsl_sac.blocks.alignment import Aligner, Alignment, build_aligner
from czsl_sac.checks import check_choice
from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.clip.prompts import SoftPrompts
from czsl_sac.methods.disentangler import Disentangler
from czsl_sac.methods.parts import alignment_head, soft_prompts
from czsl_sac.methods.traction import CrossModalTraction, TractedBranches
from czsl_sac.methods.troika.options import TroikaOptions
from czsl_sac.space import CompositionSpace

Disentangle = Literal["per_patch", "none"]
TextSide = Literal["tracted", "plain"]


class Troika(TractedBranches):
    """Compositions, attributes and objects each with a prompt and a view of the image.

    Huang et al., "Troika: Multi-Path Cross-Modal Traction for Compositional Zero-Shot Learning"
    (CVPR 2024). The composition is compared with the image's tokens, the attribute and the object
    with what a disentangler makes of them; the texts are pulled towards the image beforehand. The
    adapters of the vision tower are added to the backbone: `apply_adaptformer(backbone.visual)`.

    `alignment="patch_max"` is the paper's "SA in Troika" (Tab. 6): in all three branches the
    class token's inner product gives way to the maximum over tokens. It adds no parameter.

    Args:
        backbone: CLIP with adapters, all else frozen.
        space: attributes, objects and compositions; the seen ones are trained on.
        alignment: `"cls"` (Eq. 1, as published), `"patch_max"` (Eq. 2), or an alignment head.
        prompts: three sets of prompts; None makes them from the backbone's own words, with
            Troika's dropout of 0.3.
        disentangle: `"per_patch"`: the disentanglers run on every token that the alignment looks
            at: on the class token alone with `"cls"`, as published, and on all tokens of the
            batch, `[B·T, D]` to their BatchNorm, with `"patch_max"`. `"none"`: attribute and
            object are compared with the tokens as they are.
        text_side: `"tracted"`: t', which depends on the image; `"plain"`: t, and no traction.
        traction_layers: layers of the traction (3 for MIT-States, 2 for UT-Zappos and C-GQA).
        traction_dropout: its dropout (0.1 for MIT-States, else 0).
        primitive_loss_weight: weight of the attribute's and the object's loss (C-GQA: 0.1).
        legacy_patch_norm: normalise the tokens that the traction attends to once, twice and three
            times for composition, attribute and object, as the published code does; once for all
            by default.
        legacy_eval_mode: leave training mode after the first epoch, as the published code does:
            from the second on, dropout is off and BatchNorm uses the statistics of the first.
        chunk_size: compositions whose texts of this batch, `[B, chunk_size, D]`, are held at once.

    Raises:
        ValueError: an option is unknown or out of range.

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
    epochs_started: Tensor

    @classmethod
    def build(
        cls, options: TroikaOptions, backbone: CLIPBackbone, space: CompositionSpace
    ) -> "Troika":
        """Return the method that options describe; the arguments are those of every method."""
        return cls(
            backbone,
            space,
            alignment=alignment_head(options, backbone),
            prompts=soft_prompts(options, backbone, space),
            disentangle=options.disentangle,
            text_side=options.text_side,
            traction_layers=options.traction_layers,
            traction_dropout=options.traction_dropout,
            primitive_loss_weight=options.primitive_loss_weight,
            legacy_patch_norm=options.legacy_patch_norm,
            legacy_eval_mode=options.legacy_eval_mode,
            chunk_size=options.chunk_size,
        )

    def __init__(
        self,
        backbone: CLIPBackbone,
        space: CompositionSpace,
        *,
        alignment: Alignment | Aligner = "cls",
        prompts: SoftPrompts | None = None,
        disentangle: Disentangle = "per_patch",
        text_side: TextSide = "tracted",
        traction_layers: int = 3,
        traction_dropout: float = 0.1,
        primitive_loss_weight: float = 1.0,
        legacy_patch_norm: bool = False,
        legacy_eval_mode: bool = False,
        chunk_size: int = 128,
    ) -> None:
        super().__init__(backbone, space)
        for name, value, choices in (
            ("disentangle", disentangle, get_args(Disentangle)),
            ("text_side", text_side, get_args(TextSide)),
        ):
            check_choice(name, value, choices)
        dim = backbone.embed_dim
        self.aligner = build_aligner(alignment, backbone.temperature)
        self.prompts = prompts or SoftPrompts(
            backbone.text, backbone.tokenizer, space.attributes, space.objects, dropout=0.3
        )
        self.disentanglers = nn.ModuleList()
        if disentangle == "per_patch":
            self.disentanglers.extend(Disentangler(dim) for _ in ("attribute", "object"))
        self.patch_norm: nn.LayerNorm | None = None
        self.traction: CrossModalTraction | None = None
        if text_side == "tracted":
            self.patch_norm = nn.LayerNorm(dim)
            self.traction = CrossModalTraction(dim, traction_layers, dropout=traction_dropout)
        self.primitive_loss_weight = primitive_loss_weight
        self.legacy_patch_norm = legacy_patch_norm
        self.legacy_eval_mode = legacy_eval_mode
        self.chunk_size = chunk_size
        self.register_buffer("epochs_started", torch.zeros((), dtype=torch.int64))

    def tractions(self, encoded: Tensor) -> list[Callable[[Tensor], Tensor]] | None:
        """Return the traction towards the tokens `[B, T, D]`, for each branch."""
        if self.traction is None or self.patch_norm is None:
            return None
        normed = self.patch_norm(encoded)
        tractions = [partial(self.traction, context=self.traction.keys_values(normed))] * 3
        if self.legacy_patch_norm:
            for branch in (1, 2):
                normed = self.patch_norm(normed)
                context = self.traction.keys_values(normed)
                tractions[branch] = partial(self.traction, context=context)
        return list(tractions)

    def train_stage(self, stage: str) -> None:
        """Set training mode; with `legacy_eval_mode` for the first epoch alone."""
        self.train(not (self.legacy_eval_mode and bool(self.epochs_started > 0)))
        self.epochs_started += 1
