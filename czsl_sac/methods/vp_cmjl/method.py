"""VP-CMJL: texts and visual proxies, each with three branches, learn from each other."""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from czsl_sac.clip.backbone import CLIPBackbone
from czsl_sac.clip.prompts import clean_name
from czsl_sac.functional.fusion import PathProbabilities, combine_primitives
from czsl_sac.functional.losses import composition_probabilities
from czsl_sac.functional.precision import at_least_float32
from czsl_sac.methods.base import Predictor
from czsl_sac.methods.cross_attention import CrossBlock
from czsl_sac.methods.disentangler import Disentangler
from czsl_sac.methods.three_branches import Branch, BranchPredictor, ThreeBranches
from czsl_sac.methods.vp_cmjl.options import VPCMJLOptions
from czsl_sac.space import CompositionSpace


class VPCMJL(ThreeBranches):
    """Visual proxies and cross-modal joint learning.

    Zhang et al., "Learning Visual Proxy for Compositional Zero-Shot Learning" (ICCV 2025). Beside
    the texts stand visual proxies: a learned vector for each attribute and object, which starts at
    CLIP's text of its name, and for a composition a linear map of its two. The texts of attributes
    and objects meet what an image becomes after attending to them; the proxies meet what a
    disentangler makes of it. Each side has three cross-entropies, and the texts' distribution over
    compositions teaches the proxies'. The adapters of the vision tower are added to the backbone:
    `apply_adaptformer(backbone.visual)`.

    With `alignment="patch_max"` every token attends and is disentangled, and texts and proxies
    meet the best one; the attention that is added to logits stays the class token's.

    Examples:
        >>> from czsl_sac import CompositionSpace, load_backbone
        >>> space = CompositionSpace.closed_world([("red", "cat"), ("blue", "star")])
        >>> model = VPCMJL(load_backbone("tiny").requires_grad_(False), space)
        >>> losses = model(torch.zeros(2, 3, 64, 64), torch.tensor([0, 1]), stage="train")
        >>> sorted(name for name in losses if "proxy" not in name)
        ['attribute', 'composition', 'joint', 'object', 'total']
    """

    Options = VPCMJLOptions
    options: VPCMJLOptions

    def make_parts(self) -> None:
        """Make prompts, attention, disentanglers and proxies."""
        super().make_parts()
        backbone, dim, heads = self.backbone, self.backbone.embed_dim, self.options.attention_heads
        self.attend_to_attributes = CrossBlock(dim, heads)
        self.attend_to_objects = CrossBlock(dim, heads)
        self.disentanglers = nn.ModuleList(Disentangler(dim) for _ in ("attribute", "object"))
        self.attribute_proxies = nn.Parameter(_name_features(backbone, self.space.attributes))
        self.object_proxies = nn.Parameter(_name_features(backbone, self.space.objects))
        self.compose = nn.Linear(2 * dim, dim)

    def proxy_features(self, pairs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the proxies of `pairs` `[C, 2]` and of all attributes and objects, `[·, D]`."""
        # The map of [attribute; object] is the sum of a map of each, which are few.
        of_attribute, of_object = self.compose.weight.chunk(2, dim=1)
        attributes = F.linear(self.attribute_proxies, of_attribute, self.compose.bias)
        objects = F.linear(self.object_proxies, of_object)
        composed = attributes[pairs[:, 0]] + objects[pairs[:, 1]]
        return composed, self.attribute_proxies, self.object_proxies

    def branches(self, encoded: Tensor) -> list[Branch]:
        """Return what makes logits of texts."""
        tokens = self.looked_at(encoded)
        return [
            partial(self.aligner, tokens),
            partial(self._attended_logits, self.attend_to_attributes, tokens),
            partial(self._attended_logits, self.attend_to_objects, tokens),
        ]

    def proxy_branches(self, encoded: Tensor) -> list[Branch]:
        """Return what makes logits of proxies.

        Args:
            encoded: tokens of the images, `[B, T, D]`.
        """
        tokens = self.looked_at(encoded)
        return self.aligned([tokens, *(part(tokens) for part in self.disentanglers)])

    def forward(self, images: Tensor, targets: Tensor, stage: str) -> dict[str, Tensor]:
        """Return the cross-entropies of texts and proxies, and the divergence between them.

        Returns:
            Scalars `composition`, `attribute` and `object` of the texts, `proxy_composition`,
            `proxy_attribute` and `proxy_object`, `joint` and `total`.
        """
        texts = self.text_features(self.seen_pairs)
        tokens = self.encode(images)
        of_texts = self.branch_logits(tokens, texts)
        proxies = self.proxy_features(self.seen_pairs)
        of_proxies = [
            branch(proxy)
            for branch, proxy in zip(self.proxy_branches(tokens), proxies, strict=True)
        ]
        losses = self.branch_losses(of_texts, targets)
        proxy_losses = self.branch_losses(of_proxies, targets)
        teacher = of_texts[0].detach() if self.options.detach_teacher else of_texts[0]
        joint = _divergence(teacher, of_proxies[0])
        total = losses.pop("total") + proxy_losses.pop("total")
        total = total + self.options.joint_loss_weight * joint
        of_proxy = {f"proxy_{name}": loss for name, loss in proxy_losses.items()}
        return {**losses, **of_proxy, "joint": joint, "total": total}

    def predictor(self, space: CompositionSpace, stage: str | None = None) -> Predictor:
        """Return a predictor over `space` by texts and proxies together."""
        return _VPCMJLPredictor(self, space)

    def combine(self, path: PathProbabilities, pairs: Tensor) -> Tensor:
        """Return the composition's logit plus p(a) + p(o), or plus p(a) p(o)."""
        if self.options.primitive_score == "product":
            return combine_primitives(path, pairs)
        attribute, object_ = path.attribute[:, pairs[:, 0]], path.object[:, pairs[:, 1]]
        return at_least_float32(path.composition) + attribute + object_

    def _attended_logits(self, block: CrossBlock, tokens: Tensor, text: Tensor) -> Tensor:
        attended, weights = block.with_weights(tokens, text)
        logits = at_least_float32(self.aligner(attended, text))
        if not self.options.attention_logits:
            return logits
        return logits + weights[:, 0] / self.aligner.temperature


class _VPCMJLPredictor(BranchPredictor):
    method: VPCMJL

    @torch.no_grad()
    def __init__(self, method: VPCMJL, space: CompositionSpace) -> None:
        super().__init__(method, space)
        self.proxies = method.proxy_features(self.pairs)

    @torch.no_grad()
    def score_chunks(self, encoded: Tensor) -> Iterator[Tensor]:
        """Yield the scores `[B, c]` of α proxies + β texts."""
        method, options = self.method, self.method.options
        texts, proxies = method.branches(encoded), method.proxy_branches(encoded)

        def logits(branch: int, rows: slice) -> Tensor:
            of_text = at_least_float32(texts[branch](self.texts[branch][rows]))
            of_proxy = at_least_float32(proxies[branch](self.proxies[branch][rows]))
            return options.text_weight * of_text + options.proxy_weight * of_proxy

        attribute, object_ = (
            composition_probabilities(logits(branch, slice(None)), 1.0) for branch in (1, 2)
        )
        for start in range(0, len(self.pairs), self.chunk_size):
            rows = slice(start, start + self.chunk_size)
            path = PathProbabilities(logits(0, rows), attribute, object_)
            yield method.combine(path, self.pairs[rows])


@torch.no_grad()
def _name_features(backbone: CLIPBackbone, names: tuple[str, ...]) -> Tensor:
    """Return CLIP's text features of bare names, `[N, D]`, not normalised."""
    ids = backbone.tokenizer([clean_name(name) for name in names])
    features = backbone.encode_text(ids.to(backbone.logit_scale.device))
    return at_least_float32(features).clone()


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Return the mean KL(p_teacher ‖ p_student) of logits `[B, C]`, in nats."""
    log_teacher = F.log_softmax(at_least_float32(teacher), dim=-1)
    log_student = F.log_softmax(at_least_float32(student), dim=-1)
    return (log_teacher.exp() * (log_teacher - log_student)).sum(dim=-1).mean()
