"""DFSP: prompts taken apart into attributes and objects, and fused with the image."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from czsl_sac.functional.losses import alignment_loss
from czsl_sac.functional.precision import at_least_float32
from czsl_sac.methods.base import CZSLMethod, Predictor, primitive_indices
from czsl_sac.methods.conditioned_text import align_in_chunks, own_texts
from czsl_sac.methods.dfsp.options import DFSPOptions
from czsl_sac.methods.dfsp.text_image_fusion import TextImageFusion
from czsl_sac.methods.parts import alignment_head, soft_prompts
from czsl_sac.methods.predictor import ChunkedPredictor, token_features
from czsl_sac.space import CompositionSpace


class DecomposedText(NamedTuple):
    """The prompts of C compositions, and what they say of the P attributes and objects.

    Attributes:
        pairs: attribute index and object index of each composition, `[C, 2]`.
        features: text features, `[C, D]`.
        fused: with `"txt2img"`, features after the fusion's own blocks, `[C, D]`; with
            `"img2txt"`, which makes them for each image, the same as `features`.
        primitives: mean states of the prompts that hold a primitive, attributes first,
            `[P, n, W]`; zero where no composition holds it.
    """

    pairs: Tensor
    features: Tensor
    fused: Tensor
    primitives: Tensor

    def split(self, size: int) -> "Iterator[DecomposedText]":
        """Yield `size` compositions at a time; the primitives stay those of all."""
        parts = (self.pairs.split(size), self.features.split(size), self.fused.split(size))
        for pairs, features, fused in zip(*parts, strict=True):
            yield DecomposedText(pairs, features, fused, self.primitives)


class FusedImages(NamedTuple):
    """What is left of B images after the fusion.

    Attributes:
        tokens: in the joint space, `[B, T, D]`.
        primitives: with `"img2txt"`, the last state of each primitive's prompt as each image makes
            it, `[B, P, W]`; else None.
    """

    tokens: Tensor
    primitives: Tensor | None


class DFSP(CZSLMethod):
    """Soft prompts, decomposed into primitives that guide a fusion of image and text.

    Lu et al., "Decomposed Soft Prompt Guided Fusion Enhancing for Compositional Zero-Shot
    Learning" (CVPR 2023), with the fusion from text to image (published for MIT-States and C-GQA)
    or from image to text (UT-Zappos). Both sides keep `residual_weight` of what they were. CLIP
    itself is frozen.

    Two things differ from the published code. Its image-to-text fusion lets the images of a batch
    attend to each other, so that scores depend on the batch; here an image meets the prompts
    alone. And prompts end with their end-of-text token: there is no padding to attend to.

    Examples:
        >>> from czsl_sac import CompositionSpace, load_backbone
        >>> space = CompositionSpace.closed_world(
        ...     train=[("red", "cat"), ("blue", "star")], test=[("red", "star")]
        ... )
        >>> model = DFSP(load_backbone("tiny").requires_grad_(False), space, fusion="img2txt")
        >>> images = torch.zeros(2, 3, 64, 64)
        >>> sorted(model(images, torch.tensor([0, 1]), stage="train"))
        ['attribute', 'composition', 'object', 'prompt', 'total']
        >>> model.eval().predictor(space)(images).shape
        torch.Size([2, 3])
    """

    Options = DFSPOptions
    options: DFSPOptions
    residual_weight = 0.8
    """Share of the unfused features in the fused ones."""
    prompt_loss_weight = 0.1
    """Weight of the loss before the fusion."""

    def make_parts(self) -> None:
        """Make prompts and fusion."""
        options, backbone, space = self.options, self.backbone, self.space
        self.aligner = alignment_head(options, backbone)
        self.prompts = soft_prompts(options, backbone, space, shared_context=True)
        self._num_primitives = len(space.attributes) + len(space.objects)
        config = backbone.config
        with torch.no_grad():
            prompt_length = self.prompts.embed_compositions(self.seen_pairs[:1]).shape[1]
        self.fusion = TextImageFusion(
            config.vision_width,
            config.text_width,
            config.num_patches + 1,
            prompt_length=prompt_length,
            num_primitives=self._num_primitives,
            fusion=options.fusion,
            num_layers=1,
            dropout=0.3,
        )

    def encode(self, images: Tensor) -> Tensor:
        """Return the states of the vision tower, `[B, T, vision_width]`."""
        return self.backbone.visual.states(images)

    def decomposed_text(self, pairs: Tensor) -> DecomposedText:
        """Encode the prompts of `pairs` `[C, 2]`, in the text tower's chunks, by its processes."""
        length = self.prompts.context.shape[1] + 4  # start, context, attribute, object, end
        chunk_size = self.backbone.text.prompts_at_once(length)
        processes = self.backbone.text.processes.enough_for(len(pairs))
        part = processes.part(len(pairs))
        own = slice(part.start, part.stop)
        embedded: Iterable[Tensor]
        if self.training:  # one draw of the dropout for all
            embedded = self.prompts.embed_compositions(pairs)[own].split(chunk_size)
        else:
            embedded = (self.prompts.embed_compositions(c) for c in pairs[own].split(chunk_size))
        primitives = self._primitives(pairs)
        recompute = torch.is_grad_enabled() and len(part) > chunk_size
        features, fused = [], []
        sums = torch.zeros((), device=pairs.device)
        for chunk in zip(embedded, primitives[own].split(chunk_size), strict=True):
            if recompute:
                encoded = checkpoint(self._encode_chunk, *chunk, use_reentrant=False)
            else:
                encoded = self._encode_chunk(*chunk)
            features.append(encoded[0])
            fused.append(encoded[1])
            sums = sums + encoded[2]
        rows = torch.arange(part.start, part.stop, device=pairs.device)
        counts = torch.bincount(primitives.flatten(), minlength=self._num_primitives)
        return DecomposedText(
            pairs,
            processes.join(torch.cat(features), rows, len(pairs)),
            processes.join(torch.cat(fused), rows, len(pairs)),
            processes.sum(sums) / counts.clamp(min=1)[:, None, None],
        )

    def fuse(self, states: Tensor, text: DecomposedText) -> FusedImages:
        """Return the images after the fusion.

        Args:
            states: of the vision tower, `[B, T, vision_width]`.
            text: what `decomposed_text` returned.
        """
        visual = self.backbone.visual
        image = self.fusion.image(states, text.primitives)
        tokens = self._blend(visual.project(states), visual.project(image))
        if self.fusion.fusion == "txt2img":
            return FusedImages(tokens, None)
        # Of a prompt's tokens the last alone, end-of-text, is read from here on.
        return FusedImages(tokens, self.fusion.primitives(states, text.primitives)[:, :, -1])

    def fused_logits(self, images: FusedImages, text: DecomposedText) -> Tensor:
        """Return the logits `[B, C]` of the fused images and the fused text.

        Args:
            images: what `fuse` returned.
            text: what `decomposed_text` returned, or some of its compositions.
        """
        if images.primitives is None:
            return self.aligner(images.tokens, self._blend(text.features, text.fused))
        compositions = (text.features, self._primitives(text.pairs))
        condition = partial(self._conditioned, images.primitives)
        return align_in_chunks(
            self.aligner, images.tokens, condition, compositions, self.options.chunk_size
        )

    def fused_text(self, images: FusedImages, text: DecomposedText, columns: Tensor) -> Tensor:
        """Return the fused text `[B, D]` of one composition an image.

        Args:
            images: what `fuse` returned.
            text: what `decomposed_text` returned.
            columns: of `text`, `[B]`.
        """
        features = text.features[columns]
        if images.primitives is None:
            return self._blend(features, text.fused[columns])
        primitives = self._primitives(text.pairs[columns])
        return own_texts(self._conditioned(images.primitives, features, primitives))

    def forward(self, images: Tensor, targets: Tensor, stage: str) -> dict[str, Tensor]:
        """Return the four losses and their weighted sum.

        Returns:
            Scalars: `composition` (after the fusion), `prompt` (before it), `attribute` and
            `object` (mean logits before it of the compositions that share the primitive), and
            `total`.
        """
        labels = self.seen_targets(targets)
        states = self.encode(images)
        text = self.decomposed_text(self.seen_pairs)
        logits = self.aligner(self.backbone.visual.project(states), text.features)
        counts = (len(self.space.attributes), len(self.space.objects))
        losses = {
            "composition": alignment_loss(self.fused_logits(self.fuse(states, text), text), labels),
            "prompt": alignment_loss(logits, labels),
        }
        for name, pairs, count in zip(
            ("attribute", "object"), self.seen_pairs.unbind(1), counts, strict=True
        ):
            losses[name] = alignment_loss(_mean_by(logits, pairs, count), pairs[labels])
        losses["total"] = (
            losses["composition"]
            + self.options.primitive_loss_weight * (losses["attribute"] + losses["object"])
            + self.prompt_loss_weight * losses["prompt"]
        )
        return losses

    def predictor(self, space: CompositionSpace, stage: str | None = None) -> Predictor:
        """Return a predictor over `space` by the fused logits alone.

        A primitive's prompt is the mean over the compositions of `space` that hold it.
        """
        return _DFSPPredictor(self, space)

    def _encode_chunk(
        self, embeddings: Tensor, primitives: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return features `[c, D]`, fused features, and states summed by primitive `[P, n, W]`."""
        tower = self.backbone.text
        states = tower.states(embeddings)
        features = tower.project(states[:, -1])
        fused = features
        if self.fusion.fusion == "txt2img":
            fused = tower.project(self.fusion.prompts(states)[:, -1])
        sums = states.new_zeros(self._num_primitives, *states.shape[1:])
        for column in primitives.unbind(1):
            sums = sums.index_add(0, column, states)
        return features, fused, sums

    def _conditioned(self, states: Tensor, features: Tensor, primitives: Tensor) -> Tensor:
        """Return texts `[B, c, D]` of primitives `[c, 2]`, whose states are `[B, P, W]`."""
        attribute, object_ = states[:, primitives].unbind(2)
        fused = self.backbone.text.project(self.fusion.compose(attribute, object_))
        return self._blend(features, fused)

    def _primitives(self, pairs: Tensor) -> Tensor:
        """Return the rows of `pairs` `[C, 2]` among all primitives, attributes first."""
        return pairs + pairs.new_tensor([0, len(self.space.attributes)])

    def _blend(self, plain: Tensor, fused: Tensor) -> Tensor:
        return self.residual_weight * plain + (1.0 - self.residual_weight) * fused


def _mean_by(logits: Tensor, groups: Tensor, count: int) -> Tensor:
    """Return the mean logit of each group of compositions, `[B, count]`; -inf for an empty one."""
    logits = at_least_float32(logits)
    sums = logits.new_zeros(len(logits), count).index_add(1, groups, logits)
    sizes = torch.bincount(groups, minlength=count)
    return (sums / sizes.clamp(min=1)).masked_fill(sizes == 0, -torch.inf)


class _DFSPPredictor(ChunkedPredictor):
    @torch.no_grad()
    def __init__(self, method: DFSP, space: CompositionSpace) -> None:
        super().__init__(space)
        self.method = method
        self.text = method.decomposed_text(primitive_indices(method, space))

    @torch.no_grad()
    def encode(self, images: Tensor) -> FusedImages:
        """Return the fused images."""
        return self.method.fuse(self.method.encode(images), self.text)

    @torch.no_grad()
    def score_chunks(self, encoded: FusedImages) -> Iterator[Tensor]:
        """Yield fused logits `[B, c]`."""
        for text in self.text.split(self.chunk_size):
            yield self.method.fused_logits(encoded, text)

    @torch.no_grad()
    def compared(self, encoded: FusedImages, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return the fused tokens `[B, T, D]` and the fused texts `[B, D]` of `columns` `[B]`."""
        return encoded.tokens, self.method.fused_text(encoded, self.text, columns)

    @property
    def gap_text(self) -> Tensor:
        """The texts `[C, D]`: fused with `"txt2img"`, before the fusion with `"img2txt"`."""
        return self.method._blend(self.text.features, self.text.fused)

    def gap_features(self, encoded: FusedImages, targets: Tensor) -> dict[str, Tensor]:
        """Return the class token after the fusion, and what the head compares with the text."""
        text = self.method._blend(self.text.features[targets], self.text.fused[targets])
        return token_features(self.method.aligner, encoded.tokens, text)
