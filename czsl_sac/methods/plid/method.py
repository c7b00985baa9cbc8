"""PLID: prompting with language-informed distributions of class texts."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from czsl_sac.functional.losses import alignment_loss
from czsl_sac.functional.precision import at_least_float32
from czsl_sac.methods.cross_attention import CrossBlock, mlp
from czsl_sac.methods.descriptions import Descriptions, read_descriptions
from czsl_sac.methods.plid.losses import class_spreads, partially_smoothed_loss, upper_bound_logits
from czsl_sac.methods.plid.options import PLIDOptions
from czsl_sac.methods.plid.views import augmented_views, repeatable_views
from czsl_sac.methods.three_branches import Branch, MixedBranches

_TEST_SEED = 0


class PLID(MixedBranches):
    """Class texts that attend to a language model's sentences, and are distributions over them.

    Bao et al., "Prompting Language-Informed Distribution for Compositional Zero-Shot Learning"
    (ECCV 2024). One prompt for compositions is learned; its feature attends to those of N sentences
    about the composition, which CLIP has encoded once. An image attends to augmented views of
    itself. The texts of attributes and objects are means of the compositions', and two MLPs make
    of the image what meets them. The losses bound the expectation over the texts'
    distributions, whose samples are a class's text plus one of its sentences.

    With `alignment="patch_max"` every token attends to the class tokens of the views and goes
    through the MLPs; the covariances are weighted by the class token, as they are with `"cls"`.

    Raises:
        FileNotFoundError: `options.descriptions` is not there.
        ValueError: it is of another form.

    Examples:
        >>> from czsl_sac import CompositionSpace, load_backbone
        >>> space = CompositionSpace.closed_world([("red", "cat"), ("blue", "star")])
        >>> options = PLIDOptions(num_sentences=3, views=1)
        >>> model = PLID(load_backbone("tiny").requires_grad_(False), space, options)
        >>> sorted(model(torch.zeros(2, 3, 64, 64), torch.tensor([0, 1]), stage="train"))
        ['attribute', 'composition', 'object', 'total']
    """

    Options = PLIDOptions
    options: PLIDOptions

    def make_parts(self) -> None:
        """Make prompts, sentences, and what enhances texts and images."""
        options, backbone = self.options, self.backbone
        sentences = None
        if options.descriptions is not None:
            sentences = read_descriptions(options.descriptions)
        self.describe = Descriptions(backbone, self.space, options.num_sentences, sentences)
        super().make_parts()
        dim = backbone.embed_dim
        self.text_block = CrossBlock(dim, dropout=options.feature_dropout)
        self.image_block: CrossBlock | None = None
        if options.views:
            self.image_block = CrossBlock(dim, dropout=options.feature_dropout)
        self.disentanglers = nn.ModuleList(mlp(dim, 0.1) for _ in ("attribute", "object"))

    def encode(self, images: Tensor) -> Tensor:
        """Return tokens that have looked at other views of their image, `[B, T, D]`.

        The views are random in training, and always the same ones in evaluation mode. T is 1
        where the class token alone is compared.

        Args:
            images: `[B, 3, H, W]`, normalised, or without views what a feature cache keeps.
        """
        tokens = self.looked_at(self.backbone.encode_image(images))
        if self.image_block is None:
            return tokens
        count = self.options.views
        if self.training:
            views = augmented_views(images, self.backbone, count)
        else:
            views = repeatable_views(images, self.backbone, count, _TEST_SEED)
        features = self.backbone.encode_image(views.flatten(0, 1))[:, 0]
        # The block is residual itself, so that a token counts twice, as published.
        return tokens + self.image_block(tokens, features.unflatten(0, (-1, count)))

    def branches(self, encoded: Tensor) -> list[Branch]:
        """Return what makes logits of texts: the tokens, and what two MLPs make of them."""
        return self.aligned([encoded, *(part(encoded) for part in self.disentanglers)])

    def composition_texts(self, pairs: Tensor) -> Tensor:
        """Return what the prompts of `pairs` `[C, 2]` gather of their sentences, `[C, D]`.

        Args:
            pairs: attribute and object of each composition.
        """
        parts = [
            self._enhance(text, self.describe(rows))
            for text, rows in zip(
                self.prompts.compositions(pairs).split(self.options.chunk_size),
                pairs.split(self.options.chunk_size),
                strict=True,
            )
        ]
        return torch.cat(parts)

    def text_features(self, pairs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return texts of `pairs` `[C, 2]`, of all attributes and of all objects.

        Those of primitives are means over compositions; one that has none is zero.
        """
        texts = self.composition_texts(pairs)
        source, rows = texts, pairs
        if self.options.primitive_texts == "seen" and pairs is not self.seen_pairs:
            source, rows = self.composition_texts(self.seen_pairs), self.seen_pairs
        attribute, object_ = self._primitive_means(source, rows)
        return texts, attribute, object_

    def forward(self, images: Tensor, targets: Tensor, stage: str) -> dict[str, Tensor]:
        """Return the cross-entropies, each under the distribution of its texts.

        Returns:
            Scalars `composition`, `attribute`, `object` and `total`.
        """
        options, pairs = self.options, self.seen_pairs
        tokens = self.encode(images)
        texts = self.text_features(pairs)
        composition, attribute, object_ = self.branch_logits(tokens, texts)
        fused = torch.lerp(
            composition, attribute[:, pairs[:, 0]] + object_[:, pairs[:, 1]], self._drawn_share()
        )
        labels = self.branch_targets(targets)
        sentences = self.describe(pairs)
        samples = [sentences, *self._primitive_means(sentences, pairs)]
        seen = [tokens[:, 0], *(part(tokens[:, 0]) for part in self.disentanglers)]
        bounds = []
        for kind, (logits, text, sample, image, label) in enumerate(
            zip((fused, attribute, object_), texts, samples, seen, labels, strict=True)
        ):
            grouped = kind == 0 and options.spread_over == "objects"
            groups = pairs[:, 1] if grouped else None
            spreads = self._spreads(text, sample, image, label, groups)
            bounds.append(
                upper_bound_logits(at_least_float32(logits), spreads, self.aligner.temperature)
            )
        losses = {
            "composition": partially_smoothed_loss(
                bounds[0], labels[0], pairs[:, 0], options.smoothing
            ),
            "attribute": alignment_loss(bounds[1], labels[1]),
            "object": alignment_loss(bounds[2], labels[2]),
        }
        primitives = losses["attribute"] + losses["object"]
        losses["total"] = losses["composition"] + options.primitive_loss_weight * primitives
        return losses

    def _enhance(self, text: Tensor, sentences: Tensor) -> Tensor:
        """Return what texts `[c, D]` gather of sentences `[c, N, D]`, made again for gradients."""
        query = text.unsqueeze(1)
        if torch.is_grad_enabled() and len(self.seen_pairs) > self.options.chunk_size:
            gathered: Tensor = checkpoint(self.text_block, query, sentences, use_reentrant=False)
        else:
            gathered = self.text_block(query, sentences)
        return gathered.squeeze(1)

    def _spreads(
        self, text: Tensor, sentences: Tensor, image: Tensor, label: Tensor, groups: Tensor | None
    ) -> Tensor:
        """Return σ `[B, C]`, of classes or of the groups that they are in."""

        def spreads(text: Tensor, image: Tensor) -> Tensor:
            samples = F.normalize(at_least_float32(text.unsqueeze(1) + sentences), dim=-1)
            unit, own = F.normalize(at_least_float32(image), dim=-1), label
            if groups is not None:
                samples = _means(samples, groups, len(self.space.objects))
                own = groups[label]
            found = class_spreads(samples, unit, own)
            return found if groups is None else found[:, groups]

        # The samples, N times the texts, are made again in the backward pass.
        made: Tensor = checkpoint(spreads, text, image, use_reentrant=False)
        return made

    def _primitive_means(self, rows: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Return means `[A, ...]` and `[O, ...]` of rows `[C, ...]` that share a primitive."""
        return (
            _means(rows, pairs[:, 0], len(self.space.attributes)),
            _means(rows, pairs[:, 1], len(self.space.objects)),
        )

    def _drawn_share(self) -> Tensor:
        """Return w of a batch, of Beta(1, 1/w − 1), or its mean in evaluation mode."""
        mean = self.seen_pairs.new_tensor(self.options.primitive_share, dtype=torch.float32)
        if not self.training or self.options.primitive_share == 0:
            return mean
        # The check of the arguments would wait for a GPU.
        beta = torch.distributions.Beta(torch.ones_like(mean), 1 / mean - 1, validate_args=False)
        return beta.sample()


def _means(rows: Tensor, group: Tensor, count: int) -> Tensor:
    """Return the mean of the rows of each group, zero for a group without rows."""
    sums = rows.new_zeros(count, *rows.shape[1:]).index_add(0, group, rows)
    sizes = group.bincount(minlength=count).clamp_min(1)
    return sums / sizes.to(rows.dtype).view(-1, *[1] * (rows.dim() - 1))
