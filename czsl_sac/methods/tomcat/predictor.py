"""Prediction that learns: prototypes of text and image, changed by every test image (TOMCAT)."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from czsl_sac.blocks.alignment import Aligner, ClassTokenAligner
from czsl_sac.blocks.sample_pool import SamplePool
from czsl_sac.functional.losses import alignment_loss, composition_probabilities
from czsl_sac.functional.memory import prediction_entropy
from czsl_sac.functional.precision import at_least_float32, without_autocast
from czsl_sac.methods.predictor import TextPredictor
from czsl_sac.methods.tomcat.options import TOMCATOptions
from czsl_sac.space import CompositionSpace

if TYPE_CHECKING:
    from czsl_sac.methods.tomcat.method import TOMCAT


def updated_prototypes(
    prototypes: Tensor, residual: Tensor, similarities: Tensor, theta: float
) -> Tensor:
    """Return normalise(t + w Δt) with the adaptive weight w = sigmoid(−θ cos) (Eq. 3 to 5).

    Args:
        prototypes: t, `[C, D]`.
        residual: Δt, what was learned, `[C, D]`.
        similarities: cosine of the image and each prototype, `[C]`; takes no gradient.
        theta: θ; the larger it is, the less a familiar composition moves.

    Returns:
        `[C, D]`, unit norm.

    Examples:
        >>> updated_prototypes(torch.eye(2), torch.eye(2).flip(1), torch.zeros(2), 1.0)
        tensor([[0.8944, 0.4472],
                [0.4472, 0.8944]])
    """
    weight = torch.sigmoid(-theta * similarities.detach()).unsqueeze(-1)
    return F.normalize(prototypes + weight * residual, dim=-1)


class TOMCATPredictor(TextPredictor):
    """Predict an image, then learn from it: TOMCAT's inference over one stream (Sec. 3.3).

    For each image in turn: its pseudo-label and entropy under the updated text prototypes decide
    whether it enters the queue of that composition; the logits add to those of the text
    α exp(−β (1 − cos)) of the visual prototypes, the means of the queues, where there are any
    (Eq. 6); then one step of AdamW on the entropy (Eq. 7) and on the alignment of the two kinds of
    prototype (Eq. 8) changes what is added to the prototypes for the images that follow. Scores
    depend on the order of the stream, not on its cut into batches; the result is transductive.

    What is learned, its moments and the updated prototypes are `[C, D]` each, in float32: for the
    278,362 compositions of open-world C-GQA 855 MB each.

    Args:
        method: a trained TOMCAT.
        space: the compositions to score.
        text: text prototypes, `[C, D]`.
        options: how they learn, options of the method.

    Attributes:
        text_residual: what was learned of the texts, `[C, D]`.
        visual_residual: what was learned of the visual prototypes, `[C, D]`.
        queue: the images kept.
    """

    def __init__(
        self, method: "TOMCAT", space: CompositionSpace, text: Tensor, options: TOMCATOptions
    ) -> None:
        super().__init__(method, space, F.normalize(at_least_float32(text), dim=-1))
        self.options = options
        self.visual_aligner: Aligner = method.aligner
        if options.queue_feature == "class_token":
            self.visual_aligner = ClassTokenAligner(method.aligner.temperature)
        self.restart()

    @torch.inference_mode(False)
    def restart(self) -> None:
        """Forget all that was learned and all images kept."""
        options, text = self.options, self.text.detach().clone()
        self.text = text
        self.text_residual = nn.Parameter(torch.zeros_like(text))
        self.visual_residual = nn.Parameter(torch.zeros_like(text))
        self.queue = SamplePool(text, options.queue_size)
        self.num_seen = 0
        self.optimizer = torch.optim.AdamW(
            [self.text_residual, self.visual_residual],
            lr=options.test_lr,
            eps=options.test_eps,
            weight_decay=options.test_weight_decay,
        )

    def score_chunks(self, encoded: Tensor) -> Iterator[Tensor]:
        """Yield the logits `[B, C]`, each image's before the prototypes have learned from it."""
        scores = torch.cat(
            [self._predict_and_learn(image) for image in self.gather(encoded).split(1)]
        )
        if len(scores) != len(encoded):  # those of all processes, of which this one's are wanted
            first = distributed.get_rank() * len(encoded)
            rows = torch.arange(first, first + len(encoded), device=scores.device)
            scores = scores[rows.clamp_max(len(scores) - 1)]  # past the end: filled up, not counted
        yield scores

    @torch.no_grad()
    def compared(self, encoded: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens and the texts `[B, D]` of `columns`, by what is known by now."""
        text = self.text[columns]
        similarities = self.method.aligner.similarity(encoded, text.unsqueeze(1)).squeeze(1)
        residual = self.text_residual[columns]
        return encoded, updated_prototypes(text, residual, similarities, self.options.theta)

    @torch.inference_mode(False)
    @torch.enable_grad()
    def _predict_and_learn(self, image: Tensor) -> Tensor:
        """Return the logits of one image `[1, T, D]`, then take a step on its losses."""
        options, aligner = self.options, self.method.aligner
        tokens = at_least_float32(image.detach()).clone()  # may come from inference mode
        with without_autocast(tokens):
            with torch.no_grad():
                familiar = aligner.similarity(tokens, self.text)[0]
            text = updated_prototypes(self.text, self.text_residual, familiar, options.theta)
            logits = aligner(tokens, text)
            self._enqueue(tokens, text, logits)
            classes, visual = self._visual_prototypes(tokens)
            affinity = torch.exp(
                -options.beta * (1 - self.visual_aligner.similarity(tokens, visual))
            )
            logits = logits.index_add(1, classes, options.alpha * affinity)
            entropy = prediction_entropy(composition_probabilities(logits, 1.0)).mean()
            alike = visual @ text[classes].mT / aligner.temperature
            same = torch.arange(len(classes), device=alike.device)
            collaboration = (alignment_loss(alike, same) + alignment_loss(alike.mT, same)) / 2
            self._step(entropy + options.collaboration_weight * collaboration)
        return logits.detach()

    def _step(self, loss: Tensor) -> None:
        """Change the residuals, and nothing of the method."""
        residuals = [self.text_residual, self.visual_residual]
        gradients = torch.autograd.grad(loss, residuals)
        for residual, gradient in zip(residuals, gradients, strict=True):
            residual.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def _enqueue(self, tokens: Tensor, text: Tensor, logits: Tensor) -> None:
        """Offer an image to the queue of the composition that it is taken for (Eq. 2)."""
        label = logits.argmax(dim=1)
        entropy = prediction_entropy(composition_probabilities(logits, 1.0)).float()
        feature = self.visual_aligner.compared_feature(tokens, text[label])
        arrival = torch.tensor([self.num_seen], device=label.device)
        self.queue.offer(F.normalize(feature, dim=-1), label, entropy, arrival)
        self.num_seen += 1

    def _visual_prototypes(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the compositions that have images, `[K]`, and their prototypes, `[K, D]`."""
        classes, row = self.queue.classes.unique(return_inverse=True)
        sums = self.text.new_zeros(len(classes), self.text.shape[1])
        sums = sums.index_add(0, row, self.queue.rows)
        means = sums / row.bincount(minlength=len(classes)).unsqueeze(1)
        with torch.no_grad():
            familiar = self.visual_aligner.similarity(tokens, means)[0]
        residual = self.visual_residual[classes]
        return classes, updated_prototypes(means, residual, familiar, self.options.theta)
